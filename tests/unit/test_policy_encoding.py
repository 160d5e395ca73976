"""Who encodes a request's images: cheap replicas while the time allows, the first to be done when it does not."""

from hypothesis import given
from hypothesis import strategies as st

from sluice.capacity.encode_curve import EncodeCurve
from sluice.domain.role import Role
from sluice.policy.encoding import Encoder, Way, choose_encoders, way_of

FAST = EncodeCurve(batch_s=0.0, image_s=0.0, token_s=1e-4)
SLOW = FAST.times(4)


def encoder(slot: int, *, curve: EncodeCurve = SLOW, price: float = 1.0, wait_s: float = 0.0, role: Role = Role.ENCODE,
            decodes: int = 0, held: frozenset[int] = frozenset()) -> Encoder:  # fmt: skip
    return Encoder(
        slot=slot, role=role, curve=curve, wait_s=wait_s, price_per_s=price, decodes=decodes, slack_s=0.05, held=held
    )


def slots(image_tokens: list[int], encoders: list[Encoder], *, budget_s: float) -> list[tuple[int, tuple[int, ...]]]:
    plan = choose_encoders(image_tokens, encoders, budget_s=budget_s)
    assert plan is not None
    return [(shard.slot, shard.images) for shard in plan.shards]


def test_without_encoders_there_is_no_plan() -> None:
    assert choose_encoders([500], [], budget_s=1.0) is None


def test_equal_encoders_share_a_requests_images() -> None:
    encoders = [encoder(slot) for slot in range(4)]
    plan = choose_encoders([500] * 8, encoders, budget_s=10.0)
    assert plan is not None
    assert sorted(len(shard.images) for shard in plan.shards) == [2, 2, 2, 2]
    assert plan.ready_s == SLOW.encode_s([500, 500])
    assert plan.way is Way.APART


def test_encoders_that_are_nearly_equal_share_nearly_evenly() -> None:
    noisy = [encoder(0, curve=SLOW.times(1.02)), encoder(1, curve=SLOW), encoder(2, curve=SLOW.times(0.98))]
    plan = choose_encoders([500] * 9, noisy, budget_s=10.0)
    assert plan is not None
    assert all(2 <= len(shard.images) <= 4 for shard in plan.shards)


def test_a_cheap_encoder_is_preferred_while_it_is_in_time() -> None:
    gpu = encoder(0, curve=FAST, price=20.0, role=Role.MIXED)
    cheap = encoder(1, curve=SLOW, price=1.0)
    assert slots([500], [gpu, cheap], budget_s=0.3) == [(1, (0,))]


def test_what_the_cheap_one_cannot_finish_in_time_goes_to_the_fast_one() -> None:
    gpu = encoder(0, curve=FAST, price=20.0, role=Role.MIXED)
    cheap = encoder(1, curve=SLOW, price=1.0)
    assert slots([500, 500], [gpu, cheap], budget_s=0.3) == [(0, (1,)), (1, (0,))]


def test_when_nobody_is_in_time_the_first_to_be_done_is_taken_whatever_it_costs() -> None:
    gpu = encoder(0, curve=FAST, price=20.0, role=Role.MIXED)
    cheap = encoder(1, curve=SLOW, price=1.0)
    assert slots([500], [gpu, cheap], budget_s=0.01) == [(0, (0,))]


def test_where_encoding_apart_costs_more_it_happens_where_the_prompt_is() -> None:
    own = encoder(0, curve=FAST, price=1.0, role=Role.MIXED)
    apart = encoder(1, curve=SLOW, price=1.0)
    plan = choose_encoders([500], [own, apart], budget_s=1.0)
    assert plan is not None
    assert plan.way is Way.TOGETHER


def test_a_replica_whose_decodes_would_wait_too_long_is_dear() -> None:
    busy = encoder(0, curve=SLOW, price=1.0, role=Role.MIXED, decodes=50)
    idle = encoder(1, curve=SLOW, price=2.0)
    assert slots([500], [busy, idle], budget_s=1.0) == [(1, (0,))]


def test_an_image_goes_where_its_embeddings_are_and_costs_nothing() -> None:
    plan = choose_encoders([500], [encoder(0), encoder(1, wait_s=9.0, held=frozenset({0}))], budget_s=1.0)
    assert plan is not None
    assert [shard.slot for shard in plan.shards] == [1]
    assert (plan.ready_s, plan.dollars) == (0.0, 0.0)


def test_the_way_is_named_by_who_encodes() -> None:
    assert way_of([Role.ENCODE, Role.ENCODE]) is Way.APART
    assert way_of([Role.PREFILL]) is Way.WITH_PREFILL
    assert way_of([Role.DECODE]) is Way.WITH_DECODE
    assert way_of([Role.MIXED]) is Way.TOGETHER
    assert way_of([Role.ENCODE, Role.MIXED]) is Way.SEVERAL


ENCODERS = st.lists(
    st.builds(
        lambda wait_s, price, factor, role, decodes: (wait_s, price, factor, role, decodes),
        st.floats(0, 2),
        st.floats(0.1, 10),
        st.floats(0.5, 8),
        st.sampled_from(Role),
        st.integers(0, 64),
    ),
    min_size=1,
    max_size=6,
)


@given(st.lists(st.integers(1, 4000), min_size=1, max_size=8), ENCODERS, st.floats(0, 3))
def test_every_image_is_encoded_once_and_in_time_whenever_a_lone_encoder_would_be(
    image_tokens: list[int], drawn: list[tuple[float, float, float, Role, int]], budget_s: float
) -> None:
    encoders = [
        encoder(slot, curve=FAST.times(factor), price=price, wait_s=wait_s, role=role, decodes=decodes)
        for slot, (wait_s, price, factor, role, decodes) in enumerate(drawn)
    ]
    plan = choose_encoders(image_tokens, encoders, budget_s=budget_s)
    assert plan is not None
    assert sorted(image for shard in plan.shards for image in shard.images) == list(range(len(image_tokens)))
    if len(image_tokens) == 1:
        best_s = min(one.wait_s + one.curve.encode_s(image_tokens) for one in encoders)
        assert plan.ready_s <= max(budget_s, best_s) + 1e-9
