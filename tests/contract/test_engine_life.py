"""A sequence's life in the engine: added, held, moved, resumed, failed, aborted; and what it leaves behind."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from sluice.domain.ids import SequenceId
from sluice.domain.role import FinishReason
from sluice.engine import torch_runner
from sluice.engine.contract import Engine, EngineLimits, Fence, KvSpan
from sluice.engine.engine import PagedEngine
from sluice.engine.model_loader import LoadedModel, geometry_for, load_model
from sluice.engine.random_models import VOCABULARY, save_random_model
from sluice.errors import ConfigError, InvalidRequestError
from sluice.testing.sequence_states import outputs_of, run_until_idle, sequence_state
from tests.support.engine_caches import cache_of

torch.set_num_threads(1)
POISON = 99
"""A token whose embedding is NaN in the model of these tests."""

DRAWN: dict[str, Any] = {
    "temperature": 1.2,
    "top_p": 0.95,
    "repetition_penalty": 1.1,
    "logit_bias": ((POISON, -100.0),),
    "ignore_eos": True,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    directory: Path = tmp_path_factory.mktemp("model")
    save_random_model(directory, family="llama")
    loaded = load_model(str(directory), device="cpu")
    loaded.module.get_input_embeddings().weight[POISON] = float("nan")
    return loaded


def engine_of(model: LoadedModel, *, blocks: int = 40, **limits: int) -> PagedEngine:
    settings = {"batch_sequences_max": 8, "step_tokens_max": 32, "sequence_tokens_max": 200, **limits}
    return torch_runner.build_engine(
        model, geometry=geometry_for(model.facts, blocks=blocks), limits=EngineLimits(**settings)
    )


def prompt(length: int, *, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(3, VOCABULARY - 5) for _ in range(length)]


def test_the_engine_satisfies_its_contract(model: LoadedModel) -> None:
    engine: Engine = engine_of(model)
    assert not engine.has_work()
    assert engine.step().tokens == ()


def test_listeners_hear_each_layer_group_of_each_chunk_once_it_is_written(model: LoadedModel) -> None:
    engine = engine_of(model)
    heard: list[tuple[int, KvSpan, torch.Tensor]] = []

    def listen(group: int, spans: list[KvSpan], fence: Fence) -> None:
        fence.wait()
        for span in spans:
            blocks = torch.tensor(span.blocks)
            heard.append((group, span, cache_of(engine)._group(group)[blocks].clone()))

    engine.listen(listen)
    engine.add(sequence_state(1, prompt(50)), hold=True)
    engine.add(sequence_state(2, prompt(10, seed=2)), hold=False)
    report = engine.step()
    while not report.held:
        report = engine.step()
    assert report.held == (SequenceId(1),)
    assert [(group, span.first, span.end) for group, span, _ in heard] == [
        (0, 0, 32),
        (1, 0, 32),
        (0, 32, 50),
        (1, 32, 50),
    ]
    assert {span.sequence for _, span, _ in heard} == {1}
    final = [cache_of(engine)._group(group)[torch.tensor(heard[0][1].blocks)] for group in range(2)]
    assert torch.equal(heard[0][2][:2], final[0][:2]), "the first chunk's two blocks were complete when announced"
    assert torch.equal(heard[1][2][:2], final[1][:2])
    assert torch.equal(heard[2][2], final[0])
    assert torch.equal(heard[3][2], final[1])


def test_the_pool_lives_in_the_buffer_it_was_given(model: LoadedModel) -> None:
    geometry = geometry_for(model.facts, blocks=4)
    buffer = memoryview(bytearray(geometry.region_bytes))
    limits = EngineLimits(batch_sequences_max=2, step_tokens_max=16)
    engine = torch_runner.build_engine(model, geometry=geometry, limits=limits, kv_buffer=buffer)
    engine.add(sequence_state(1, prompt(20), max_tokens=2), hold=False)
    run_until_idle(engine)
    assert any(buffer)
    assert engine.limits.sequence_tokens_max == 64, "no sequence can be longer than the pool"


def test_a_wrong_geometry_or_contradicting_limits_are_refused(model: LoadedModel, tmp_path: Path) -> None:
    save_random_model(tmp_path, family="llama", num_key_value_heads=4)
    other = geometry_for(load_model(str(tmp_path), device="cpu").facts, blocks=4)
    with pytest.raises(ConfigError, match="another model"):
        torch_runner.build_engine(model, geometry=other, limits=EngineLimits())
    with pytest.raises(ConfigError, match="step_tokens_max"):
        engine_of(model, batch_sequences_max=32)


def test_a_sequence_resumed_from_its_tokens_elsewhere_goes_on_with_the_same_ones(model: LoadedModel) -> None:
    state: dict[str, Any] = {"max_tokens": 20, "seed": 11, **DRAWN}
    engine = engine_of(model)
    engine.add(sequence_state(1, prompt(40), **state), hold=False)
    whole = outputs_of(run_until_idle(engine), 1)
    other = engine_of(model, blocks=20)
    other.add(sequence_state(1, prompt(40), outputs=whole[:7], **state), hold=False)
    tokens = run_until_idle(other)
    assert [out.token for out in tokens] == whole[7:]
    assert [out.index for out in tokens] == list(range(7, 20))
    assert tokens[-1].finish is FinishReason.LENGTH


def test_drawn_tokens_do_not_depend_on_company_preemption_or_prefix_hits(model: LoadedModel) -> None:
    def add_all(engine: PagedEngine, which: list[int]) -> None:
        for index in which:
            settings: dict[str, Any] = {"max_tokens": 24, "seed": index, **DRAWN}
            engine.add(sequence_state(index, prompt(20 + 15 * index, seed=index // 2), **settings), hold=False)

    alone = {}
    for index in range(5):
        engine = engine_of(model)
        add_all(engine, [index])
        alone[index] = outputs_of(run_until_idle(engine), index)
    crowded = engine_of(model, blocks=9, sequence_tokens_max=128)
    add_all(crowded, [3, 1, 4, 0, 2])
    preempted = 0

    def count(report: Any) -> None:
        nonlocal preempted
        preempted += report.preempted

    tokens = run_until_idle(crowded, after_step=count)
    assert preempted > 0
    assert {index: outputs_of(tokens, index) for index in range(5)} == alone


def test_a_sequence_whose_logits_are_not_finite_fails_alone_and_leaves_nothing_behind(model: LoadedModel) -> None:
    calm = engine_of(model)
    calm.add(sequence_state(1, prompt(30)), hold=False)
    expected = outputs_of(run_until_idle(calm), 1)
    engine = engine_of(model, blocks=8)
    engine.add(sequence_state(1, prompt(30)), hold=False)
    engine.step()
    engine.add(sequence_state(2, [*prompt(25, seed=2), POISON]), hold=False)
    failures = []
    tokens = run_until_idle(engine, after_step=lambda report: failures.extend(report.failed))
    assert [sequence for sequence, _ in failures] == [2]
    assert "not finite" in failures[0][1]
    assert outputs_of(tokens, 2) == []
    engine.check_integrity()
    assert torch.isfinite(cache_of(engine)._region).all()
    for index in range(3, 6):  # every block is used again
        engine.add(sequence_state(index, prompt(30)), hold=False)
    again = run_until_idle(engine)
    assert [outputs_of(again, index) for index in range(3, 6)] == [expected] * 3


def test_keys_that_are_not_finite_spoil_nobody_in_the_same_step(model: LoadedModel) -> None:
    """Guards padding: sequence 2 is padded to sequence 3's blocks while block 0 holds the NaN of sequence 1."""
    engine = engine_of(model, step_tokens_max=128)
    engine.add(sequence_state(1, prompt(10), logit_bias=((POISON, 100.0),)), hold=False)
    for index, length in ((2, 10), (3, 60)):
        bias = ((POISON, -100.0),)
        engine.add(sequence_state(index, prompt(length, seed=index), logit_bias=bias), hold=False)
    failures = []
    tokens = run_until_idle(engine, after_step=lambda report: failures.extend(report.failed))
    assert [sequence for sequence, _ in failures] == [1]
    assert outputs_of(tokens, 1) == [POISON]
    assert [len(outputs_of(tokens, index)) for index in (2, 3)] == [16, 16]


def test_sequences_end_at_end_of_text_and_at_the_engines_limit(model: LoadedModel) -> None:
    engine = engine_of(model, sequence_tokens_max=40)
    engine.add(sequence_state(1, prompt(20)), hold=False)
    free = outputs_of(run_until_idle(engine), 1)
    engine.add(sequence_state(2, prompt(20), stop_token_ids=(free[4],)), hold=False)
    engine.add(sequence_state(3, prompt(30), max_tokens=1000), hold=False)
    tokens = run_until_idle(engine)
    stopped = [out for out in tokens if out.sequence == 2]
    assert [out.token for out in stopped] == free[: free.index(free[4]) + 1]
    assert stopped[-1].finish is FinishReason.STOP
    limited = [out for out in tokens if out.sequence == 3]
    assert len(limited) == 10
    assert limited[-1].finish is FinishReason.LENGTH


def test_the_state_of_a_running_sequence_holds_its_latest_token(model: LoadedModel) -> None:
    engine = engine_of(model)
    state = sequence_state(1, prompt(20))
    engine.add(state, hold=False)
    tokens = [out.token for _ in range(3) for out in engine.step().tokens]
    now = engine.state_of(SequenceId(1))
    assert now.tokens == (*state.tokens, *tokens)
    assert (now.prompt_tokens, now.unit_hashes, now.sampling) == (20, state.unit_hashes, state.sampling)


def test_a_running_sequence_moves_with_its_cache_and_goes_on(model: LoadedModel) -> None:
    settings: dict[str, Any] = {"max_tokens": 30, "seed": 5, **DRAWN}
    home, target = engine_of(model), engine_of(model, blocks=30)
    home.add(sequence_state(1, prompt(45), **settings), hold=False)
    expected = outputs_of(run_until_idle(home), 1)
    home.add(sequence_state(2, prompt(45), **settings), hold=False)
    before: list[int] = []
    while len(before) < 9:
        assert home.has_work()
        before += [out.token for out in home.step().tokens]
    home.hold(SequenceId(2))
    extent = home.kv_of(SequenceId(2))
    state = home.state_of(SequenceId(2))
    reservation = target.reserve(SequenceId(2), tokens=extent.computed, unit_hashes=state.unit_hashes)
    for group in range(home.geometry.groups):
        for source, sink in zip(extent.blocks, reservation.blocks, strict=False):
            cache_of(target)._group(group)[sink] = cache_of(home)._group(group)[source]
    target.attach(state, computed=extent.computed)
    home.release(SequenceId(2))
    assert before + outputs_of(run_until_idle(target), 2) == expected
    home.check_integrity()
    target.check_integrity()


def test_bad_tokens_are_refused_at_the_door_and_nothing_is_kept(model: LoadedModel) -> None:
    engine = engine_of(model)
    for state, field in (
        (sequence_state(1, [5, VOCABULARY]), "prompt"),
        (sequence_state(1, [5], logit_bias=((VOCABULARY, 1.0),)), "logit_bias"),
        (sequence_state(1, prompt(200)), "prompt"),
    ):
        with pytest.raises(InvalidRequestError) as caught:
            engine.add(state, hold=False)
        assert caught.value.field == field
    engine.reserve(SequenceId(7), tokens=5, unit_hashes=())
    with pytest.raises(InvalidRequestError, match="reserved here"):
        engine.add(sequence_state(7, [5]), hold=False)
    engine.cancel_reservation(SequenceId(7))
    assert not engine.has_work()
    assert engine.blocks().free == engine.blocks().total


def test_load_counts_work_and_room(model: LoadedModel) -> None:
    engine = engine_of(model, blocks=20)
    engine.add(sequence_state(1, prompt(20)), hold=False)
    engine.add(sequence_state(2, prompt(50, seed=2)), hold=False)
    engine.reserve(SequenceId(3), tokens=33, unit_hashes=())
    engine.step()
    load = engine.load()
    assert (load.waiting_sequences, load.running_sequences) == (0, 2)
    assert load.waiting_prefill_tokens == 50 - 12 + 0
    assert load.context_tokens == 20 + 12
    assert (load.reserved_blocks, load.free_blocks) == (3, 20 - 3 - 2 - 4)
    assert load.tokens_total == 1
    assert load.step_s > 0


def test_random_requests_and_aborts_leave_every_block_free_or_cached(model: LoadedModel) -> None:
    rng = random.Random(7)
    engine = engine_of(model, blocks=24, waiting_sequences_max=400, sequence_tokens_max=120)
    alive: list[int] = []
    for index in range(250):
        hold = rng.random() < 0.3
        text = prompt(rng.randrange(1, 60), seed=rng.randrange(5))
        engine.add(sequence_state(index, text, max_tokens=rng.randrange(1, 12), seed=index), hold=hold)
        alive.append(index)
        if rng.random() < 0.5:
            report = engine.step()
            for sequence in report.held:
                (engine.release if rng.random() < 0.5 else engine.resume)(sequence)
        if rng.random() < 0.4:
            engine.abort(SequenceId(alive.pop(rng.randrange(len(alive)))))
    run_until_idle(engine, after_step=lambda report: [engine.release(sequence) for sequence in report.held])
    counts = engine.blocks()
    assert (counts.active, counts.held, counts.reserved) == (0, 0, 0)
    assert counts.free + counts.cached == counts.total
    engine.check_integrity()
    engine.take_prefix_change()
    assert engine.take_prefix_change().stored == ()
