"""Traces, fleets and objectives as a person gives them; and what is said when they are wrong."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from public_data import public_data

from sluice.cli.objectives import parse_objective
from sluice.domain.role import Role
from sluice.errors import ConfigError
from sluice.simulator.comparison import highest_rate, interval, paired
from sluice.simulator.pool_spec import PoolCount, parse_pools
from sluice.simulator.step_source import StepSource
from sluice.simulator.traces.source import read_trace
from sluice.simulator.workload import Workload


def read(text: str | Path, *, rate: float | None = None, seed: int = 0, requests_max: int = 1000) -> Workload:
    return read_trace(str(text), rate=rate, seed=seed, requests_max=requests_max)


def test_an_azure_trace_starts_at_its_first_request(tmp_path: Path) -> None:
    path = tmp_path / "any-name.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n"
        "2023-11-16 18:15:50.6805900,396,109\n"
    )
    trace = read(path)
    assert trace.arrival_s.tolist() == [0.0, 4.0]
    assert trace.prompt_tokens.tolist() == [374, 396]
    assert read(path, rate=1.0).arrival_s.tolist() == [0.0, 1.0]


def test_hash_ids_of_partial_units_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    lines = [
        {"timestamp": 0, "input_length": 1100, "output_length": 5, "hash_ids": [7, 8, 9]},
        {"timestamp": 2500, "input_length": 512, "output_length": 5, "hash_ids": [7]},
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    trace = read(path)
    assert trace.hash_ids == [(7, 8), (7,)]
    assert trace.arrival_s.tolist() == [0.0, 2.5]


def test_made_up_requests_have_the_means_asked_for() -> None:
    trace = read("synthetic:isl=800,osl=200,cv=2,prefix=0.5,groups=4,burst=3", rate=5.0, requests_max=20_000)
    assert trace.prompt_tokens.mean() == pytest.approx(800, rel=0.03)
    assert trace.output_tokens.mean() == pytest.approx(200, rel=0.03)
    assert trace.rate == pytest.approx(5.0, rel=0.1)
    shared = [len(ids) - len(set(ids) - set(other)) for ids, other in itertools.pairwise(trace.hash_ids)]
    assert np.mean([count > 0 for count in shared]) == pytest.approx(0.25, abs=0.03), "one group in four"


def test_a_servegen_folder_gives_requests_with_images() -> None:
    folder = public_data("servegen", "multimodal", "mm-image")
    trace = read(folder, rate=2.0, requests_max=500)
    assert len(trace) == 500
    assert trace.rate == pytest.approx(2.0)
    assert trace.images.max() > 1
    assert (trace.prompt_tokens >= trace.image_tokens).all()


def test_public_traces_read_as_their_readme_says() -> None:
    azure = read(public_data("azure", "AzureLLMInferenceTrace_conv.csv"), requests_max=20_000)
    assert (len(azure), round(azure.prompt_tokens.mean(), 1)) == (19_366, 1154.7)
    kimi = read(public_data("mooncake", "conversation_trace.jsonl"), requests_max=20_000)
    assert (len(kimi), round(kimi.prompt_tokens.mean())) == (12_031, 12_035)
    seen: set[int] = set()
    hits = 0
    for ids in kimi.hash_ids:
        known = next((count for count, one in enumerate(ids) if one not in seen), len(ids))
        hits += known * kimi.unit_tokens
        seen.update(ids)
    assert hits / kimi.prompt_tokens.sum() == pytest.approx(0.374, abs=0.005), "of tokens, with an endless cache"


def test_another_seed_rearranges_a_trace_and_keeps_its_requests() -> None:
    trace = read("synthetic", rate=3.0, requests_max=500)
    other = trace.resampled(1)
    assert not np.array_equal(trace.arrival_s, other.arrival_s)
    assert sorted(trace.prompt_tokens) == sorted(other.prompt_tokens)
    assert (np.diff(other.arrival_s) >= 0).all()
    assert other.rate == pytest.approx(trace.rate, rel=0.02)
    assert np.array_equal(other.arrival_s, trace.resampled(1).arrival_s)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("nowhere.csv", "cannot be read"),
        ("synthetic:isl=many", "isl=many"),
        ("synthetic:speed=3", "knob 'speed'"),
        ("synthetic:prefix=2", "prefix is 2"),
    ],
)
def test_a_bad_trace_is_named(text: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        read(text)


@pytest.mark.parametrize("content", ["a,b\n1,2\n", "{broken\n", "", "TIMESTAMP,ContextTokens,GeneratedTokens\nx,1,2\n"])
def test_a_file_of_no_known_format_says_what_would_be_read(tmp_path: Path, content: str) -> None:
    path = tmp_path / "file"
    path.write_text(content)
    with pytest.raises(ConfigError, match="--trace"):
        read(path)


def test_pools_are_counted_by_class_role_and_gpus_per_replica() -> None:
    assert parse_pools("H100:2p+4d, A100x2:1m") == [
        PoolCount("H100", 1, Role.PREFILL, 2),
        PoolCount("H100", 1, Role.DECODE, 4),
        PoolCount("A100", 2, Role.MIXED, 1),
    ]


@pytest.mark.parametrize("text", ["", "H100", "H100:2", "H100:0m", "H100:2q", "H100:2p", "H100:2d", "H100:99999m"])
def test_a_fleet_that_cannot_serve_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--pools"):
        parse_pools(text)


@pytest.mark.parametrize("text", ["ttft", "ttft=0", "tpot=fast", "speed=1"])
def test_bad_objectives_are_named(text: str) -> None:
    with pytest.raises(ConfigError, match="--slo"):
        parse_objective(text)


@pytest.mark.parametrize("text", ["H100", "H100=magic:x", "H100=distserve:"])
def test_a_bad_profile_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match="--profile"):
        StepSource([text])


def test_paired_differences_leave_out_what_seeds_have_in_common() -> None:
    ours, theirs = [10.0, 20.0, 30.0], [9.0, 19.1, 28.9]
    assert paired(ours, theirs).is_positive
    assert not interval(ours).half < 20.0
    assert str(interval([1.0])) == "1"


def test_the_highest_rate_is_found_from_below_and_above() -> None:
    for limit in (0.7, 3.0, 50.0):
        found = highest_rate(lambda rate, limit=limit: float(rate <= limit), share=0.9, low=0.5, high=4.0, step=0.01)
        assert found == pytest.approx(limit, rel=0.02)
    assert highest_rate(lambda _: 0.0, share=0.9, low=0.5, high=4.0, step=0.01) == 0.0
