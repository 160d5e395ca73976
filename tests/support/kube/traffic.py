"""Keeps many streams running against one address and checks every answer, token for token, against the undisturbed one.

Clients behave as the API reference says: a stream that breaks is asked for again with the last event id. That is
counted, since only a lost router may make it necessary. Never disturbs anything itself. Next: `sse_client.py`.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from sse_client import Answer, read_events

ATTEMPTS_MAX = 60
RETRY_S = 0.25
REQUEST_S_MAX = 300.0
STREAMS = 56  # at least 50 in flight at any time, with room for those that have just ended
STREAM_TOKENS = 60
RESULTS = Path("e2e-results.jsonl")
Body = dict[str, Any]


@dataclass
class Report:
    """What became of the requests of one run."""

    completed: int = 0
    tokens: int = 0
    resumed: int = 0  # streams asked for again with the last event id
    refusals: Counter[str] = field(default_factory=Counter)  # answers 503 and 429 by what they said, tried again
    connections_failed: int = 0  # before any event had come
    wrong: list[str] = field(default_factory=list)
    pause_s_max: float = 0.0  # longest silence within a stream
    pause_at_s: float = 0.0  # when it ended, from the first request on
    started_s: float = field(default_factory=time.monotonic)
    in_flight: int = 0  # streams that had brought a token when the disturbance began
    seconds: float = 0.0  # from the first request to the last answer

    @property
    def is_undisturbed(self) -> bool:
        """Whether no client had to ask for anything twice, and every answer was right."""
        return not (self.wrong or self.resumed or self.refusals or self.connections_failed)

    def line(self) -> str:
        """One line for a person."""
        return (
            f"{self.in_flight} in flight, {self.completed} requests, {self.tokens} tokens in {self.seconds:.0f} s, "
            f"{len(self.wrong)} wrong, {self.resumed} resumed, "
            f"{self.refusals.total()} refused, {self.connections_failed} connections failed, "
            f"longest pause {self.pause_s_max:.2f} s at {self.pause_at_s:.0f} s"
        )


def bodies(model: str, *, count: int, tokens: int) -> list[Body]:
    """Different requests, half of them sampled; each runs to its last token."""
    made = []
    for number in range(count):
        prompt = [5 + ((number * 31 + i) * 7919) % 1500 for i in range(20 + 13 * (number % 11))]
        sampled: Body = {"temperature": 0.8, "seed": number} if number % 2 else {"temperature": 0}
        usage = {"stream": True, "stream_options": {"include_usage": True}}
        made.append({"model": model, "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, **usage, **sampled})
    return made


class Traffic:
    """Streams that run side by side until told to stop; each client starts its next request when one has ended."""

    def __init__(self, url: str, requests: Sequence[Body], expected: Sequence[str]) -> None:
        self.report = Report()
        self._url = url
        self._requests = requests
        self._expected = expected
        self._running: dict[int, _Client] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    def start(self) -> None:
        """One client for every request of the list."""
        self.report.started_s = time.monotonic()
        for number in range(len(self._requests)):
            self._tasks.append(asyncio.create_task(self._repeat(number), name=f"client {number}"))

    @property
    def in_flight(self) -> int:
        """Streams that have brought a token and not ended."""
        return sum(1 for client in self._running.values() if client.answer.texts and not client.answer.is_done)

    async def wait_in_flight(self, count: int, *, deadline_s: float = 60.0) -> None:
        """Return when so many streams bring tokens at once. Raises TimeoutError."""
        async with asyncio.timeout(deadline_s):
            while self.in_flight < count:
                self._raise_failure()
                await asyncio.sleep(0.02)
        self.report.in_flight = self.in_flight

    async def wait_completed(self, more: int, *, deadline_s: float = 300.0) -> None:
        """Return when so many further requests have ended. Raises TimeoutError."""
        wanted = self.report.completed + more
        async with asyncio.timeout(deadline_s):
            while self.report.completed < wanted:
                self._raise_failure()
                await asyncio.sleep(0.05)

    async def finish(self) -> Report:
        """Start no more requests; what runs ends. Raises what ended a client."""
        self._stopping = True
        try:
            await asyncio.gather(*self._tasks)
        finally:
            await self.abandon()
        self.report.seconds = time.monotonic() - self.report.started_s
        return self.report

    async def abandon(self) -> None:
        """Drop every stream."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _raise_failure(self) -> None:
        for task in self._tasks:
            if task.done() and not self._stopping:
                task.result()

    async def _repeat(self, number: int) -> None:
        turn = number
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
        async with aiohttp.ClientSession(timeout=timeout) as http:
            while not self._stopping:
                choice = turn % len(self._requests)
                client = _Client(http, self._url, self._requests[choice], self.report)
                self._running[number] = client
                async with asyncio.timeout(REQUEST_S_MAX):
                    text = await client.run()
                if text != self._expected[choice]:
                    self.report.wrong.append(_difference(choice, text, self._expected[choice]))
                turn += 1


class _Client:
    """One request, asked until its stream is whole."""

    def __init__(self, http: aiohttp.ClientSession, url: str, body: Body, report: Report) -> None:
        self.answer = Answer()
        self._http = http
        self._url = url
        self._body = body
        self._report = report

    async def run(self) -> str:
        watch = asyncio.create_task(self._watch_pauses())
        try:
            for attempt in range(ATTEMPTS_MAX):
                if attempt:
                    await asyncio.sleep(RETRY_S)
                await self._ask()
                if self.answer.is_done:
                    self._report.completed += 1
                    self._report.tokens += self.answer.completion_tokens
                    return self.answer.texts.get(0, "")
        finally:
            watch.cancel()
        raise AssertionError(f"not done after {ATTEMPTS_MAX} attempts")

    async def _ask(self) -> None:
        headers = {"Last-Event-ID": self.answer.last_id} if self.answer.last_id else {}
        try:
            async with self._http.post(f"{self._url}/v1/completions", json=self._body, headers=headers) as reply:
                if reply.status in {429, 503}:
                    said = (await reply.json())["error"]["message"]
                    self._report.refusals[f"{reply.status} {said[:60]}"] += 1
                    return
                assert reply.status == 200, await reply.text()
                self._report.resumed += bool(self.answer.last_id)
                await read_events(reply, self.answer)
        except (aiohttp.ClientError, TimeoutError):
            self._report.connections_failed += not self.answer.last_id

    async def _watch_pauses(self) -> None:
        seen, since_s = "", time.monotonic()
        while True:
            await asyncio.sleep(0.05)
            now_s = time.monotonic()
            if self.answer.last_id != seen:
                seen, since_s = self.answer.last_id, now_s
            elif seen and now_s - since_s > self._report.pause_s_max:
                self._report.pause_s_max = now_s - since_s
                self._report.pause_at_s = now_s - self._report.started_s


async def undisturbed(url: str, requests: Sequence[Body]) -> list[str]:
    """The answers when nothing happens: what every later run must repeat."""
    report = Report()
    timeout = aiohttp.ClientTimeout(total=REQUEST_S_MAX, sock_connect=5)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        texts = await asyncio.gather(*(_Client(http, url, body, report).run() for body in requests))
    assert report.is_undisturbed, f"{report.line()}; {dict(report.refusals)}"
    return list(texts)


def record(name: str, report: Report) -> None:
    """Keep the figures for docs/kubernetes.md, and show them."""
    print(f"\n{name}: {report.line()}")
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"disruption": name, "report": report.line(), "refusals": report.refusals}) + "\n")


def _difference(number: int, text: str, expected: str) -> str:
    pairs = enumerate(zip(text, expected, strict=False))
    same = next((i for i, (a, b) in pairs if a != b), min(len(text), len(expected)))
    end = same + 40
    return f"request {number}: character {same} of {len(expected)}: {text[same:end]!r}, not {expected[same:end]!r}"
