"""One way of using a GPU class: so many GPUs together, with the step times that gives.

Facts only. Next: `throughput.py`.
"""

from dataclasses import dataclass

from sluice.capacity.encode_curve import EncodeCurve
from sluice.capacity.gpu_class import GpuClass
from sluice.capacity.step_model import StepModel


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaKind:
    """A replica of `tensor_parallel` GPUs of one class that serves the planned model."""

    gpu: GpuClass
    tensor_parallel: int
    model: StepModel
    kv_tokens: int  # that fit beside the language model's weights
    kv_token_bytes: int  # KV of one token over all GPUs of the replica: what a handoff moves
    batch_sequences_max: int = 256
    step_tokens: int = 2048  # token budget of one step, chunks of prefill included
    tower_tokens: int = 0  # of them, what the vision tower's weights would take
    encode_image_s: float | None = None  # of an image as the workload has them; None: cannot encode
    encode_curve: EncodeCurve | None = None  # behind it, where it is known

    @property
    def name(self) -> str:
        """As in tables: `H100` or `H100x2`."""
        return self.gpu.name if self.tensor_parallel == 1 else f"{self.gpu.name}x{self.tensor_parallel}"

    @property
    def price_per_h(self) -> float:
        """Dollars of the whole replica."""
        return self.gpu.price_per_h * self.tensor_parallel

    @property
    def link_bytes_per_s(self) -> float:
        """To another host, one direction, over all its GPUs."""
        return self.gpu.link_bytes_per_s * self.tensor_parallel
