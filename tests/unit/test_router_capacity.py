"""A router learns from heartbeats how fast its workers are, and shows it."""

from dataclasses import replace

from sluice.capacity.step_curve import StepCurve
from sluice.capacity.step_model import StepShape
from sluice.cli.capacity_columns import capacity_columns
from sluice.domain.ids import BootId, WorkerId
from sluice.domain.load import WorkerInfo, WorkerLoad
from sluice.domain.role import Lifecycle, Role
from sluice.domain.step import StepSample, StepTerms
from sluice.router.capacity_rows import capacity_reply
from sluice.router.fleet import Fleet
from sluice.router.worker_link import WorkerLink

INFO = WorkerInfo(
    worker=WorkerId("a"),
    boot=BootId("boot"),
    role=Role.MIXED,
    model="m",
    model_fingerprint="f",
    kv_address="h:1",
    block_tokens=16,
    blocks=100,
    sequence_tokens_max=1000,
    batch_sequences_max=8,
    device="cuda:0",
    gpu_class="H100",
    tensor_parallel=2,
    price_per_h=15.0,
    step_terms=StepTerms(0.02, 1e-4, 1e-8, 1e-4, 1e-7, 0.3),
)
TRUE = StepCurve(base_s=0.01, prefill_token_s=5e-5, pair_s=0.0, decode_s=2e-4, context_token_s=0.0)


def beats(fleet: Fleet, count: int) -> None:
    member = fleet.find(WorkerId("a"))
    assert member is not None
    for number in range(1, count + 1):
        shape = StepShape(decodes=number % 7 + 1, context_tokens=100 * (number % 5))
        sample = StepSample(number, *shape, TRUE.step_s(shape))
        fleet.beat(member, WorkerLoad(lifecycle=Lifecycle.READY, steps=(sample,)), now_s=float(number))


def test_heartbeats_teach_the_router_and_placement_sees_it() -> None:
    fleet = Fleet(expiry_s=10.0)
    member = fleet.join(INFO, WorkerLink(), now_s=0.0)
    assert fleet.table.base_s[member.slot] == 0.02
    beats(fleet, 200)
    assert abs(fleet.table.base_s[member.slot] / TRUE.base_s - 1) < 0.05
    row = capacity_reply(fleet).workers[0]
    assert (row.worker, row.gpu_class, row.tensor_parallel, row.samples) == ("a", "H100", 2, 200)


def test_a_class_outlives_its_workers() -> None:
    fleet = Fleet(expiry_s=10.0)
    member = fleet.join(INFO, WorkerLink(), now_s=0.0)
    beats(fleet, 100)
    fleet.remove(member)
    reply = capacity_reply(fleet)
    assert not reply.workers
    assert reply.classes[0].samples == 100
    again = fleet.join(replace(INFO, boot=BootId("next")), WorkerLink(), now_s=1.0)
    assert abs(fleet.table.base_s[again.slot] / TRUE.base_s - 1) < 0.05


def test_the_table_shows_what_the_numbers_rest_on() -> None:
    fleet = Fleet(expiry_s=10.0)
    fleet.join(INFO, WorkerLink(), now_s=0.0)
    columns = {column.heading: column.cells for column in capacity_columns(capacity_reply(fleet))}
    assert columns["GPU"] == ["H100x2", "H100x2"]
    assert columns["WORKER"] == ["a", "(class)"]
    assert columns["SAMPLES"] == ["none yet", "none yet"]
    assert columns["90 % WITHIN"][0] == "49%"
