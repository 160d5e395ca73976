"""A simulated instance and the product's scheduler run the same steps: same chunks, same blocks, same moments,
whatever the sequences were promised.

Up to a preemption: the product then finds what the sequence itself had generated in its cache, the
simulation computes it again, for traces name prompts only.
"""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from simulated import CURVE, run, spec, workload

from sluice.capacity.step_model import StepShape, chunk_pairs
from sluice.domain.kv import KvGeometry
from sluice.domain.role import FinishReason
from sluice.domain.slo import SloClass, Urgency
from sluice.engine.contract import EngineLimits
from sluice.engine.scheduler import Scheduler, StepPlan
from sluice.simulator.run_options import Objective
from sluice.testing.sequence_states import sequence_state

CLASSES = (
    SloClass(name="pressing", urgency=Urgency.INTERACTIVE, ttft_s=0.1, tpot_s=0.012),
    SloClass(name="usual", urgency=Urgency.STANDARD, ttft_s=0.4, tpot_s=0.02),
    SloClass(name="whenever", urgency=Urgency.BATCH, ttft_s=5.0, tpot_s=1.0),
)
BLOCK = 16
SEEDS_PER_TEST = 20
Request = tuple[float, int, int]  # arrival_s, prompt tokens, output tokens
Kept = list[tuple[list[int], list[int]]]  # tokens and hash ids of every prompt


@pytest.mark.parametrize("first_seed", range(0, 120, SEEDS_PER_TEST))
def test_steps_are_the_schedulers(first_seed: int) -> None:
    compared = waited = hits = 0
    for seed in range(first_seed, first_seed + SEEDS_PER_TEST):
        rng = random.Random(seed)
        is_tight = rng.random() < 0.5  # short of memory, nothing shared; or shared prefixes and room for all
        requests = sorted((rng.uniform(0.0, 0.6), rng.randint(1, 500), rng.randint(1, 60)) for _ in range(25))
        prompts = make_prompts(requests, rng, groups=0 if is_tight else 3)
        blocks = 70 if is_tight else 1200
        limits = EngineLimits(batch_sequences_max=rng.choice([3, 8, 32]), step_tokens_max=rng.choice([64, 256]))
        classes = [rng.randrange(len(CLASSES)) for _ in requests]
        firsts_s, lasts_s, quiet_s = by_scheduler(requests, prompts, classes, blocks, limits)
        kind = spec(
            blocks=blocks, batch_sequences_max=limits.batch_sequences_max, step_tokens_max=limits.step_tokens_max
        )
        trace = workload(requests, [] if is_tight else [ids for _, ids in prompts])
        trace = replace(trace, slo_class=np.array(classes))
        result = run([kind], trace, objective=Objective(classes=CLASSES))
        arrival_s = result.workload.arrival_s
        quiet = np.array(firsts_s) < quiet_s
        np.testing.assert_allclose((result.outcome.ttft_s + arrival_s)[quiet], np.array(firsts_s)[quiet], rtol=1e-9)
        quiet = np.array(lasts_s) < quiet_s
        np.testing.assert_allclose(result.outcome.end_s[quiet], np.array(lasts_s)[quiet], rtol=1e-9)
        compared += int(quiet.sum())
        waited += is_tight * int((result.outcome.ttft_s[quiet] > 0.2).sum())
        hits += int(result.outcome.cached_tokens.sum())
    assert compared > SEEDS_PER_TEST * 25 / 2
    assert min(waited, hits) > 0


def make_prompts(requests: list[Request], rng: random.Random, *, groups: int) -> Kept:
    """Prompts that share the first half with their group; equal blocks have equal ids."""
    known: dict[tuple[int, ...], int] = {}
    common = [[rng.randrange(1000) for _ in range(600)] for _ in range(groups)]
    prompts: Kept = []
    for _, length, _ in requests:
        shared = rng.choice(common)[: length // 2] if groups else []
        tokens = shared + [rng.randrange(1000) for _ in range(length - len(shared))]
        ids = [known.setdefault(tuple(tokens[:end]), len(known)) for end in range(BLOCK, length + 1, BLOCK)]
        prompts.append((tokens, ids))
    return prompts


def by_scheduler(
    requests: list[Request], prompts: Kept, classes: list[int], blocks: int, limits: EngineLimits
) -> tuple[list[float], list[float], float]:
    """Moments of the first and last token of each request, by the product's scheduler; and of the first preemption."""
    geometry = KvGeometry(
        layers=1, group_layers=1, heads=1, head_dim=1, block_tokens=BLOCK, blocks=blocks, dtype="float32", dtype_bytes=4
    )
    one = Scheduler(geometry=geometry, limits=limits)
    left = [output for _, _, output in requests]
    firsts_s, lasts_s = [0.0] * len(requests), [0.0] * len(requests)
    now_s, arrived, quiet_s = 0.0, 0, math.inf
    while arrived < len(requests) or one.has_work():
        if not one.has_work():
            now_s = max(now_s, requests[arrived][0])
        while arrived < len(requests) and requests[arrived][0] <= now_s:
            due = CLASSES[classes[arrived]].due(waited_s=now_s - requests[arrived][0])
            state = replace(sequence_state(arrived, prompts[arrived][0], max_tokens=1000), due=due)
            one.add(state, hold=False, now_s=now_s)
            arrived += 1
        plan = one.plan(CURVE, now_s=now_s)
        if plan.preempted:
            quiet_s = min(quiet_s, now_s)
        now_s += CURVE.step_s(shape_of(plan))
        works = (*plan.decodes, *plan.prefills)
        sampling = [work.sequence for work in works if work.samples]
        for work in works:
            one.note_computed(work)
        for sequence in sampling:
            index = int(sequence.sequence)
            left[index] -= 1
            firsts_s[index] = firsts_s[index] or now_s
            lasts_s[index] = now_s
            one.accept(sequence, token=1000 + index, finish=FinishReason.LENGTH if left[index] == 0 else None)
    return firsts_s, lasts_s, quiet_s


def shape_of(plan: StepPlan) -> StepShape:
    return StepShape(
        prefill_tokens=plan.prefill_tokens,
        prefill_pairs=sum(chunk_pairs(work.tokens, context_tokens=work.first) for work in plan.prefills),
        prefills=len(plan.prefills),
        decodes=len(plan.decodes),
        context_tokens=sum(len(work.sequence.tokens) for work in plan.decodes),
    )
