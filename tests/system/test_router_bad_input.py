"""Every bad request gets its status, names the field, and leaves the router serving."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from sluice.domain.role import Role
from sluice.testing.fake_fleet import FakeFleet, running_fleet
from sluice.testing.tiny_tokenizer import make_model_directory

COMPLETION = {"model": "fake", "prompt": "hello", "max_tokens": 2}
CHAT = {"model": "fake", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_directory(tmp_path_factory.mktemp("model"))


@pytest.fixture
async def fleet(model: Path) -> AsyncIterator[FakeFleet]:
    async with running_fleet(model, roles=(Role.MIXED,), body_bytes_max=100_000) as running:
        yield running
        await running.wait_until(lambda: running.is_idle)


@pytest.fixture
async def http(fleet: FakeFleet) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(base_url=fleet.url) as session:
        yield session


async def post(http: aiohttp.ClientSession, path: str, body: bytes | dict[str, Any]) -> tuple[int, dict[str, Any]]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with http.post(path, data=data, headers={"Content-Type": "application/json"}) as answer:
        error = orjson.loads(await answer.read())["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return answer.status, error


BAD_FIELDS: list[tuple[str, dict[str, Any], int, str, str]] = [
    ("completions", {"model": "gpt-9"}, 404, "model", "use one of: fake"),
    ("completions", {"model": 7}, 400, "model", "is not a string"),
    ("completions", {"prompt": ""}, 400, "prompt", "is empty"),
    ("completions", {"prompt": []}, 400, "prompt", "is an empty list"),
    ("completions", {"prompt": [""]}, 400, "prompt", "is empty"),
    ("completions", {"prompt": [[]]}, 400, "prompt", "is empty"),
    ("completions", {"prompt": {"text": "x"}}, 400, "prompt", "neither text nor a list"),
    ("completions", {"prompt": ["a", 1]}, 400, "prompt", "mixes kinds"),
    ("completions", {"prompt": [1.5]}, 400, "prompt", "mixes kinds"),
    ("completions", {"prompt": [True]}, 400, "prompt", "mixes kinds"),
    ("completions", {"prompt": [1, 999_999]}, 400, "prompt", "names token 999999"),
    ("completions", {"prompt": [-1]}, 400, "prompt", "names token -1"),
    ("completions", {"prompt": ["x"] * 65}, 400, "prompt", "send at most 64"),
    ("completions", {"prompt": "zebra " * 9000}, 400, "prompt", "tokens long"),
    ("completions", {"max_tokens": 0}, 400, "max_tokens", "is 0"),
    ("completions", {"max_tokens": -5}, 400, "max_tokens", "is -5"),
    ("completions", {"max_tokens": 100_000}, 400, "max_tokens", "holds 8192 tokens in all"),
    ("completions", {"max_tokens": 1.5}, 400, "max_tokens", "is not an integer"),
    ("completions", {"max_tokens": True}, 400, "max_tokens", "is not an integer"),
    ("completions", {"max_tokens": "5"}, 400, "max_tokens", "is not an integer"),
    ("completions", {"temperature": -1}, 400, "temperature", "from 0 to 100"),
    ("completions", {"temperature": "hot"}, 400, "temperature", "is not a number"),
    ("completions", {"top_p": 0}, 400, "top_p", "above 0"),
    ("completions", {"top_p": 1.1}, 400, "top_p", "from 0 to 1"),
    ("completions", {"top_k": -1}, 400, "top_k", "is -1"),
    ("completions", {"min_p": 2}, 400, "min_p", "from 0 to 1"),
    ("completions", {"repetition_penalty": 0}, 400, "repetition_penalty", "is 0"),
    ("completions", {"presence_penalty": 3}, 400, "presence_penalty", "from -2 to 2"),
    ("completions", {"min_tokens": 9}, 400, "min_tokens", "from 0 to 2"),
    ("completions", {"n": 0}, 400, "n", "from 1 to 16"),
    ("completions", {"n": 17}, 400, "n", "from 1 to 16"),
    ("completions", {"best_of": 5}, 400, "best_of", "is 5"),
    ("completions", {"suffix": "x"}, 400, "suffix", "is not supported"),
    ("completions", {"logprobs": 21}, 400, "logprobs", "from 0 to 20"),
    ("completions", {"logprobs": 1, "echo": True}, 400, "logprobs", "echo"),
    ("completions", {"stop": 5}, 400, "stop", "neither a string"),
    ("completions", {"stop": ["ok", ""]}, 400, "stop", "0 characters"),
    ("completions", {"stop": ["x"] * 17}, 400, "stop", "send at most 16"),
    ("completions", {"seed": 2**65}, 400, "seed", "integer"),
    ("completions", {"seed": 2**63, "n": None, "stream": "yes"}, 400, "stream", "is not true or false"),
    ("completions", {"logit_bias": {"x": 1}}, 400, "logit_bias", "key 'x'"),
    ("completions", {"logit_bias": {"999999": 1}}, 400, "logit_bias", "names token 999999"),
    ("completions", {"logit_bias": {"5": 101}}, 400, "logit_bias", "from -100 to 100"),
    ("completions", {"logit_bias": [1]}, 400, "logit_bias", "is not an object"),
    ("completions", {"stop_token_ids": [999_999]}, 400, "stop_token_ids", "names token 999999"),
    ("completions", {"stream_options": {"include_usage": True}}, 400, "stream_options", "without stream"),
    ("completions", {"stream": True, "stream_options": {"x": 1}}, 400, "stream_options.x", "remove it"),
    ("completions", {"temprature": 1}, 400, "temprature", "remove it"),
    ("chat/completions", {"messages": []}, 400, "messages", "empty list"),
    ("chat/completions", {"messages": "hi"}, 400, "messages", "is not a list"),
    ("chat/completions", {"messages": [{"content": "x"}]}, 400, "messages[0].role", "is missing"),
    ("chat/completions", {"messages": [{"role": "user"}]}, 400, "messages[0].content", "is missing"),
    ("chat/completions", {"messages": [{"role": "pirate", "content": "x"}]}, 400, "messages", "unknown role pirate"),
    (
        "chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        400,
        "messages[0].content[0].image_url.url",
        "send data:image/png;base64",
    ),
    (
        "chat/completions",
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}]}
            ]
        },
        400,
        "messages[0].content[0].image_url.url",
        "this model reads text alone",
    ),
    (
        "chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
        400,
        "messages[0].content[0].type",
        "send text or image_url",
    ),
    (
        "chat/completions",
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]},
        400,
        "messages[0].tool_calls",
        "is not supported",
    ),
    ("chat/completions", {"tools": [{"type": "function"}]}, 400, "tools", "not supported"),
    ("chat/completions", {"tool_choice": "required"}, 400, "tool_choice", "needs tools"),
    ("chat/completions", {"response_format": {"type": "json_object"}}, 400, "response_format", "text"),
    ("chat/completions", {"modalities": ["audio"]}, 400, "modalities", "text"),
    ("chat/completions", {"top_logprobs": 2}, 400, "top_logprobs", "without logprobs"),
    ("chat/completions", {"prompt": "x"}, 400, "prompt", "remove it"),
]


async def test_every_bad_field_is_named_with_a_remedy(http: aiohttp.ClientSession) -> None:
    for path, change, status, field, says in BAD_FIELDS:
        whole = {**(COMPLETION if path == "completions" else CHAT), **change}
        got_status, error = await post(http, f"/v1/{path}", whole)
        assert (got_status, error["param"]) == (status, field), f"{change}: {error}"
        assert says in error["message"], f"{change}: {error}"
        assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "is not valid JSON"),
        (b"{", "is not valid JSON"),
        (b"[1]", "is a JSON list"),
        (b"null", "is a JSON NoneType"),
        (b'{"model": "fake", "prompt": "x", "temperature": NaN}', "NaN and Infinity are not JSON"),
        (b'{"model": "fake", "prompt": "x", "temperature": 1e999}', "is not valid JSON"),
        (b'{"model": "fake", "prompt": "\xff"}', "is not valid JSON"),
        (b'{"model": "fake", "prompt": "\\ud800"}', "is not valid JSON"),
        (b'{"a":' * 5000, "is not valid JSON"),
    ],
    ids=range(9),
)
async def test_a_body_that_is_not_json_is_refused(http: aiohttp.ClientSession, body: bytes, says: str) -> None:
    status, error = await post(http, "/v1/completions", body)
    assert (status, error["param"]) == (400, "body")
    assert says in error["message"]


async def test_missing_fields_are_named(http: aiohttp.ClientSession) -> None:
    status, error = await post(http, "/v1/chat/completions", {"model": "fake"})
    assert (status, error["param"], error["message"]) == (400, "messages", "messages: is missing; send it")


async def test_an_oversize_body_is_refused(http: aiohttp.ClientSession) -> None:
    status, error = await post(http, "/v1/completions", {**COMPLETION, "prompt": "x" * 200_000})
    assert status == 413
    assert "larger than 100000 bytes" in error["message"]


async def test_unknown_paths_and_methods_answer_in_the_same_shape(http: aiohttp.ClientSession) -> None:
    status, error = await post(http, "/v1/embeddings", {})
    assert (status, error["code"]) == (404, "unknown_url")
    async with http.get("/v1/completions") as answer:
        assert answer.status == 405
        assert orjson.loads(await answer.read())["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("header", ["soon", "-1", "nan"])
async def test_a_bad_timeout_header_is_refused(http: aiohttp.ClientSession, header: str) -> None:
    async with http.post("/v1/completions", json=COMPLETION, headers={"x-sluice-timeout-s": header}) as answer:
        assert answer.status == 400


async def test_raw_garbage_on_the_socket_does_no_harm(fleet: FakeFleet, http: aiohttp.ClientSession) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", fleet.router.http_port)
    writer.write(b"\x00\xff GET / nonsense\r\n\r\n")
    await writer.drain()
    assert b"400" in await reader.readline()
    writer.close()
    async with http.post("/v1/completions", json=COMPLETION) as answer:
        assert answer.status == 200


async def test_without_workers_requests_are_told_when_to_come_back(model: Path) -> None:
    async with running_fleet(model, roles=()) as fleet, aiohttp.ClientSession(base_url=fleet.url) as http:
        async with http.post("/v1/completions", json=COMPLETION) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        async with http.get("/readyz") as answer:
            assert answer.status == 503
            assert b"no worker is ready" in await answer.read()
        async with http.get("/healthz") as answer:
            assert answer.status == 200


async def test_a_full_router_answers_429_with_a_time_to_retry(model: Path) -> None:
    async with (
        running_fleet(model, roles=(Role.MIXED,), choices_max=10_000) as fleet,
        aiohttp.ClientSession(base_url=fleet.url) as http,
    ):
        status, error = await post(http, "/v1/completions", {**COMPLETION, "n": 5000})
        assert (status, error["code"]) == (429, "rate_limit_exceeded")
        assert "retry after" in error["message"]


async def test_a_missed_deadline_is_504_and_cancels(fleet: FakeFleet, http: aiohttp.ClientSession) -> None:
    (fake,) = fleet.workers.values()
    fake.is_frozen = True
    async with http.post("/v1/completions", json=COMPLETION, headers={"x-sluice-timeout-s": "0.05"}) as answer:
        assert answer.status == 504
        assert orjson.loads(await answer.read())["error"]["code"] == "deadline_exceeded"
    await fleet.wait_until(lambda: len(fake.cancelled) == 1)
