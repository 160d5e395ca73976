"""Whatever the family, the paged engine says what transformers' generate() says, token for token."""

import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from sluice.engine import torch_runner
from sluice.engine.contract import EngineLimits, StepReport
from sluice.engine.engine import PagedEngine
from sluice.engine.model_loader import LoadedModel, geometry_for, load_model
from sluice.engine.random_models import FAMILIES, VOCABULARY, save_random_model
from sluice.testing.sequence_states import outputs_of, run_until_idle, sequence_state
from tests.support.engine_caches import cache_of

NEW_TOKENS = 24
PROMPT_LENGTHS = (37, 5, 83, 61)

torch.set_num_threads(1)


class Family:
    """One family's model, loaded by us, and what generate() continues each prompt with."""

    def __init__(self, name: str, directory: Path) -> None:
        save_random_model(directory, family=name)
        rng = random.Random(name)
        self.prompts = [[rng.randrange(3, VOCABULARY) for _ in range(length)] for length in PROMPT_LENGTHS]
        self.prompts.append(self.prompts[2][:70] + self.prompts[0][:9])  # shares full blocks with another
        oracle = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        self.expected = [
            oracle.generate(torch.tensor([prompt]), max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None)[
                0, len(prompt) :
            ].tolist()
            for prompt in self.prompts
        ]
        self.model: LoadedModel = load_model(str(directory), device="cpu")


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    return Family(request.param, tmp_path_factory.mktemp(request.param))


def engine_of(family: Family, *, blocks: int, step_tokens_max: int) -> PagedEngine:
    geometry = geometry_for(family.model.facts, blocks=blocks)
    limits = EngineLimits(batch_sequences_max=8, step_tokens_max=step_tokens_max, sequence_tokens_max=128)
    return torch_runner.build_engine(family.model, geometry=geometry, limits=limits)


def test_a_mixed_batch_in_chunks_and_with_prefix_hits_gives_the_tokens_of_generate(family: Family) -> None:
    engine = engine_of(family, blocks=64, step_tokens_max=23)
    for index, prompt in enumerate(family.prompts):
        engine.add(sequence_state(index, prompt, max_tokens=NEW_TOKENS), hold=False)
    tokens = run_until_idle(engine, after_step=lambda _: engine.check_integrity())
    assert [outputs_of(tokens, index) for index in range(len(family.prompts))] == family.expected


def test_preempted_sequences_give_the_tokens_of_generate(family: Family) -> None:
    preempted = 0

    def count(report: StepReport) -> None:
        nonlocal preempted
        preempted += report.preempted
        engine.check_integrity()

    engine = engine_of(family, blocks=11, step_tokens_max=40)
    for index, prompt in enumerate(family.prompts):
        engine.add(sequence_state(index, prompt, max_tokens=NEW_TOKENS), hold=False)
    tokens = run_until_idle(engine, after_step=count)
    assert preempted > 0
    assert [outputs_of(tokens, index) for index in range(len(family.prompts))] == family.expected


def test_a_handed_over_sequence_gives_the_tokens_of_generate(family: Family) -> None:
    prefill = engine_of(family, blocks=32, step_tokens_max=23)
    decode = engine_of(family, blocks=48, step_tokens_max=23)
    for index, prompt in enumerate(family.prompts):
        state = sequence_state(index, prompt, max_tokens=NEW_TOKENS)
        reservation = decode.reserve(state.sequence, tokens=state.prompt_tokens, unit_hashes=state.unit_hashes)
        prefill.add(state, hold=True)
        tables = []
        prefill.listen(lambda _group, spans, _fence, tables=tables: tables.append(spans[-1].blocks))
        first = run_until_idle(prefill)
        copy_blocks(prefill, decode, tables[-1], reservation.blocks, skip=reservation.cached_tokens // 16)
        decode.attach(prefill.state_of(state.sequence), computed=state.prompt_tokens)
        prefill.release(state.sequence)
        tokens = first + run_until_idle(decode)
        assert outputs_of(tokens, index) == family.expected[index]
        assert [out.index for out in tokens] == list(range(NEW_TOKENS))
    assert reservation.cached_tokens > 0
    prefill.check_integrity()
    decode.check_integrity()


def copy_blocks(source: PagedEngine, target: PagedEngine, have: list[int], want: list[int], *, skip: int) -> None:
    """What a transport does: the bytes of each block, group by group."""
    for group in range(source.geometry.groups):
        for one, other in zip(have[skip:], want[skip:], strict=True):
            cache_of(target)._group(group)[other] = cache_of(source)._group(group)[one]
