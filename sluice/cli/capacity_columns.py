"""`sluice get capacity` as a table: the terms of every curve, how far they stray, and what they rest on.

Next: `get.py`.
"""

from sluice.capacity.curve_tracker import Z90
from sluice.cli.tables import Column
from sluice.wire.gen import sluice_pb2 as pb


def capacity_columns(reply: pb.GetCapacityReply) -> list[Column]:
    """One line a worker, then one a class."""
    rows = [*reply.workers, *reply.classes]
    return [
        Column("WORKER", [row.worker or "(class)" for row in rows]),
        Column("GPU", [_gpu(row) for row in rows]),
        Column("$/H", [f"{row.price_per_h:.2f}" if row.price_per_h else "-" for row in rows], spare=2),
        Column("STEP", [f"{row.terms.base_s * 1e3:.2f} ms" for row in rows]),
        Column("PROMPT TOKEN", [f"{row.terms.prefill_token_s * 1e6:.1f} us" for row in rows]),
        Column("PAIR", [f"{row.terms.pair_s * 1e9:.2f} ns" for row in rows], spare=3),
        Column("DECODE", [f"{row.terms.decode_s * 1e6:.1f} us" for row in rows]),
        Column("CONTEXT TOKEN", [f"{row.terms.context_token_s * 1e9:.1f} ns" for row in rows]),
        Column("90 % WITHIN", [f"{Z90 * row.terms.error:.0%}" for row in rows]),
        Column("SAMPLES", [str(row.samples) if row.samples else "none yet" for row in rows], spare=1),
    ]


def _gpu(row: pb.CapacityRow) -> str:
    return row.gpu_class if row.tensor_parallel <= 1 else f"{row.gpu_class}x{row.tensor_parallel}"
