"""Who runs next, on whose blocks: continuous batching, chunks, preemption, prefixes. No tensors."""

import random
from dataclasses import replace

import pytest

from sluice.capacity.step_curve import StepCurve
from sluice.domain.ids import SequenceId
from sluice.domain.kv import KvGeometry
from sluice.domain.role import FinishReason
from sluice.domain.slo import Due
from sluice.engine.contract import EngineLimits
from sluice.engine.handover import Handover
from sluice.engine.scheduler import Scheduler
from sluice.engine.sequence import Phase
from sluice.engine.step_plan import StepPlan
from sluice.errors import (
    IllegalTransitionError,
    InvalidRequestError,
    OverloadedError,
    ReservationRefusedError,
)
from sluice.testing.sequence_states import sequence_state

BLOCK = 16


def geometry(blocks: int, *, block_tokens: int = BLOCK) -> KvGeometry:
    return KvGeometry(
        layers=2,
        group_layers=1,
        heads=1,
        head_dim=4,
        block_tokens=block_tokens,
        blocks=blocks,
        dtype="float32",
        dtype_bytes=4,
    )


def scheduler(*, blocks: int = 64, block_tokens: int = BLOCK, **limits: int) -> Scheduler:
    settings = {"batch_sequences_max": 4, "step_tokens_max": 48, "sequence_tokens_max": 512, **limits}
    return Scheduler(geometry=geometry(blocks, block_tokens=block_tokens), limits=EngineLimits(**settings))


def prompt(length: int, *, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(1000) for _ in range(length)]


def run(
    one: Scheduler, *, finish: frozenset[int] = frozenset(), curve: StepCurve | None = None, now_s: float = 0.0
) -> StepPlan:
    """One step as the engine does it; every chosen token is 7."""
    plan = one.plan(curve, now_s=now_s)
    works = (*plan.decodes, *plan.prefills)
    sampled = [work.sequence for work in works if work.samples]
    for work in works:
        one.note_computed(work)
    for sequence in sampled:
        ended = FinishReason.LENGTH if sequence.sequence in finish else None
        one.accept(sequence, token=7, finish=ended)
    one.check_integrity()
    one.pool.check_integrity([sequence.blocks for sequence in one.sequences])
    return plan


def shape(plan: StepPlan) -> tuple[list[int], list[tuple[int, int, int]]]:
    """Which sequences decode, and which tokens are prefilled."""
    decodes = [work.sequence.sequence for work in plan.decodes]
    return decodes, [(work.sequence.sequence, work.first, work.end) for work in plan.prefills]


def test_decodes_come_first_and_prefill_chunks_fill_the_token_budget() -> None:
    one = scheduler()
    one.add(sequence_state(1, prompt(10, seed=1)), hold=False)
    assert shape(run(one)) == ([], [(1, 0, 10)])
    one.add(sequence_state(2, prompt(100, seed=2)), hold=False)
    one.add(sequence_state(3, prompt(30, seed=3)), hold=False)
    assert shape(run(one)) == ([1], [(2, 0, 47)])
    assert shape(run(one)) == ([1], [(2, 47, 94)])
    assert shape(run(one)) == ([1], [(2, 94, 100), (3, 0, 30)])
    assert shape(run(one)) == ([1, 2, 3], [])


def test_nobody_overtakes_a_prompt_that_waits_for_blocks() -> None:
    one = scheduler(blocks=8)
    one.add(sequence_state(1, prompt(90, seed=1)), hold=False)
    run(one)
    one.add(sequence_state(2, prompt(60, seed=2)), hold=False)
    one.add(sequence_state(3, prompt(5, seed=3)), hold=False)
    for _ in range(5):
        assert shape(run(one))[1] in ([(1, 48, 90)], [])
    one.abort(SequenceId(1))
    assert shape(run(one))[1] == [(2, 0, 48)]


def test_a_batch_never_exceeds_its_sequences() -> None:
    one = scheduler(batch_sequences_max=2)
    for index in range(5):
        one.add(sequence_state(index, prompt(4, seed=index)), hold=False)
    for _ in range(4):
        plan = run(one)
        assert len(plan.decodes) + len(plan.prefills) <= 2


def test_the_sequence_that_arrived_last_is_preempted_and_starts_again_first() -> None:
    one = scheduler(blocks=6, step_tokens_max=128)
    one.add(sequence_state(1, prompt(31, seed=1), max_tokens=60), hold=False)
    one.add(sequence_state(2, prompt(31, seed=2), max_tokens=60), hold=False)
    run(one)
    preempted = 0
    while preempted == 0:
        preempted = run(one).preempted
    first, second = one.find(SequenceId(1)), one.find(SequenceId(2))
    assert (first.phase, second.phase) == (Phase.DECODE, Phase.WAITING)
    assert second.blocks == []
    one.add(sequence_state(3, prompt(4, seed=3)), hold=False)
    assert one.waiting[0] is second, "it arrived before the others that wait"


def test_whose_first_token_is_due_first_goes_first_and_who_is_due_last_is_preempted() -> None:
    one = scheduler(blocks=6, batch_sequences_max=3)
    patient = replace(sequence_state(1, prompt(30, seed=1), max_tokens=60), due=Due(first_in_s=60.0))
    pressing = replace(sequence_state(2, prompt(30, seed=2), max_tokens=60), due=Due(first_in_s=0.5))
    one.add(patient, hold=False, now_s=10.0)
    one.add(pressing, hold=False, now_s=11.0)
    assert shape(run(one)) == ([], [(2, 0, 30), (1, 0, 18)])
    one.add(replace(sequence_state(3, prompt(30, seed=3)), due=Due(first_in_s=58.0)), hold=False, now_s=12.5)
    assert [sequence.sequence for sequence in one.running] == [2, 1], "its turn is before what is due at 70.5 s"
    while not run(one).preempted:
        pass
    assert one.find(SequenceId(1)).phase is Phase.WAITING
    assert one.find(SequenceId(2)).phase is Phase.DECODE


def test_what_is_due_moves_with_the_sequence() -> None:
    one = scheduler()
    one.add(replace(sequence_state(1, prompt(9)), due=Due(first_in_s=3.0, tpot_s=0.1)), hold=False, now_s=10.0)
    assert one.find(SequenceId(1)).state(now_s=14.0).due == Due(first_in_s=-1.0, tpot_s=0.1)


def test_chunks_leave_those_who_decode_their_promised_pace() -> None:
    curve = StepCurve(base_s=0.01, prefill_token_s=1e-4, pair_s=0.0, decode_s=0.0, context_token_s=0.0)
    for tpot_s, tokens in ((0.021, 99), (0.011, 64), (0.001, 64), (0.03, 184), (1.0, 399)):
        one = scheduler(step_tokens_max=400)
        one.add(replace(sequence_state(1, prompt(9)), due=Due(tpot_s=tpot_s)), hold=False)
        run(one)
        one.add(sequence_state(2, prompt(450, seed=2)), hold=False)
        plan = one.plan(curve)
        assert len(plan.decodes) == 1
        assert plan.prefill_tokens == tokens


def test_who_is_ahead_of_its_pace_waits_longer_for_others_prompts() -> None:
    curve = StepCurve(base_s=0.01, prefill_token_s=1e-4, pair_s=0.0, decode_s=0.0, context_token_s=0.0)
    one = scheduler(step_tokens_max=400)
    one.add(replace(sequence_state(1, prompt(9)), due=Due(tpot_s=0.021)), hold=False)
    run(one)
    run(one, now_s=0.0, curve=curve)
    run(one, now_s=0.001, curve=curve)  # two tokens at once: its next is due at three times 0.95 * 0.021
    one.add(sequence_state(2, prompt(450, seed=2)), hold=False)
    assert one.plan(curve, now_s=0.002).prefill_tokens == 214, "1.5 times its 21 ms, less what decoding takes"
    assert one.plan(curve, now_s=0.058).prefill_tokens == 99, "it has fallen behind"


def test_a_preempted_sequence_recomputes_only_what_the_cache_lost() -> None:
    one = scheduler(blocks=6, step_tokens_max=128)
    one.add(sequence_state(1, prompt(33, seed=1), max_tokens=60), hold=False)
    one.add(sequence_state(2, prompt(31, seed=2), max_tokens=60), hold=False)
    while run(one).preempted == 0:
        pass
    length = len(one.find(SequenceId(2)).tokens)
    one.abort(SequenceId(1))
    plan = run(one)
    assert shape(plan) == ([], [(2, 32, length)])


def test_a_held_sequence_keeps_its_blocks_while_others_preempt_themselves() -> None:
    one = scheduler(blocks=7, step_tokens_max=128)
    one.add(sequence_state(1, prompt(31, seed=1), max_tokens=60), hold=False)
    one.add(sequence_state(2, prompt(40, seed=2), max_tokens=60), hold=True)
    for _ in range(120):
        run(one)
    assert one.find(SequenceId(2)).phase is Phase.HELD
    assert len(one.find(SequenceId(2)).blocks) == 3
    assert not one.has_work(), "steps would change nothing until somebody releases"
    one.release(SequenceId(2))
    assert one.has_work()
    assert run(one).prefills, "the first sequence preempted itself and now starts again"


def test_a_sequence_that_will_be_held_is_never_preempted() -> None:
    one = scheduler(blocks=11, step_tokens_max=5)
    one.add(sequence_state(1, prompt(46, seed=1), max_tokens=60), hold=False)
    while not run(one).decodes:
        pass
    one.add(sequence_state(2, prompt(100, seed=2), max_tokens=60), hold=True)
    while run(one).preempted == 0:
        pass
    assert one.find(SequenceId(1)).phase is Phase.WAITING
    assert one.find(SequenceId(2)).phase is Phase.PREFILL


def test_a_held_sequence_decodes_after_resume() -> None:
    one = scheduler()
    one.add(sequence_state(1, prompt(20)), hold=True)
    run(one)
    assert one.find(SequenceId(1)).phase is Phase.HELD
    assert not one.has_work()
    one.resume(SequenceId(1))
    assert shape(run(one)) == ([1], [])


def test_a_token_that_ends_a_held_sequence_frees_it() -> None:
    one = scheduler()
    one.add(sequence_state(1, prompt(20), max_tokens=1), hold=True)
    run(one, finish=frozenset({1}))
    with pytest.raises(IllegalTransitionError):
        one.find(SequenceId(1))
    assert one.pool.available_blocks == 64


def test_a_prompt_that_shares_full_blocks_computes_only_the_rest() -> None:
    one = scheduler(step_tokens_max=256)
    one.add(sequence_state(1, prompt(70)), hold=False)
    run(one)
    one.add(sequence_state(2, [*prompt(70)[:50], 5, 6]), hold=False)
    assert shape(run(one)) == ([1], [(2, 48, 52)])
    assert one.find(SequenceId(2)).blocks[:3] == one.find(SequenceId(1)).blocks[:3]


def test_the_last_token_of_a_prompt_is_always_computed() -> None:
    one = scheduler()
    one.add(sequence_state(1, prompt(32), max_tokens=1), hold=False)
    run(one, finish=frozenset({1}))
    one.add(sequence_state(2, prompt(32)), hold=False)
    assert shape(run(one)) == ([], [(2, 16, 32)])


def test_generated_tokens_enter_the_prefix_cache_too() -> None:
    one = scheduler()
    one.add(sequence_state(1, prompt(10)), hold=False)
    for _ in range(24):
        run(one)
    one.abort(SequenceId(1))
    one.add(sequence_state(2, [*prompt(10), *[7] * 22, 9]), hold=False)
    assert shape(run(one)) == ([], [(2, 32, 33)])


def test_siblings_of_one_prompt_prefill_once() -> None:
    one = scheduler(step_tokens_max=64)
    for index in range(4):
        one.add(sequence_state(index, prompt(150)), hold=False)
    computed = 0
    for _ in range(12):
        computed += run(one).prefill_tokens
    assert computed == 150 + 3 * (150 - 144)


def test_siblings_go_on_when_the_one_they_wait_for_is_aborted() -> None:
    one = scheduler(step_tokens_max=64)
    for index in range(2):
        one.add(sequence_state(index, prompt(150)), hold=False)
    run(one)
    assert one.find(SequenceId(1)).phase is Phase.WAITING
    one.abort(SequenceId(0))
    assert shape(run(one)) == ([], [(1, 64, 128)])


def test_blocks_of_two_hash_units_are_hit_by_every_second_hash() -> None:
    one = scheduler(block_tokens=32, step_tokens_max=256)
    one.add(sequence_state(1, prompt(100)), hold=False)
    run(one)
    one.add(sequence_state(2, [*prompt(100)[:80], 3]), hold=False)
    assert shape(run(one)) == ([1], [(2, 64, 81)])


@pytest.mark.parametrize(
    ("tokens", "outputs", "field"), [(512, 0, "prompt"), (600, 0, "prompt"), (10, 16, "max_tokens")]
)
def test_a_sequence_that_can_never_run_is_refused(tokens: int, outputs: int, field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        scheduler().add(sequence_state(1, prompt(tokens), outputs=prompt(outputs)), hold=False)
    assert caught.value.field == field


def test_the_same_sequence_twice_is_refused() -> None:
    one = scheduler()
    one.add(sequence_state(1, prompt(5)), hold=False)
    with pytest.raises(InvalidRequestError, match="already here"):
        one.add(sequence_state(1, prompt(5)), hold=False)


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    one = scheduler(waiting_sequences_max=2)
    for index in range(2):
        one.add(sequence_state(index, prompt(5)), hold=False)
    with pytest.raises(OverloadedError) as caught:
        one.add(sequence_state(2, prompt(5)), hold=False)
    assert caught.value.retry_after_s > 0


def test_moves_out_of_turn_are_named() -> None:
    one = scheduler()
    one.add(sequence_state(1, prompt(5)), hold=False)
    for move in (one.resume, one.release, one.hold):
        with pytest.raises(IllegalTransitionError, match="WAITING"):
            move(SequenceId(1))
    one.abort(SequenceId(99))


def handover(one: Scheduler, *, blocks: int = 64) -> Handover:
    limits = EngineLimits(batch_sequences_max=4, step_tokens_max=48, sequence_tokens_max=512)
    return Handover(scheduler=one, geometry=geometry(blocks), limits=limits)


def test_a_reservation_is_refused_when_blocks_or_batch_are_full() -> None:
    one = scheduler(blocks=8)
    doors = handover(one, blocks=8)
    doors.reserve(SequenceId(1), tokens=100, unit_hashes=())
    with pytest.raises(ReservationRefusedError, match="7 blocks are needed and 1 can be given"):
        doors.reserve(SequenceId(2), tokens=100, unit_hashes=())
    doors.cancel(SequenceId(1))
    for index in range(4):
        doors.reserve(SequenceId(index), tokens=5, unit_hashes=())
    with pytest.raises(ReservationRefusedError, match="batch is full"):
        doors.reserve(SequenceId(9), tokens=5, unit_hashes=())


def test_a_reservation_shares_every_full_block_that_is_cached_and_keeps_it() -> None:
    one = scheduler(blocks=8)
    doors = handover(one, blocks=8)
    state = sequence_state(1, prompt(64), max_tokens=1)
    one.add(state, hold=False)
    run(one)
    run(one, finish=frozenset({1}))
    reservation = doors.reserve(SequenceId(2), tokens=64, unit_hashes=state.unit_hashes)
    assert reservation.cached_tokens == 64
    one.add(sequence_state(3, prompt(100, seed=3)), hold=False)
    assert shape(one.plan()) == ([], []), "four blocks are left and seven are needed"
    one.pool.check_integrity([*doors.block_tables, *(each.blocks for each in one.sequences)])


def test_an_attached_prompt_can_be_hit_by_others() -> None:
    one = scheduler()
    doors = handover(one)
    state = sequence_state(1, prompt(64), outputs=[7])
    doors.reserve(SequenceId(1), tokens=64, unit_hashes=state.unit_hashes)
    doors.attach(state, computed=64)
    one.add(sequence_state(2, [*prompt(64), 8]), hold=False)
    assert shape(run(one)) == ([1], [(2, 64, 65)])


def test_attaching_what_was_not_reserved_is_refused_and_changes_nothing() -> None:
    one = scheduler()
    doors = handover(one)
    state = sequence_state(1, prompt(64), outputs=[7])
    with pytest.raises(IllegalTransitionError):
        doors.attach(state, computed=64)
    doors.reserve(SequenceId(1), tokens=64, unit_hashes=state.unit_hashes)
    with pytest.raises(InvalidRequestError, match="computed"):
        doors.attach(state, computed=65)
    with pytest.raises(InvalidRequestError, match="another prompt"):
        doors.attach(sequence_state(1, prompt(64, seed=5), outputs=[7]), computed=64)
    doors.attach(state, computed=64)
    with pytest.raises(IllegalTransitionError):
        doors.cancel(SequenceId(1))
