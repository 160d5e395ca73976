"""Protobuf to domain and back, for everything workers and routers say to each other.

Decides nothing and performs no I/O. A malformed message raises InvalidRequestError through the
domain types' own checks.
"""

import math
from collections.abc import Iterable, Sequence

from sluice.domain.block_hash import HASH_BYTES
from sluice.domain.ids import BlockHash, BootId, Epoch, RequestId, RouterId, SequenceId, WorkerId
from sluice.domain.image import ImageSpan
from sluice.domain.kv import KvGeometry
from sluice.domain.load import LinkLoad, WorkerInfo, WorkerLoad
from sluice.domain.role import Lifecycle, Role
from sluice.domain.sampling import SamplingParams
from sluice.domain.sequence import SequenceState
from sluice.domain.slo import Due
from sluice.domain.step import StepSample, StepTerms
from sluice.errors import InvalidRequestError
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.version import WIRE_VERSION


def hashes_to_wire(hashes: Iterable[BlockHash]) -> bytes:
    """Hashes, concatenated."""
    return b"".join(hashes)


def hashes_from_wire(packed: bytes) -> tuple[BlockHash, ...]:
    """The hashes of a concatenation. Raises InvalidRequestError on a partial one."""
    if len(packed) % HASH_BYTES:
        raise InvalidRequestError(field="unit_hashes", problem=f"is {len(packed)} bytes", remedy="send 16 bytes a hash")
    return tuple(BlockHash(packed[i : i + HASH_BYTES]) for i in range(0, len(packed), HASH_BYTES))


def sampling_to_wire(params: SamplingParams) -> pb.SamplingParams:
    """Every field set: between our own processes nothing is left to defaults."""
    message = pb.SamplingParams(
        max_tokens=params.max_tokens,
        min_tokens=params.min_tokens,
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
        repetition_penalty=params.repetition_penalty,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        seed=params.seed,
        stop_token_ids=params.stop_token_ids,
        ignore_eos=params.ignore_eos,
        top_logprobs=params.top_logprobs,
    )
    for token, bias in params.logit_bias:
        message.logit_bias[token] = bias
    return message


def sampling_from_wire(message: pb.SamplingParams) -> SamplingParams:
    """The inverse of `sampling_to_wire`."""
    return SamplingParams(
        max_tokens=message.max_tokens,
        min_tokens=message.min_tokens,
        temperature=message.temperature,
        top_k=message.top_k,
        top_p=message.top_p,
        min_p=message.min_p,
        repetition_penalty=message.repetition_penalty,
        presence_penalty=message.presence_penalty,
        frequency_penalty=message.frequency_penalty,
        logit_bias=tuple(sorted(message.logit_bias.items())),
        seed=message.seed,
        stop_token_ids=tuple(message.stop_token_ids),
        ignore_eos=message.ignore_eos,
        top_logprobs=message.top_logprobs if message.HasField("top_logprobs") else None,
    )


def state_to_wire(state: SequenceState) -> pb.SequenceState:
    """The whole state of a sequence as one message."""
    return pb.SequenceState(
        sequence=state.sequence,
        request=state.request,
        router=state.router,
        epoch=state.epoch,
        tokens=state.tokens,
        prompt_tokens=state.prompt_tokens,
        unit_hashes=hashes_to_wire(state.unit_hashes),
        root=state.root,
        sampling=sampling_to_wire(state.sampling),
        traceparent=state.traceparent,
        choice=state.choice,
        images=[
            pb.ImageSpan(digest=span.digest, first=span.first, rows=span.rows, columns=span.columns, offset=span.offset)
            for span in state.images
        ],
        viewer=state.viewer,
        first_due_in_s=state.due.first_in_s,
        tpot_s=None if math.isinf(state.due.tpot_s) else state.due.tpot_s,
    )


def state_from_wire(message: pb.SequenceState) -> SequenceState:
    """The inverse of `state_to_wire`. Raises InvalidRequestError."""
    if not 0 < message.prompt_tokens <= len(message.tokens):
        problem = f"is {message.prompt_tokens} with {len(message.tokens)} tokens"
        raise InvalidRequestError(
            field="prompt_tokens", problem=problem, remedy="send 1 to as many as there are tokens"
        )
    return SequenceState(
        sequence=SequenceId(message.sequence),
        request=RequestId(message.request),
        router=RouterId(message.router),
        epoch=Epoch(message.epoch),
        tokens=tuple(message.tokens),
        prompt_tokens=message.prompt_tokens,
        unit_hashes=hashes_from_wire(message.unit_hashes),
        root=BlockHash(message.root),
        sampling=sampling_from_wire(message.sampling),
        traceparent=message.traceparent,
        choice=message.choice,
        images=tuple(
            ImageSpan(digest=span.digest, first=span.first, rows=span.rows, columns=span.columns, offset=span.offset)
            for span in message.images
        ),
        viewer=SequenceId(message.viewer) if message.HasField("viewer") else None,
        due=_due_from_wire(message),
    )


def _due_from_wire(message: pb.SequenceState) -> Due:
    tpot_s = message.tpot_s if message.HasField("tpot_s") else math.inf
    if not math.isfinite(message.first_due_in_s):
        remedy = "send the seconds left until the first token is due"
        raise InvalidRequestError(field="first_due_in_s", problem=f"is {message.first_due_in_s}", remedy=remedy)
    if not tpot_s > 0.0:
        remedy = "send the seconds from one token to the next, or leave it out"
        raise InvalidRequestError(field="tpot_s", problem=f"is {tpot_s}", remedy=remedy)
    return Due(first_in_s=message.first_due_in_s, tpot_s=tpot_s)


def info_to_wire(info: WorkerInfo) -> pb.Register:
    """What a worker says when it joins."""
    return pb.Register(
        worker=info.worker,
        boot=info.boot,
        role=info.role.value,
        model=info.model,
        model_fingerprint=info.model_fingerprint,
        kv_address=info.kv_address,
        block_tokens=info.block_tokens,
        blocks=info.blocks,
        sequence_tokens_max=info.sequence_tokens_max,
        batch_sequences_max=info.batch_sequences_max,
        device=info.device,
        metrics_address=info.metrics_address,
        wire_version=WIRE_VERSION,
        gpu_class=info.gpu_class,
        tensor_parallel=info.tensor_parallel,
        price_per_h=info.price_per_h,
        link_bytes_per_s=info.link_bytes_per_s,
        kv_token_bytes=info.kv_token_bytes,
        step_terms=None if info.step_terms is None else pb.StepTerms(**info.step_terms._asdict()),
        images=_image_target(info),
        image_fingerprint=info.image_fingerprint,
        image_tokens_max=info.image_tokens_max,
        beside=info.beside or "",
    )


def _image_target(info: WorkerInfo) -> pb.DecodeTarget | None:
    if info.image_boot is None:
        return None
    return pb.DecodeTarget(worker=info.worker, boot=info.image_boot, kv_address=info.image_address)


def info_from_wire(message: pb.Register) -> WorkerInfo:
    """The inverse of `info_to_wire`."""
    return WorkerInfo(
        worker=WorkerId(message.worker),
        boot=BootId(message.boot),
        role=Role(message.role),
        model=message.model,
        model_fingerprint=message.model_fingerprint,
        kv_address=message.kv_address,
        block_tokens=message.block_tokens,
        blocks=message.blocks,
        sequence_tokens_max=message.sequence_tokens_max,
        batch_sequences_max=message.batch_sequences_max,
        device=message.device,
        metrics_address=message.metrics_address,
        gpu_class=message.gpu_class,
        tensor_parallel=max(1, message.tensor_parallel),
        price_per_h=message.price_per_h,
        link_bytes_per_s=message.link_bytes_per_s,
        kv_token_bytes=message.kv_token_bytes,
        step_terms=_terms_from_wire(message.step_terms) if message.HasField("step_terms") else None,
        image_address=message.images.kv_address,
        image_boot=BootId(message.images.boot) if message.HasField("images") else None,
        image_fingerprint=message.image_fingerprint,
        image_tokens_max=message.image_tokens_max,
        beside=WorkerId(message.beside) if message.beside else None,
    )


def _terms_from_wire(message: pb.StepTerms) -> StepTerms:
    return StepTerms(
        base_s=message.base_s,
        prefill_token_s=message.prefill_token_s,
        pair_s=message.pair_s,
        decode_s=message.decode_s,
        context_token_s=message.context_token_s,
        error=message.error,
    )


def load_to_wire(load: WorkerLoad) -> pb.Heartbeat:
    """How busy a worker is, for its routers."""
    return pb.Heartbeat(
        lifecycle=load.lifecycle.value,
        waiting_sequences=load.waiting_sequences,
        running_sequences=load.running_sequences,
        waiting_prefill_tokens=load.waiting_prefill_tokens,
        context_tokens=load.context_tokens,
        free_blocks=load.free_blocks,
        cached_blocks=load.cached_blocks,
        reserved_blocks=load.reserved_blocks,
        leases=load.leases,
        step_s=load.step_s,
        tokens_total=load.tokens_total,
        role="" if load.role is None else load.role.value,
        drain_left_s=load.drain_left_s,
        links=[
            pb.Link(
                peer=link.peer,
                transport=link.transport,
                pushes=link.pushes,
                failed=link.failed,
                bytes=link.moved_bytes,
                gb_per_s=link.gb_per_s,
                last_error=link.last_error,
                peer_boot=link.peer_boot,
                problem=link.problem,
                probe_gb_per_s=link.probe_gb_per_s,
                probe_age_s=link.probe_age_s,
            )
            for link in load.links
        ],
        steps=[pb.StepSample(**sample._asdict()) for sample in load.steps],
        unready=load.unready,
    )


def load_from_wire(message: pb.Heartbeat) -> WorkerLoad:
    """The inverse of `load_to_wire`."""
    return WorkerLoad(
        lifecycle=Lifecycle(message.lifecycle),
        waiting_sequences=message.waiting_sequences,
        running_sequences=message.running_sequences,
        waiting_prefill_tokens=message.waiting_prefill_tokens,
        context_tokens=message.context_tokens,
        free_blocks=message.free_blocks,
        cached_blocks=message.cached_blocks,
        reserved_blocks=message.reserved_blocks,
        leases=message.leases,
        step_s=message.step_s,
        tokens_total=message.tokens_total,
        role=Role(message.role) if message.role else None,
        drain_left_s=message.drain_left_s,
        links=tuple(
            LinkLoad(
                peer=WorkerId(link.peer),
                transport=link.transport,
                pushes=link.pushes,
                failed=link.failed,
                moved_bytes=link.bytes,
                gb_per_s=link.gb_per_s,
                last_error=link.last_error,
                peer_boot=BootId(link.peer_boot),
                problem=link.problem,
                probe_gb_per_s=link.probe_gb_per_s,
                probe_age_s=link.probe_age_s if link.HasField("probe_age_s") else None,
            )
            for link in message.links
        ),
        steps=tuple(
            StepSample(
                number=step.number,
                prefill_tokens=step.prefill_tokens,
                prefill_pairs=step.prefill_pairs,
                prefills=step.prefills,
                decodes=step.decodes,
                context_tokens=step.context_tokens,
                seconds=step.seconds,
            )
            for step in message.steps
        ),
        unready=tuple(message.unready),
    )


def geometry_to_wire(geometry: KvGeometry) -> pb.KvGeometry:
    """A pool's shape."""
    return pb.KvGeometry(
        layers=geometry.layers,
        group_layers=geometry.group_layers,
        heads=geometry.heads,
        head_dim=geometry.head_dim,
        block_tokens=geometry.block_tokens,
        blocks=geometry.blocks,
        dtype=geometry.dtype,
        dtype_bytes=geometry.dtype_bytes,
        rank=geometry.rank,
        ranks=geometry.ranks,
    )


def geometry_from_wire(message: pb.KvGeometry) -> KvGeometry:
    """The inverse of `geometry_to_wire`."""
    return KvGeometry(
        layers=message.layers,
        group_layers=message.group_layers,
        heads=message.heads,
        head_dim=message.head_dim,
        block_tokens=message.block_tokens,
        blocks=message.blocks,
        dtype=message.dtype,
        dtype_bytes=message.dtype_bytes,
        rank=message.rank,
        ranks=message.ranks,
    )


def hello_to_wire(
    *,
    worker: WorkerId,
    boot: BootId,
    model_fingerprint: str,
    geometry: KvGeometry,
    region_bytes: int,
    infos: Sequence[tuple[str, bytes]],
    canary: Sequence[int],
) -> pb.PeerHello:
    """What a worker tells a peer it has not met."""
    return pb.PeerHello(
        worker=worker,
        boot=boot,
        wire_version=WIRE_VERSION,
        model_fingerprint=model_fingerprint,
        geometry=geometry_to_wire(geometry),
        region_bytes=region_bytes,
        transports=[pb.TransportInfo(name=name, info=info) for name, info in infos],
        canary=canary,
    )
