"""Turns what a client asked into a Job: templates, tokens, hashes, defaults, limits checked.

Both front ends (HTTP, gRPC) end here, so both accept and refuse the same. Long texts are
encoded on a thread of their own; the event loop never waits for them. Never queues or places.
Next: `dispatcher.py`.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final, NoReturn, TypeAlias, TypeVar

from sluice.domain.block_hash import extend_chain, root_hash
from sluice.domain.ids import BlockHash, RequestId
from sluice.domain.image import ImageSpan, held_tokens
from sluice.domain.sampling import SamplingParams
from sluice.domain.slo import SloClass
from sluice.errors import InvalidRequestError, NoWorkerError, OverloadedError, UnknownModelError
from sluice.router.door import Door
from sluice.router.fleet import Fleet
from sluice.router.gallery import Gallery
from sluice.router.job import Job, Picture, Prompt
from sluice.router.picture_source import ContentPart, PictureSource, RawPicture, RememberedPicture, TextPart
from sluice.router.slo_classes import SloClasses
from sluice.text.chat_template import ChatTemplate
from sluice.text.tokenizer import SpecialTokens, Tokenizer

INLINE_CHARS_MAX: Final = 4096
"""Texts up to this are encoded in place: that costs less than a trip to another thread."""

ENCODING_MAX: Final = 256
"""Long prompts on their way through the threads; more are refused."""

STOPS_MAX: Final = 16
STOP_CHARS_MAX: Final = 256
SEED_MIN: Final = -(2**63)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message: who speaks, and text and pictures in order."""

    role: str
    parts: tuple[ContentPart, ...]


@dataclass(frozen=True, slots=True)
class Conversation:
    """Chat messages for the model's template."""

    messages: tuple[ChatMessage, ...]


PromptInput: TypeAlias = str | tuple[int, ...] | Conversation


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingWishes:
    """Sampling as a client states it: None leaves a setting to the model's defaults."""

    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    top_logprobs: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """A whole request as a client states it. Nothing is checked yet but types."""

    request: RequestId
    model: str
    prompts: tuple[PromptInput, ...]
    sampling: SamplingWishes
    pictures: tuple[RawPicture | RememberedPicture, ...] = ()  # for the placeholders of a prompt that is no chat
    n: int = 1
    stops: tuple[str, ...] = ()
    timeout_s: float | None = None
    tenant: str = ""
    service_tier: str = ""  # the name of an SLO class
    traceparent: str = ""
    next_index: tuple[int, ...] = ()  # of a resumed request: how many tokens of each choice the client has


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeLimits:
    """What one request may ask for."""

    choices_max: int
    prompts_max: int
    timeout_s: float  # also the default


class Intake:
    """Makes Jobs for one model."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        fleet: Fleet,
        *,
        model: str,
        door: Door,
        limits: IntakeLimits,
        classes: SloClasses,
        gallery: Gallery,
    ) -> None:
        """`door` lets requests in, `gallery` reads their pictures."""
        self.model = model
        self._door = door
        self._gallery = gallery
        self._classes = classes
        self._tokenizer = tokenizer
        self._fleet = fleet
        self._limits = limits
        self._encoding = 0
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="sluice-encode")

    def close(self) -> None:
        """Stop the encoding threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def job(self, wishes: Wishes, held: contextlib.ExitStack) -> Job:
        """Check and prepare a request, once the door lets it in. Its pictures are kept until `held` closes.

        Raises InvalidRequestError, UnknownModelError, NoWorkerError, OverloadedError.
        """
        if wishes.model != self.model:
            raise UnknownModelError(model=wishes.model, served=(self.model,))
        self._check_shape(wishes)
        await self._door.enter()  # what comes next needs to know which weights the workers have
        fingerprint = self._fleet.fingerprint
        if fingerprint is None:
            raise NoWorkerError("no worker is connected; start one, or wait until one has loaded the model")
        root = root_hash(model_fingerprint=fingerprint, salt=wishes.tenant)
        self._check_pictures(wishes)
        pictures, looked_s = await self._gallery.pictures(pictures_of(wishes), root=root, held=held)
        texts = [self._text(prompt) for prompt in wishes.prompts]
        if sum(map(len, texts)) <= INLINE_CHARS_MAX:
            prompts = self._prompts(texts, wishes.prompts, root, pictures)
        else:
            prompts = await self._prompts_elsewhere(texts, wishes.prompts, root, pictures)
        for prompt in prompts:
            self._check_room(prompt.pictures)
        return Job(
            request=wishes.request,
            prompts=prompts,
            n=wishes.n,
            sampling=self._sampling(wishes.sampling, prompts, wishes.request),
            stops=wishes.stops,
            timeout_s=self._timeout_s(wishes.timeout_s),
            operation="chat" if isinstance(wishes.prompts[0], Conversation) else "text_completion",
            tenant=wishes.tenant,
            slo=_hurried(self._classes.named(wishes.service_tier), wishes.timeout_s),
            traceparent=wishes.traceparent,
            looked_s=looked_s,
            next_index=wishes.next_index,
        )

    async def _prompts_elsewhere(
        self,
        texts: Sequence[str | tuple[int, ...]],
        inputs: Sequence[PromptInput],
        root: BlockHash,
        pictures: Sequence[Picture],
    ) -> tuple[Prompt, ...]:
        """The same on another thread. Raises OverloadedError when too many long prompts wait already."""
        if self._encoding >= ENCODING_MAX:
            raise OverloadedError(f"{self._encoding} long prompts are being tokenized, the limit", retry_after_s=1.0)
        self._encoding += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, self._prompts, texts, inputs, root, pictures)
        finally:
            self._encoding -= 1

    def _check_shape(self, wishes: Wishes) -> None:
        limits = self._limits
        if not 1 <= wishes.n <= limits.choices_max:
            _refuse("n", f"is {wishes.n}", f"send an integer from 1 to {limits.choices_max}")
        if not wishes.prompts:
            _refuse("prompt", "is an empty list", "send at least one prompt")
        if len(wishes.prompts) > limits.prompts_max:
            _refuse("prompt", f"holds {len(wishes.prompts)} prompts", f"send at most {limits.prompts_max} at once")
        if len(wishes.stops) > STOPS_MAX:
            _refuse("stop", f"holds {len(wishes.stops)} strings", f"send at most {STOPS_MAX}")
        choices = wishes.n * len(wishes.prompts)
        if wishes.next_index and len(wishes.next_index) != choices:
            problem = f"counts {len(wishes.next_index)} choices, the request has {choices}"
            _refuse("last-event-id", problem, "send the very same request again")
        for stop in wishes.stops:
            if not 1 <= len(stop) <= STOP_CHARS_MAX:
                _refuse("stop", f"has a string of {len(stop)} characters", f"send 1 to {STOP_CHARS_MAX}")

    def _timeout_s(self, wish: float | None) -> float:
        if wish is None:
            return self._limits.timeout_s
        if not wish > 0:  # NaN too
            _refuse("timeout", f"is {wish:g} s", "send a positive number of seconds")
        return min(wish, self._limits.timeout_s)

    def _check_pictures(self, wishes: Wishes) -> None:
        sources = pictures_of(wishes)
        if not sources:
            return
        if self._tokenizer.vision is None:
            _refuse(sources[0].field, "is a picture, and this model reads text alone", "remove it")
        if len(wishes.prompts) > 1:
            _refuse(
                "prompt", f"holds {len(wishes.prompts)} prompts beside pictures", "send one prompt with its pictures"
            )

    def _check_room(self, pictures: Sequence[Picture]) -> None:
        """An image must fit an encode worker, a prompt's images its worker all at once: what fits nowhere is refused
        before anyone tries."""
        room, largest, total = self._fleet.image_tokens_max, self._fleet.picture_tokens_max, 0
        for one, part in [(picture, part) for picture in pictures for part in picture.parts]:
            tokens = held_tokens(part.tokens)
            if largest is not None and tokens > largest:
                remedy = f"send a smaller one: encode workers hold {largest} (their engine.kv_memory_mib)"
                _refuse(one.field, f"takes {tokens} embeddings", remedy)
            total += tokens
            if room is not None and total > room:
                remedy = f"send fewer or smaller ones: workers hold {room} (images.embeddings_mib of their settings)"
                _refuse(one.field, f"takes the prompt's pictures to {total} embeddings", remedy)

    def _text(self, prompt: PromptInput) -> str | tuple[int, ...]:
        if not isinstance(prompt, Conversation):
            return prompt
        template, vision = self._tokenizer.template, self._tokenizer.vision
        if template is None:
            _refuse("messages", "cannot be used: the model has no chat template", "use completions instead")
        mark = None if vision is None else vision.placeholder_text
        return template.render([_spoken(message, mark, template) for message in prompt.messages])

    def _prompts(
        self,
        texts: Sequence[str | tuple[int, ...]],
        inputs: Sequence[PromptInput],
        root: BlockHash,
        pictures: Sequence[Picture],
    ) -> tuple[Prompt, ...]:
        """Encode, lay out the pictures, and hash. Runs on any thread."""
        prompts = []
        for text, given in zip(texts, inputs, strict=True):
            is_chat = isinstance(given, Conversation)
            if isinstance(text, str):
                special = SpecialTokens.LEAVE_OUT if is_chat else SpecialTokens.ADD
                tokens = tuple(self._tokenizer.encode(text, special))
            else:
                tokens = text
                self._check_ids("prompt", tokens)
            if not tokens:
                _refuse("prompt", "is empty", "send at least one token of text")
            spans: tuple[ImageSpan, ...] = ()
            if (vision := self._tokenizer.vision) is not None:
                layouts = [picture.layout for picture in pictures]
                tokens, spans = vision.lay_out(tokens, layouts, field="messages" if is_chat else "prompt")
            distinct = {picture.layout.digest: picture for picture in pictures}
            prompts.append(
                Prompt(
                    tokens=tokens,
                    root=root,
                    unit_hashes=tuple(extend_chain(root, tokens)),
                    images=spans,
                    pictures=tuple(distinct.values()),
                )
            )
        return tuple(prompts)

    def _check_ids(self, field: str, tokens: Sequence[int]) -> None:
        if tokens and not 0 <= min(tokens) <= max(tokens) < self._tokenizer.vocabulary:
            bad = next(token for token in tokens if not 0 <= token < self._tokenizer.vocabulary)
            _refuse(field, f"names token {bad}", f"send token ids from 0 to {self._tokenizer.vocabulary - 1}")

    def _sampling(self, wishes: SamplingWishes, prompts: Sequence[Prompt], request: RequestId) -> SamplingParams:
        defaults = self._tokenizer.defaults
        self._check_ids("logit_bias", [token for token, _ in wishes.logit_bias])
        self._check_ids("stop_token_ids", wishes.stop_token_ids)
        seed = _seed_of(request) if wishes.seed is None else wishes.seed
        if not SEED_MIN <= seed < 2**64:
            _refuse("seed", f"is {seed}", "send a 64-bit integer")
        return SamplingParams(
            max_tokens=self._max_tokens(wishes.max_tokens, prompts),
            min_tokens=wishes.min_tokens,
            temperature=_or(wishes.temperature, defaults.temperature),
            top_k=_or(wishes.top_k, defaults.top_k),
            top_p=_or(wishes.top_p, defaults.top_p),
            min_p=_or(wishes.min_p, defaults.min_p),
            repetition_penalty=_or(wishes.repetition_penalty, defaults.repetition_penalty),
            presence_penalty=wishes.presence_penalty,
            frequency_penalty=wishes.frequency_penalty,
            logit_bias=wishes.logit_bias,
            seed=seed % 2**64,
            stop_token_ids=wishes.stop_token_ids,
            ignore_eos=wishes.ignore_eos,
            top_logprobs=wishes.top_logprobs,
        )

    def _max_tokens(self, wish: int | None, prompts: Sequence[Prompt]) -> int:
        """The wish if it fits behind the longest prompt; all that fits when there is no wish."""
        workers = self._fleet.sequence_tokens_max
        limit = self._tokenizer.context_tokens if workers is None else min(workers, self._tokenizer.context_tokens)
        longest = max(len(prompt.tokens) for prompt in prompts)
        room = limit - longest
        if room < 1:
            _refuse("prompt", f"is {longest} tokens long", f"send at most {limit - 1}; output needs room too")
        if wish is not None and wish > room:
            problem = f"is {wish} after a prompt of {longest} tokens"
            _refuse("max_tokens", problem, f"send at most {room}: the model holds {limit} tokens in all")
        return room if wish is None else wish


def _hurried(slo: SloClass, timeout_s: float | None) -> SloClass:
    """A first token predicted after the client's own deadline is not waited for: the request is refused at once."""
    if timeout_s is None or timeout_s >= slo.give_up_s:
        return slo
    return replace(slo, give_up_s=timeout_s)


def pictures_of(wishes: Wishes) -> list[PictureSource | RememberedPicture]:
    """The pictures of a request, in the order of their places in its prompt."""
    chats = [prompt for prompt in wishes.prompts if isinstance(prompt, Conversation)]
    parts = [part for chat in chats for message in chat.messages for part in message.parts]
    return [part for part in parts if not isinstance(part, TextPart)] if chats else list(wishes.pictures)


def _spoken(message: ChatMessage, mark: str | None, template: ChatTemplate) -> Mapping[str, object]:
    """A message as the template takes it: parts where it knows them, otherwise text with `mark` for each picture."""
    if mark is not None and template.takes_parts:
        parts = [
            {"type": "text", "text": part.text} if isinstance(part, TextPart) else {"type": "image"}
            for part in message.parts
        ]
        return {"role": message.role, "content": parts}
    texts = [part.text if isinstance(part, TextPart) else mark or "" for part in message.parts]
    return {"role": message.role, "content": "".join(texts)}


def _seed_of(request: RequestId) -> int:
    """Every router draws the same for a request, so that one can repeat what another began."""
    return int.from_bytes(hashlib.blake2b(request.encode(), digest_size=8).digest())


def _or(wish: T | None, default: T) -> T:
    return default if wish is None else wish


def _refuse(field: str, problem: str, remedy: str) -> NoReturn:
    raise InvalidRequestError(field=field, problem=problem, remedy=remedy)
