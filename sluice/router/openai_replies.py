"""Writes answers as OpenAI's clients read them: whole bodies, and server-sent events.

What every event of a choice has in common is encoded once; per event only the text is. No
decisions, no I/O. Next: `http_server.py`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import orjson

from sluice.clock import wall_ns
from sluice.router.event_ids import EventIds
from sluice.router.job import Job
from sluice.router.output import Piece, TokenLogprobs
from sluice.text.tokenizer import Tokenizer

DONE: Final = b"data: [DONE]\n\n"


class Endpoint(Enum):
    """Which of the two shapes an answer has."""

    COMPLETIONS = "text_completion"
    CHAT = "chat.completion"


class UsageEvent(Enum):
    """Whether the stream ends with an event that counts tokens."""

    SEND = "send"
    OMIT = "omit"


@dataclass(slots=True)
class _Choice:
    """What a choice's later events depend on."""

    before_text: bytes
    after_text: bytes
    is_started: bool = False
    text_offset: int = 0  # characters so far, for completions' log-probabilities
    tokens: int = 0


class ReplyWriter:
    """One answer. `echo` is text that precedes every choice of a prompt, by prompt number."""

    def __init__(
        self,
        job: Job,
        endpoint: Endpoint,
        *,
        model: str,
        tokenizer: Tokenizer,
        usage_event: UsageEvent = UsageEvent.OMIT,
        echo: Sequence[str] = (),
    ) -> None:
        self._job = job
        self._endpoint = endpoint
        self._tokenizer = tokenizer
        self._usage_event = usage_event
        self._echo = echo
        self._head: dict[str, Any] = {
            "id": job.request,
            "object": endpoint.value,
            "created": wall_ns() // 1_000_000_000,
            "model": model,
        }
        self._choices: dict[int, _Choice] = {}
        self._ids = EventIds(job.request, [job.first_index(choice) for choice in range(job.choices)])

    def events(self, pieces: Iterable[Piece]) -> bytes:
        """Server-sent events for new output; maybe none yet."""
        return b"".join([self._event(piece) for piece in pieces])

    def last_events(self) -> bytes:
        """What ends the stream."""
        if self._usage_event is UsageEvent.OMIT:
            return DONE
        return _sse({**self._stream_head(), "choices": [], "usage": self._usage()}) + DONE

    def body(self, pieces: Iterable[Piece]) -> bytes:
        """The whole answer at once."""
        choices = [self._whole_choice(piece) for piece in sorted(pieces, key=lambda piece: piece.choice)]
        return orjson.dumps({**self._head, "choices": choices, "usage": self._usage()})

    # ------------------------------------------------------------ streaming

    def _event(self, piece: Piece) -> bytes:
        state = self._choices.get(piece.choice)
        if state is None:
            state = self._choices[piece.choice] = self._open(piece.choice)
        state.tokens += len(piece.tokens)
        event_id = self._ids.line(piece.choice, state.tokens)
        text, started = piece.text, b""
        if not state.is_started:
            state.is_started = True
            text, started = self._echo_of(piece.choice) + text, self._start(piece.choice)
        if piece.finish is None and not piece.logprobs:
            if not text:
                return started
            return started + event_id + state.before_text + orjson.dumps(text) + state.after_text
        logprobs = self._logprobs(piece, state)
        finish = None if piece.finish is None else piece.finish.value
        return started + event_id + _sse(self._chunk(piece.choice, text, logprobs=logprobs, finish=finish))

    def _open(self, choice: int) -> _Choice:
        """Encode a sample event and cut it at its text."""
        mark = "\N{OBJECT REPLACEMENT CHARACTER}cut here"
        before, after = _sse(self._chunk(choice, mark, logprobs=None, finish=None)).split(orjson.dumps(mark))
        have = self._job.first_index(choice)
        return _Choice(before, after, is_started=have > 0, tokens=have)

    def _start(self, choice: int) -> bytes:
        if self._endpoint is Endpoint.COMPLETIONS:
            return b""
        delta = {"role": "assistant", "content": ""}
        return _sse(self._wrap({"index": choice, "delta": delta, "logprobs": None, "finish_reason": None}))

    def _chunk(self, choice: int, text: str, *, logprobs: object, finish: str | None) -> dict[str, Any]:
        if self._endpoint is Endpoint.COMPLETIONS:
            return self._wrap({"index": choice, "text": text, "logprobs": logprobs, "finish_reason": finish})
        delta = {"content": text} if text or finish is None else {}
        return self._wrap({"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": finish})

    def _wrap(self, choice: dict[str, Any]) -> dict[str, Any]:
        chunk = {**self._stream_head(), "choices": [choice]}
        if self._usage_event is UsageEvent.SEND:
            chunk["usage"] = None
        return chunk

    def _stream_head(self) -> dict[str, Any]:
        if self._endpoint is Endpoint.COMPLETIONS:
            return self._head
        return {**self._head, "object": "chat.completion.chunk"}

    # ------------------------------------------------------------ whole answers

    def _whole_choice(self, piece: Piece) -> dict[str, Any]:
        state = self._choices[piece.choice] = _Choice(b"", b"", tokens=len(piece.tokens))
        assert piece.finish is not None, "a whole answer has ended"
        tail = {"logprobs": self._logprobs(piece, state), "finish_reason": piece.finish.value}
        if self._endpoint is Endpoint.COMPLETIONS:
            return {"index": piece.choice, "text": self._echo_of(piece.choice) + piece.text, **tail}
        message = {"role": "assistant", "content": piece.text, "refusal": None}
        return {"index": piece.choice, "message": message, **tail}

    def _echo_of(self, choice: int) -> str:
        return self._echo[choice // self._job.n] if self._echo else ""

    def _usage(self) -> dict[str, Any]:
        prompt = self._job.prompt_tokens
        completion = sum(choice.tokens for choice in self._choices.values())
        completion += sum(have for choice, have in enumerate(self._job.next_index) if choice not in self._choices)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    # ------------------------------------------------------------ log-probabilities

    def _logprobs(self, piece: Piece, state: _Choice) -> dict[str, Any] | None:
        if not piece.logprobs:
            return None
        if self._endpoint is Endpoint.CHAT:
            return {"content": [self._chat_logprob(entry) for entry in piece.logprobs], "refusal": None}
        texts, offsets = [self._text(entry.token) for entry in piece.logprobs], []
        for text in texts:
            offsets.append(state.text_offset)
            state.text_offset += len(text)
        return {
            "tokens": texts,
            "token_logprobs": [entry.logprob for entry in piece.logprobs],
            "top_logprobs": [{self._text(token): logprob for token, logprob in entry.top} for entry in piece.logprobs],
            "text_offset": offsets,
        }

    def _chat_logprob(self, entry: TokenLogprobs) -> dict[str, Any]:
        top = [self._chat_token(token, logprob) for token, logprob in entry.top]
        return {**self._chat_token(entry.token, entry.logprob), "top_logprobs": top}

    def _chat_token(self, token: int, logprob: float) -> dict[str, Any]:
        data = self._tokenizer.token_bytes(token)
        return {"token": data.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(data)}

    def _text(self, token: int) -> str:
        return self._tokenizer.token_bytes(token).decode("utf-8", "replace")


def error_event(body: bytes) -> bytes:
    """An error after the stream began: the last event a client sees."""
    return b"data: " + body + b"\n\n"


def model_list(model: str, *, created_s: int, context_tokens: int) -> bytes:
    """GET /v1/models."""
    entry = _model_entry(model, created_s=created_s, context_tokens=context_tokens)
    return orjson.dumps({"object": "list", "data": [entry]})


def one_model(model: str, *, created_s: int, context_tokens: int) -> bytes:
    """GET /v1/models/{model}."""
    return orjson.dumps(_model_entry(model, created_s=created_s, context_tokens=context_tokens))


def _model_entry(model: str, *, created_s: int, context_tokens: int) -> dict[str, Any]:
    return {
        "id": model,
        "object": "model",
        "created": created_s,
        "owned_by": "sluice",
        "max_model_len": context_tokens,
    }


def _sse(chunk: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"
