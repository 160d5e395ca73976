"""What OpenAI's clients send: request bodies checked field by field, and turned into Wishes.

Unknown fields and content the model cannot take are refused by name, never ignored, except a
few that only label a request. Ranges are checked further in (`domain/sampling.py`,
`intake.py`). Source: https://platform.openai.com/docs/api-reference.
Next: `intake.py`.
"""

import secrets
from collections.abc import Mapping
from typing import Any, Final, NoReturn, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from sluice.domain.ids import RequestId
from sluice.domain.sampling import TOP_LOGPROBS_MAX
from sluice.errors import InvalidRequestError
from sluice.router.intake import ChatMessage, Conversation, PromptInput, SamplingWishes, Wishes
from sluice.router.picture_source import TextPart, content_parts

COMPLETION_TOKENS_DEFAULT: Final = 16  # OpenAI's own default for completions
MESSAGES_MAX: Final = 10_000

B = TypeVar("B", bound="GenerationBody")


class StreamOptions(BaseModel):
    """`stream_options`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    include_usage: bool | None = None


class GenerationBody(BaseModel):
    """Fields that completions and chat completions share. `null` means: not given."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    model: str
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: Any = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    # Extensions, named as other open servers name them.
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    stop_token_ids: list[int] | None = None
    # Labels: accepted, without effect.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    def sampling(self, *, max_tokens: int | None, top_logprobs: int | None) -> SamplingWishes:
        """The sampling part."""
        return SamplingWishes(
            max_tokens=max_tokens,
            min_tokens=self.min_tokens or 0,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias=_logit_bias(self.logit_bias),
            seed=self.seed,
            stop_token_ids=tuple(self.stop_token_ids or ()),
            ignore_eos=self.ignore_eos or False,
            top_logprobs=top_logprobs,
        )

    def check_stream_options(self) -> None:
        """Raises InvalidRequestError when stream_options come without stream."""
        if self.stream_options is not None and not self.stream:
            _refuse("stream_options", "is given without stream", "set stream to true or remove it")


class CompletionBody(GenerationBody):
    """POST /v1/completions."""

    prompt: Any
    logprobs: int | None = None
    echo: bool | None = None
    best_of: int | None = None
    suffix: str | None = None


class ChatBody(GenerationBody):
    """POST /v1/chat/completions."""

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: dict[str, Any] | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    functions: list[Any] | None = None
    function_call: Any = None
    parallel_tool_calls: bool | None = None
    modalities: list[str] | None = None


def parse(body: bytes, kind: type[B]) -> B:
    """Read a request body. Raises InvalidRequestError naming the first bad field and the remedy."""
    try:
        values = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        remedy = "send one JSON object in UTF-8; NaN and Infinity are not JSON"
        raise InvalidRequestError(field="body", problem=f"is not valid JSON ({error})", remedy=remedy) from error
    if not isinstance(values, dict):
        _refuse("body", f"is a JSON {type(values).__name__}", "send a JSON object")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        problem, remedy = _EXPLAINED.get(first["type"], (f"is wrong ({first['msg']})", "see the API reference"))
        raise InvalidRequestError(field=field, problem=problem, remedy=remedy) from error


_EXPLAINED: Final[Mapping[str, tuple[str, str]]] = {
    "missing": ("is missing", "send it"),
    "extra_forbidden": ("is not a parameter this server knows", "remove it"),
    "int_type": ("is not an integer", "send an integer"),
    "int_from_float": ("is not an integer", "send an integer without a fraction"),
    "float_type": ("is not a number", "send a number"),
    "finite_number": ("is not a finite number", "send a finite number"),
    "bool_type": ("is not true or false", "send true or false"),
    "string_type": ("is not a string", "send a string"),
    "list_type": ("is not a list", "send a list"),
    "dict_type": ("is not an object", "send an object"),
}


def completion_wishes(body: CompletionBody, *, tenant: str, timeout_s: float | None, traceparent: str) -> Wishes:
    """What a completions call asks for. Raises InvalidRequestError."""
    body.check_stream_options()
    if body.best_of not in {None, 1, body.n}:
        _refuse("best_of", f"is {body.best_of}", "remove it, or send the value of n")
    if body.suffix:
        _refuse("suffix", "is not supported", "remove it")
    if body.logprobs is not None and not 0 <= body.logprobs <= TOP_LOGPROBS_MAX:
        _refuse("logprobs", f"is {body.logprobs}", f"send an integer from 0 to {TOP_LOGPROBS_MAX}")
    if body.echo and body.logprobs is not None:
        _refuse("logprobs", "of an echoed prompt are not computed", "remove echo or logprobs")
    max_tokens = COMPLETION_TOKENS_DEFAULT if body.max_tokens is None else body.max_tokens
    return Wishes(
        request=RequestId(f"cmpl-{secrets.token_hex(12)}"),
        model=body.model,
        prompts=_prompts(body.prompt),
        sampling=body.sampling(max_tokens=max_tokens, top_logprobs=body.logprobs),
        n=1 if body.n is None else body.n,
        stops=_stops(body.stop),
        timeout_s=timeout_s,
        tenant=tenant,
        service_tier=body.service_tier or "",
        traceparent=traceparent,
    )


def chat_wishes(body: ChatBody, *, tenant: str, timeout_s: float | None, traceparent: str) -> Wishes:
    """What a chat call asks for. Raises InvalidRequestError."""
    body.check_stream_options()
    _check_plain_chat(body)
    if body.top_logprobs is not None and not body.logprobs:
        _refuse("top_logprobs", "is given without logprobs", "set logprobs to true or remove it")
    top_logprobs = (body.top_logprobs or 0) if body.logprobs else None
    max_tokens = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    return Wishes(
        request=RequestId(f"chatcmpl-{secrets.token_hex(12)}"),
        model=body.model,
        prompts=(Conversation(_messages(body.messages)),),
        sampling=body.sampling(max_tokens=max_tokens, top_logprobs=top_logprobs),
        n=1 if body.n is None else body.n,
        stops=_stops(body.stop),
        timeout_s=timeout_s,
        tenant=tenant,
        service_tier=body.service_tier or "",
        traceparent=traceparent,
    )


def _check_plain_chat(body: ChatBody) -> None:
    for field, value in (("tools", body.tools), ("functions", body.functions)):
        if value:
            _refuse(field, "are not supported by this model", "remove them")
    for field, choice in (("tool_choice", body.tool_choice), ("function_call", body.function_call)):
        if choice not in {None, "none", "auto"} if isinstance(choice, str | None) else True:
            _refuse(field, "needs tools, which are not supported", "remove it")
    if body.response_format is not None and body.response_format.get("type") != "text":
        _refuse("response_format", "other than text is not supported", 'remove it or send {"type": "text"}')
    if body.modalities not in (None, ["text"]):
        _refuse("modalities", "other than text are not supported", "remove it")


def _prompts(prompt: object) -> tuple[PromptInput, ...]:
    """A string, token ids, or a list of either."""
    remedy = "send a string, a list of strings, a list of token ids, or a list of such lists"
    if isinstance(prompt, str):
        return (_not_empty(prompt),)
    if not isinstance(prompt, list):
        _refuse("prompt", "is neither text nor a list", remedy)
    if prompt and all(type(item) is int for item in prompt):
        return (tuple(prompt),)
    if all(isinstance(item, str) for item in prompt):
        return tuple(_not_empty(item) for item in prompt)
    if not all(isinstance(item, list) and all(type(token) is int for token in item) for item in prompt):
        _refuse("prompt", "mixes kinds", remedy)
    return tuple(tuple(item) for item in prompt)


def _not_empty(text: str) -> str:
    if not text:
        _refuse("prompt", "is empty", "send some text")
    return text


def _messages(messages: list[dict[str, Any]]) -> tuple[ChatMessage, ...]:
    if not messages:
        _refuse("messages", "is an empty list", "send at least one message")
    if len(messages) > MESSAGES_MAX:
        _refuse("messages", f"holds {len(messages)} messages", f"send at most {MESSAGES_MAX}")
    return tuple(_message(message, f"messages[{i}]") for i, message in enumerate(messages))


def _message(message: dict[str, Any], where: str) -> ChatMessage:
    role = message.get("role")
    if not isinstance(role, str) or not role:
        _refuse(f"{where}.role", "is missing or not a string", "send a role such as user")
    for field in message.keys() - {"role", "content", "name", "refusal", "annotations"}:
        if message[field] is not None:
            _refuse(f"{where}.{field}", "is not supported by this model", "remove it")
    content = message.get("content")
    if isinstance(content, list):
        return ChatMessage(role, content_parts(content, where=f"{where}.content"))
    if not isinstance(content, str):
        _refuse(f"{where}.content", "is missing or not text", "send a string or a list of parts")
    return ChatMessage(role, (TextPart(content),))


def _stops(stop: object) -> tuple[str, ...]:
    if stop is None:
        return ()
    if isinstance(stop, str):
        return (stop,)
    if not isinstance(stop, list) or not all(isinstance(item, str) for item in stop):
        _refuse("stop", "is neither a string nor a list of strings", "send one of these")
    return tuple(stop)


def _logit_bias(given: dict[str, float] | None) -> tuple[tuple[int, float], ...]:
    if not given:
        return ()
    bias: dict[int, float] = {}
    for key, value in given.items():
        if not (key.isascii() and key.isdigit() and len(key) <= 10):
            _refuse("logit_bias", f"has the key '{key[:32]}'", "use token ids, written as strings")
        bias[int(key)] = value
    return tuple(sorted(bias.items()))


def _refuse(field: str, problem: str, remedy: str) -> NoReturn:
    raise InvalidRequestError(field=field, problem=problem, remedy=remedy)
