"""Another router asks for the sequences of a request whose client has come back to it, and takes them over.

A claim is answered with all there is and changes nothing; an adoption ends the former owner's
rights: it knows older epochs only, and those are ignored from then on (law L3).
Next: `orphans.py`, for those that have no owner; `router/claims.py` for who asks.
"""

from collections.abc import Callable, Mapping

from sluice.domain.ids import Epoch, RequestId, RouterId, SequenceId
from sluice.errors import CancelledError, NoWorkerError
from sluice.wire import convert
from sluice.wire.gen import sluice_pb2 as pb
from sluice.worker.live import Hearer, Live
from sluice.worker.orphans import Orphans
from sluice.worker.step_rows import failure, rows_from


class Claims:
    """Answers for the sequences in `live` and for `orphans` that have ended."""

    def __init__(
        self,
        live: Mapping[SequenceId, Live],
        orphans: Orphans,
        *,
        stay: Callable[[SequenceId, Epoch], None],
    ) -> None:
        """`stay` is told of a sequence whose migration, if one is under way, will not be granted."""
        self._live = live
        self._orphans = orphans
        self._stay = stay

    def on_message(self, link: Hearer, message: pb.RouterMessage) -> None:
        """A Claim or an Adopt."""
        if message.HasField("claim"):
            link.send(self._copies_of(RequestId(message.claim.request)))
        else:
            self._adopt(link, message.adopt)

    def _copies_of(self, request: RequestId) -> pb.WorkerMessage:
        """All of a request but what is being handed off: that has hardly begun, and computing it again is cheap."""
        here = [live for live in self._live.values() if live.state.request == request and not live.is_handoff]
        copies = [
            pb.Copy(state=convert.state_to_wire(live.now()), finish="" if live.finish is None else live.finish.value)
            for live in (*here, *self._orphans.ended_of(request))
        ]
        return pb.WorkerMessage(copies=pb.Copies(request=request, copies=copies))

    def _adopt(self, link: Hearer, adopt: pb.Adopt) -> None:
        """The former owner, if it lives, is told; the new one gets the tokens it names, then those to come."""
        sequence, epoch, new_epoch = SequenceId(adopt.sequence), Epoch(adopt.epoch), Epoch(adopt.new_epoch)
        live = self._live.get(sequence) or self._orphans.ended(sequence)
        if live is None or live.is_handoff or live.epoch != epoch or new_epoch <= epoch:
            link.send(failure(sequence, new_epoch, NoWorkerError("the sequence is not here any more")))
            return
        self._stay(sequence, epoch)
        live.link.send(failure(sequence, epoch, CancelledError("another router has taken the request over")))
        self._orphans.leave(sequence)
        live.link, live.router, live.epoch = link, RouterId(adopt.router), new_epoch
        link.send(rows_from(live, next_index=adopt.next_index))
