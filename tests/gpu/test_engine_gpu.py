"""What only a GPU can show: the same tokens as on the CPU, fences that hold, memory others can map."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from sluice.domain.ids import SequenceId
from sluice.engine import torch_runner
from sluice.engine.contract import EngineLimits, Fence, KvSpan
from sluice.engine.engine import PagedEngine
from sluice.engine.model_loader import geometry_for, load_model
from sluice.engine.random_models import FAMILIES, VOCABULARY, save_random_model
from sluice.testing.sequence_states import outputs_of, run_until_idle, sequence_state
from tests.support.engine_caches import cache_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

PROMPTS = [[random.Random(length).randrange(3, VOCABULARY) for _ in range(length)] for length in (37, 5, 83, 61)]


def engine_on(directory: Path, device: str, dtype: str, *, blocks: int = 64) -> PagedEngine:
    model = load_model(str(directory), device=device, dtype=dtype)
    limits = EngineLimits(batch_sequences_max=8, step_tokens_max=48, sequence_tokens_max=128)
    return torch_runner.build_engine(model, geometry=geometry_for(model.facts, blocks=blocks), limits=limits)


def tokens_of(engine: PagedEngine, **sampling: float) -> list[list[int]]:
    for index, prompt in enumerate(PROMPTS):
        engine.add(sequence_state(index, prompt, max_tokens=16, seed=index, **sampling), hold=False)
    tokens = run_until_idle(engine)
    engine.check_integrity()
    return [outputs_of(tokens, index) for index in range(len(PROMPTS))]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_gpu_gives_the_tokens_of_a_cpu(family: str, tmp_path: Path) -> None:
    save_random_model(tmp_path, family=family)
    expected = tokens_of(engine_on(tmp_path, "cpu", "float32"))
    assert tokens_of(engine_on(tmp_path, "cuda:0", "float32")) == expected


def test_preemption_on_a_gpu_changes_no_token(tmp_path: Path) -> None:
    save_random_model(tmp_path, family="llama")
    roomy = tokens_of(engine_on(tmp_path, "cuda:0", "float32"), temperature=1.1)
    assert tokens_of(engine_on(tmp_path, "cuda:0", "float32", blocks=10), temperature=1.1) == roomy


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt-oss", "qwen3-moe"])
def test_bfloat16_runs_to_the_end(family: str, tmp_path: Path) -> None:
    save_random_model(tmp_path, family=family)
    engine = engine_on(tmp_path, "cuda:0", "bfloat16")
    assert [len(tokens) for tokens in tokens_of(engine)] == [16] * len(PROMPTS)


def test_both_devices_agree_on_the_fingerprint(tmp_path: Path) -> None:
    save_random_model(tmp_path, family="llama")
    on_cpu = load_model(str(tmp_path), device="cpu", dtype="bfloat16").facts.fingerprint
    assert load_model(str(tmp_path), device="cuda:0", dtype="bfloat16").facts.fingerprint == on_cpu


def test_keys_are_readable_by_another_stream_after_the_fence(tmp_path: Path) -> None:
    save_random_model(tmp_path, family="llama")
    engine = engine_on(tmp_path, "cuda:0", "float32")
    other = torch.cuda.Stream()
    copies = []

    def listen(group: int, spans: Sequence[KvSpan], fence: Fence) -> None:
        fence.wait()
        with torch.cuda.stream(other):
            copies.append((group, spans[0], cache_of(engine)._group(group)[list(spans[0].blocks)].cpu()))

    engine.listen(listen)
    engine.add(sequence_state(1, PROMPTS[0]), hold=True)
    run_until_idle(engine)
    torch.cuda.synchronize()
    assert [group for group, _, _ in copies] == [0, 1]
    for group, span, copy in copies:
        assert torch.equal(copy, cache_of(engine)._group(group)[list(span.blocks)].cpu())
    engine.release(SequenceId(1))


def test_the_region_can_be_named_to_a_transport(tmp_path: Path) -> None:
    save_random_model(tmp_path, family="llama")
    engine = engine_on(tmp_path, "cuda:0", "bfloat16")
    assert engine.kv_device == "cuda:0"
    assert engine.kv_address % 256 == 0
