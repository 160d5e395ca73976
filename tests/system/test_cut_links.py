"""Processes on hosts of their own; cables between them are cut under load, and nobody loses a token.

What is cut answers nothing: no reset, no error, as in a broken network. Half of the answers are sampled
with a seed. Needs root for network namespaces; skipped, with the reason, without.
"""

import asyncio
import random
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from real_processes import wait_until
from separate_hosts import SeparateHosts, why_not

pytestmark = [pytest.mark.system, pytest.mark.alone, pytest.mark.skipif(bool(why_not()), reason=why_not() or "can")]

WORKERS = (("prefill", "prefill"), ("decode-0", "decode"), ("decode-1", "decode"))
CLIENTS = 4
TOKENS = 60
HOLDING = ("active", "held", "reserved")


@pytest.fixture(scope="module")
def hosts(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeparateHosts]:
    with SeparateHosts(model_path, tmp_path_factory.mktemp("hosts"), WORKERS) as running:
        running.wait_ready()
        yield running


async def ask(client: openai.AsyncOpenAI, seed: int) -> str:
    """One answer, streamed; odd seeds sample."""
    rng = random.Random(seed)
    prompt = [rng.randrange(10, 600) for _ in range(rng.randrange(100, 300))]
    sampled = {"temperature": 0.9, "seed": seed} if seed % 2 else {"temperature": 0.0}
    stream = await client.completions.create(
        model="tiny", prompt=prompt, max_tokens=TOKENS, stream=True, extra_body={"ignore_eos": True}, **sampled
    )
    return "".join([chunk.choices[0].text async for chunk in stream])


async def keep_asking(client: openai.AsyncOpenAI, number: int, stop: asyncio.Event) -> dict[int, str]:
    """Answers by seed, one after another until told to stop."""
    answers: dict[int, str] = {}
    while not stop.is_set():
        seed = number + CLIENTS * len(answers)
        answers[seed] = await ask(client, seed)
    return answers


async def under_load(hosts: SeparateHosts, cuts: list[tuple[tuple[str, str], ...]], *, each_s: float) -> None:
    """Cut, wait, heal, for every entry in turn, while clients ask; then check everything."""
    async with openai.AsyncOpenAI(base_url=hosts.url, api_key="none", max_retries=0, timeout=60) as client:
        stop = asyncio.Event()
        asked = [asyncio.create_task(keep_asking(client, number, stop)) for number in range(CLIENTS)]
        for links in cuts:
            await asyncio.sleep(0.3)
            for sender, receiver in links:
                await asyncio.to_thread(hosts.network.cut_one_way, sender, receiver)
            await asyncio.sleep(each_s)
            await asyncio.to_thread(hosts.network.heal)
        stop.set()
        answers = {seed: text for part in await asyncio.gather(*asked) for seed, text in part.items()}
        await asyncio.to_thread(hosts.wait_ready, limit_s=60)
        assert len(answers) > 2 * CLIENTS
        assert answers == {seed: await ask(client, seed) for seed in answers}
    await asyncio.to_thread(wait_until, lambda: is_at_rest(hosts), "blocks, leases and sequences to be let go")


def is_at_rest(hosts: SeparateHosts) -> bool:
    rows = hosts.workers()
    return not any(
        row.load.running_sequences or row.load.leases or held_blocks(row.info.metrics_address) for row in rows
    )


def held_blocks(address: str) -> int:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as reply:
        families = {family.name: family for family in text_string_to_metric_families(reply.read().decode())}
    return sum(int(s.value) for s in families["sluice_kv_blocks"].samples if s.labels["state"] in HOLDING)


def both(one: str, other: str) -> tuple[tuple[str, str], ...]:
    return (one, other), (other, one)


async def test_cut_links_between_workers_lose_no_token(hosts: SeparateHosts) -> None:
    """Handoffs over the cut pair fail or wait; requests decode elsewhere, or where they are."""
    cuts = [both("prefill", "decode-0"), (("prefill", "decode-1"),), (("decode-0", "prefill"),)]
    await under_load(hosts, cuts, each_s=2.0)


async def test_a_worker_cut_off_from_its_router_loses_no_token(hosts: SeparateHosts) -> None:
    """Longer than the router waits for a heartbeat: what ran there is computed again, late tokens are ignored."""
    cuts = [both("router", "decode-0"), (("decode-1", "router"),), (("router", "prefill"),)]
    await under_load(hosts, cuts, each_s=4.0)
