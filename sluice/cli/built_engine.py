"""What a worker process is built around: an engine, its memory, and what placement should know of both.

Three ways to make one: `model_engine.py` loads what speaks of a model, `vision_engine.py` what sees,
`emulated_engine.py` needs no GPU and no torch.
Next: `worker_process.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sluice.capacity.step_curve import StepCurve
from sluice.config.worker import WorkerConfig
from sluice.domain.step import StepTerms
from sluice.encode_worker.looks import Eye
from sluice.engine.contract import EngineLimits, ModelFacts
from sluice.engine.embedding_store import EmbeddingStore
from sluice.engine.engine import PagedEngine
from sluice.kv_transfer.backends import default_names
from sluice.kv_transfer.memory import KvMemory
from sluice.kv_transfer.paced_transport import LinkModel
from sluice.kv_transfer.transport import Region

MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Standpoint:
    """What the replica is to placement: its class, price and link, and what it expects of its steps."""

    gpu_class: str
    tensor_parallel: int = 1
    price_per_h: float = 0.0  # dollars of the whole replica; 0: not known
    link_bytes_per_s: float = 0.0  # 0: not known
    kv_token_bytes: int = 0
    curve: StepCurve | None = None


@dataclass(frozen=True, slots=True)
class BuiltStore:
    """Where embeddings arrive, on a worker that reads images, and the memory that is."""

    store: EmbeddingStore
    fingerprint: str
    region: Region
    memory: KvMemory


@dataclass(frozen=True, slots=True)
class Sight:
    """What prepares pictures, and how to hear of those that have been encoded: images, embeddings, seconds."""

    eye: Eye
    listen: Callable[[Callable[[int, int, float], None]], None]


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """An engine, what it runs, and the memory it runs on."""

    engine: PagedEngine
    facts: ModelFacts
    region: Region
    memory: KvMemory | None  # None when the KV pool is on a device
    standpoint: Standpoint
    link: LinkModel | None = None  # what the transports are slowed down to; None: nothing
    embeddings: BuiltStore | None = None  # of a model that reads images
    sight: Sight | None = None  # of an encode worker


def embedding_transports(config: WorkerConfig) -> tuple[str, ...]:
    """How embeddings move: they are in main memory, whatever the KV is in."""
    return tuple(name for name in config.transfer.transports if name != "nixl") or default_names("cpu")


def limits_from(config: WorkerConfig, *, sequence_tokens_max: int) -> EngineLimits:
    """The engine's limits in a worker's settings; `sequence_tokens_max` is what the model was made for."""
    settings = config.engine
    return EngineLimits(
        batch_sequences_max=settings.batch_sequences_max,
        step_tokens_max=settings.step_tokens_max,
        sequence_tokens_max=settings.sequence_tokens_max or sequence_tokens_max,
        waiting_sequences_max=settings.waiting_sequences_max,
    )


def terms_of(curve: StepCurve | None) -> StepTerms | None:
    """A curve as it crosses the wire."""
    if curve is None:
        return None
    return StepTerms(
        base_s=curve.base_s,
        prefill_token_s=curve.prefill_token_s,
        pair_s=curve.pair_s,
        decode_s=curve.decode_s,
        context_token_s=curve.context_token_s,
        error=curve.error,
    )
