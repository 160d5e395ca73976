"""Where images' embeddings come in on a worker that reads them, and how they find the sequence that waits.

    encode worker --Reserve, push, Commit--> ArrivalTable --attach--> store --provide--> engine: the prompt goes on

The receiving half of a handoff, over the embedding store instead of the engine: an image's own sequence says who
will read it (`viewer`). Embeddings may come before their reader; they wait for it as long as a lease lasts. A reader
that comes later still is sent back to its router, which believes that its images are here: it would wait for ever.
Next: `engine/embedding_store.py`, docs/adr/0014.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from sluice.domain.ids import BootId, Epoch, SequenceId
from sluice.domain.image import FILL_TOKEN
from sluice.domain.load import WorkerInfo
from sluice.domain.sequence import SequenceState
from sluice.engine.embedding_store import EmbeddingStore, PagedRows
from sluice.errors import NoWorkerError, OverloadedError, WorkerLostError
from sluice.wire.gen import sluice_pb2 as pb
from sluice.worker.shell import Shell
from sluice.worker.standing import Standing
from sluice.worker.step_rows import failure

log = logging.getLogger(__name__)

T = TypeVar("T")
LOOK_AGAIN_S: Final = 0.25
BEGUN_MAX: Final = 4096


class SilentFabric:
    """Hears of probes that ended well here; says nothing of them: those are the encode workers' links."""

    def heard(self) -> None:
        """Nothing follows."""


class StoreCanary:
    """Answers encode workers' canaries: their KV is zeros, and so is the token after it."""

    def __init__(self, store: EmbeddingStore) -> None:
        self.tokens: tuple[int, ...] = ()
        self._store = store

    async def go_on(self, state: SequenceState, *, computed: int) -> int:
        """The canary's next token; its reservation is gone afterwards. Raises SluiceError."""
        self._store.attach(state, computed=computed)
        rows = self._store.take(state.sequence, tokens=computed)
        is_whole = not rows.rows(0, computed).any()
        rows.close()
        return FILL_TOKEN if is_whole else FILL_TOKEN + 1


@dataclass(frozen=True, slots=True)
class _Early:
    """Embeddings whose reader has not begun here yet."""

    state: SequenceState
    until_s: float


class Viewing:
    """The embeddings that one worker's prompts wait for. Implements what `ArrivalTable` asks of its host."""

    def __init__(self, shell: Shell, store: EmbeddingStore, *, boot: BootId, patience_s: float) -> None:
        """`boot` names this incarnation to the senders of embeddings; early ones wait for `patience_s`."""
        self.fabric = SilentFabric()
        self.canary = StoreCanary(store)
        self._shell = shell
        self._store = store
        self._boot = boot
        self._patience_s = patience_s
        self._early: list[_Early] = []
        self._begun: OrderedDict[SequenceId, None] = OrderedDict()  # readers seen here, the latest last
        self._missed: OrderedDict[SequenceId, None] = OrderedDict()  # absent readers whose embeddings were let go
        store.listen(self._on_arrived)

    @property
    def early(self) -> int:
        """How many images wait for a reader that has not begun."""
        return len(self._early)

    def hear(self, message: pb.RouterMessage) -> None:
        """The shell has been told: what came before its reader has one now."""
        if message.HasField("start") and message.start.state.images:
            viewer = SequenceId(message.start.state.sequence)
            if self._is_here(viewer) and viewer in self._missed:
                self._send_back(viewer)
            if self._early:
                self._look_again()

    def _is_here(self, viewer: SequenceId) -> bool:
        """Whether a reader lives here now; remembers those that do."""
        if self._shell.epoch_of(viewer) is None:
            return False
        _remember(self._begun, viewer)
        return True

    def _send_back(self, viewer: SequenceId) -> None:
        """A reader has come too late: its router is to bring its images again."""
        del self._missed[viewer]
        epoch = self._shell.epoch_of(viewer)
        assert epoch is not None, "it is here"
        late = NoWorkerError("its images came before it did, and were let go")
        self._shell.report(viewer, failure(viewer, epoch, late, is_unstarted=True))
        self._shell.drop(viewer)

    def _let_go(self, state: SequenceState) -> None:
        """Nobody is here to read them: they are only cached from now on."""
        assert state.viewer is not None
        self._store.drop(state.sequence)
        _remember(self._missed, state.viewer)

    async def run(self) -> None:
        """Look again now and then, until cancelled: readers may begin late, or never."""
        while True:
            await asyncio.sleep(LOOK_AGAIN_S)
            self._look_again()

    def _look_again(self) -> None:
        waiting, self._early = self._early, []
        now_s = self.now_s()
        for early in waiting:
            assert early.state.viewer is not None
            if self._is_here(early.state.viewer):
                self._provide(early.state)
            elif now_s < early.until_s:
                self._early.append(early)
            else:
                self._let_go(early.state)

    def _on_arrived(self, state: SequenceState) -> None:
        if state.viewer is None:
            return  # a canary
        if self._is_here(state.viewer):
            self._provide(state)
        elif state.viewer in self._begun:
            self._let_go(state)  # it has left: its prompt was cached, or it ended; or it comes again
        else:
            self._early.append(_Early(state, self.now_s() + self._patience_s))

    def _provide(self, state: SequenceState) -> None:
        """Hand the embeddings to the engine, which closes them when their reader leaves."""
        span, viewer = state.images[0], state.viewer
        assert viewer is not None
        rows = self._store.take(state.sequence, tokens=span.tokens)
        provided = self._shell.steps.call(lambda engine: engine.provide(viewer, span.digest, rows))
        provided.add_done_callback(lambda done: _close_unless_heard(rows, done))

    # ---------------------------------------------------------------- what ArrivalTable asks

    @property
    def standing(self) -> Standing:
        """Whether this worker admits work."""
        return self._shell.standing

    @property
    def info(self) -> WorkerInfo:
        """What this worker is, to the senders of embeddings."""
        return replace(self._shell.info, boot=self._boot)

    def now_s(self) -> float:
        """The worker's clock."""
        return self._shell.now_s()

    async def ask(self, question: Callable[[EmbeddingStore], T]) -> T:
        """Ask the store."""
        return question(self._store)

    def epoch_of(self, sequence: SequenceId) -> Epoch | None:  # noqa: ARG002 - what hosts are asked
        """An image's own sequence does not live here."""
        return None

    def adopt(self, state: SequenceState) -> bool:
        """Whether it is an image, and somebody is meant to read it."""
        return state.viewer is not None and len(state.images) == 1

    def disown(self, sequence: SequenceId) -> None:
        """It did not come to be."""

    def note_empty(self) -> None:
        """A transfer has ended."""

    def give_up_worker(self, why: str) -> None:
        """Only a restart can mend this."""
        self._shell.give_up_worker(why)


def _remember(viewers: "OrderedDict[SequenceId, None]", viewer: SequenceId) -> None:
    viewers[viewer] = None
    viewers.move_to_end(viewer)
    if len(viewers) > BEGUN_MAX:
        viewers.popitem(last=False)


def _close_unless_heard(rows: PagedRows, provided: "Future[None]") -> None:
    """The engine's thread did not take the question: nobody else will close the rows."""
    error = provided.exception()
    if isinstance(error, OverloadedError | WorkerLostError):
        rows.close()
    if error is not None:
        log.warning("embeddings were not provided: %s", error)
