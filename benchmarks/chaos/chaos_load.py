"""The clients of a chaos run: requests by the `openai` client, streamed, resumed at another router, checked.

A stream that breaks, or ends in an error that may be tried again, is resumed with the id of its last
event. Every answer must be, to the last character, what an undisturbed platform gave, each token
announced once and in order. Next: `chaos_faults.py`, what they suffer.
"""

import asyncio
import collections
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2
import openai

MODEL: Final = "chaos"
BODIES: Final = 40
ANSWER_S_MAX: Final = 180.0
PAUSE_S: Final = 0.2
RETRYABLE: Final = (502, 503, 504, 429)


class Retry(Exception):  # noqa: N818 - not an error: the stream goes on elsewhere
    """The stream broke, or ended in an error that says: come again."""


@dataclass(slots=True)
class Answer:
    """What a client has of one request."""

    texts: dict[int, str] = field(default_factory=dict)
    finishes: dict[int, list[str]] = field(default_factory=dict)
    counts: tuple[int, ...] = ()
    last_id: str = ""
    completion_tokens: int = 0
    is_done: bool = False
    retries: int = 0
    why: str = ""  # the latest retry
    problems: list[str] = field(default_factory=list)

    def whole(self) -> tuple[object, ...]:
        """All that must be as in the undisturbed answer."""
        return sorted(self.texts.items()), sorted(self.finishes.items()), self.counts, self.completion_tokens


def body_of(number: int) -> dict[str, Any]:
    """One of BODIES different requests: short and long, greedy and sampled, some with several choices."""
    rng = random.Random(number % BODIES)
    settings: dict[str, Any] = {"temperature": 0.0}
    extra: dict[str, Any] = {"ignore_eos": True}
    if number % 2:
        settings = {"temperature": 0.9, "top_p": 0.95, "seed": number % BODIES, "presence_penalty": 0.5}
        extra["repetition_penalty"] = 1.1
    return {
        "model": MODEL,
        "prompt": [rng.randrange(10, 600) for _ in range(rng.randrange(5, 400))],
        "max_tokens": rng.randrange(20, 120),
        "n": 2 if number % 5 == 0 else 1,
        "stream": True,
        "stream_options": {"include_usage": True},
        "extra_body": extra,
        **settings,
    }


async def ask(clients: Sequence[openai.AsyncOpenAI], number: int, *, tenant: str) -> Answer:
    """One request to its end, at whichever router is there. `tenant` keeps prefix caches apart."""
    answer = Answer()
    deadline_s = time.monotonic() + ANSWER_S_MAX
    while not answer.is_done:
        client = clients[(number + answer.retries) % len(clients)]
        headers = {"x-sluice-tenant": tenant}
        if answer.last_id:
            headers["Last-Event-ID"] = answer.last_id
        try:
            await read(client, {**body_of(number), "extra_headers": headers}, answer)
        except openai.APIStatusError as error:
            if error.status_code not in RETRYABLE:
                answer.problems.append(f"refused: {error}")
                return answer
            answer.why = str(error)
        except (openai.APIConnectionError, httpx2.HTTPError, Retry) as error:
            answer.why = repr(error)
        if not answer.is_done:
            answer.retries += 1
            if time.monotonic() > deadline_s:
                answer.problems.append(f"not answered within {ANSWER_S_MAX:.0f} s")
                return answer
            await asyncio.sleep(PAUSE_S)
    return answer


async def read(client: openai.AsyncOpenAI, body: dict[str, Any], answer: Answer) -> None:
    """Events up to the end of the stream; one counts when its blank line has come."""
    event_id, data = "", ""
    async with client.completions.with_streaming_response.create(**body) as reply:
        async for line in reply.iter_lines():
            if line.startswith("id: "):
                event_id = line[4:].strip()
            elif line.startswith("data: "):
                data = line[6:].strip()
            elif data:
                take(data, event_id, answer)
                event_id, data = "", ""


def take(data: str, event_id: str, answer: Answer) -> None:
    """Add one event. Raises Retry if it is an error."""
    if data == "[DONE]":
        answer.is_done = True
        return
    chunk = json.loads(data)
    if "error" in chunk:
        raise Retry(str(chunk["error"]))
    if chunk.get("usage"):
        answer.completion_tokens = chunk["usage"]["completion_tokens"]
    for choice in chunk["choices"]:
        answer.texts[choice["index"]] = answer.texts.get(choice["index"], "") + choice["text"]
        if choice["finish_reason"]:
            answer.finishes.setdefault(choice["index"], []).append(choice["finish_reason"])
    if event_id:
        counts = tuple(int(count) for count in event_id.rpartition("/")[2].split("."))
        if answer.counts and any(new < old for new, old in zip(counts, answer.counts, strict=True)):
            answer.problems.append(f"tokens counted back from {answer.counts} to {counts}")
        answer.counts, answer.last_id = counts, event_id


def clients_of(urls: Sequence[str]) -> list[openai.AsyncOpenAI]:
    """One client for each router."""
    timeout = openai.Timeout(60.0, connect=10.0)
    return [openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=timeout) for url in urls]


async def references(urls: Sequence[str]) -> list[Answer]:
    """What an undisturbed platform answers to every body."""
    clients = clients_of(urls)
    limit = asyncio.Semaphore(8)

    async def one(number: int) -> Answer:
        async with limit:
            answer = await ask(clients, number, tenant="reference")
        assert not answer.problems, answer.problems
        assert not answer.retries, f"nothing may go wrong yet: {answer.why}"
        return answer

    return list(await asyncio.gather(*(one(number) for number in range(BODIES))))


async def load(
    urls: Sequence[str], expected: Sequence[Answer], *, requests: int, connections: int, on_answer: Callable[[], None]
) -> tuple[list[str], int]:
    """All requests, `connections` at a time; what was wrong with their answers, and how many were resumed."""
    clients = clients_of(urls)
    numbers = collections.deque(range(requests))
    wrong: list[str] = []
    resumed = 0

    async def one_client() -> None:
        nonlocal resumed
        while numbers:
            number = numbers.popleft()
            answer = await ask(clients, number, tenant=f"t{number // 3}")  # some find a prefix cached
            resumed += answer.retries > 0
            wrong.extend(f"request {number}: {problem}" for problem in answer.problems)
            if not answer.problems and answer.whole() != expected[number % BODIES].whole():
                wrong.append(f"request {number}: {answer.whole()} instead of {expected[number % BODIES].whole()}")
            on_answer()

    await asyncio.gather(*(one_client() for _ in range(connections)))
    return wrong, resumed
