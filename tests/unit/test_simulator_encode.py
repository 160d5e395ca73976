"""Images in a simulated fleet: encoded once, in batches, apart or between steps, and never lost."""

import numpy as np
import pytest

from sluice.capacity.encode_curve import EncodeCurve
from sluice.capacity.model_shape import shape_of
from sluice.capacity.step_curve import StepCurve
from sluice.capacity.vision_shape import vision_shape
from sluice.domain.role import Role
from sluice.errors import ConfigError
from sluice.policy.encoding import Way
from sluice.policy.registry import make_policy
from sluice.simulator.encodes import EncodeRules
from sluice.simulator.fleet_run import FleetRun
from sluice.simulator.image_queue import ImageQueue, SimImage
from sluice.simulator.instance_spec import InstanceSpec
from sluice.simulator.outcome import Fate
from sluice.simulator.pool_spec import EngineSettings, make_specs, parse_pools
from sluice.simulator.run_options import Failure, RunOptions
from sluice.simulator.sequence import SimSequence
from sluice.simulator.step_source import StepSource
from sluice.simulator.workload import Workload

STEPS = StepCurve(base_s=0.01, prefill_token_s=1e-4, pair_s=0.0, decode_s=1e-4, context_token_s=0.0)
IDLE = StepCurve(base_s=0.0, prefill_token_s=0.0, pair_s=0.0, decode_s=0.0, context_token_s=0.0)
TOWER = EncodeCurve(batch_s=0.0, image_s=0.0, token_s=1e-3)


def spec(role: Role, *, encode: EncodeCurve | None = None, encode_tokens_max: int = 8192) -> InstanceSpec:
    is_encoder = role is Role.ENCODE
    curve = IDLE if is_encoder else STEPS
    return InstanceSpec(
        name=role.value, gpu_class="X", role=role, model=curve, curve=curve, blocks=1 if is_encoder else 4000,
        unit_tokens=16, price_per_h=1.0, encode=encode, encode_tokens_max=encode_tokens_max, link_latency_s=0.0,
        link_bytes_per_s=1e15,
    )  # fmt: skip


def requests(count: int, *, gap_s: float, images: int, tokens: int) -> Workload:
    return Workload(
        name="made up",
        arrival_s=np.arange(count) * gap_s,
        prompt_tokens=np.full(count, images * tokens + 20),
        output_tokens=np.full(count, 5),
        images=np.full(count, images),
        image_tokens=np.full(count, images * tokens),
    )


def run(specs: list[InstanceSpec], workload: Workload, options: RunOptions | None = None) -> FleetRun:
    replay = FleetRun(specs=specs, workload=workload, policy=make_policy("least_load"), options=options or RunOptions())
    replay.run()
    return replay


def test_a_requests_images_on_four_encoders_take_a_quarter_of_the_time() -> None:
    one, four = (
        run([spec(Role.MIXED)] + [spec(Role.ENCODE, encode=TOWER)] * count,
            requests(1, gap_s=1.0, images=8, tokens=100)).outcome.ttft_s[0]
        for count in (1, 4)
    )  # fmt: skip
    prefill_s = 0.01 + 820 * 1e-4
    assert one == pytest.approx(0.8 + prefill_s)
    assert four == pytest.approx(0.2 + prefill_s)


def test_the_parts_of_one_image_are_encoded_at_the_same_time() -> None:
    fleet = [spec(Role.MIXED)] + [spec(Role.ENCODE, encode=TOWER)] * 4
    one = requests(1, gap_s=1.0, images=1, tokens=800)
    whole = run(fleet, one).outcome.ttft_s[0]
    parted = run(fleet, one, RunOptions(encode=EncodeRules(part_tokens=200))).outcome.ttft_s[0]
    assert whole - parted == pytest.approx(0.6), "a quarter of 0.8 s"


def test_images_that_were_seen_before_cost_no_encoding() -> None:
    fleet = [spec(Role.MIXED), spec(Role.ENCODE, encode=TOWER)]
    trace = requests(40, gap_s=1.0, images=2, tokens=100)
    encoded = {}
    for share in (0.0, 0.5, 1.0):
        replay = run(fleet, trace, RunOptions(encode=EncodeRules(seen_share=share)))
        assert (replay.outcome.fate == Fate.FINISHED).all()
        encoded[share] = replay.instances[1].images.encoded
        if share == 1.0:
            assert replay.outcome.ttft_s.max() < 0.1, "nothing but prefill, and embeddings on the way"
    assert encoded[0.0] == 80
    assert 30 <= encoded[0.5] <= 50
    assert encoded[1.0] == 0


def test_an_unsharded_request_stays_on_one_encoder() -> None:
    rules = RunOptions(encode=EncodeRules(is_sharded=False))
    fleet = [spec(Role.MIXED)] + [spec(Role.ENCODE, encode=TOWER)] * 4
    replay = run(fleet, requests(1, gap_s=1.0, images=8, tokens=100), rules)
    assert replay.encodes.shards == 1
    assert replay.outcome.ttft_s[0] == pytest.approx(0.8 + 0.01 + 820 * 1e-4)


def test_encoding_on_the_replica_that_decodes_makes_its_decodes_wait() -> None:
    calm = requests(40, gap_s=0.12, images=1, tokens=90)
    together = run([spec(Role.MIXED, encode=TOWER)], calm)
    apart = run([spec(Role.MIXED), spec(Role.ENCODE, encode=TOWER)], calm)
    assert together.encodes.ways[Way.TOGETHER] == apart.encodes.ways[Way.APART] == 40
    assert together.outcome.worst_gap_s.max() > 0.09
    assert apart.outcome.worst_gap_s.max() < 0.09


def test_requests_without_images_never_wait_for_encoders() -> None:
    text = requests(20, gap_s=0.1, images=0, tokens=0)
    replay = run([spec(Role.MIXED), spec(Role.ENCODE, encode=TOWER)], text)
    assert replay.encodes.shards == 0
    assert (replay.outcome.fate == Fate.FINISHED).all()


def test_a_traces_images_cost_nothing_where_no_fleet_encodes() -> None:
    with_images = requests(20, gap_s=0.1, images=2, tokens=100)
    assert run([spec(Role.MIXED)], with_images).encodes.shards == 0


def test_the_images_of_a_lost_encoder_are_encoded_by_another() -> None:
    fleet = [spec(Role.MIXED), *[spec(Role.ENCODE, encode=TOWER)] * 2]
    options = RunOptions(failures=(Failure(slot=1, at_s=0.25, back_after_s=50.0),))
    replay = run(fleet, requests(30, gap_s=0.02, images=2, tokens=100), options)
    assert (replay.outcome.fate == Fate.FINISHED).all()
    assert replay.instances[1].images.encoded < replay.instances[2].images.encoded
    assert sum(instance.images.encoded for instance in replay.instances) == 60, "each image once"
    assert all(instance.images.is_empty for instance in replay.instances)


def test_when_every_encoder_is_lost_images_wait_for_one_to_come_back() -> None:
    fleet = [spec(Role.MIXED), spec(Role.ENCODE, encode=TOWER)]
    options = RunOptions(failures=(Failure(slot=1, at_s=0.05, back_after_s=3.0),))
    replay = run(fleet, requests(1, gap_s=1.0, images=1, tokens=100), options)
    assert replay.outcome.ttft_s[0] > 3.0
    assert (replay.outcome.fate == Fate.FINISHED).all()


def test_a_batch_takes_images_while_their_embeddings_fit_and_one_at_least() -> None:
    queue = ImageQueue(TOWER, tokens_max=250)
    sequence = SimSequence.__new__(SimSequence)
    for tokens in (100, 100, 100, 400):
        queue.put(SimImage(sequence, tokens, 0))
    assert queue.work_s == pytest.approx(0.7)
    sizes = []
    while (batch_s := queue.next_batch_s()) > 0.0:
        sizes.append(round(batch_s, 6))
        queue.finish_batch()
    assert sizes == [0.2, 0.1, 0.4]
    assert queue.is_empty


def test_pools_of_encoders_are_typed_with_an_e() -> None:
    settings = EngineSettings(vision=vision_shape("Qwen2-VL"))
    pools = parse_pools("L4:2e,H100:1p+1d")
    specs = make_specs(pools, shape=shape_of("Qwen2-7B"), source=StepSource(), settings=settings)
    assert [one.role for one in specs] == [Role.ENCODE, Role.ENCODE, Role.PREFILL, Role.DECODE]
    assert [one.encode is not None for one in specs] == [True, True, False, False], "as with encode workers"
    with pytest.raises(ConfigError, match="nobody can prefill"):
        parse_pools("L4:2e")
    with pytest.raises(ConfigError, match="--vision"):
        make_specs(pools, shape=shape_of("Qwen2-7B"), source=StepSource(), settings=EngineSettings())
    with pytest.raises(ConfigError, match="use single GPUs"):
        make_specs(parse_pools("L4x2:1e,H100:1m"), shape=shape_of("Qwen2-7B"), source=StepSource(), settings=settings)


@pytest.mark.parametrize(
    ("pools", "seeing"),
    [
        ("H100:1m", [True]),
        ("H100:1p+1d", [True, False]),
        ("H100:1ep+1d", [True, False]),
        ("H100:1p+1ed", [False, True]),  # ED-P: the encoder beside the decodes
        ("L4:1e,H100:1em+1m", [True, True, False]),
    ],
)
def test_who_is_written_with_an_e_holds_the_tower_and_without_any_all_who_prefill(
    pools: str, seeing: list[bool]
) -> None:
    settings = EngineSettings(vision=vision_shape("Qwen2-VL"))
    specs = make_specs(parse_pools(pools), shape=shape_of("Qwen2-7B"), source=StepSource(), settings=settings)
    assert [one.encode is not None for one in specs] == seeing


def test_a_replica_without_the_tower_has_more_room_for_kv() -> None:
    settings = EngineSettings(vision=vision_shape("InternViT-6B"))
    blind, seeing = make_specs(
        parse_pools("A100:1m+1em"), shape=shape_of("InternLM2-20B"), source=StepSource(), settings=settings
    )
    freed_bytes = (blind.blocks - seeing.blocks) * blind.block_tokens * blind.kv_token_bytes
    assert freed_bytes == pytest.approx(vision_shape("InternViT-6B").weight_bytes, rel=1e-3)
