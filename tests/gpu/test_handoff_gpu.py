"""Two worker processes on one GPU hand a request over by NIXL, and its tokens stay the same."""

from pathlib import Path

import openai
import pytest
import torch
from in_process import make_model
from real_processes import requests_of, wait_until

from sluice.cli.local_fleet import FleetPlan, LocalFleet
from sluice.config.worker import EngineConfig, TransferConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.timeout(300),
]

PROMPTS = [[5 + (i * 7919 + start) % 590 for i in range(length)] for start, length in ((0, 17), (3, 128), (9, 515))]


def answers(model: Path, *, prefill: int, decode: int, mixed: int) -> tuple[list[str], set[str]]:
    """Greedy answers of a platform of GPU workers in float32, and the transports that moved KV for them."""
    plan = FleetPlan(
        model_path=model,
        model_name="tiny",
        prefill=prefill,
        decode=decode,
        mixed=mixed,
        engine=EngineConfig(device="cuda", dtype="float32", kv_memory_mib=64),
        transfer=TransferConfig(transports=("nixl",)),
    )
    with LocalFleet(plan) as fleet:
        fleet.wait_ready(lambda _: None)
        client = openai.OpenAI(base_url=fleet.url, api_key="none", max_retries=0, timeout=60)
        texts = [
            client.completions.create(model="tiny", prompt=prompt, max_tokens=24, temperature=0).choices[0].text
            for prompt in PROMPTS
        ]
        wait_until(lambda: all(row.state == "finished" for row in requests_of(fleet)), "the records to be complete")
        return texts, {row.transport for row in requests_of(fleet) if row.kv_bytes}


def test_tokens_are_the_same_over_nixl_between_two_processes_on_one_gpu(tmp_path: Path) -> None:
    model = make_model(tmp_path)
    alone, _ = answers(model, prefill=0, decode=0, mixed=1)
    handed_over, transports = answers(model, prefill=1, decode=1, mixed=0)
    assert handed_over == alone
    assert transports == {"nixl"}
