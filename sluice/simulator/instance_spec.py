"""What one simulated instance is: its step times, memory, limits, price. Facts, no decisions.

Next: `instance.py`.
"""

from dataclasses import dataclass
from enum import Enum

from sluice.capacity.encode_curve import EncodeCurve
from sluice.capacity.step_curve import StepCurve
from sluice.capacity.step_model import StepModel
from sluice.domain.role import Role


class StepOrder(Enum):
    """What goes into one step."""

    PACED = "paced"  # every decode, then chunks of prompts due first while decodes keep their pace (Sluice's workers)
    CHUNKED = "chunked"  # every decode, then chunks in order of arrival under one budget (Sarathi-Serve, OSDI 2024)
    PREFILL_FIRST = "prefill-first"  # whole prompts alone, decodes wait (vLLM before chunked prefill)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSpec:
    """One replica of `gpus` GPUs of a class that serves one model."""

    name: str  # of the kind, as the report shows it: "H100 prefill"
    gpu_class: str
    role: Role
    model: StepModel  # what really happens
    curve: StepCurve  # what policies believe
    blocks: int
    block_tokens: int = 16
    unit_tokens: int = 512  # that one hash id of the trace stands for
    step_tokens_max: int = 8192
    batch_sequences_max: int = 256
    sequence_tokens_max: int = 1 << 20
    kv_token_bytes: int = 131072
    link_bytes_per_s: float = 25e9
    link_latency_s: float = 0.0005
    gpus: int = 1
    price_per_h: float = 0.0  # of the whole replica
    idle_w: float = 0.0  # of the whole replica
    peak_w: float = 0.0
    step_order: StepOrder = StepOrder.PACED
    is_ahead: bool = False  # a step is decided while the one before it runs, as asynchronous engines do
    jump_steps_max: int = 4096  # decode steps taken at once; lower it where step time is far from linear in context
    encode: EncodeCurve | None = None  # of its vision tower; None: it has none
    encode_tokens_max: int = 8192  # embeddings of one batch of images
    start_s: float = 60.0  # from asked for to ready, when added while running

    def __post_init__(self) -> None:
        assert self.unit_tokens % self.block_tokens == 0
        assert self.step_order is StepOrder.PREFILL_FIRST or self.step_tokens_max > self.batch_sequences_max
