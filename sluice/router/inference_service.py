"""The gRPC front for clients: Inference. Same intake, same dispatcher as HTTP.

The call's deadline becomes the request's; a cancelled call releases the request everywhere.
Next: `intake.py`, `dispatcher.py`.
"""

import contextlib
import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Final

import grpc

from sluice.domain.ids import RequestId
from sluice.errors import InvalidRequestError, NoWorkerError, SluiceError
from sluice.router.dispatcher import Dispatcher
from sluice.router.intake import ChatMessage, Conversation, Intake, PromptInput, SamplingWishes, Wishes
from sluice.router.output import Delivery, Piece
from sluice.router.picture_source import ContentPart, RawPicture, RememberedPicture, TextPart
from sluice.wire import status
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc

REQUEST_ID_CHARS_MAX: Final = 128

_log = logging.getLogger(__name__)


class InferenceService(sluice_pb2_grpc.InferenceServicer):
    """The service clients call."""

    def __init__(self, intake: Intake, dispatcher: Dispatcher) -> None:
        self._intake = intake
        self._dispatcher = dispatcher

    async def Generate(  # noqa: N802 - gRPC's name
        self, message: pb.GenerateRequest, context: grpc.aio.ServicerContext[pb.GenerateRequest, pb.GenerateEvent]
    ) -> AsyncIterator[pb.GenerateEvent]:
        """Stream a request's output: one event per choice and wake-up, the last one with usage."""
        try:
            # Closed at once when the call ends, not when the garbage collector comes by.
            with contextlib.ExitStack() as held:
                stream = self._events(message, held, timeout_s=context.time_remaining())
                async with contextlib.aclosing(stream) as events:
                    async for event in events:
                        yield event
        except SluiceError as error:
            await context.abort(status.status_of(error), str(error))
        except Exception:  # noqa: BLE001 - the gRPC edge answers whatever happens
            _log.exception("Generate failed")
            await context.abort(grpc.StatusCode.INTERNAL, "an internal error; see the router's log")

    async def ListModels(  # noqa: N802 - gRPC's name
        self, _: pb.ListModelsRequest, __: grpc.aio.ServicerContext[pb.ListModelsRequest, pb.ListModelsReply]
    ) -> pb.ListModelsReply:
        """The models served here."""
        return pb.ListModelsReply(models=[self._intake.model])

    async def _events(
        self, message: pb.GenerateRequest, held: contextlib.ExitStack, *, timeout_s: float | None
    ) -> AsyncGenerator[pb.GenerateEvent, None]:
        with self._dispatcher.observer.refusals():
            if self._dispatcher.door.is_leaving:  # a channel outlives its calls: only a refusal makes it look elsewhere
                raise NoWorkerError("the router is stopping; try again, or another router")
            job = await self._intake.job(_wishes(message, timeout_s=timeout_s), held)
            copies = await self._dispatcher.copies_of(job)
            request = self._dispatcher.submit(job, Delivery.EACH_STEP, copies)
        completion_tokens, open_choices = sum(job.next_index), job.choices
        try:
            while pieces := await request.outbox.take():
                for piece in pieces:
                    event = _event(piece, job.request)
                    completion_tokens += len(piece.tokens)
                    open_choices -= piece.finish is not None
                    if open_choices == 0 and piece is pieces[-1]:
                        event.usage.prompt_tokens = job.prompt_tokens
                        event.usage.completion_tokens = completion_tokens
                    yield event
            if open_choices:  # the client of a resumed request had the end of those already
                usage = pb.Usage(prompt_tokens=job.prompt_tokens, completion_tokens=completion_tokens)
                yield pb.GenerateEvent(request_id=job.request, usage=usage)
        finally:
            self._dispatcher.release(request)


def _wishes(message: pb.GenerateRequest, *, timeout_s: float | None) -> Wishes:
    if len(message.request_id) > REQUEST_ID_CHARS_MAX:
        remedy = f"send at most {REQUEST_ID_CHARS_MAX} characters"
        raise InvalidRequestError(field="request_id", problem="is too long", remedy=remedy)
    n = message.n or 1
    request = message.request_id or f"gen-{secrets.token_hex(12)}"
    next_index: tuple[int, ...] = ()
    if message.HasField("resume"):
        request, next_index = message.resume.request_id, _next_index(message.resume, n)
    return Wishes(
        request=RequestId(request),
        model=message.model,
        prompts=(_prompt(message),),
        sampling=_sampling(message.sampling),
        pictures=() if message.HasField("chat") else _pictures(message),
        n=n,
        stops=tuple(message.stop),
        timeout_s=timeout_s,
        tenant=message.tenant,
        service_tier=message.service_tier,
        next_index=next_index,
    )


def _next_index(resume: pb.Resume, choices: int) -> tuple[int, ...]:
    """How many tokens of each choice the client has. Raises InvalidRequestError."""
    if not resume.request_id or len(resume.request_id) > REQUEST_ID_CHARS_MAX:
        remedy = "send the id of the request whose stream broke"
        raise InvalidRequestError(field="resume.request_id", problem="is empty or too long", remedy=remedy)
    if wrong := [choice for choice in resume.next_index if choice >= choices]:
        remedy = "send the very same request again"
        raise InvalidRequestError(field="resume.next_index", problem=f"names choice {wrong[0]}", remedy=remedy)
    return tuple(resume.next_index.get(choice, 0) for choice in range(choices))


def _prompt(message: pb.GenerateRequest) -> PromptInput:
    match message.WhichOneof("input"):
        case "prompt":
            return message.prompt
        case "prompt_tokens":
            return tuple(message.prompt_tokens.ids)
        case "chat":
            pictures = iter(_pictures(message))
            chat = Conversation(tuple(_chat_message(said, pictures) for said in message.chat.messages))
            if (left := next(pictures, None)) is not None:
                remedy = "put a picture part where it goes, or leave it out"
                raise InvalidRequestError(field=left.field, problem="has no place in the chat", remedy=remedy)
            return chat
        case _:
            remedy = "set one of prompt, prompt_tokens, chat"
            raise InvalidRequestError(field="input", problem="is missing", remedy=remedy)


def _pictures(message: pb.GenerateRequest) -> tuple[RawPicture | RememberedPicture, ...]:
    return tuple(_picture(picture, f"pictures[{at}]") for at, picture in enumerate(message.pictures))


def _picture(picture: pb.Picture, field: str) -> RawPicture | RememberedPicture:
    if picture.HasField("reference"):
        return RememberedPicture(field=field, name=picture.reference)
    return RawPicture(field=field, data=picture.data)


def _chat_message(said: pb.ChatMessage, pictures: Iterator[RawPicture | RememberedPicture]) -> ChatMessage:
    """A message whose picture parts take the request's pictures in order. Raises InvalidRequestError."""
    if not said.parts:
        return ChatMessage(said.role, (TextPart(said.content),))
    parts: list[ContentPart] = []
    for part in said.parts:
        if not part.picture:
            parts.append(TextPart(part.text))
            continue
        picture = next(pictures, None)
        if picture is None:
            remedy = "send one of `pictures` for every picture part"
            raise InvalidRequestError(field="pictures", problem="are fewer than the parts", remedy=remedy)
        parts.append(picture)
    return ChatMessage(said.role, tuple(parts))


def _sampling(message: pb.SamplingParams) -> SamplingWishes:
    return SamplingWishes(
        max_tokens=message.max_tokens or None,
        min_tokens=message.min_tokens,
        temperature=message.temperature if message.HasField("temperature") else None,
        top_k=message.top_k or None,
        top_p=message.top_p if message.HasField("top_p") else None,
        min_p=message.min_p or None,
        repetition_penalty=message.repetition_penalty if message.HasField("repetition_penalty") else None,
        presence_penalty=message.presence_penalty,
        frequency_penalty=message.frequency_penalty,
        logit_bias=tuple(sorted(message.logit_bias.items())),
        seed=message.seed if message.HasField("seed") else None,
        stop_token_ids=tuple(message.stop_token_ids),
        ignore_eos=message.ignore_eos,
        top_logprobs=message.top_logprobs if message.HasField("top_logprobs") else None,
    )


def _event(piece: Piece, request: RequestId) -> pb.GenerateEvent:
    logprobs = [
        pb.TokenLogprobs(
            token=entry.token,
            logprob=entry.logprob,
            top_tokens=[token for token, _ in entry.top],
            top_logprobs=[logprob for _, logprob in entry.top],
        )
        for entry in piece.logprobs
    ]
    return pb.GenerateEvent(
        request_id=request,
        choice=piece.choice,
        text=piece.text,
        tokens=piece.tokens,
        first_index=piece.first_index,
        logprobs=logprobs,
        finish_reason="" if piece.finish is None else piece.finish.value,
    )
