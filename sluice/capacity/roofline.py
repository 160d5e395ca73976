"""A step model before anything was measured: what a GPU's datasheet allows a model's shape, less stated losses.

Dense operators take the longer of computing and reading weights; attention of prompts is computed, that of
decodes is read. Reaches the right order of GPUs and the shape of the curves, not their last tenth:
`benchmarks/roofline.py` prints it beside measured profiles. A profile replaces it. Pure.
Next: `curve_fit.py`.
"""

from dataclasses import dataclass
from typing import Final

from sluice.capacity.gpu_class import GpuClass
from sluice.capacity.model_shape import ModelShape
from sluice.capacity.step_model import StepShape
from sluice.errors import ConfigError

MEMORY_SHARE: Final = 0.9  # of a GPU's memory the engine may use, as vLLM's default
ACTIVATION_BYTES: Final = 2 << 30  # of each GPU, beside weights and KV


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """What is reached of the datasheet. Defaults: the middle of the measured profiles in `benchmarks/roofline.py`."""

    compute: float = 0.72  # of dense FLOP/s, in large batches
    attention: float = 0.9  # of dense FLOP/s, scores and sums of prompts
    memory: float = 0.8  # of bytes/s
    doubling: float = 0.9  # speed kept by each GPU when tensor parallelism doubles
    step_s: float = 0.002  # of the host, per step
    sequence_s: float = 2e-5  # of sampling and bookkeeping, per sequence


MEASURED: Final = Losses()


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """Step times of `tensor_parallel` GPUs of a class that serve a model of a shape. Satisfies StepModel."""

    gpu: GpuClass
    shape: ModelShape
    tensor_parallel: int = 1
    losses: Losses = MEASURED

    def step_s(self, shape: StepShape) -> float:
        """See StepModel."""
        tokens = shape.prefill_tokens + shape.decodes
        if not tokens:
            return 0.0
        losses = self.losses
        speed = self.tensor_parallel * losses.doubling ** (self.tensor_parallel.bit_length() - 1)
        flops = self.gpu.flop_per_s * speed
        bandwidth = self.gpu.memory_bytes_per_s * speed * losses.memory
        sequences = shape.decodes + shape.prefills
        dense = self.shape.token_flops * tokens + self.shape.sample_flops * sequences
        computed_s = dense / (flops * losses.compute)
        read_s = self.shape.weights_read(tokens) * self.shape.dtype_bytes / bandwidth
        prompt_s = self.shape.pair_flops * shape.prefill_pairs / (flops * losses.attention)
        context_s = self.shape.kv_token_bytes * shape.context_tokens / bandwidth
        return max(computed_s, read_s) + prompt_s + context_s + losses.step_s + losses.sequence_s * sequences


def kv_tokens(gpu: GpuClass, shape: ModelShape, *, tensor_parallel: int = 1) -> int:
    """Tokens whose KV fits beside the weights; 0 where the weights do not fit."""
    usable = tensor_parallel * (MEMORY_SHARE * gpu.memory_bytes - ACTIVATION_BYTES) - shape.weight_bytes
    return max(0, int(usable // shape.kv_token_bytes))


def degrees(gpu: GpuClass, shape: ModelShape, *, tensor_parallel_max: int = 8) -> list[int]:
    """The tensor-parallel degrees at which the model fits, of 1, 2, 4, 8. Raises ConfigError if there is none."""
    ways = [degree for degree in (1, 2, 4, 8) if degree <= min(tensor_parallel_max, shape.kv_heads)]
    fitting = [degree for degree in ways if kv_tokens(gpu, shape, tensor_parallel=degree) > 0]
    if not fitting:
        need = shape.weight_bytes / 1e9
        raise ConfigError(f"{gpu.name}: {ways[-1]} of them do not hold the {need:.0f} GB of {shape.name}; name others")
    return fitting
