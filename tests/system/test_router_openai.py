"""OpenAI's own client gets what it expects from a router with fake workers."""

from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest

from sluice.domain.role import Role
from sluice.testing.fake_fleet import FakeFleet, running_fleet
from sluice.testing.tiny_tokenizer import make_model_directory

LONG = "A river finds the sea by many small decisions, and every lock keeper keeps an honest book. " * 8


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_directory(tmp_path_factory.mktemp("model"))


@pytest.fixture(params=[(Role.MIXED,), (Role.PREFILL, Role.DECODE)], ids=["mixed", "split"])
async def fleet(model: Path, request: pytest.FixtureRequest) -> AsyncIterator[FakeFleet]:
    async with running_fleet(model, roles=request.param) as running:
        yield running
        await running.wait_until(lambda: running.is_idle)


@pytest.fixture
async def client(fleet: FakeFleet) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{fleet.url}/v1", api_key="none", max_retries=0) as connected:
        yield connected


async def test_a_completion_repeats_the_prompt_as_the_fake_does(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(model="fake", prompt=LONG, max_tokens=400)
    assert (LONG * 3).startswith(answer.choices[0].text)
    assert len(answer.choices[0].text) > len(LONG)
    assert answer.choices[0].finish_reason == "length"
    assert answer.id.startswith("cmpl-")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 400
    assert answer.usage.total_tokens == 400 + answer.usage.prompt_tokens


async def test_a_streamed_completion_is_the_same_text_in_pieces(client: openai.AsyncOpenAI) -> None:
    stream = await client.completions.create(
        model="fake", prompt=LONG, max_tokens=50, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
    whole = await client.completions.create(model="fake", prompt=LONG, max_tokens=50)
    assert text == whole.choices[0].text
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 50
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-1] == "length"


async def test_a_chat_is_rendered_with_the_models_template(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="fake",
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "The quick "}, {"type": "text", "text": "fox"}]}
        ],
        max_completion_tokens=7,
    )
    message = answer.choices[0].message
    assert (message.role, message.content) == ("assistant", "The quick fox")
    assert answer.id.startswith("chatcmpl-")


async def test_a_streamed_chat_opens_with_the_role_and_closes_with_a_reason(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="fake", messages=[{"role": "user", "content": "The quick fox"}], max_tokens=7, stream=True
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "The quick fox"
    assert chunks[-1].choices[0].finish_reason == "length"
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}


async def test_every_choice_of_every_prompt_is_answered(client: openai.AsyncOpenAI) -> None:
    prompts = ["The quick brown fox", LONG]
    answer = await client.completions.create(model="fake", prompt=prompts, n=3, max_tokens=4)
    assert [choice.index for choice in answer.choices] == list(range(6))
    assert all(choice.text == "The quick brown fox" for choice in answer.choices[:3])
    assert all(LONG.startswith(choice.text) for choice in answer.choices[3:])


async def test_streamed_choices_carry_their_index(client: openai.AsyncOpenAI) -> None:
    stream = await client.completions.create(model="fake", prompt=LONG, n=4, max_tokens=20, stream=True)
    texts = dict.fromkeys(range(4), "")
    async for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert len(set(texts.values())) == 1
    assert LONG.startswith(texts[0])


async def test_stop_strings_end_the_text_and_the_work(fleet: FakeFleet, client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(model="fake", prompt=LONG, max_tokens=3000, stop=["honest book", "zebra"])
    assert answer.choices[0].text == LONG[: LONG.index("honest book")]
    assert answer.choices[0].finish_reason == "stop"
    await fleet.wait_until(lambda: any(fake.cancelled for fake in fleet.workers.values()))


async def test_prompts_may_be_token_ids(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(model="fake", prompt=[300, 301, 302], max_tokens=3, echo=True)
    text = answer.choices[0].text
    assert text[: len(text) // 2] == text[len(text) // 2 :]


async def test_echo_puts_the_prompt_before_the_answer(client: openai.AsyncOpenAI) -> None:
    stream = await client.completions.create(model="fake", prompt="The quick fox", max_tokens=1, echo=True, stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == "The quick foxThe"


async def test_log_probabilities_come_in_both_shapes(client: openai.AsyncOpenAI) -> None:
    plain = await client.completions.create(model="fake", prompt="The quick fox", max_tokens=3, logprobs=2)
    logprobs = plain.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert "".join(logprobs.tokens) == plain.choices[0].text
    assert logprobs.token_logprobs == [-0.5, -0.5, -0.5]
    assert logprobs.text_offset is not None
    assert logprobs.text_offset[1] == len(logprobs.tokens[0])
    assert logprobs.top_logprobs is not None
    assert len(logprobs.top_logprobs[0]) == 2
    stream = await client.chat.completions.create(
        model="fake",
        messages=[{"role": "user", "content": "The €"}],
        max_tokens=5,
        logprobs=True,
        top_logprobs=3,
        stream=True,
    )
    entries = [
        entry
        async for chunk in stream
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content or []
    ]
    assert len(entries) == 5
    assert all(len(entry.top_logprobs) == 3 for entry in entries)
    assert b"".join(bytes(entry.bytes or []) for entry in entries[1:5]).startswith(b"The")


async def test_models_are_listed(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["fake"]
    assert (await client.models.retrieve("fake")).owned_by == "sluice"
    with pytest.raises(openai.NotFoundError, match="use one of: fake"):
        await client.models.retrieve("other")


async def test_prefixes_of_tenants_are_kept_apart(fleet: FakeFleet, client: openai.AsyncOpenAI) -> None:
    for tenant in ("a", "a", "b"):
        await client.completions.create(
            model="fake", prompt=LONG, max_tokens=1, extra_headers={"x-sluice-tenant": tenant}
        )
    hashes = [state.unit_hashes for fake in fleet.workers.values() for state in fake.started]
    assert len(hashes) == 3
    assert len(set(hashes)) == 2


async def test_metrics_count_what_was_served(fleet: FakeFleet, client: openai.AsyncOpenAI) -> None:
    await client.completions.create(model="fake", prompt="x", max_tokens=5)
    with pytest.raises(openai.BadRequestError):
        await client.completions.create(model="fake", prompt="")
    text = fleet.router.dispatcher.observer.metrics.exposition().decode()
    assert 'sluice_requests_total{outcome="completed"} 1.0' in text
    assert 'sluice_requests_total{outcome="invalid"} 1.0' in text
    assert "sluice_output_tokens_total 5.0" in text
    assert "sluice_itl_seconds_count 4.0" in text
