"""GPUClass: one kind of GPU in the cluster: where it is, how much it holds, what it costs, how fast it is.

Cluster-wide, written by a platform engineer once per kind. Never touched by the operator.
Next: `model_service.py`, whose pools name classes.
"""

from typing import Annotated, ClassVar

from pydantic import Field

from sluice.operator.resources.part import Part, Rule


class PrefillCurve(Part):
    """Seconds to compute a prompt of n tokens: constant + perToken n + perTokenSquared n²."""

    constant_s: Annotated[float, Field(ge=0, alias="constantSeconds")] = 0.0
    """Fixed cost of a prefill step."""
    token_s: Annotated[float, Field(gt=0, alias="secondsPerToken")]
    """Cost of each prompt token."""
    token_squared_s: Annotated[float, Field(ge=0, alias="secondsPerTokenSquared")] = 0.0
    """Cost of attention, per token squared."""


class DecodeCurve(Part):
    """Seconds of one decode step: constant + perSequence batch + perContextToken Σ context."""

    constant_s: Annotated[float, Field(ge=0, alias="constantSeconds")]
    """Fixed cost of a decode step: reading the weights."""
    sequence_s: Annotated[float, Field(ge=0, alias="secondsPerSequence")] = 0.0
    """Cost of each sequence in the batch."""
    context_token_s: Annotated[float, Field(ge=0, alias="secondsPerContextToken")] = 0.0
    """Cost of each token attended over."""


class Curves(Part):
    """How fast the class computes, from a profile run or a datasheet."""

    prefill: PrefillCurve | None = None
    """Prompt computation."""
    decode: DecodeCurve | None = None
    """Decode steps."""


class GPUClassSpec(Part):
    """What a platform engineer says of one kind of GPU."""

    node_selector: Annotated[dict[str, str], Field(min_length=1)]
    """Labels of the nodes that carry it, for example `nvidia.com/gpu.product: NVIDIA-H100-80GB-HBM3`."""
    resource: Annotated[str, Field(pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$", max_length=253)] = "nvidia.com/gpu"
    """The extended resource that one GPU takes of a node."""
    memory_gib: Annotated[float, Field(gt=0)]
    """Memory of one GPU; a pool whose KV would not fit is refused."""
    price_per_hour: Annotated[float, Field(ge=0)]
    """Dollars one GPU costs per hour; what $/1M tokens and cheapest-first are computed from."""
    curves: Curves = Field(default_factory=Curves)
    """How fast it is at first; the platform learns from the workers. Both curves, and for pools of this class alone."""
    rules: ClassVar[tuple[Rule, ...]] = ()
