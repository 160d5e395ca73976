"""A short run of the chaos benchmark: real clients, real processes, faults without pause, every answer compared."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.system, pytest.mark.alone]

CHAOS = Path(__file__).parents[2] / "benchmarks" / "chaos"


@pytest.mark.timeout(330)  # on a machine that does much else besides
def test_faults_without_pause_lose_repeat_and_change_nothing(tmp_path: Path) -> None:
    """`make chaos CHAOS='--seed …'` tries thousands; its output names the seed and every fault."""
    words = ("--requests", "100", "--transports", "tcp", "--seed", "5")
    run = subprocess.run(
        [sys.executable, CHAOS, *words], check=False, capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert "nothing lost, repeated, changed or left behind" in run.stdout
