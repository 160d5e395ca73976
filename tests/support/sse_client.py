"""A small client that knows what to do when a router dies: send the same body to the next one, with the last id."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp
import orjson

RETRIES_MAX = 50


@dataclass
class Answer:
    """What came of one streamed completion."""

    texts: dict[int, str] = field(default_factory=dict)
    finishes: dict[int, list[str]] = field(default_factory=dict)
    last_id: str = ""
    resumed: int = 0
    completion_tokens: int = 0
    is_done: bool = False


async def stream_completion(urls: Sequence[str], body: dict[str, object], answer: Answer, *, first: int = 0) -> Answer:
    """Read a stream to its end, at whichever router is there. `answer` fills while it runs."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as http:
        for attempt in range(RETRIES_MAX):
            headers = {"Last-Event-ID": answer.last_id} if answer.last_id else {}
            url = urls[(first + attempt) % len(urls)]
            try:
                async with http.post(f"{url}/v1/completions", json=body, headers=headers) as reply:
                    assert reply.status in {200, 503}, await reply.text()
                    if reply.status == 200:
                        answer.resumed += bool(answer.last_id)
                        await read_events(reply, answer)
            except aiohttp.ClientError:
                pass
            if answer.is_done:
                return answer
    raise AssertionError(f"not done after {RETRIES_MAX} attempts")


async def read_events(reply: aiohttp.ClientResponse, answer: Answer) -> None:
    """Events to the end of the stream, or to where it breaks. An event counts when its blank line has come."""
    event_id, data = "", b""
    async for line in reply.content:
        if line.startswith(b"id: "):
            event_id = line[4:].strip().decode()
        elif line.startswith(b"data: "):
            data = line[6:].strip()
        elif data:
            take_event(data, answer)
            answer.last_id = event_id or answer.last_id
            event_id, data = "", b""


def take_event(data: bytes, answer: Answer) -> None:
    if data == b"[DONE]":
        answer.is_done = True
        return
    chunk = orjson.loads(data)
    if "error" in chunk:
        raise aiohttp.ClientError(chunk["error"])
    if chunk.get("usage"):
        answer.completion_tokens = chunk["usage"]["completion_tokens"]
    for choice in chunk["choices"]:
        answer.texts[choice["index"]] = answer.texts.get(choice["index"], "") + choice["text"]
        if choice["finish_reason"]:
            answer.finishes.setdefault(choice["index"], []).append(choice["finish_reason"])
