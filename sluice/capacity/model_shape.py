"""What of a language model decides how long its steps take and how big its KV is: its shape.

Arithmetic on the numbers of a model's `config.json`, no weights. Pure. Next: `roofline.py`, which
turns a shape and a GPU class into a step model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sluice.errors import ConfigError

K_AND_V: Final = 2
FLOPS_PER_WEIGHT: Final = 2  # one multiplication and one addition per token


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The dimensions of one decoder. Weights and KV at `dtype_bytes` bytes an element."""

    name: str
    layers: int
    hidden: int
    intermediate: int  # of one expert where there are several
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    is_gated: bool = True  # gate, up and down projections; else up and down
    experts: int = 1
    experts_per_token: int = 1
    is_tied: bool = False  # input and output embeddings are one matrix
    sequence_tokens_max: int = 131_072
    dtype_bytes: int = 2

    @property
    def kv_token_bytes(self) -> int:
        """KV of one token over all layers and heads."""
        return self.layers * K_AND_V * self.kv_heads * self.head_dim * self.dtype_bytes

    @property
    def attention_weights(self) -> int:
        """Weights of one layer's four attention projections."""
        query = self.hidden * self.heads * self.head_dim
        return 2 * query + K_AND_V * self.hidden * self.kv_heads * self.head_dim

    @property
    def expert_weights(self) -> int:
        """Weights of one feed-forward block, or of one expert."""
        return (3 if self.is_gated else 2) * self.hidden * self.intermediate

    @property
    def embedding_weights(self) -> int:
        """Weights of one embedding matrix."""
        return self.vocabulary * self.hidden

    @property
    def weights(self) -> int:
        """All weights that are kept in memory."""
        router = self.experts * self.hidden if self.experts > 1 else 0
        layer = self.attention_weights + self.experts * self.expert_weights + router
        return self.layers * layer + self.embedding_weights * (1 if self.is_tied else 2)

    @property
    def weight_bytes(self) -> int:
        """Memory the weights take."""
        return self.weights * self.dtype_bytes

    def weights_read(self, tokens: int) -> float:
        """Weights a step of `tokens` tokens reads: of the experts, those that some token chose.

        With uniform routing a token leaves an expert out with probability 1 - k/n.
        """
        touched = self.experts * (1.0 - (1.0 - self.experts_per_token / self.experts) ** tokens)
        layer = self.attention_weights + touched * self.expert_weights
        return self.layers * layer + self.embedding_weights

    @property
    def token_flops(self) -> float:
        """Floating-point operations of the layers for one token, attention over keys not counted."""
        active = self.attention_weights + self.experts_per_token * self.expert_weights
        return float(FLOPS_PER_WEIGHT * self.layers * active)

    @property
    def sample_flops(self) -> float:
        """Operations of the output head for one sampled token."""
        return float(FLOPS_PER_WEIGHT * self.embedding_weights)

    @property
    def pair_flops(self) -> float:
        """Operations of one query attending over one key: a score and a weighted sum, all heads and layers."""
        return float(2 * FLOPS_PER_WEIGHT * self.layers * self.heads * self.head_dim)


def from_config(name: str, config: Mapping[str, object]) -> ModelShape:
    """The shape in a model's `config.json`. Raises ConfigError naming a field that is missing or not a number."""
    hidden = _number(config, "hidden_size")
    heads = _number(config, "num_attention_heads")
    experts = _number(config, "num_experts", "num_local_experts", default=1)
    intermediate = _number(config, "intermediate_size", "ffn_dim")
    return ModelShape(
        name=name,
        layers=_number(config, "num_hidden_layers"),
        hidden=hidden,
        intermediate=_number(config, "moe_intermediate_size", default=intermediate) if experts > 1 else intermediate,
        heads=heads,
        kv_heads=_number(config, "num_key_value_heads", default=heads),
        head_dim=_number(config, "head_dim", default=hidden // heads),
        vocabulary=_number(config, "vocab_size"),
        is_gated="ffn_dim" not in config,
        experts=experts,
        experts_per_token=_number(config, "num_experts_per_tok", default=1),
        is_tied=bool(config.get("tie_word_embeddings", False)),
        sequence_tokens_max=_number(config, "max_position_embeddings", default=131_072),
        dtype_bytes=4 if config.get("dtype", config.get("torch_dtype")) == "float32" else 2,
    )


def _number(config: Mapping[str, object], *fields: str, default: int | None = None) -> int:
    for field in fields:
        value = config.get(field)
        if isinstance(value, int) and value > 0:
            return value
        if value is not None:
            raise ConfigError(f"{field}: is {value!r}; a model's config.json has a positive integer there")
    if default is None:
        raise ConfigError(f"{fields[0]}: is missing; a model's config.json names it")
    return default


# Dimensions as in the config.json each model is published with.
_SHAPES: Final = (
    ModelShape(
        name="Llama-3.1-8B",
        layers=32,
        hidden=4096,
        intermediate=14_336,
        heads=32,
        kv_heads=8,
        head_dim=128,
        vocabulary=128_256,
    ),
    ModelShape(
        name="Llama-3.1-70B",
        layers=80,
        hidden=8192,
        intermediate=28_672,
        heads=64,
        kv_heads=8,
        head_dim=128,
        vocabulary=128_256,
    ),
    ModelShape(
        name="Llama-2-7B",
        layers=32,
        hidden=4096,
        intermediate=11_008,
        heads=32,
        kv_heads=32,
        head_dim=128,
        vocabulary=32_000,
        sequence_tokens_max=4096,
    ),
    ModelShape(
        name="Llama-2-70B",
        layers=80,
        hidden=8192,
        intermediate=28_672,
        heads=64,
        kv_heads=8,
        head_dim=128,
        vocabulary=32_000,
        sequence_tokens_max=4096,
    ),
    ModelShape(
        name="Qwen3-32B",
        layers=64,
        hidden=5120,
        intermediate=25_600,
        heads=64,
        kv_heads=8,
        head_dim=128,
        vocabulary=151_936,
        sequence_tokens_max=40_960,
    ),
    ModelShape(
        name="Qwen3-30B-A3B",
        layers=48,
        hidden=2048,
        intermediate=768,
        heads=32,
        kv_heads=4,
        head_dim=128,
        vocabulary=151_936,
        experts=128,
        experts_per_token=8,
    ),
    ModelShape(
        name="Qwen2-7B",
        layers=28,
        hidden=3584,
        intermediate=18_944,
        heads=28,
        kv_heads=4,
        head_dim=128,
        vocabulary=152_064,
        sequence_tokens_max=32_768,
    ),
    ModelShape(
        name="InternLM2-20B",
        layers=48,
        hidden=6144,
        intermediate=16_384,
        heads=48,
        kv_heads=8,
        head_dim=128,
        vocabulary=92_544,
        sequence_tokens_max=32_768,
    ),
    ModelShape(
        name="OPT-13B",
        layers=40,
        hidden=5120,
        intermediate=20_480,
        heads=40,
        kv_heads=40,
        head_dim=128,
        vocabulary=50_272,
        is_gated=False,
        is_tied=True,
        sequence_tokens_max=2048,
    ),
    ModelShape(
        name="OPT-66B",
        layers=64,
        hidden=9216,
        intermediate=36_864,
        heads=72,
        kv_heads=72,
        head_dim=128,
        vocabulary=50_272,
        is_gated=False,
        is_tied=True,
        sequence_tokens_max=2048,
    ),
)
SHAPES: Final[Mapping[str, ModelShape]] = {shape.name.lower(): shape for shape in _SHAPES}


def shape_of(name: str) -> ModelShape:
    """A named shape, whatever its case. Raises ConfigError listing the known ones."""
    shape = SHAPES.get(name.lower())
    if shape is None:
        known = ", ".join(shape.name for shape in _SHAPES)
        raise ConfigError(f"model shape '{name}' is not known; use one of: {known}, or give its config.json")
    return shape
