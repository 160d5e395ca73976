"""What a worker says of itself: once when it joins, and in every heartbeat. Plain snapshots."""

from dataclasses import dataclass

from sluice.domain.ids import BootId, WorkerId
from sluice.domain.role import Lifecycle, Role
from sluice.domain.step import StepSample, StepTerms


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo:
    """What does not change while this incarnation of a worker lives, its role excepted."""

    worker: WorkerId
    boot: BootId
    role: Role
    model: str
    model_fingerprint: str
    kv_address: str  # host:port of its KvPeer service
    block_tokens: int
    blocks: int
    sequence_tokens_max: int
    batch_sequences_max: int
    device: str  # e.g. "cpu", "NVIDIA H200"
    metrics_address: str = ""
    gpu_class: str = ""  # as in the catalogue or the custom resource; empty: not told
    tensor_parallel: int = 1  # GPUs of this replica
    price_per_h: float = 0.0  # dollars of the whole replica; 0: not told
    link_bytes_per_s: float = 0.0  # to other hosts, one direction; 0: not told
    kv_token_bytes: int = 0  # KV of one token over all layers and heads; 0: not told
    image_address: str = ""  # host:port where it takes in embeddings; empty: it reads text alone
    image_boot: BootId | None = None  # this incarnation, as the senders of embeddings know it
    image_fingerprint: str = ""  # of the embeddings it makes or reads
    image_tokens_max: int = 0  # embeddings it holds for the prompts it reads; 0: not told
    beside: WorkerId | None = None  # the worker whose process and GPU it shares
    step_terms: StepTerms | None = None  # what it expects its steps to take before any is measured


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkLoad:
    """What one worker's link to one peer has carried so far."""

    peer: WorkerId
    peer_boot: BootId
    transport: str
    pushes: int = 0
    failed: int = 0
    moved_bytes: int = 0
    gb_per_s: float = 0.0  # 10^9 bytes per second of recent pushes, smoothed
    last_error: str = ""
    problem: str = ""  # why nothing should be sent this way; empty: it may
    probe_gb_per_s: float = 0.0
    probe_age_s: float | None = None  # since the last probe ended; None: there was none


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLoad:
    """How busy a worker is now."""

    lifecycle: Lifecycle
    waiting_sequences: int = 0
    running_sequences: int = 0
    waiting_prefill_tokens: int = 0  # prompt tokens accepted and not yet computed
    context_tokens: int = 0  # tokens attended over by the running batch
    free_blocks: int = 0  # free now, evictable cached blocks included
    cached_blocks: int = 0
    reserved_blocks: int = 0  # held for handoffs that have not committed
    leases: int = 0
    step_s: float = 0.0  # a recent step's duration, smoothed
    tokens_total: int = 0
    role: Role | None = None  # None: as it said when it joined
    drain_left_s: float = 0.0  # while draining, until its deadline; 0: it has none
    links: tuple[LinkLoad, ...] = ()  # to peers it pushes KV to, or would
    unready: tuple[str, ...] = ()  # why nothing new should be sent there, though work is admitted
    steps: tuple[StepSample, ...] = ()  # a few recent ones; a heartbeat may repeat what another has said

    @property
    def is_ready(self) -> bool:
        """Whether new work may be sent there."""
        return self.lifecycle is Lifecycle.READY and not self.unready

    @property
    def why_not_ready(self) -> str:
        """In words, for a worker that is not."""
        return str(self.lifecycle.value) if self.lifecycle is not Lifecycle.READY else "; ".join(self.unready)
