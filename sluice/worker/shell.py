"""The worker's centre: which sequences live here, for whom, and where their tokens go.

Lives on the event loop. Commands from routers become calls on the engine's thread; step reports
come back as one StepTokens message per router. A sequence is forgotten when it finishes, fails,
is cancelled, is handed off, or has lost its router for too long. Next: `prefill_worker/handoffs.py` and
`decode_worker/arrivals.py`, the stages; `step_loop.py`, the engine's thread.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from typing import Final, TypeVar

from sluice.clock import Clock
from sluice.domain.ids import Epoch, RouterId, SequenceId
from sluice.domain.load import LinkLoad, WorkerInfo, WorkerLoad
from sluice.domain.role import Role
from sluice.domain.sequence import SequenceState
from sluice.engine.contract import BlockCounts, Engine, PrefixChange, StepReport, TokenOut
from sluice.errors import NoWorkerError, OverloadedError, SluiceError, StaleEpochError, TransferError
from sluice.telemetry.metrics import WorkerMetrics
from sluice.wire import convert
from sluice.wire.gen import sluice_pb2 as pb
from sluice.worker.canary import Canary
from sluice.worker.claims import Claims
from sluice.worker.live import Hearer, Live
from sluice.worker.prefill_spans import PrefillSpans
from sluice.worker.prefix_feed import PrefixFeed
from sluice.worker.router_link import RouterLink
from sluice.worker.routers import Routers
from sluice.worker.stages import Arrivals, Fabric, Handoffs, Migrations
from sluice.worker.standing import Standing
from sluice.worker.step_loop import IDLE, MakeSteps, StepLoop
from sluice.worker.step_rows import add_row, failure

COUNT_BLOCKS_EVERY_S: Final = 0.5  # counting looks at every block table, so not after every step

T = TypeVar("T")
Links = Callable[[], tuple[LinkLoad, ...]]
log = logging.getLogger(__name__)


class Shell:
    """One worker, without its stages' protocols. `attach_stages` completes it."""

    def __init__(
        self,
        engine: Engine,
        info: WorkerInfo,
        metrics: WorkerMetrics,
        clock: Clock,
        *,
        vocabulary: int,
        links: Callable[[], tuple[LinkLoad, ...]] = tuple,
        make_steps: MakeSteps = StepLoop,
        router_grace_s: float = 30.0,
    ) -> None:
        """`vocabulary` is the model's; `links` tells of the links to other workers."""
        self.standing = Standing(info, metrics, clock, links=links, on_change=self.beat)
        self.geometry = engine.geometry
        self.now_s = clock.now_s
        self._loop = asyncio.get_running_loop()
        self.died: asyncio.Future[None] = self._loop.create_future()
        self.steps = make_steps(engine, on_change=self._from_engine_thread, on_death=self._from_dying_thread)
        self._metrics = metrics
        self._live: dict[SequenceId, Live] = {}
        self._router_grace_s = router_grace_s
        self.routers: Routers
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting: dict[SequenceId, tuple[Epoch, RouterLink]] = {}  # waiting for an older copy to leave
        self._feed = PrefixFeed()
        self._counted_s = -COUNT_BLOCKS_EVERY_S
        self._spans = PrefillSpans(info.worker)
        self.canary = Canary(
            self.steps.call, boot=info.boot, model_fingerprint=info.model_fingerprint, vocabulary=vocabulary
        )
        self._handoffs: Handoffs
        self._migrations: Migrations
        self._arrivals: Arrivals
        self._claims: Claims
        self.fabric: Fabric

    def attach_stages(self, *, handoffs: Handoffs, migrations: Migrations, arrivals: Arrivals, fabric: Fabric) -> None:
        """Give the shell its stages; before `open`."""
        self._handoffs = handoffs
        self._migrations = migrations
        self._arrivals = arrivals
        self.fabric = fabric
        self.routers = Routers(self, self._live, grace_s=self._router_grace_s, stay=migrations.deny)
        self._claims = Claims(self._live, self.routers.orphans, stay=migrations.deny)

    def open(self) -> None:
        """Start the engine's thread and admit work."""
        self.steps.start()
        self.standing.open()

    async def ask(self, question: Callable[[Engine], T]) -> T:
        """Run `question` on the engine's thread, between two steps."""
        return await asyncio.wrap_future(self.steps.call(question))

    # ---------------------------------------------------------------- what links ask (LinkOwner)

    def registration(self) -> pb.Register:
        return convert.info_to_wire(self.info)

    def heartbeat(self, link: RouterLink) -> pb.Heartbeat:
        beat = convert.load_to_wire(self.load())
        beat.roll.CopyFrom(self.routers.roll(link, self._starting))
        return beat

    def prefixes(self) -> pb.PrefixUpdate:
        return self._feed.whole()

    def load(self) -> WorkerLoad:
        """How busy this worker is, and whether it admits work."""
        return self.standing.load(leases=self._arrivals.leases, unready=self.unready())

    def unready(self) -> list[str]:
        """Why routers should send nothing new here though work is admitted."""
        return self.fabric.unready(self.info.role)

    def on_joined(self, link: RouterLink, router: RouterId) -> None:
        self.routers.joined(link, router)

    def on_lost(self, link: RouterLink, router: RouterId) -> None:
        self.fabric.forget(link)
        self.routers.lost(link, router)

    def on_message(self, link: RouterLink, message: pb.RouterMessage) -> None:
        match message.WhichOneof("body"):
            case "start":
                self._start(link, message.start)
            case "retarget":
                target = message.retarget.target if message.retarget.HasField("target") else None
                sequence = SequenceId(message.retarget.sequence)
                if self.epoch_of(sequence) == Epoch(message.retarget.epoch):
                    self._handoffs.retarget(sequence, Epoch(message.retarget.epoch), target)
            case "claim" | "adopt":
                self._claims.on_message(link, message)
            case "peers":
                self.fabric.follow(link, message.peers)
            case "cancel":
                self._cancel(SequenceId(message.cancel.sequence), Epoch(message.cancel.epoch))
            case "migrate":
                sequence, epoch = SequenceId(message.migrate.sequence), Epoch(message.migrate.epoch)
                self._migrations.begin(sequence, epoch, message.migrate.target)
            case "unfreeze":
                self._migrations.deny(SequenceId(message.unfreeze.sequence), Epoch(message.unfreeze.epoch))
            case "drain" | "set_role":
                self._on_standing(message)
            case "grant":
                self._spawn(self._grant(link, message.grant), name=f"grant {message.grant.sequence}")
            case other:
                log.warning("router at %s sent an unexpected %s", link.address, other)

    def _on_standing(self, message: pb.RouterMessage) -> None:
        if message.HasField("set_role"):
            self.standing.set_role(Role(message.set_role.role), instead_of=Role(message.set_role.from_role))
        elif message.drain.resume:
            self.standing.resume()
        else:
            self.drain(deadline_s=message.drain.deadline_s)

    def drain(self, *, deadline_s: float) -> None:
        """Admit nothing more; at the deadline, if there is one, give up what no router will move away."""
        self.standing.drain(deadline_s=deadline_s)
        self.note_empty()
        if deadline_s:
            self._loop.call_later(deadline_s, self._end_drain)

    def _end_drain(self) -> None:
        if self.standing.is_overdue:
            self.routers.end_orphans()

    def note_empty(self) -> None:
        """Call when something has ended: tells the standing once nothing is left here."""
        is_empty = not (self._live or self._arrivals.leases or self._handoffs.open or self._migrations.open)
        if is_empty:
            self.standing.note_empty()

    def beat(self) -> None:
        """Tell every router now, not at the next heartbeat."""
        for link in self.routers:
            link.send(pb.WorkerMessage(heartbeat=self.heartbeat(link)))

    # ---------------------------------------------------------------- sequences

    def _start(self, link: RouterLink, start: pb.Start) -> None:
        sequence = SequenceId(start.state.sequence)
        if self._arrivals.expects(sequence):
            self._starting[sequence] = (Epoch(start.state.epoch), link)
            self._spawn(self._start_anew(link, start), name=f"start anew {sequence}")
        else:
            self._start_now(link, start)

    async def _start_anew(self, link: RouterLink, start: pb.Start) -> None:
        """Start what was to arrive by a handoff: its prefill worker is lost, and the router has named us instead."""
        sequence, epoch = SequenceId(start.state.sequence), Epoch(start.state.epoch)
        refusal: SluiceError | None = None
        try:
            await self._arrivals.supersede(sequence, epoch)
        except SluiceError as error:
            refusal = error
        if self._starting.get(sequence) != (epoch, link):
            return  # cancelled, or started under a newer epoch, while it waited
        del self._starting[sequence]
        if refusal is not None:
            link.send(failure(sequence, epoch, refusal, is_unstarted=True))
        elif link in list(self.routers):
            self._start_now(link, start)

    def _start_now(self, link: RouterLink, start: pb.Start) -> None:
        sequence, epoch = SequenceId(start.state.sequence), Epoch(start.state.epoch)
        try:
            state = convert.state_from_wire(start.state)
            if not self.standing.admits_work:
                raise NoWorkerError(f"worker {self.info.worker} is {self.standing.lifecycle.value}; place elsewhere")
            self._make_way(sequence, epoch)
        except SluiceError as error:
            link.send(failure(sequence, epoch, error, is_unstarted=True))
            return
        hold = start.HasField("target")
        self._live[sequence] = Live(state, link, state.router, state.epoch, is_handoff=hold)
        parent = self._spans.begin(state)
        added = self.steps.call(lambda engine: engine.add(state, hold=hold))
        added.add_done_callback(lambda done: self._loop.call_soon_threadsafe(self._on_added, sequence, epoch, done))
        if hold:
            self._handoffs.begin(state, start.target, parent=parent)

    def _make_way(self, sequence: SequenceId, epoch: Epoch) -> None:
        """A newer owner's copy replaces an older one. Raises SluiceError if it may not, or not yet."""
        live = self._live.get(sequence)
        if live is None and not self._handoffs.holds(sequence):
            self.routers.orphans.leave(sequence)
        elif live is not None and live.epoch >= epoch:
            raise StaleEpochError(f"the sequence lives here under epoch {live.epoch}")
        elif live is None or live.is_handoff:
            raise NoWorkerError("an earlier copy of the sequence has not left yet; place elsewhere")
        else:
            self.drop(sequence)

    def _on_added(self, sequence: SequenceId, epoch: Epoch, added: "Future[None]") -> None:
        error = added.exception()
        if error is None:
            return
        if not isinstance(error, SluiceError):
            raise error
        if (live := self._live.pop(sequence, None)) is not None:
            self._handoffs.on_ended(sequence)
            self._spans.end(sequence, error=error.code.value)
            live.link.send(failure(sequence, epoch, error, is_unstarted=isinstance(error, OverloadedError)))

    def adopt(self, state: SequenceState) -> bool:
        """A handed-off sequence is about to decode here. False if its router is not connected."""
        link = self.routers.find(state.router)
        if link is None:
            return False
        self._live[state.sequence] = Live(state, link, state.router, state.epoch, is_handoff=False)
        return True

    def disown(self, sequence: SequenceId) -> None:
        """It lives elsewhere now, or never came to be; say nothing more of it."""
        self._live.pop(sequence, None)

    def owned(self, state: SequenceState) -> SequenceState:
        """A sequence as the engine has it, under its present owner."""
        live = self._live.get(state.sequence)
        return state if live is None else live.owned(state)

    def decode_here(self, sequence: SequenceId) -> None:
        """A held sequence's handoff is off: it goes on on this worker."""
        if (live := self._live.get(sequence)) is not None:
            live.is_handoff = False
        self.unfreeze(sequence)

    def unfreeze(self, sequence: SequenceId) -> None:
        """A held sequence's migration is off: it goes on here."""
        self.steps.call(lambda engine: engine.resume(sequence))

    def report(self, sequence: SequenceId, message: pb.WorkerMessage) -> None:
        """Tell the sequence's router how its handoff or migration went."""
        if (live := self._live.get(sequence)) is not None:
            live.link.send(message)

    def epoch_of(self, sequence: SequenceId) -> Epoch | None:
        """The epoch under which the sequence lives here, if it does."""
        return live.epoch if (live := self._live.get(sequence)) is not None else None

    def tokens_of(self, sequence: SequenceId) -> int:
        """How many tokens a sequence that lives here has by now; 0 if it does not."""
        return len(live.state.tokens) + len(live.output) if (live := self._live.get(sequence)) is not None else 0

    def _cancel(self, sequence: SequenceId, epoch: Epoch) -> None:
        if sequence in self._starting and self._starting[sequence][0] <= epoch:
            del self._starting[sequence]
        live = self._live.get(sequence)
        if live is not None and live.epoch <= epoch:
            self.drop(sequence)
        elif self._arrivals.leases:
            self._spawn(self._arrivals.cancel(sequence, epoch), name=f"cancel {sequence}")

    async def _grant(self, link: RouterLink, grant: pb.Grant) -> None:
        """Take over a migrated sequence; if it is not here, the router places it anew."""
        sequence, new_epoch = SequenceId(grant.sequence), Epoch(grant.new_epoch)
        try:
            await self._arrivals.grant(sequence, Epoch(grant.epoch), new_epoch=new_epoch)
        except SluiceError as error:
            link.send(failure(sequence, new_epoch, error))

    def _spawn(self, work: Coroutine[None, None, None], *, name: str) -> None:
        self._tasks.add(task := self._loop.create_task(work, name=name))
        task.add_done_callback(self._tasks.discard)

    def drop(self, sequence: SequenceId) -> None:
        """Forget a sequence that lives here; its blocks are free when nothing reads them any more."""
        live = self._live.pop(sequence)
        self.routers.orphans.leave(sequence)
        self._migrations.on_ended(sequence)
        self._spans.end(sequence, error="cancelled")
        if not (live.is_handoff and self._handoffs.cancel(sequence)):
            self.steps.call(lambda engine: engine.abort(sequence))

    @property
    def info(self) -> WorkerInfo:
        """What this worker says when it joins."""
        return self.standing.info

    @property
    def live_sequences(self) -> int:
        return len(self._live)

    # ---------------------------------------------------------------- the engine's reports

    def _from_engine_thread(self, engine: Engine, report: StepReport) -> None:
        is_due = report is IDLE or self.now_s() - self._counted_s > COUNT_BLOCKS_EVERY_S
        blocks = engine.blocks() if is_due else None
        self._loop.call_soon_threadsafe(self._on_report, report, engine.load(), blocks, engine.take_prefix_change())

    def _from_dying_thread(self, error: BaseException) -> None:
        self._loop.call_soon_threadsafe(self._on_death, error)

    def give_up_worker(self, why: str) -> None:
        """Only a restart of the process can mend this: end it, so that its supervisor starts a new one."""
        self._on_death(TransferError(why))

    def _on_death(self, error: BaseException) -> None:
        if not self.died.done():
            self.died.set_exception(error)

    def _on_report(
        self, report: StepReport, load: WorkerLoad, blocks: BlockCounts | None, change: PrefixChange
    ) -> None:
        self.standing.note_load(load, blocks)
        if blocks is not None:
            self._counted_s = self.now_s()
        self._send_tokens(report.tokens)
        for sequence in report.held:
            self._handoffs.on_held(sequence)
        for sequence, why in report.failed:
            self.canary.fail(sequence, why)
            if (live := self._live.pop(sequence, None)) is not None:
                self._handoffs.on_ended(sequence)
                self._migrations.on_ended(sequence)
                self._spans.end(sequence, error="internal")
                live.link.send(failure(sequence, live.epoch, SluiceError(why)))
        update = self._feed.apply(change)
        if update is not None:
            for link in self.routers:
                link.send(pb.WorkerMessage(prefix=update))
        self.note_empty()
        if report is IDLE:
            return
        self.standing.note_step(report.shape, report.seconds)
        self._metrics.stepped(
            seconds=report.seconds,
            prefill_tokens=report.shape.prefill_tokens,
            decode_sequences=report.shape.decodes,
            preempted=report.preempted,
            failed=len(report.failed),
        )

    def _send_tokens(self, tokens: Sequence[TokenOut]) -> None:
        messages: dict[Hearer, pb.StepTokens] = {}
        for out in tokens:
            live = self._live.get(out.sequence)
            if live is None or live.state.epoch != out.epoch:
                self.canary.hear(out)
                continue
            live.output.append(out.token)
            add_row(messages.setdefault(live.link, pb.StepTokens()), out, epoch=live.epoch)
            self._spans.end(out.sequence)
            if out.finish is not None:
                del self._live[out.sequence]
                self.routers.orphans.end(live, out.finish)
                self._migrations.on_ended(out.sequence)
                if live.is_handoff:
                    self._handoffs.on_ended(out.sequence)
        for link, message in messages.items():
            link.send(pb.WorkerMessage(tokens=message))
