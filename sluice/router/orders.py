"""What a router tells workers about one sequence, as messages. Decides nothing. Next: `flow.py`, who decides."""

from sluice.domain.ids import Epoch, RequestId, RouterId, SequenceId
from sluice.domain.sequence import SequenceState
from sluice.wire import convert
from sluice.wire.gen import sluice_pb2 as pb


def start(state: SequenceState, target: pb.DecodeTarget | None) -> pb.RouterMessage:
    """Run it; with a target: prefill it and hand it off there."""
    return pb.RouterMessage(start=pb.Start(state=convert.state_to_wire(state), target=target))


def retarget(sequence: SequenceId, epoch: Epoch, target: pb.DecodeTarget | None) -> pb.RouterMessage:
    """Hand it off there instead; without a target: decode it where it is."""
    return pb.RouterMessage(retarget=pb.Retarget(sequence=sequence, epoch=epoch, target=target))


def migrate(sequence: SequenceId, epoch: Epoch, target: pb.DecodeTarget) -> pb.RouterMessage:
    """Copy it there while it runs."""
    return pb.RouterMessage(migrate=pb.Migrate(sequence=sequence, epoch=epoch, target=target))


def grant(sequence: SequenceId, epoch: Epoch, *, new_epoch: Epoch) -> pb.RouterMessage:
    """The worker it was copied to owns it from now on."""
    return pb.RouterMessage(grant=pb.Grant(sequence=sequence, epoch=epoch, new_epoch=new_epoch))


def unfreeze(sequence: SequenceId, epoch: int) -> pb.RouterMessage:
    """It goes on where it is."""
    return pb.RouterMessage(unfreeze=pb.Unfreeze(sequence=sequence, epoch=epoch))


def claim(request: RequestId) -> pb.RouterMessage:
    """What of this request is on you?"""
    return pb.RouterMessage(claim=pb.Claim(request=request))


def adopt(
    sequence: SequenceId, epoch: Epoch, *, new_epoch: Epoch, router: RouterId, next_index: int
) -> pb.RouterMessage:
    """This router owns it from now on: send its tokens from `next_index` on."""
    order = pb.Adopt(sequence=sequence, epoch=epoch, new_epoch=new_epoch, router=router, next_index=next_index)
    return pb.RouterMessage(adopt=order)
