"""Prompt and output lengths without moments (ShareGPT's and arXiv's, as Vidur publishes them), given arrivals.

Next: `arrivals.py` for when they come.
"""

import csv
from pathlib import Path
from typing import Final

import numpy as np

from sluice.errors import ConfigError
from sluice.simulator.traces import arrivals
from sluice.simulator.workload import Workload

PROMPT, OUTPUT = "num_prefill_tokens", "num_decode_tokens"
COLUMNS: Final = {PROMPT, OUTPUT}


def read(path: Path, *, rate: float | None, seed: int, requests_max: int) -> Workload:
    """Requests of these lengths in drawn order, arriving as a Poisson process. Raises ConfigError without a rate."""
    if rate is None:
        raise ConfigError(f"--trace: {path.name} has lengths but no times; give --rate")
    lengths: list[tuple[int, int]] = []
    with path.open(encoding="utf-8", newline="") as file:
        for line, row in enumerate(csv.DictReader(file), start=2):
            try:
                lengths.append((int(float(row[PROMPT])), int(float(row[OUTPUT]))))
            except (ValueError, TypeError) as error:
                raise ConfigError(f"--trace: {path}, line {line}: {error}") from error
    if not lengths:
        raise ConfigError(f"--trace: {path} has no requests")
    generator = np.random.default_rng(seed)
    drawn = np.maximum(1, np.array(lengths))[generator.permutation(len(lengths))[:requests_max]]
    return Workload(
        name=path.stem,
        arrival_s=arrivals.gamma(len(drawn), rate=rate, cv=1.0, generator=generator),
        prompt_tokens=drawn[:, 0],
        output_tokens=drawn[:, 1],
    )
