"""`sluice plan` answers with a confirmed plan in three forms, and names what is wrong with its options."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sluice.cli import plan_arguments
from sluice.cli.main import main
from sluice.cli.objectives import parse_objective
from sluice.cli.plan import replayed
from sluice.errors import ConfigError
from sluice.operator.accept import accept, parse
from sluice.operator.resources.gpu_class import GPUClassSpec
from sluice.operator.resources.model_service import ModelServiceSpec

TRACE = ["--trace", "synthetic:isl=600,osl=60", "--rate", "30", "--requests", "150", "--seeds", "1", "--rounds", "1"]
GPUS = ["--gpus", "H100=7.5/h:8,A100=3.7/h:16"]
GPU = parse(GPUClassSpec, {"nodeSelector": {"gpu": "x"}, "memoryGib": 80, "pricePerHour": 2})
SLO = ["--slo", "ttft=1s,tpot=50ms"]


def test_a_plan_is_printed_with_its_price_its_replay_and_what_binds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *SLO, *TRACE, *GPUS]) == 0
    printed = capsys.readouterr().out
    assert "promise kept" in printed
    assert "proven cheapest" in printed
    assert "instead: A100-80G only" in printed
    assert "would save" in printed or "nothing that could be loosened" in printed


def test_json_has_every_pool_and_the_replay(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *SLO, *TRACE, *GPUS, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["cost_per_h"] == pytest.approx(sum(pool["cost_per_h"] for pool in answer["pools"]))
    assert answer["replay"]["attained"] >= 0.99 * answer["promise"]
    assert answer["gap"] == 0


def test_the_yaml_is_a_model_service_the_operator_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *SLO, *TRACE, *GPUS, "--rounds", "0", "--yaml"]) == 0
    resource = yaml.safe_load(capsys.readouterr().out)
    assert (resource["apiVersion"], resource["kind"]) == ("sluice.dev/v1alpha1", "ModelService")
    spec = ModelServiceSpec.model_validate(resource["spec"])
    assert not list(spec.broken_rules("spec"))
    assert spec.objectives.tpot_s == 0.05
    assert all(pool.gpu_classes and pool.replicas.min >= 1 for pool in spec.pools.values())
    resource["metadata"] |= {"namespace": "models", "uid": "u"}
    classes = {name: GPU for pool in spec.pools.values() for name in pool.gpu_classes or ()}
    assert len(accept(resource, classes).pools) == len(spec.pools), "names included: prefill-a100-80g would be too long"


MADE = {
    "chunk-0-trace.csv": "0,20.0,1.0,Gamma,1.0,0.05\n",
    "chunk-0-dataset.json": json.dumps(
        {"0": {"text_tokens": "{400: 1.0}", "image_tokens": "{1200: 1.0}", "image_count": "{2: 1.0}",
               "output_tokens": "{60: 1.0}"}}
    ),
}  # fmt: skip


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    """Options for a trace of requests with two images each."""
    for name, text in MADE.items():
        (tmp_path / name).write_text(text)
    return ["--trace", str(tmp_path), "--requests", "150", "--seeds", "1", "--rounds", "1", "--model", "Qwen2-7B"]


def test_images_are_planned_for_replayed_and_put_into_the_model_service(
    pictures: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    gpus = ["--gpus", "H100=7.5/h,RTX-4090=0.6/h", "--vision", "Qwen2-VL", "--rate", "40"]
    assert main(["plan", "--slo", "ttft=2s,tpot=50ms", *pictures, *gpus, "--json"]) == 0
    pools = {
        (pool["phase"], pool["gpu_class"]): pool["replicas"] for pool in json.loads(capsys.readouterr().out)["pools"]
    }
    assert pools["encode", "RTX-4090"] >= 1
    assert main(["plan", "--slo", "ttft=2s,tpot=50ms", *pictures, *gpus, "--rounds", "0", "--yaml"]) == 0
    spec = ModelServiceSpec.model_validate(yaml.safe_load(capsys.readouterr().out)["spec"])
    assert not list(spec.broken_rules("spec"))
    assert [pool.role for pool in spec.pools.values()].count("encode") == 1


def test_a_trace_without_images_needs_no_tower(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *SLO, *TRACE, *GPUS, "--vision", "Qwen2-VL"]) != 0
    assert "has no images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([*SLO, "--gpus", "H100=x:3"], "--gpus: 'H100=x:3'"),
        ([*SLO, "--gpus", "B9000:1"], "GPU class 'B9000' is not known"),
        ([*SLO, "--gpus", "H100,h100:2"], "H100 is there twice"),
        ([*SLO, "--gpus", ","], "names no class"),
        ([*SLO, "--gpus", "H100:999999"], "give at most"),
        ([*SLO, *GPUS, "--links", "H100:L5=3GB/s"], "'L5' is not known"),
        ([*SLO, *GPUS, "--links", "H100=3GB/s"], "--links: 'H100=3GB/s'"),
        ([*SLO, *GPUS, "--links", "H100:A40=3GB/s"], "classes of --gpus"),
        ([*SLO, *GPUS, "--rounds", "99"], "--rounds: is 99"),
        ([*SLO, *GPUS, "--tensor-parallel-max", "3"], "--tensor-parallel-max: is 3"),
        ([*SLO, *GPUS, "--attainment", "1"], "attainment: 1"),
        ([*SLO, "--gpus", "L4", "--model", "llama-3.1-70b"], "no class holds the 141 GB"),
        ([*SLO, "--gpus", "A100:0"], "raise a count or loosen --slo"),
        (["--slo", "ttft=1ms,tpot=50ms", "--gpus", "L4"], "meets these objectives for any request"),
        (["--slo", "ttft=fast", "--gpus", "L4"], "--slo: 'ttft=fast' is no time"),
    ],
)
def test_a_wrong_option_is_named_with_its_remedy(
    options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *TRACE, *options]) == 1
    assert words in capsys.readouterr().err


def test_a_promise_that_no_round_kept_is_said_and_ends_with_status_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sluice.planner.verification.KEPT_MIN", 2.0)
    assert main(["plan", *SLO, *TRACE, *GPUS, "--rounds", "2"]) == 1
    assert "PROMISE NOT KEPT" in capsys.readouterr().out


def test_prices_and_supplies_may_be_left_out() -> None:
    supply = plan_arguments.parse_gpus("H100=6.25/h:8, L4, A10G=1")
    assert [(gpu.name, gpu.price_per_h) for gpu in supply.classes] == [("H100", 6.25), ("L4", 0.7), ("A10G", 1.0)]
    assert supply.gpus_max == {"H100": 8}


def test_links_bound_both_ways() -> None:
    supply = plan_arguments.parse_gpus("H100,L4")
    assert plan_arguments.parse_links("H100:L4=40Gb/s", supply) == {("H100", "L4"): 5e9, ("L4", "H100"): 5e9}


@pytest.mark.parametrize(
    ("text", "ttft_s", "tpot_s"), [("ttft=1s,tpot=50ms", 1, 0.05), ("tpot=.02,ttft=250ms", 0.25, 0.02)]
)
def test_objectives_are_seconds_unless_a_unit_says_otherwise(text: str, ttft_s: float, tpot_s: float) -> None:
    slo = parse_objective(text).slo
    assert (slo.ttft_s, slo.tpot_s) == (ttft_s, tpot_s)


@pytest.mark.parametrize("text", ["ttft=0", "ttft=-1s", "ttft=1h", "speed=1s", "ttft=9999s"])
def test_an_objective_that_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--slo"):
        parse_objective(text)


def test_planning_needs_neither_torch_nor_a_cluster() -> None:
    check = (
        "import sluice.cli.plan, sys; sys.exit(any(name in sys.modules for name in ('torch', 'kopf', 'kubernetes')))"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize(("rate", "requests"), [(0.1, 1000), (58.7, 7044), (1e6, 50_000)])
def test_a_replay_lasts_two_minutes_unless_told_otherwise(rate: float, requests: int) -> None:
    assert replayed(rate) == requests
