"""`sluice simulate`: the same figures for the same seed, a report in one file, mistakes in one line."""

import json
from pathlib import Path

import pytest

from sluice.cli.main import main

SMALL = ["simulate", "--trace", "synthetic:isl=300,osl=60", "--rate", "5", "--requests", "120"]


def test_the_same_seed_gives_the_same_figures(capsys: pytest.CaptureFixture[str]) -> None:
    command = [*SMALL, "--pools", "H100:1p+1d", "--policy", "lmetric", "--json"]
    printed = []
    for seed in ("1", "1", "2"):
        assert main([*command, "--seed", seed]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] != printed[2]
    figures = json.loads(printed[0])["lmetric"][0]
    assert figures["requests"] == 120
    assert 0.0 <= figures["attained"]["deadline"] <= 1.0


def test_policies_are_compared_and_reported_in_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "report.html"
    words = ["--pools", "H100:3m", "--compare", "joint,round_robin", "--rates", "2,8", "--report", str(page)]
    assert main([*SMALL, *words]) == 0
    printed = capsys.readouterr().out
    assert "joint - round_robin:" in printed
    assert "requests/s" in printed
    text = page.read_text()
    assert text.count("<svg") == 5 + 2 * 3
    assert "http" not in text.replace("http-equiv", "")
    assert "<script" not in text


def test_a_failed_instance_costs_nobody_a_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--pools", "H100:2m", "--policy", "least_load", "--fail", "0@5", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)["least_load"][0]
    assert (figures["lost"], figures["rejected"]) == (0, 0)


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (["--policy", "magic"], "magic"),
        (["--pools", "H1000:1m"], "H1000"),
        (["--pools", "L4:1m", "--model", "Llama-3.1-70B"], "--pools"),
        (["--goal", "joy"], "--goal"),
        (["--fail", "9@1"], "--fail"),
        (["--batch", "4096"], "--batch"),
        (["--images-seen", "1.5"], "--images-seen: is 1.5"),
        (["--image-parts", "-1"], "--image-parts: is -1"),
        (["--seeds", "-1"], "--seeds"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    status = main([*SMALL, *words])
    error = capsys.readouterr().err
    assert status == 1
    assert word in error
    assert error.count("\n") == 1
