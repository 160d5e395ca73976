"""The one table of span names and span attributes: what a trace of a request is made of.

Names starting with `gen_ai.` follow the OpenTelemetry semantic conventions for generative AI
(https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/); the others start with
`sluice.`. Never holds text of prompts or answers: law L8 keeps them off traces as well.

    request ─┬─ queue                                router
             ├─ placement                            router
             ├─ encode ──┬─ transfer                 encode worker, for each image
             │           └─ attach                   prefill worker
             ├─ prefill ─┬─ transfer (per group)     prefill worker
             │           └─ attach                   decode worker
             ├─ decode                               router
             └─ move (per migration)                 router

Next: `tracing.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

AttributeValue = str | bool | int | float | Sequence[str]
Attributes = Mapping[str, AttributeValue]


class SpanName(Enum):
    """Every span Sluice records; the value is the name seen in a trace viewer."""

    REQUEST = "request"
    QUEUE = "queue"
    PLACEMENT = "placement"
    ENCODE = "encode"
    PREFILL = "prefill"
    TRANSFER = "transfer"
    ATTACH = "attach"
    DECODE = "decode"
    MOVE = "move"


OPERATION_NAME: Final = "gen_ai.operation.name"
PROVIDER_NAME: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
REQUEST_TOP_P: Final = "gen_ai.request.top_p"
REQUEST_SEED: Final = "gen_ai.request.seed"
REQUEST_CHOICES: Final = "gen_ai.request.choice.count"
RESPONSE_ID: Final = "gen_ai.response.id"
RESPONSE_MODEL: Final = "gen_ai.response.model"
RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHED_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
TTFT_S: Final = "gen_ai.response.time_to_first_chunk"
ERROR_TYPE: Final = "error.type"

REQUEST_ID: Final = "sluice.request"
SEQUENCE: Final = "sluice.sequence"
EPOCH: Final = "sluice.epoch"
WORKER: Final = "sluice.worker"
PREFILL_WORKER: Final = "sluice.prefill_worker"
DECODE_WORKER: Final = "sluice.decode_worker"
DECISION: Final = "sluice.decision"
CANDIDATES: Final = "sluice.candidates"
BINDING: Final = "sluice.binding"
PREDICTED_TTFT_S: Final = "sluice.predicted_ttft_s"
PREDICTED_TPOT_S: Final = "sluice.predicted_tpot_s"
SLO_CLASS: Final = "sluice.slo_class"
MOVED_FROM: Final = "sluice.moved_from"
MOVED_TO: Final = "sluice.moved_to"
MOVE_OUTCOME: Final = "sluice.move_outcome"
FROZEN_S: Final = "sluice.frozen_s"
TPOT_S: Final = "sluice.tpot_s"
LAYER_GROUP: Final = "sluice.layer_group"
TRANSPORT: Final = "sluice.transport"
TRANSFER_BYTES: Final = "sluice.transfer_bytes"
TRANSFER_GB_PER_S: Final = "sluice.transfer_gb_per_s"

PROVIDER: Final = "sluice"
"""The value of PROVIDER_NAME."""


@dataclass(frozen=True, slots=True)
class AttributeRow:
    """One line of the reference page: an attribute, where it appears, what it says."""

    name: str
    spans: tuple[SpanName, ...]
    meaning: str


_ALL: Final = tuple(SpanName)

ATTRIBUTES: Final = (
    AttributeRow(OPERATION_NAME, (SpanName.REQUEST,), "`chat` or `text_completion`"),
    AttributeRow(PROVIDER_NAME, (SpanName.REQUEST,), "always `sluice`"),
    AttributeRow(REQUEST_MODEL, (SpanName.REQUEST,), "the model the client asked for"),
    AttributeRow(REQUEST_MAX_TOKENS, (SpanName.REQUEST,), "limit of output tokens"),
    AttributeRow(REQUEST_TEMPERATURE, (SpanName.REQUEST,), "sampling temperature"),
    AttributeRow(REQUEST_TOP_P, (SpanName.REQUEST,), "nucleus sampling bound"),
    AttributeRow(REQUEST_SEED, (SpanName.REQUEST,), "the seed, if the client sent one"),
    AttributeRow(REQUEST_CHOICES, (SpanName.REQUEST,), "how many outputs were asked for (`n`)"),
    AttributeRow(RESPONSE_ID, (SpanName.REQUEST,), "the `id` of the response"),
    AttributeRow(RESPONSE_MODEL, (SpanName.REQUEST,), "the model that answered"),
    AttributeRow(RESPONSE_FINISH_REASONS, (SpanName.REQUEST,), "one reason per choice"),
    AttributeRow(
        INPUT_TOKENS, (SpanName.REQUEST, SpanName.PREFILL, SpanName.ENCODE), "prompt tokens; of an image, with fill"
    ),
    AttributeRow(OUTPUT_TOKENS, (SpanName.REQUEST, SpanName.DECODE), "output tokens"),
    AttributeRow(CACHED_TOKENS, (SpanName.REQUEST, SpanName.PREFILL), "prompt tokens found in a prefix cache"),
    AttributeRow(TTFT_S, (SpanName.REQUEST,), "TTFT, seconds"),
    AttributeRow(ERROR_TYPE, _ALL, "the error's code, if the span failed"),
    AttributeRow(REQUEST_ID, _ALL, "request id"),
    AttributeRow(SEQUENCE, _ALL, "sequence id (one per choice)"),
    AttributeRow(EPOCH, (SpanName.ENCODE, SpanName.PREFILL, SpanName.ATTACH, SpanName.DECODE), "owner's epoch"),
    AttributeRow(WORKER, (SpanName.ENCODE, SpanName.PREFILL, SpanName.TRANSFER, SpanName.ATTACH), "who did it"),
    AttributeRow(PREFILL_WORKER, (SpanName.REQUEST, SpanName.PLACEMENT), "where the prompt was computed"),
    AttributeRow(DECODE_WORKER, (SpanName.REQUEST, SpanName.PLACEMENT, SpanName.TRANSFER), "where tokens are chosen"),
    AttributeRow(
        DECISION, (SpanName.REQUEST, SpanName.PLACEMENT, SpanName.MOVE), "why it was placed so, moved or refused"
    ),
    AttributeRow(CANDIDATES, (SpanName.PLACEMENT,), "the best few, one line each: workers, predictions, cost, terms"),
    AttributeRow(BINDING, (SpanName.PLACEMENT,), "what decided: `ttft`, `tpot`, `memory`, `link`, `price` or `role`"),
    AttributeRow(PREDICTED_TTFT_S, (SpanName.PLACEMENT,), "TTFT the policy expected, seconds"),
    AttributeRow(PREDICTED_TPOT_S, (SpanName.PLACEMENT,), "TPOT the policy expected, seconds"),
    AttributeRow(SLO_CLASS, (SpanName.REQUEST,), "the request's class"),
    AttributeRow(MOVED_FROM, (SpanName.MOVE,), "the worker it left, or stayed at"),
    AttributeRow(MOVED_TO, (SpanName.MOVE,), "the worker it was to go to"),
    AttributeRow(MOVE_OUTCOME, (SpanName.MOVE,), "`moved`, `refused` or `failed`"),
    AttributeRow(FROZEN_S, (SpanName.MOVE,), "how long it stood still, seconds"),
    AttributeRow(TPOT_S, (SpanName.DECODE,), "mean seconds per output token after the first"),
    AttributeRow(LAYER_GROUP, (SpanName.TRANSFER,), "which layer group was pushed"),
    AttributeRow(TRANSPORT, (SpanName.TRANSFER, SpanName.ATTACH), "`inproc`, `shm`, `tcp` or `nixl`"),
    AttributeRow(TRANSFER_BYTES, (SpanName.TRANSFER, SpanName.ATTACH), "KV bytes moved"),
    AttributeRow(TRANSFER_GB_PER_S, (SpanName.TRANSFER,), "10^9 bytes per second of this push"),
)
