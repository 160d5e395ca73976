"""Measuring an engine: the grid fits its limits, the file keeps what was found, and a worker starts from it."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.capacity import profile_file, sources
from sluice.capacity.catalogue import gpu_class
from sluice.capacity.model_shape import shape_of
from sluice.capacity.profile_grid import trials
from sluice.capacity.step_curve import StepCurve
from sluice.capacity.step_model import StepShape
from sluice.cli import main
from sluice.errors import ConfigError

CURVE = StepCurve(base_s=0.01, prefill_token_s=1e-4, pair_s=1e-9, decode_s=1e-3, context_token_s=1e-8, samples=7)
PROFILE = profile_file.Profile(
    gpu_class="H100",
    model="m",
    tensor_parallel=2,
    curve=CURVE,
    samples=((StepShape(decodes=1, context_tokens=9), 0.5),),
)


@given(kv_tokens=st.integers(0, 500_000), sequence_tokens=st.integers(2, 10_000), batch=st.integers(1, 256))
def test_every_trial_fits_the_engine(kv_tokens: int, sequence_tokens: int, batch: int) -> None:
    for trial in trials(kv_tokens_max=kv_tokens, sequence_tokens_max=sequence_tokens, batch_sequences_max=batch):
        assert trial.sequences <= batch
        assert trial.prompt_tokens + trial.outputs < sequence_tokens
        assert trial.kv_tokens <= kv_tokens


def test_a_profile_survives_its_file_and_gives_a_step_model(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    profile_file.write(path, PROFILE)
    assert profile_file.read(path) == PROFILE
    model = sources.step_model(gpu_class("H100"), shape_of("Llama-3.1-8B"), profile=str(path))
    assert model.step_s(StepShape(decodes=1)) == CURVE.step_s(StepShape(decodes=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "is not a profile"),
        ({"curve": {"base_s": 1}}, "is broken"),
        ({"samples": [[1, 2]]}, "is broken"),
    ],
)
def test_a_broken_profile_is_refused_by_name(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "profile.json"
    profile_file.write(path, PROFILE)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ConfigError, match=message):
        profile_file.read(path)


def test_a_negative_term_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    profile_file.write(path, PROFILE)
    content = json.loads(path.read_text())
    content["curve"]["decode_s"] = -1.0
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="negative"):
        profile_file.read(path)


def test_a_model_too_big_for_its_gpu_is_refused_with_the_sizes() -> None:
    with pytest.raises(ConfigError, match="does not fit 1 L4"):
        sources.step_model(gpu_class("L4"), shape_of("Qwen3-32B"))


def test_profiling_an_emulated_gpu_finds_its_curve_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "h200.json"
    words = ["profile", "--emulate", "Llama-3.1-8B", "--gpu", "H200", "--seconds", "2", "--out", str(path)]
    assert main.main(words) == 0
    found = profile_file.read(path).curve
    true = sources.step_model(gpu_class("H200"), shape_of("Llama-3.1-8B"))
    for shape in (StepShape(decodes=16, context_tokens=16 * 500), StepShape(512, 512 * 256.5, 1)):
        assert found.step_s(shape) == pytest.approx(true.step_s(shape), rel=0.15)
    assert "steps not fitted to" in capsys.readouterr().out


def test_a_time_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["profile", "--seconds", "0"]) == 1
    assert "--seconds: is 0" in capsys.readouterr().err
