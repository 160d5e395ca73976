from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class HandoffOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HANDOFF_UNSPECIFIED: _ClassVar[HandoffOutcome]
    HANDOFF_COMMITTED: _ClassVar[HandoffOutcome]
    HANDOFF_REFUSED: _ClassVar[HandoffOutcome]
    HANDOFF_FAILED: _ClassVar[HandoffOutcome]

class MigrationOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MIGRATION_UNSPECIFIED: _ClassVar[MigrationOutcome]
    MIGRATION_READY: _ClassVar[MigrationOutcome]
    MIGRATION_REFUSED: _ClassVar[MigrationOutcome]
    MIGRATION_FAILED: _ClassVar[MigrationOutcome]
    MIGRATION_UNSTARTED: _ClassVar[MigrationOutcome]
HANDOFF_UNSPECIFIED: HandoffOutcome
HANDOFF_COMMITTED: HandoffOutcome
HANDOFF_REFUSED: HandoffOutcome
HANDOFF_FAILED: HandoffOutcome
MIGRATION_UNSPECIFIED: MigrationOutcome
MIGRATION_READY: MigrationOutcome
MIGRATION_REFUSED: MigrationOutcome
MIGRATION_FAILED: MigrationOutcome
MIGRATION_UNSTARTED: MigrationOutcome

class GenerateRequest(_message.Message):
    __slots__ = ("request_id", "model", "prompt", "prompt_tokens", "chat", "sampling", "stop", "n", "tenant", "resume", "service_tier", "pictures")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CHAT_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    SERVICE_TIER_FIELD_NUMBER: _ClassVar[int]
    PICTURES_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    model: str
    prompt: str
    prompt_tokens: TokenIds
    chat: Chat
    sampling: SamplingParams
    stop: _containers.RepeatedScalarFieldContainer[str]
    n: int
    tenant: str
    resume: Resume
    service_tier: str
    pictures: _containers.RepeatedCompositeFieldContainer[Picture]
    def __init__(self, request_id: _Optional[str] = ..., model: _Optional[str] = ..., prompt: _Optional[str] = ..., prompt_tokens: _Optional[_Union[TokenIds, _Mapping]] = ..., chat: _Optional[_Union[Chat, _Mapping]] = ..., sampling: _Optional[_Union[SamplingParams, _Mapping]] = ..., stop: _Optional[_Iterable[str]] = ..., n: _Optional[int] = ..., tenant: _Optional[str] = ..., resume: _Optional[_Union[Resume, _Mapping]] = ..., service_tier: _Optional[str] = ..., pictures: _Optional[_Iterable[_Union[Picture, _Mapping]]] = ...) -> None: ...

class Picture(_message.Message):
    __slots__ = ("data", "reference")
    DATA_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    reference: bytes
    def __init__(self, data: _Optional[bytes] = ..., reference: _Optional[bytes] = ...) -> None: ...

class Resume(_message.Message):
    __slots__ = ("request_id", "next_index")
    class NextIndexEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    NEXT_INDEX_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    next_index: _containers.ScalarMap[int, int]
    def __init__(self, request_id: _Optional[str] = ..., next_index: _Optional[_Mapping[int, int]] = ...) -> None: ...

class TokenIds(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class Chat(_message.Message):
    __slots__ = ("messages",)
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[ChatMessage]
    def __init__(self, messages: _Optional[_Iterable[_Union[ChatMessage, _Mapping]]] = ...) -> None: ...

class ChatMessage(_message.Message):
    __slots__ = ("role", "content", "parts")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    role: str
    content: str
    parts: _containers.RepeatedCompositeFieldContainer[ContentPart]
    def __init__(self, role: _Optional[str] = ..., content: _Optional[str] = ..., parts: _Optional[_Iterable[_Union[ContentPart, _Mapping]]] = ...) -> None: ...

class ContentPart(_message.Message):
    __slots__ = ("text", "picture")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    PICTURE_FIELD_NUMBER: _ClassVar[int]
    text: str
    picture: bool
    def __init__(self, text: _Optional[str] = ..., picture: _Optional[bool] = ...) -> None: ...

class GenerateEvent(_message.Message):
    __slots__ = ("request_id", "choice", "text", "tokens", "first_index", "logprobs", "finish_reason", "usage")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    FIRST_INDEX_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    choice: int
    text: str
    tokens: _containers.RepeatedScalarFieldContainer[int]
    first_index: int
    logprobs: _containers.RepeatedCompositeFieldContainer[TokenLogprobs]
    finish_reason: str
    usage: Usage
    def __init__(self, request_id: _Optional[str] = ..., choice: _Optional[int] = ..., text: _Optional[str] = ..., tokens: _Optional[_Iterable[int]] = ..., first_index: _Optional[int] = ..., logprobs: _Optional[_Iterable[_Union[TokenLogprobs, _Mapping]]] = ..., finish_reason: _Optional[str] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("prompt_tokens", "completion_tokens", "cached_tokens")
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    def __init__(self, prompt_tokens: _Optional[int] = ..., completion_tokens: _Optional[int] = ..., cached_tokens: _Optional[int] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsReply(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, models: _Optional[_Iterable[str]] = ...) -> None: ...

class SamplingParams(_message.Message):
    __slots__ = ("max_tokens", "min_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias", "seed", "stop_token_ids", "ignore_eos", "top_logprobs")
    class LogitBiasEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: float
        def __init__(self, key: _Optional[int] = ..., value: _Optional[float] = ...) -> None: ...
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MIN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIAS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    IGNORE_EOS_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    max_tokens: int
    min_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: _containers.ScalarMap[int, float]
    seed: int
    stop_token_ids: _containers.RepeatedScalarFieldContainer[int]
    ignore_eos: bool
    top_logprobs: int
    def __init__(self, max_tokens: _Optional[int] = ..., min_tokens: _Optional[int] = ..., temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., min_p: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., presence_penalty: _Optional[float] = ..., frequency_penalty: _Optional[float] = ..., logit_bias: _Optional[_Mapping[int, float]] = ..., seed: _Optional[int] = ..., stop_token_ids: _Optional[_Iterable[int]] = ..., ignore_eos: _Optional[bool] = ..., top_logprobs: _Optional[int] = ...) -> None: ...

class TokenLogprobs(_message.Message):
    __slots__ = ("token", "logprob", "top_tokens", "top_logprobs")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    TOP_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    token: int
    logprob: float
    top_tokens: _containers.RepeatedScalarFieldContainer[int]
    top_logprobs: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, token: _Optional[int] = ..., logprob: _Optional[float] = ..., top_tokens: _Optional[_Iterable[int]] = ..., top_logprobs: _Optional[_Iterable[float]] = ...) -> None: ...

class SequenceState(_message.Message):
    __slots__ = ("sequence", "request", "router", "epoch", "tokens", "prompt_tokens", "unit_hashes", "root", "sampling", "traceparent", "choice", "images", "viewer", "first_due_in_s", "tpot_s")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    ROUTER_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    UNIT_HASHES_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    VIEWER_FIELD_NUMBER: _ClassVar[int]
    FIRST_DUE_IN_S_FIELD_NUMBER: _ClassVar[int]
    TPOT_S_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    request: str
    router: str
    epoch: int
    tokens: _containers.RepeatedScalarFieldContainer[int]
    prompt_tokens: int
    unit_hashes: bytes
    root: bytes
    sampling: SamplingParams
    traceparent: str
    choice: int
    images: _containers.RepeatedCompositeFieldContainer[ImageSpan]
    viewer: int
    first_due_in_s: float
    tpot_s: float
    def __init__(self, sequence: _Optional[int] = ..., request: _Optional[str] = ..., router: _Optional[str] = ..., epoch: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ..., prompt_tokens: _Optional[int] = ..., unit_hashes: _Optional[bytes] = ..., root: _Optional[bytes] = ..., sampling: _Optional[_Union[SamplingParams, _Mapping]] = ..., traceparent: _Optional[str] = ..., choice: _Optional[int] = ..., images: _Optional[_Iterable[_Union[ImageSpan, _Mapping]]] = ..., viewer: _Optional[int] = ..., first_due_in_s: _Optional[float] = ..., tpot_s: _Optional[float] = ...) -> None: ...

class ImageSpan(_message.Message):
    __slots__ = ("digest", "first", "rows", "columns", "offset")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    digest: bytes
    first: int
    rows: int
    columns: int
    offset: int
    def __init__(self, digest: _Optional[bytes] = ..., first: _Optional[int] = ..., rows: _Optional[int] = ..., columns: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...

class WorkerMessage(_message.Message):
    __slots__ = ("register", "heartbeat", "tokens", "handoff", "failed", "prefix", "goodbye", "migration", "copies", "looked")
    REGISTER_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    HANDOFF_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    MIGRATION_FIELD_NUMBER: _ClassVar[int]
    COPIES_FIELD_NUMBER: _ClassVar[int]
    LOOKED_FIELD_NUMBER: _ClassVar[int]
    register: Register
    heartbeat: Heartbeat
    tokens: StepTokens
    handoff: HandoffReport
    failed: SequenceFailed
    prefix: PrefixUpdate
    goodbye: Goodbye
    migration: MigrationReport
    copies: Copies
    looked: Looked
    def __init__(self, register: _Optional[_Union[Register, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., tokens: _Optional[_Union[StepTokens, _Mapping]] = ..., handoff: _Optional[_Union[HandoffReport, _Mapping]] = ..., failed: _Optional[_Union[SequenceFailed, _Mapping]] = ..., prefix: _Optional[_Union[PrefixUpdate, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ..., migration: _Optional[_Union[MigrationReport, _Mapping]] = ..., copies: _Optional[_Union[Copies, _Mapping]] = ..., looked: _Optional[_Union[Looked, _Mapping]] = ...) -> None: ...

class Register(_message.Message):
    __slots__ = ("worker", "boot", "role", "model", "model_fingerprint", "kv_address", "block_tokens", "blocks", "sequence_tokens_max", "batch_sequences_max", "device", "metrics_address", "wire_version", "gpu_class", "tensor_parallel", "price_per_h", "link_bytes_per_s", "kv_token_bytes", "step_terms", "images", "image_fingerprint", "image_tokens_max", "beside")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    BOOT_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    KV_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_TOKENS_MAX_FIELD_NUMBER: _ClassVar[int]
    BATCH_SEQUENCES_MAX_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    METRICS_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    WIRE_VERSION_FIELD_NUMBER: _ClassVar[int]
    GPU_CLASS_FIELD_NUMBER: _ClassVar[int]
    TENSOR_PARALLEL_FIELD_NUMBER: _ClassVar[int]
    PRICE_PER_H_FIELD_NUMBER: _ClassVar[int]
    LINK_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    KV_TOKEN_BYTES_FIELD_NUMBER: _ClassVar[int]
    STEP_TERMS_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    IMAGE_TOKENS_MAX_FIELD_NUMBER: _ClassVar[int]
    BESIDE_FIELD_NUMBER: _ClassVar[int]
    worker: str
    boot: str
    role: str
    model: str
    model_fingerprint: str
    kv_address: str
    block_tokens: int
    blocks: int
    sequence_tokens_max: int
    batch_sequences_max: int
    device: str
    metrics_address: str
    wire_version: int
    gpu_class: str
    tensor_parallel: int
    price_per_h: float
    link_bytes_per_s: float
    kv_token_bytes: int
    step_terms: StepTerms
    images: DecodeTarget
    image_fingerprint: str
    image_tokens_max: int
    beside: str
    def __init__(self, worker: _Optional[str] = ..., boot: _Optional[str] = ..., role: _Optional[str] = ..., model: _Optional[str] = ..., model_fingerprint: _Optional[str] = ..., kv_address: _Optional[str] = ..., block_tokens: _Optional[int] = ..., blocks: _Optional[int] = ..., sequence_tokens_max: _Optional[int] = ..., batch_sequences_max: _Optional[int] = ..., device: _Optional[str] = ..., metrics_address: _Optional[str] = ..., wire_version: _Optional[int] = ..., gpu_class: _Optional[str] = ..., tensor_parallel: _Optional[int] = ..., price_per_h: _Optional[float] = ..., link_bytes_per_s: _Optional[float] = ..., kv_token_bytes: _Optional[int] = ..., step_terms: _Optional[_Union[StepTerms, _Mapping]] = ..., images: _Optional[_Union[DecodeTarget, _Mapping]] = ..., image_fingerprint: _Optional[str] = ..., image_tokens_max: _Optional[int] = ..., beside: _Optional[str] = ...) -> None: ...

class StepTerms(_message.Message):
    __slots__ = ("base_s", "prefill_token_s", "pair_s", "decode_s", "context_token_s", "error")
    BASE_S_FIELD_NUMBER: _ClassVar[int]
    PREFILL_TOKEN_S_FIELD_NUMBER: _ClassVar[int]
    PAIR_S_FIELD_NUMBER: _ClassVar[int]
    DECODE_S_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_TOKEN_S_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    base_s: float
    prefill_token_s: float
    pair_s: float
    decode_s: float
    context_token_s: float
    error: float
    def __init__(self, base_s: _Optional[float] = ..., prefill_token_s: _Optional[float] = ..., pair_s: _Optional[float] = ..., decode_s: _Optional[float] = ..., context_token_s: _Optional[float] = ..., error: _Optional[float] = ...) -> None: ...

class StepSample(_message.Message):
    __slots__ = ("number", "prefill_tokens", "prefill_pairs", "prefills", "decodes", "context_tokens", "seconds")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    PREFILL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_PAIRS_FIELD_NUMBER: _ClassVar[int]
    PREFILLS_FIELD_NUMBER: _ClassVar[int]
    DECODES_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    number: int
    prefill_tokens: int
    prefill_pairs: float
    prefills: int
    decodes: int
    context_tokens: int
    seconds: float
    def __init__(self, number: _Optional[int] = ..., prefill_tokens: _Optional[int] = ..., prefill_pairs: _Optional[float] = ..., prefills: _Optional[int] = ..., decodes: _Optional[int] = ..., context_tokens: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("lifecycle", "waiting_sequences", "running_sequences", "waiting_prefill_tokens", "context_tokens", "free_blocks", "cached_blocks", "reserved_blocks", "leases", "step_s", "tokens_total", "role", "drain_left_s", "links", "unready", "roll", "steps")
    LIFECYCLE_FIELD_NUMBER: _ClassVar[int]
    WAITING_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    RUNNING_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    WAITING_PREFILL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    FREE_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    CACHED_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    RESERVED_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    STEP_S_FIELD_NUMBER: _ClassVar[int]
    TOKENS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    DRAIN_LEFT_S_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    UNREADY_FIELD_NUMBER: _ClassVar[int]
    ROLL_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    lifecycle: str
    waiting_sequences: int
    running_sequences: int
    waiting_prefill_tokens: int
    context_tokens: int
    free_blocks: int
    cached_blocks: int
    reserved_blocks: int
    leases: int
    step_s: float
    tokens_total: int
    role: str
    drain_left_s: float
    links: _containers.RepeatedCompositeFieldContainer[Link]
    unready: _containers.RepeatedScalarFieldContainer[str]
    roll: Roll
    steps: _containers.RepeatedCompositeFieldContainer[StepSample]
    def __init__(self, lifecycle: _Optional[str] = ..., waiting_sequences: _Optional[int] = ..., running_sequences: _Optional[int] = ..., waiting_prefill_tokens: _Optional[int] = ..., context_tokens: _Optional[int] = ..., free_blocks: _Optional[int] = ..., cached_blocks: _Optional[int] = ..., reserved_blocks: _Optional[int] = ..., leases: _Optional[int] = ..., step_s: _Optional[float] = ..., tokens_total: _Optional[int] = ..., role: _Optional[str] = ..., drain_left_s: _Optional[float] = ..., links: _Optional[_Iterable[_Union[Link, _Mapping]]] = ..., unready: _Optional[_Iterable[str]] = ..., roll: _Optional[_Union[Roll, _Mapping]] = ..., steps: _Optional[_Iterable[_Union[StepSample, _Mapping]]] = ...) -> None: ...

class Roll(_message.Message):
    __slots__ = ("sequence", "epoch", "heard")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    HEARD_FIELD_NUMBER: _ClassVar[int]
    sequence: _containers.RepeatedScalarFieldContainer[int]
    epoch: _containers.RepeatedScalarFieldContainer[int]
    heard: int
    def __init__(self, sequence: _Optional[_Iterable[int]] = ..., epoch: _Optional[_Iterable[int]] = ..., heard: _Optional[int] = ...) -> None: ...

class Link(_message.Message):
    __slots__ = ("peer", "transport", "pushes", "failed", "bytes", "gb_per_s", "last_error", "peer_boot", "problem", "probe_gb_per_s", "probe_age_s")
    PEER_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    PUSHES_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    GB_PER_S_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    PEER_BOOT_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    PROBE_GB_PER_S_FIELD_NUMBER: _ClassVar[int]
    PROBE_AGE_S_FIELD_NUMBER: _ClassVar[int]
    peer: str
    transport: str
    pushes: int
    failed: int
    bytes: int
    gb_per_s: float
    last_error: str
    peer_boot: str
    problem: str
    probe_gb_per_s: float
    probe_age_s: float
    def __init__(self, peer: _Optional[str] = ..., transport: _Optional[str] = ..., pushes: _Optional[int] = ..., failed: _Optional[int] = ..., bytes: _Optional[int] = ..., gb_per_s: _Optional[float] = ..., last_error: _Optional[str] = ..., peer_boot: _Optional[str] = ..., problem: _Optional[str] = ..., probe_gb_per_s: _Optional[float] = ..., probe_age_s: _Optional[float] = ...) -> None: ...

class StepTokens(_message.Message):
    __slots__ = ("sequence", "epoch", "index", "token", "finish", "logprobs")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    sequence: _containers.RepeatedScalarFieldContainer[int]
    epoch: _containers.RepeatedScalarFieldContainer[int]
    index: _containers.RepeatedScalarFieldContainer[int]
    token: _containers.RepeatedScalarFieldContainer[int]
    finish: _containers.RepeatedCompositeFieldContainer[Finish]
    logprobs: _containers.RepeatedCompositeFieldContainer[RowLogprobs]
    def __init__(self, sequence: _Optional[_Iterable[int]] = ..., epoch: _Optional[_Iterable[int]] = ..., index: _Optional[_Iterable[int]] = ..., token: _Optional[_Iterable[int]] = ..., finish: _Optional[_Iterable[_Union[Finish, _Mapping]]] = ..., logprobs: _Optional[_Iterable[_Union[RowLogprobs, _Mapping]]] = ...) -> None: ...

class Finish(_message.Message):
    __slots__ = ("row", "reason")
    ROW_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    row: int
    reason: str
    def __init__(self, row: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class RowLogprobs(_message.Message):
    __slots__ = ("row", "logprobs")
    ROW_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    row: int
    logprobs: TokenLogprobs
    def __init__(self, row: _Optional[int] = ..., logprobs: _Optional[_Union[TokenLogprobs, _Mapping]] = ...) -> None: ...

class HandoffReport(_message.Message):
    __slots__ = ("sequence", "epoch", "outcome", "decode_worker", "reason", "transport", "bytes", "transfer_s", "exposed_s", "cached_tokens")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    DECODE_WORKER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_S_FIELD_NUMBER: _ClassVar[int]
    EXPOSED_S_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    epoch: int
    outcome: HandoffOutcome
    decode_worker: str
    reason: str
    transport: str
    bytes: int
    transfer_s: float
    exposed_s: float
    cached_tokens: int
    def __init__(self, sequence: _Optional[int] = ..., epoch: _Optional[int] = ..., outcome: _Optional[_Union[HandoffOutcome, str]] = ..., decode_worker: _Optional[str] = ..., reason: _Optional[str] = ..., transport: _Optional[str] = ..., bytes: _Optional[int] = ..., transfer_s: _Optional[float] = ..., exposed_s: _Optional[float] = ..., cached_tokens: _Optional[int] = ...) -> None: ...

class MigrationReport(_message.Message):
    __slots__ = ("sequence", "epoch", "outcome", "target_worker", "reason", "transport", "bytes", "transfer_s", "rounds", "frozen_s", "tokens")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    TARGET_WORKER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_S_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    FROZEN_S_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    epoch: int
    outcome: MigrationOutcome
    target_worker: str
    reason: str
    transport: str
    bytes: int
    transfer_s: float
    rounds: int
    frozen_s: float
    tokens: int
    def __init__(self, sequence: _Optional[int] = ..., epoch: _Optional[int] = ..., outcome: _Optional[_Union[MigrationOutcome, str]] = ..., target_worker: _Optional[str] = ..., reason: _Optional[str] = ..., transport: _Optional[str] = ..., bytes: _Optional[int] = ..., transfer_s: _Optional[float] = ..., rounds: _Optional[int] = ..., frozen_s: _Optional[float] = ..., tokens: _Optional[int] = ...) -> None: ...

class SequenceFailed(_message.Message):
    __slots__ = ("sequence", "epoch", "code", "message", "field", "unstarted")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    UNSTARTED_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    epoch: int
    code: str
    message: str
    field: str
    unstarted: bool
    def __init__(self, sequence: _Optional[int] = ..., epoch: _Optional[int] = ..., code: _Optional[str] = ..., message: _Optional[str] = ..., field: _Optional[str] = ..., unstarted: _Optional[bool] = ...) -> None: ...

class Copies(_message.Message):
    __slots__ = ("request", "copies")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    COPIES_FIELD_NUMBER: _ClassVar[int]
    request: str
    copies: _containers.RepeatedCompositeFieldContainer[Copy]
    def __init__(self, request: _Optional[str] = ..., copies: _Optional[_Iterable[_Union[Copy, _Mapping]]] = ...) -> None: ...

class Copy(_message.Message):
    __slots__ = ("state", "finish")
    STATE_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    state: SequenceState
    finish: str
    def __init__(self, state: _Optional[_Union[SequenceState, _Mapping]] = ..., finish: _Optional[str] = ...) -> None: ...

class Looked(_message.Message):
    __slots__ = ("sequence", "epoch", "digest", "tokens", "rows", "columns", "tile_rows", "tile_columns", "tile_tokens", "prepare_s")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    TILE_ROWS_FIELD_NUMBER: _ClassVar[int]
    TILE_COLUMNS_FIELD_NUMBER: _ClassVar[int]
    TILE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PREPARE_S_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    epoch: int
    digest: bytes
    tokens: int
    rows: int
    columns: int
    tile_rows: int
    tile_columns: int
    tile_tokens: int
    prepare_s: float
    def __init__(self, sequence: _Optional[int] = ..., epoch: _Optional[int] = ..., digest: _Optional[bytes] = ..., tokens: _Optional[int] = ..., rows: _Optional[int] = ..., columns: _Optional[int] = ..., tile_rows: _Optional[int] = ..., tile_columns: _Optional[int] = ..., tile_tokens: _Optional[int] = ..., prepare_s: _Optional[float] = ...) -> None: ...

class PrefixUpdate(_message.Message):
    __slots__ = ("stored", "removed", "reset")
    STORED_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    stored: bytes
    removed: bytes
    reset: bool
    def __init__(self, stored: _Optional[bytes] = ..., removed: _Optional[bytes] = ..., reset: _Optional[bool] = ...) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class RouterMessage(_message.Message):
    __slots__ = ("welcome", "start", "retarget", "cancel", "migrate", "grant", "unfreeze", "drain", "set_role", "claim", "adopt", "peers", "look")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    RETARGET_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    MIGRATE_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    UNFREEZE_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    SET_ROLE_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    ADOPT_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    LOOK_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    start: Start
    retarget: Retarget
    cancel: Cancel
    migrate: Migrate
    grant: Grant
    unfreeze: Unfreeze
    drain: Drain
    set_role: SetRole
    claim: Claim
    adopt: Adopt
    peers: Peers
    look: Look
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., start: _Optional[_Union[Start, _Mapping]] = ..., retarget: _Optional[_Union[Retarget, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ..., migrate: _Optional[_Union[Migrate, _Mapping]] = ..., grant: _Optional[_Union[Grant, _Mapping]] = ..., unfreeze: _Optional[_Union[Unfreeze, _Mapping]] = ..., drain: _Optional[_Union[Drain, _Mapping]] = ..., set_role: _Optional[_Union[SetRole, _Mapping]] = ..., claim: _Optional[_Union[Claim, _Mapping]] = ..., adopt: _Optional[_Union[Adopt, _Mapping]] = ..., peers: _Optional[_Union[Peers, _Mapping]] = ..., look: _Optional[_Union[Look, _Mapping]] = ...) -> None: ...

class Look(_message.Message):
    __slots__ = ("sequence", "epoch", "router", "request", "picture", "root", "field", "traceparent", "part", "side_max")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ROUTER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    PICTURE_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    SIDE_MAX_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    epoch: int
    router: str
    request: str
    picture: bytes
    root: bytes
    field: str
    traceparent: str
    part: int
    side_max: int
    def __init__(self, sequence: _Optional[int] = ..., epoch: _Optional[int] = ..., router: _Optional[str] = ..., request: _Optional[str] = ..., picture: _Optional[bytes] = ..., root: _Optional[bytes] = ..., field: _Optional[str] = ..., traceparent: _Optional[str] = ..., part: _Optional[int] = ..., side_max: _Optional[int] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("router", "heartbeat_s", "wire_version")
    ROUTER_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_S_FIELD_NUMBER: _ClassVar[int]
    WIRE_VERSION_FIELD_NUMBER: _ClassVar[int]
    router: str
    heartbeat_s: float
    wire_version: int
    def __init__(self, router: _Optional[str] = ..., heartbeat_s: _Optional[float] = ..., wire_version: _Optional[int] = ...) -> None: ...

class Start(_message.Message):
    __slots__ = ("state", "target")
    STATE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    state: SequenceState
    target: DecodeTarget
    def __init__(self, state: _Optional[_Union[SequenceState, _Mapping]] = ..., target: _Optional[_Union[DecodeTarget, _Mapping]] = ...) -> None: ...

class DecodeTarget(_message.Message):
    __slots__ = ("worker", "boot", "kv_address")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    BOOT_FIELD_NUMBER: _ClassVar[int]
    KV_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    worker: str
    boot: str
    kv_address: str
    def __init__(self, worker: _Optional[str] = ..., boot: _Optional[str] = ..., kv_address: _Optional[str] = ...) -> None: ...

class Retarget(_message.Message):
    __slots__ = ("sequence", "epoch", "target")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    epoch: int
    target: DecodeTarget
    def __init__(self, sequence: _Optional[int] = ..., epoch: _Optional[int] = ..., target: _Optional[_Union[DecodeTarget, _Mapping]] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("sequence", "epoch")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    epoch: int
    def __init__(self, sequence: _Optional[int] = ..., epoch: _Optional[int] = ...) -> None: ...

class Migrate(_message.Message):
    __slots__ = ("sequence", "epoch", "target")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    epoch: int
    target: DecodeTarget
    def __init__(self, sequence: _Optional[int] = ..., epoch: _Optional[int] = ..., target: _Optional[_Union[DecodeTarget, _Mapping]] = ...) -> None: ...

class Grant(_message.Message):
    __slots__ = ("sequence", "epoch", "new_epoch")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    NEW_EPOCH_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    epoch: int
    new_epoch: int
    def __init__(self, sequence: _Optional[int] = ..., epoch: _Optional[int] = ..., new_epoch: _Optional[int] = ...) -> None: ...

class Unfreeze(_message.Message):
    __slots__ = ("sequence", "epoch")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    epoch: int
    def __init__(self, sequence: _Optional[int] = ..., epoch: _Optional[int] = ...) -> None: ...

class Drain(_message.Message):
    __slots__ = ("resume", "deadline_s")
    RESUME_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    resume: bool
    deadline_s: float
    def __init__(self, resume: _Optional[bool] = ..., deadline_s: _Optional[float] = ...) -> None: ...

class SetRole(_message.Message):
    __slots__ = ("role", "from_role")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    FROM_ROLE_FIELD_NUMBER: _ClassVar[int]
    role: str
    from_role: str
    def __init__(self, role: _Optional[str] = ..., from_role: _Optional[str] = ...) -> None: ...

class Claim(_message.Message):
    __slots__ = ("request",)
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: str
    def __init__(self, request: _Optional[str] = ...) -> None: ...

class Adopt(_message.Message):
    __slots__ = ("sequence", "epoch", "new_epoch", "router", "next_index")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    NEW_EPOCH_FIELD_NUMBER: _ClassVar[int]
    ROUTER_FIELD_NUMBER: _ClassVar[int]
    NEXT_INDEX_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    epoch: int
    new_epoch: int
    router: str
    next_index: int
    def __init__(self, sequence: _Optional[int] = ..., epoch: _Optional[int] = ..., new_epoch: _Optional[int] = ..., router: _Optional[str] = ..., next_index: _Optional[int] = ...) -> None: ...

class Peers(_message.Message):
    __slots__ = ("peers",)
    PEERS_FIELD_NUMBER: _ClassVar[int]
    peers: _containers.RepeatedCompositeFieldContainer[PeerRow]
    def __init__(self, peers: _Optional[_Iterable[_Union[PeerRow, _Mapping]]] = ...) -> None: ...

class PeerRow(_message.Message):
    __slots__ = ("target", "role")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    target: DecodeTarget
    role: str
    def __init__(self, target: _Optional[_Union[DecodeTarget, _Mapping]] = ..., role: _Optional[str] = ...) -> None: ...

class PeerHello(_message.Message):
    __slots__ = ("worker", "boot", "wire_version", "model_fingerprint", "geometry", "region_bytes", "transports", "canary")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    BOOT_FIELD_NUMBER: _ClassVar[int]
    WIRE_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    GEOMETRY_FIELD_NUMBER: _ClassVar[int]
    REGION_BYTES_FIELD_NUMBER: _ClassVar[int]
    TRANSPORTS_FIELD_NUMBER: _ClassVar[int]
    CANARY_FIELD_NUMBER: _ClassVar[int]
    worker: str
    boot: str
    wire_version: int
    model_fingerprint: str
    geometry: KvGeometry
    region_bytes: int
    transports: _containers.RepeatedCompositeFieldContainer[TransportInfo]
    canary: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, worker: _Optional[str] = ..., boot: _Optional[str] = ..., wire_version: _Optional[int] = ..., model_fingerprint: _Optional[str] = ..., geometry: _Optional[_Union[KvGeometry, _Mapping]] = ..., region_bytes: _Optional[int] = ..., transports: _Optional[_Iterable[_Union[TransportInfo, _Mapping]]] = ..., canary: _Optional[_Iterable[int]] = ...) -> None: ...

class TransportInfo(_message.Message):
    __slots__ = ("name", "info")
    NAME_FIELD_NUMBER: _ClassVar[int]
    INFO_FIELD_NUMBER: _ClassVar[int]
    name: str
    info: bytes
    def __init__(self, name: _Optional[str] = ..., info: _Optional[bytes] = ...) -> None: ...

class KvGeometry(_message.Message):
    __slots__ = ("layers", "group_layers", "heads", "head_dim", "block_tokens", "blocks", "dtype", "dtype_bytes", "rank", "ranks")
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    GROUP_LAYERS_FIELD_NUMBER: _ClassVar[int]
    HEADS_FIELD_NUMBER: _ClassVar[int]
    HEAD_DIM_FIELD_NUMBER: _ClassVar[int]
    BLOCK_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_BYTES_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    layers: int
    group_layers: int
    heads: int
    head_dim: int
    block_tokens: int
    blocks: int
    dtype: str
    dtype_bytes: int
    rank: int
    ranks: int
    def __init__(self, layers: _Optional[int] = ..., group_layers: _Optional[int] = ..., heads: _Optional[int] = ..., head_dim: _Optional[int] = ..., block_tokens: _Optional[int] = ..., blocks: _Optional[int] = ..., dtype: _Optional[str] = ..., dtype_bytes: _Optional[int] = ..., rank: _Optional[int] = ..., ranks: _Optional[int] = ...) -> None: ...

class ReserveRequest(_message.Message):
    __slots__ = ("from_boot", "transfer", "sequence", "epoch", "tokens", "unit_hashes", "to_boot", "canary", "root")
    FROM_BOOT_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    UNIT_HASHES_FIELD_NUMBER: _ClassVar[int]
    TO_BOOT_FIELD_NUMBER: _ClassVar[int]
    CANARY_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    from_boot: str
    transfer: int
    sequence: int
    epoch: int
    tokens: int
    unit_hashes: bytes
    to_boot: str
    canary: bool
    root: bytes
    def __init__(self, from_boot: _Optional[str] = ..., transfer: _Optional[int] = ..., sequence: _Optional[int] = ..., epoch: _Optional[int] = ..., tokens: _Optional[int] = ..., unit_hashes: _Optional[bytes] = ..., to_boot: _Optional[str] = ..., canary: _Optional[bool] = ..., root: _Optional[bytes] = ...) -> None: ...

class ReserveReply(_message.Message):
    __slots__ = ("granted", "refusal", "blocks", "cached_tokens", "grant", "lease_s")
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    LEASE_S_FIELD_NUMBER: _ClassVar[int]
    granted: bool
    refusal: str
    blocks: _containers.RepeatedScalarFieldContainer[int]
    cached_tokens: int
    grant: bytes
    lease_s: float
    def __init__(self, granted: _Optional[bool] = ..., refusal: _Optional[str] = ..., blocks: _Optional[_Iterable[int]] = ..., cached_tokens: _Optional[int] = ..., grant: _Optional[bytes] = ..., lease_s: _Optional[float] = ...) -> None: ...

class CommitRequest(_message.Message):
    __slots__ = ("from_boot", "transfer", "state", "proofs", "checksummed", "transport", "computed", "parked", "canary", "grant")
    FROM_BOOT_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PROOFS_FIELD_NUMBER: _ClassVar[int]
    CHECKSUMMED_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    COMPUTED_FIELD_NUMBER: _ClassVar[int]
    PARKED_FIELD_NUMBER: _ClassVar[int]
    CANARY_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    from_boot: str
    transfer: int
    state: SequenceState
    proofs: _containers.RepeatedCompositeFieldContainer[GroupProof]
    checksummed: bool
    transport: str
    computed: int
    parked: bool
    canary: bool
    grant: bytes
    def __init__(self, from_boot: _Optional[str] = ..., transfer: _Optional[int] = ..., state: _Optional[_Union[SequenceState, _Mapping]] = ..., proofs: _Optional[_Iterable[_Union[GroupProof, _Mapping]]] = ..., checksummed: _Optional[bool] = ..., transport: _Optional[str] = ..., computed: _Optional[int] = ..., parked: _Optional[bool] = ..., canary: _Optional[bool] = ..., grant: _Optional[bytes] = ...) -> None: ...

class GroupProof(_message.Message):
    __slots__ = ("bytes", "crc32")
    BYTES_FIELD_NUMBER: _ClassVar[int]
    CRC32_FIELD_NUMBER: _ClassVar[int]
    bytes: int
    crc32: int
    def __init__(self, bytes: _Optional[int] = ..., crc32: _Optional[int] = ...) -> None: ...

class CommitReply(_message.Message):
    __slots__ = ("attached", "refusal", "canary_token")
    ATTACHED_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    CANARY_TOKEN_FIELD_NUMBER: _ClassVar[int]
    attached: bool
    refusal: str
    canary_token: int
    def __init__(self, attached: _Optional[bool] = ..., refusal: _Optional[str] = ..., canary_token: _Optional[int] = ...) -> None: ...

class AbandonRequest(_message.Message):
    __slots__ = ("from_boot", "transfer", "reason", "writes_stopped")
    FROM_BOOT_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    WRITES_STOPPED_FIELD_NUMBER: _ClassVar[int]
    from_boot: str
    transfer: int
    reason: str
    writes_stopped: bool
    def __init__(self, from_boot: _Optional[str] = ..., transfer: _Optional[int] = ..., reason: _Optional[str] = ..., writes_stopped: _Optional[bool] = ...) -> None: ...

class AbandonReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("from_boot", "transfers")
    FROM_BOOT_FIELD_NUMBER: _ClassVar[int]
    TRANSFERS_FIELD_NUMBER: _ClassVar[int]
    from_boot: str
    transfers: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, from_boot: _Optional[str] = ..., transfers: _Optional[_Iterable[int]] = ...) -> None: ...

class RenewReply(_message.Message):
    __slots__ = ("lost", "lease_s")
    LOST_FIELD_NUMBER: _ClassVar[int]
    LEASE_S_FIELD_NUMBER: _ClassVar[int]
    lost: _containers.RepeatedScalarFieldContainer[int]
    lease_s: float
    def __init__(self, lost: _Optional[_Iterable[int]] = ..., lease_s: _Optional[float] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("worker", "deadline_s", "resume")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    worker: str
    deadline_s: float
    resume: bool
    def __init__(self, worker: _Optional[str] = ..., deadline_s: _Optional[float] = ..., resume: _Optional[bool] = ...) -> None: ...

class DrainEvent(_message.Message):
    __slots__ = ("lifecycle", "left", "outcomes")
    LIFECYCLE_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    lifecycle: str
    left: int
    outcomes: _containers.RepeatedCompositeFieldContainer[DrainOutcome]
    def __init__(self, lifecycle: _Optional[str] = ..., left: _Optional[int] = ..., outcomes: _Optional[_Iterable[_Union[DrainOutcome, _Mapping]]] = ...) -> None: ...

class DrainOutcome(_message.Message):
    __slots__ = ("request_id", "choice", "outcome", "detail")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    choice: int
    outcome: str
    detail: str
    def __init__(self, request_id: _Optional[str] = ..., choice: _Optional[int] = ..., outcome: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class FlipRequest(_message.Message):
    __slots__ = ("worker", "role", "deadline_s")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    worker: str
    role: str
    deadline_s: float
    def __init__(self, worker: _Optional[str] = ..., role: _Optional[str] = ..., deadline_s: _Optional[float] = ...) -> None: ...

class FlipReply(_message.Message):
    __slots__ = ("worker", "role")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    worker: str
    role: str
    def __init__(self, worker: _Optional[str] = ..., role: _Optional[str] = ...) -> None: ...

class MigrateRequest(_message.Message):
    __slots__ = ("request_id", "choice", "to_worker", "recompute")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    TO_WORKER_FIELD_NUMBER: _ClassVar[int]
    RECOMPUTE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    choice: int
    to_worker: str
    recompute: bool
    def __init__(self, request_id: _Optional[str] = ..., choice: _Optional[int] = ..., to_worker: _Optional[str] = ..., recompute: _Optional[bool] = ...) -> None: ...

class MigrateReply(_message.Message):
    __slots__ = ("from_worker", "to_worker")
    FROM_WORKER_FIELD_NUMBER: _ClassVar[int]
    TO_WORKER_FIELD_NUMBER: _ClassVar[int]
    from_worker: str
    to_worker: str
    def __init__(self, from_worker: _Optional[str] = ..., to_worker: _Optional[str] = ...) -> None: ...

class GetWorkersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetWorkersReply(_message.Message):
    __slots__ = ("workers",)
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    workers: _containers.RepeatedCompositeFieldContainer[WorkerRow]
    def __init__(self, workers: _Optional[_Iterable[_Union[WorkerRow, _Mapping]]] = ...) -> None: ...

class WorkerRow(_message.Message):
    __slots__ = ("info", "load", "heartbeat_age_s")
    INFO_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_AGE_S_FIELD_NUMBER: _ClassVar[int]
    info: Register
    load: Heartbeat
    heartbeat_age_s: float
    def __init__(self, info: _Optional[_Union[Register, _Mapping]] = ..., load: _Optional[_Union[Heartbeat, _Mapping]] = ..., heartbeat_age_s: _Optional[float] = ...) -> None: ...

class GetRequestsRequest(_message.Message):
    __slots__ = ("request_id", "limit")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    limit: int
    def __init__(self, request_id: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class GetRequestsReply(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[RequestRow]
    def __init__(self, requests: _Optional[_Iterable[_Union[RequestRow, _Mapping]]] = ...) -> None: ...

class RequestRow(_message.Message):
    __slots__ = ("request_id", "choice", "state", "finish_reason", "prefill_worker", "decode_worker", "decision", "prompt_tokens", "cached_tokens", "output_tokens", "placed_s", "first_token_s", "handoff_s", "finished_s", "tpot_s", "itl_max_s", "transport", "kv_bytes", "transfer_s", "exposed_s", "age_s", "epoch", "migrations", "frozen_s", "moves", "images", "images_cached", "images_bytes", "images_s", "encoders", "shown")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    PREFILL_WORKER_FIELD_NUMBER: _ClassVar[int]
    DECODE_WORKER_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PLACED_S_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_S_FIELD_NUMBER: _ClassVar[int]
    HANDOFF_S_FIELD_NUMBER: _ClassVar[int]
    FINISHED_S_FIELD_NUMBER: _ClassVar[int]
    TPOT_S_FIELD_NUMBER: _ClassVar[int]
    ITL_MAX_S_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    KV_BYTES_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_S_FIELD_NUMBER: _ClassVar[int]
    EXPOSED_S_FIELD_NUMBER: _ClassVar[int]
    AGE_S_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    MIGRATIONS_FIELD_NUMBER: _ClassVar[int]
    FROZEN_S_FIELD_NUMBER: _ClassVar[int]
    MOVES_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    IMAGES_CACHED_FIELD_NUMBER: _ClassVar[int]
    IMAGES_BYTES_FIELD_NUMBER: _ClassVar[int]
    IMAGES_S_FIELD_NUMBER: _ClassVar[int]
    ENCODERS_FIELD_NUMBER: _ClassVar[int]
    SHOWN_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    choice: int
    state: str
    finish_reason: str
    prefill_worker: str
    decode_worker: str
    decision: str
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    placed_s: float
    first_token_s: float
    handoff_s: float
    finished_s: float
    tpot_s: float
    itl_max_s: float
    transport: str
    kv_bytes: int
    transfer_s: float
    exposed_s: float
    age_s: float
    epoch: int
    migrations: int
    frozen_s: float
    moves: _containers.RepeatedCompositeFieldContainer[MoveRow]
    images: int
    images_cached: int
    images_bytes: int
    images_s: float
    encoders: _containers.RepeatedScalarFieldContainer[str]
    shown: _containers.RepeatedCompositeFieldContainer[ShownRow]
    def __init__(self, request_id: _Optional[str] = ..., choice: _Optional[int] = ..., state: _Optional[str] = ..., finish_reason: _Optional[str] = ..., prefill_worker: _Optional[str] = ..., decode_worker: _Optional[str] = ..., decision: _Optional[str] = ..., prompt_tokens: _Optional[int] = ..., cached_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., placed_s: _Optional[float] = ..., first_token_s: _Optional[float] = ..., handoff_s: _Optional[float] = ..., finished_s: _Optional[float] = ..., tpot_s: _Optional[float] = ..., itl_max_s: _Optional[float] = ..., transport: _Optional[str] = ..., kv_bytes: _Optional[int] = ..., transfer_s: _Optional[float] = ..., exposed_s: _Optional[float] = ..., age_s: _Optional[float] = ..., epoch: _Optional[int] = ..., migrations: _Optional[int] = ..., frozen_s: _Optional[float] = ..., moves: _Optional[_Iterable[_Union[MoveRow, _Mapping]]] = ..., images: _Optional[int] = ..., images_cached: _Optional[int] = ..., images_bytes: _Optional[int] = ..., images_s: _Optional[float] = ..., encoders: _Optional[_Iterable[str]] = ..., shown: _Optional[_Iterable[_Union[ShownRow, _Mapping]]] = ...) -> None: ...

class ShownRow(_message.Message):
    __slots__ = ("encoder", "tokens", "known", "image")
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    encoder: str
    tokens: int
    known: bool
    image: int
    def __init__(self, encoder: _Optional[str] = ..., tokens: _Optional[int] = ..., known: _Optional[bool] = ..., image: _Optional[int] = ...) -> None: ...

class MoveRow(_message.Message):
    __slots__ = ("at_s", "from_worker", "to_worker", "how", "why", "bytes", "frozen_s", "at_token")
    AT_S_FIELD_NUMBER: _ClassVar[int]
    FROM_WORKER_FIELD_NUMBER: _ClassVar[int]
    TO_WORKER_FIELD_NUMBER: _ClassVar[int]
    HOW_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    FROZEN_S_FIELD_NUMBER: _ClassVar[int]
    AT_TOKEN_FIELD_NUMBER: _ClassVar[int]
    at_s: float
    from_worker: str
    to_worker: str
    how: str
    why: str
    bytes: int
    frozen_s: float
    at_token: int
    def __init__(self, at_s: _Optional[float] = ..., from_worker: _Optional[str] = ..., to_worker: _Optional[str] = ..., how: _Optional[str] = ..., why: _Optional[str] = ..., bytes: _Optional[int] = ..., frozen_s: _Optional[float] = ..., at_token: _Optional[int] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("request_id",)
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    def __init__(self, request_id: _Optional[str] = ...) -> None: ...

class ExplainReply(_message.Message):
    __slots__ = ("policy", "slo_class", "ttft_objective_s", "tpot_objective_s", "prompt_tokens", "decisions", "requests")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    SLO_CLASS_FIELD_NUMBER: _ClassVar[int]
    TTFT_OBJECTIVE_S_FIELD_NUMBER: _ClassVar[int]
    TPOT_OBJECTIVE_S_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    policy: str
    slo_class: str
    ttft_objective_s: float
    tpot_objective_s: float
    prompt_tokens: int
    decisions: _containers.RepeatedCompositeFieldContainer[Decision]
    requests: _containers.RepeatedCompositeFieldContainer[RequestRow]
    def __init__(self, policy: _Optional[str] = ..., slo_class: _Optional[str] = ..., ttft_objective_s: _Optional[float] = ..., tpot_objective_s: _Optional[float] = ..., prompt_tokens: _Optional[int] = ..., decisions: _Optional[_Iterable[_Union[Decision, _Mapping]]] = ..., requests: _Optional[_Iterable[_Union[RequestRow, _Mapping]]] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("kind", "choice", "at_s", "reason", "binding", "cached_tokens", "candidates")
    KIND_FIELD_NUMBER: _ClassVar[int]
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    AT_S_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    BINDING_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    kind: str
    choice: int
    at_s: float
    reason: str
    binding: str
    cached_tokens: int
    candidates: _containers.RepeatedCompositeFieldContainer[CandidateRow]
    def __init__(self, kind: _Optional[str] = ..., choice: _Optional[int] = ..., at_s: _Optional[float] = ..., reason: _Optional[str] = ..., binding: _Optional[str] = ..., cached_tokens: _Optional[int] = ..., candidates: _Optional[_Iterable[_Union[CandidateRow, _Mapping]]] = ...) -> None: ...

class CandidateRow(_message.Message):
    __slots__ = ("prefill_worker", "decode_worker", "ttft_s", "tpot_s", "cost", "terms")
    class TermsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    PREFILL_WORKER_FIELD_NUMBER: _ClassVar[int]
    DECODE_WORKER_FIELD_NUMBER: _ClassVar[int]
    TTFT_S_FIELD_NUMBER: _ClassVar[int]
    TPOT_S_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    prefill_worker: str
    decode_worker: str
    ttft_s: float
    tpot_s: float
    cost: float
    terms: _containers.ScalarMap[str, float]
    def __init__(self, prefill_worker: _Optional[str] = ..., decode_worker: _Optional[str] = ..., ttft_s: _Optional[float] = ..., tpot_s: _Optional[float] = ..., cost: _Optional[float] = ..., terms: _Optional[_Mapping[str, float]] = ...) -> None: ...

class GetCapacityRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetCapacityReply(_message.Message):
    __slots__ = ("workers", "classes")
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    workers: _containers.RepeatedCompositeFieldContainer[CapacityRow]
    classes: _containers.RepeatedCompositeFieldContainer[CapacityRow]
    def __init__(self, workers: _Optional[_Iterable[_Union[CapacityRow, _Mapping]]] = ..., classes: _Optional[_Iterable[_Union[CapacityRow, _Mapping]]] = ...) -> None: ...

class CapacityRow(_message.Message):
    __slots__ = ("worker", "gpu_class", "tensor_parallel", "model", "terms", "samples", "price_per_h", "link_bytes_per_s")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    GPU_CLASS_FIELD_NUMBER: _ClassVar[int]
    TENSOR_PARALLEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    PRICE_PER_H_FIELD_NUMBER: _ClassVar[int]
    LINK_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    worker: str
    gpu_class: str
    tensor_parallel: int
    model: str
    terms: StepTerms
    samples: int
    price_per_h: float
    link_bytes_per_s: float
    def __init__(self, worker: _Optional[str] = ..., gpu_class: _Optional[str] = ..., tensor_parallel: _Optional[int] = ..., model: _Optional[str] = ..., terms: _Optional[_Union[StepTerms, _Mapping]] = ..., samples: _Optional[int] = ..., price_per_h: _Optional[float] = ..., link_bytes_per_s: _Optional[float] = ...) -> None: ...
