"""What a replica carries: queues by formula, batches by memory and step time, and the constraint that is named."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.capacity import catalogue
from sluice.capacity.step_curve import StepCurve
from sluice.planner.queueing import UTILISATION_MAX, occupancy_mean, utilisation_max
from sluice.planner.replica_kind import ReplicaKind
from sluice.planner.throughput import Limit, Phase, Target, rate_of
from sluice.planner.workload import Bucket

CURVE = StepCurve(base_s=0.01, prefill_token_s=5e-5, pair_s=0.0, decode_s=1e-4, context_token_s=1e-7)
KIND = ReplicaKind(
    gpu=catalogue.gpu_class("H100"),
    tensor_parallel=1,
    model=CURVE,
    kv_tokens=400_000,
    kv_token_bytes=131_072,
    batch_sequences_max=10_000,
    encode_image_s=0.1,
)
CHAT = Bucket(input_tokens=1000, input_tokens_max=1000, output_tokens=201, rate_per_s=1)
TARGET = Target(ttft_s=1.0, tpot_s=0.05)
MEDIAN = replace(TARGET, attainment=0.5)  # no room for variation: the formulas alone

share = st.floats(0.001, 0.5)


@given(st.floats(0.001, 1), st.floats(0, 10), share)
def test_at_the_highest_utilisation_just_the_allowed_share_waits_too_long(
    service_s: float, slack_s: float, miss_share: float
) -> None:
    full = utilisation_max(service_s=service_s, slack_s=slack_s, miss_share=miss_share)
    late = full * math.exp(-2 * (1 - full) * slack_s / service_s)
    assert late <= miss_share + 1e-9
    assert full == pytest.approx(UTILISATION_MAX, abs=1e-6) or late == pytest.approx(miss_share, rel=1e-3)


def test_without_time_to_wait_nothing_can_be_served() -> None:
    assert utilisation_max(service_s=1.0, slack_s=-0.1, miss_share=0.01) == 0


@given(st.integers(1, 2000), share)
def test_room_for_the_mean_and_its_spread_fills_the_places(places: int, miss_share: float) -> None:
    mean = occupancy_mean(places, miss_share=miss_share)
    assert 0 < mean <= places + 1e-9
    assert occupancy_mean(places, miss_share=0.5) == pytest.approx(places)


def test_prefill_takes_the_prompt_at_the_utilisation_its_deadline_allows() -> None:
    rate = rate_of(Phase.PREFILL, KIND, CHAT, TARGET)
    service_s = 0.01 + 1000 * 5e-5
    full = utilisation_max(service_s=service_s, slack_s=1.0 - service_s, miss_share=TARGET.miss_share)
    assert rate.per_s == pytest.approx(full / service_s)


def test_decode_takes_as_many_sequences_as_keep_the_step_short() -> None:
    rate = rate_of(Phase.DECODE, KIND, CHAT, MEDIAN)
    per_sequence_s = 1e-4 + 1e-7 * 1100
    batch = math.floor((0.05 * 0.9 - 0.01) / per_sequence_s)
    assert rate.per_s == pytest.approx(batch / (200 * (0.01 + batch * per_sequence_s)))
    assert rate.limit is Limit.TPOT


def test_load_of_different_sizes_adds_up_to_a_full_step() -> None:
    short = replace(CHAT, input_tokens=100, input_tokens_max=100)
    step_s = 0.05 * 0.9
    each = [rate_of(Phase.DECODE, KIND, bucket, MEDIAN).per_s / 2 for bucket in (CHAT, short)]  # half of each
    contexts = [bucket.input_tokens + bucket.output_tokens // 2 for bucket in (CHAT, short)]
    batch = [rate * 200 * step_s for rate in each]
    took_s = 0.01 + sum(n * (1e-4 + 1e-7 * context) for n, context in zip(batch, contexts, strict=True))
    assert took_s == pytest.approx(step_s, rel=0.01)


@pytest.mark.parametrize(
    ("kind", "bucket", "phase", "limit"),
    [
        (replace(KIND, kv_tokens=5000), CHAT, Phase.DECODE, Limit.MEMORY),
        (replace(KIND, kv_tokens=500), CHAT, Phase.DECODE, Limit.MEMORY),
        (replace(KIND, kv_tokens=500), CHAT, Phase.PREFILL, Limit.MEMORY),
        (replace(KIND, batch_sequences_max=4), CHAT, Phase.DECODE, Limit.BATCH),
        (KIND, replace(CHAT, input_tokens_max=100_000), Phase.PREFILL, Limit.TTFT),
        (replace(KIND, gpu=replace(KIND.gpu, link_bytes_per_s=1e9)), CHAT, Phase.PREFILL, Limit.LINK),
        (replace(KIND, gpu=replace(KIND.gpu, link_bytes_per_s=1e6)), CHAT, Phase.DECODE, Limit.LINK),
        (KIND, CHAT, Phase.MIXED, Limit.TPOT),
        (KIND, replace(CHAT, input_tokens=9000, input_tokens_max=14_000), Phase.MIXED, Limit.TTFT),
        (replace(KIND, encode_image_s=None), replace(CHAT, images=1.0), Phase.ENCODE, Limit.NO_ENCODER),
        (replace(KIND, encode_image_s=None), replace(CHAT, images=1.0), Phase.MIXED, Limit.NO_ENCODER),
    ],
)
def test_the_limit_that_is_met_first_is_named(kind: ReplicaKind, bucket: Bucket, phase: Phase, limit: Limit) -> None:
    assert rate_of(phase, kind, bucket, TARGET).limit is limit


def test_a_worker_that_does_not_encode_carries_more_and_needs_no_tower() -> None:
    pictures = replace(CHAT, images=2.0)
    blind = replace(KIND, encode_image_s=None)
    assert rate_of(Phase.TOKENS, blind, pictures, MEDIAN) == rate_of(Phase.TOKENS, KIND, pictures, MEDIAN)
    assert rate_of(Phase.TOKENS, KIND, pictures, MEDIAN).per_s > rate_of(Phase.MIXED, KIND, pictures, MEDIAN).per_s
    towered = replace(KIND, tower_tokens=KIND.kv_tokens - 500)
    assert rate_of(Phase.MIXED, towered, CHAT, MEDIAN).limit is Limit.MEMORY
    assert rate_of(Phase.TOKENS, towered, CHAT, MEDIAN).per_s == rate_of(Phase.MIXED, KIND, CHAT, MEDIAN).per_s


def test_one_worker_for_all_phases_carries_less_than_either_phase_alone() -> None:
    mixed = rate_of(Phase.MIXED, KIND, CHAT, MEDIAN).per_s
    assert 0 < mixed < rate_of(Phase.PREFILL, KIND, CHAT, MEDIAN).per_s
    assert mixed < rate_of(Phase.DECODE, KIND, CHAT, MEDIAN).per_s


def test_steps_shared_by_prompts_and_decodes_fill_the_time_exactly() -> None:
    rate = rate_of(Phase.MIXED, KIND, CHAT, replace(MEDIAN, ttft_s=100.0))
    per_request_s = 1000 * 5e-5 + 200 * (1e-4 + 1e-7 * 1100)
    assert rate.per_s == pytest.approx((1 - 0.01 / 0.05) / per_request_s, rel=0.01)


def test_images_are_encoded_within_their_share_of_the_first_token_s_time() -> None:
    pictures = replace(CHAT, images=2.0)
    rate = rate_of(Phase.ENCODE, KIND, pictures, TARGET)
    full = utilisation_max(service_s=0.2, slack_s=0.3 - 0.2, miss_share=TARGET.miss_share)
    assert rate.per_s == pytest.approx(full / 0.2)
    assert rate_of(Phase.PREFILL, KIND, pictures, TARGET).per_s < rate_of(Phase.PREFILL, KIND, CHAT, TARGET).per_s
