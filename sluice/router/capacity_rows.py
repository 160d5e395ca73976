"""The router's capacity book as the rows `sluice get capacity` shows. Decides nothing.

Next: `capacity/capacity_book.py`.
"""

from sluice.capacity.step_curve import StepCurve
from sluice.router.fleet import Fleet, Member
from sluice.wire.gen import sluice_pb2 as pb


def capacity_reply(fleet: Fleet) -> pb.GetCapacityReply:
    """A row for every connected worker, then one for every class seen."""
    return pb.GetCapacityReply(
        workers=[_worker_row(member, fleet.capacity.curve(member.info.worker)) for member in fleet],
        classes=[
            pb.CapacityRow(
                gpu_class=key.gpu_class,
                tensor_parallel=key.tensor_parallel,
                model=key.model,
                terms=_terms(curve),
                samples=curve.samples,
            )
            for key, curve in fleet.capacity.classes().items()
        ],
    )


def _worker_row(member: Member, curve: StepCurve) -> pb.CapacityRow:
    info = member.info
    return pb.CapacityRow(
        worker=info.worker,
        gpu_class=info.gpu_class or info.device,
        tensor_parallel=info.tensor_parallel,
        model=info.model,
        terms=_terms(curve),
        samples=curve.samples,
        price_per_h=info.price_per_h,
        link_bytes_per_s=info.link_bytes_per_s,
    )


def _terms(curve: StepCurve) -> pb.StepTerms:
    return pb.StepTerms(
        base_s=curve.base_s,
        prefill_token_s=curve.prefill_token_s,
        pair_s=curve.pair_s,
        decode_s=curve.decode_s,
        context_token_s=curve.context_token_s,
        error=curve.error,
    )
