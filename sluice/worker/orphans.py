"""Sequences whose router is lost: they run on for a grace time, and how they ended is kept for whoever asks.

    router lost --> orphan --adopted by another router--> lives on under a higher epoch
                      |  `--finishes--> kept: state and reason, bounded
                      `--grace over, or the same router is back--> dropped

A router that comes back as the same process has placed them anew already; a client that comes
back to another router finds them here (`Claim`, `Adopt`). Never tells anyone anything: `send`
is where their tokens go meanwhile, and it forgets them, for `live.py` remembers. Pure.
Next: `shell.py`, who drops and hands over.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from sluice.domain.ids import RequestId, RouterId, SequenceId
from sluice.domain.role import FinishReason
from sluice.wire.gen import sluice_pb2 as pb
from sluice.worker.live import Live

ENDED_MAX: Final = 1024


class Loss:
    """One loss of one router: the grace of its orphans ends together."""

    __slots__ = ()


class Orphans:
    """The orphans of one worker. Hears what they say, in place of their router."""

    def __init__(self) -> None:
        self._running: dict[SequenceId, Loss] = {}
        self._ended: OrderedDict[SequenceId, tuple[Live, Loss]] = OrderedDict()

    def __len__(self) -> int:
        """How many there are, ended ones included."""
        return len(self._running) + len(self._ended)

    def send(self, message: pb.WorkerMessage) -> None:
        """Nobody is there to hear it."""

    def take_in(self, lives: Iterable[Live]) -> Loss:
        """The router of these is lost."""
        loss = Loss()
        for live in lives:
            live.link = self
            self._running[live.state.sequence] = loss
        return loss

    def leave(self, sequence: SequenceId) -> None:
        """It has been adopted, cancelled or dropped. Unknown ones are ignored."""
        self._running.pop(sequence, None)
        self._ended.pop(sequence, None)

    def end(self, live: Live, reason: FinishReason) -> None:
        """It has finished, maybe as an orphan: keep how, if nobody has heard."""
        loss = self._running.pop(live.state.sequence, None)
        if loss is None:
            return
        live.finish = reason
        self._ended[live.state.sequence] = (live, loss)
        if len(self._ended) > ENDED_MAX:
            self._ended.popitem(last=False)

    def losses(self) -> list[Loss]:
        """Every loss whose grace has not ended."""
        return list(dict.fromkeys((*self._running.values(), *(loss for _, loss in self._ended.values()))))

    def ended(self, sequence: SequenceId) -> Live | None:
        """One that has finished unheard."""
        found = self._ended.get(sequence)
        return None if found is None else found[0]

    def ended_of(self, request: RequestId) -> list[Live]:
        """Those of a request that have finished unheard."""
        return [live for live, _ in self._ended.values() if live.state.request == request]

    def expire(self, loss: Loss) -> list[SequenceId]:
        """The grace after `loss` is over: the running ones, which the caller drops; ended ones are forgotten."""
        self._ended = OrderedDict((s, (live, one)) for s, (live, one) in self._ended.items() if one is not loss)
        running = [sequence for sequence, one in self._running.items() if one is loss]
        for sequence in running:
            del self._running[sequence]
        return running

    def forget_ended_of(self, router: RouterId) -> None:
        """This router is back and goes on from what it has heard."""
        self._ended = OrderedDict((s, found) for s, found in self._ended.items() if found[0].router != router)
