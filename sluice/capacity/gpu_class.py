"""One kind of GPU as a replica uses it: what it has, what it costs. Facts only, no predictions.

Next: `step_model.py` for how long its steps take.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuClass:
    """One accelerator type. A replica of `tensor_parallel` GPUs costs that many times the price."""

    name: str  # as in the custom resource: H100, A100, L4
    memory_bytes: int
    flop_per_s: float  # dense, at the serving dtype, as on the datasheet
    memory_bytes_per_s: float
    link_bytes_per_s: float  # to another host, one direction, per GPU
    price_per_h: float  # dollars
    idle_w: float = 0.0
    peak_w: float = 0.0
