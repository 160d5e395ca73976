"""A worker without an engine: joins a router and answers with tokens on a timer.

Output token i repeats prompt token i modulo the prompt's length, so any worker continues what
another began, and a test can tell a lost, repeated or changed token from the text alone. All
sequences of a step travel in one message, as a real worker's do. With a decode target the first
token is sent here and the rest by the target, found in `peers`.

As a process: `python -m sluice.testing.fake_worker --router HOST:PORT`. Next: `tiny_tokenizer.py`.
"""

import argparse
import asyncio
import contextlib
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

import grpc
import uvloop

from sluice.domain.ids import BootId, WorkerId
from sluice.domain.load import WorkerInfo, WorkerLoad
from sluice.domain.role import FinishReason, Lifecycle, Role
from sluice.domain.sequence import SequenceState
from sluice.wire import channels, convert
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc

BLOCKS: Final = 100_000
REDIAL_S: Final = 0.2

Stream: TypeAlias = grpc.aio.StreamStreamCall[pb.WorkerMessage, pb.RouterMessage]


@dataclass(slots=True)
class _Running:
    """A sequence that gets a token each step. `target` is where it goes after its first one."""

    state: SequenceState
    target: pb.DecodeTarget | None
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeSettings:
    """How a fake worker behaves."""

    worker: str = "fake-0"
    role: Role = Role.MIXED
    model: str = "fake"
    fingerprint: str = "fake-fingerprint"
    itl_s: float = 0.005
    block_tokens: int = 16
    sequence_tokens_max: int = 100_000
    batch_sequences_max: int = 256
    logprobs_top: int = 2


@dataclass(slots=True)
class FakeWorker:
    """One incarnation of a fake worker. Tests may read its lists and replace its hooks."""

    settings: FakeSettings
    peers: dict[str, "FakeWorker"] = field(default_factory=dict)  # by boot id, shared by a fleet of fakes
    on_handoff: Callable[[pb.DecodeTarget], pb.HandoffOutcome] = lambda _: pb.HANDOFF_COMMITTED
    boot: BootId = field(default_factory=lambda: BootId(secrets.token_hex(4)))
    running: dict[int, _Running] = field(default_factory=dict)
    held: dict[int, _Running] = field(default_factory=dict)  # waits for a Retarget
    started: list[SequenceState] = field(default_factory=list)
    cancelled: list[tuple[int, int]] = field(default_factory=list)
    is_frozen: bool = False  # makes no tokens while set
    welcome: asyncio.Event = field(default_factory=asyncio.Event)
    _outgoing: "asyncio.Queue[pb.WorkerMessage]" = field(default_factory=lambda: asyncio.Queue(maxsize=10_000))
    _lifecycle: Lifecycle = Lifecycle.READY

    def info(self) -> WorkerInfo:
        """What it registers."""
        settings = self.settings
        return WorkerInfo(
            worker=WorkerId(settings.worker),
            boot=self.boot,
            role=settings.role,
            model=settings.model,
            model_fingerprint=settings.fingerprint,
            kv_address="fake:0",
            block_tokens=settings.block_tokens,
            blocks=BLOCKS,
            sequence_tokens_max=settings.sequence_tokens_max,
            batch_sequences_max=settings.batch_sequences_max,
            device="fake",
        )

    def say(self, message: pb.WorkerMessage) -> None:
        """Queue a message to the router."""
        self._outgoing.put_nowait(message)

    def beat(self) -> None:
        """Send a heartbeat."""
        load = WorkerLoad(lifecycle=self._lifecycle, running_sequences=len(self.running), free_blocks=BLOCKS)
        self.say(pb.WorkerMessage(heartbeat=convert.load_to_wire(load)))

    async def serve(self, router: str) -> None:
        """Join a router and work until cancelled or disconnected. Raises grpc.aio.AioRpcError when refused."""
        self.peers[self.boot] = self
        self.say(pb.WorkerMessage(register=convert.info_to_wire(self.info())))
        self.beat()
        stepper = asyncio.create_task(self._step_forever(), name="fake steps")
        writer: asyncio.Task[None] | None = None
        try:
            async with channels.connect(router) as channel:
                call = sluice_pb2_grpc.FleetStub(channel).Join()
                writer = asyncio.create_task(self._write_all(call), name="fake writes")
                while isinstance(message := await call.read(), pb.RouterMessage):
                    self._on_message(message)
        finally:
            stepper.cancel()
            if writer is not None:
                writer.cancel()
            self.peers.pop(self.boot, None)

    def step(self) -> None:
        """Choose one token for every running sequence and send them together."""
        message = pb.WorkerMessage()
        rows = message.tokens
        for number, run in list(self.running.items()):
            row, state = len(rows.sequence), run.state
            rows.sequence.append(number)
            rows.epoch.append(state.epoch)
            rows.index.append(run.index)
            token = state.tokens[run.index % state.prompt_tokens]
            rows.token.append(token)
            if state.sampling.top_logprobs is not None:
                top = range(state.sampling.top_logprobs)
                logprobs = pb.TokenLogprobs(
                    token=token, logprob=-0.5, top_tokens=top, top_logprobs=[-0.5 - i for i in top]
                )
                rows.logprobs.append(pb.RowLogprobs(row=row, logprobs=logprobs))
            run.index += 1
            if run.index >= state.sampling.max_tokens:
                rows.finish.append(pb.Finish(row=row, reason=FinishReason.LENGTH.value))
                del self.running[number]
            elif run.target is not None:
                del self.running[number]
                self._hand_off(number, run)
        if rows.sequence:
            self.say(message)

    def _hand_off(self, number: int, run: _Running) -> None:
        assert run.target is not None
        peer = self.peers.get(run.target.boot)
        outcome = pb.HANDOFF_FAILED if peer is None else self.on_handoff(run.target)
        if outcome == pb.HANDOFF_COMMITTED and peer is not None:
            peer.running[number] = replace(run, target=None)
        else:
            self.held[number] = run
        report = pb.HandoffReport(
            sequence=number,
            epoch=run.state.epoch,
            outcome=outcome,
            decode_worker=run.target.worker,
            transport="fake",
            bytes=len(run.state.tokens) * 1024,
            transfer_s=0.001,
        )
        self.say(pb.WorkerMessage(handoff=report))

    def _on_message(self, message: pb.RouterMessage) -> None:
        match message.WhichOneof("body"):
            case "welcome":
                self.welcome.set()
            case "start":
                state = convert.state_from_wire(message.start.state)
                target = message.start.target if message.start.HasField("target") else None
                self.started.append(state)
                self.running[state.sequence] = _Running(state, target, state.output_tokens)
            case "retarget":
                run = self.held.pop(message.retarget.sequence, None)
                if run is None:
                    return
                if message.retarget.HasField("target"):
                    run.target = message.retarget.target
                    self._hand_off(message.retarget.sequence, run)
                else:
                    self.running[message.retarget.sequence] = replace(run, target=None)
            case "cancel":
                self.cancelled.append((message.cancel.sequence, message.cancel.epoch))
                for table in (self.running, self.held):
                    run = table.get(message.cancel.sequence)
                    # A newer owner's handoff may arrive here before the order to drop the older one.
                    if run is not None and run.state.epoch <= message.cancel.epoch:
                        del table[message.cancel.sequence]

    async def _write_all(self, call: Stream) -> None:
        # The reader reports how the stream ended; here it is only over.
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                await call.write(await self._outgoing.get())

    async def _step_forever(self) -> None:
        """Steps keep their pace: a late one does not delay those after it."""
        loop = asyncio.get_running_loop()
        next_step_s = next_beat_s = loop.time()
        while True:
            next_step_s = max(next_step_s + self.settings.itl_s, loop.time())
            await asyncio.sleep(next_step_s - loop.time())
            if not self.is_frozen:
                self.step()
            if loop.time() >= next_beat_s:
                next_beat_s = loop.time() + 0.5
                self.beat()


async def _serve_forever(settings: FakeSettings, router: str) -> None:
    while True:
        with contextlib.suppress(grpc.aio.AioRpcError):
            await FakeWorker(settings).serve(router)
        await asyncio.sleep(REDIAL_S)


def main() -> int:
    """Run one fake worker as a process."""
    parser = argparse.ArgumentParser(prog="sluice.testing.fake_worker")
    parser.add_argument("--router", required=True, help="host:port of a router's gRPC")
    parser.add_argument("--worker", default="fake-0")
    parser.add_argument("--role", default="mixed", choices=[role.value for role in Role])
    parser.add_argument("--itl-ms", type=float, default=5.0)
    arguments = parser.parse_args()
    settings = FakeSettings(worker=arguments.worker, role=Role(arguments.role), itl_s=arguments.itl_ms / 1000)
    uvloop.run(_serve_forever(settings, arguments.router))
    return 0


if __name__ == "__main__":
    sys.exit(main())
