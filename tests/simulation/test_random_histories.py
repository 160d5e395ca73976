"""Random histories of whole platforms under faults: every law holds, whatever the seed."""

import os
import subprocess
import sys

import pytest

from sluice.testing.simulation import __main__ as command
from sluice.testing.simulation import random_run

CHUNKS = 40
CHUNK_RUNS = 50
"""Two thousand seeds, always the same: what passed once fails later only by what has changed since."""


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_no_fault_loses_repeats_or_changes_a_token_or_leaks_a_block(chunk: int) -> None:
    for seed in range(chunk * CHUNK_RUNS, (chunk + 1) * CHUNK_RUNS):
        result = random_run.run(seed)
        assert not result.broken, command.describe(result)


@pytest.mark.parametrize("seed", [7334, 20456])
def test_an_owner_that_comes_while_an_older_reservation_is_being_made(seed: int) -> None:
    """It was refused as if the client had made a mistake."""
    result = random_run.run(seed)
    assert not result.broken, command.describe(result)


@pytest.mark.parametrize("seed", [5649, 5956])
def test_a_one_sided_writer_that_dies_leaves_no_more_than_its_own_blocks(seed: int) -> None:
    result = random_run.run(seed)
    assert not result.broken, command.describe(result)


@pytest.mark.parametrize("seed", [2695, 3066])
def test_a_late_copy_of_a_reserve_and_leases_that_end_together(seed: int) -> None:
    """One left a block behind, the other killed a worker."""
    result = random_run.run(seed)
    assert not result.broken, command.describe(result)


def test_a_seed_is_a_history_in_this_process_and_in_any_other() -> None:
    logs = {random_run.run(7).log, random_run.run(7).log}
    assert len(logs) == 1
    (log,) = logs
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        arguments = [sys.executable, "-m", "sluice.testing.simulation", "--seed", "7", "--runs", "1", "--log"]
        printed = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=60, check=True)
        assert printed.stdout.splitlines()[: len(log)] == list(log)
