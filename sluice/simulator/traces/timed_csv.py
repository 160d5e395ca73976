"""The Azure LLM inference trace: one row a request with its moment and its lengths (Splitwise, ISCA 2024).

Next: `source.py`.
"""

import csv
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np

from sluice.errors import ConfigError
from sluice.simulator.workload import Workload

STAMP, PROMPT, OUTPUT = "TIMESTAMP", "ContextTokens", "GeneratedTokens"
COLUMNS: Final = {STAMP, PROMPT, OUTPUT}
MICROSECOND_DIGITS: Final = 26  # of "2023-11-16 18:15:46.680590"; the trace has a seventh decimal


def read(path: Path, *, requests_max: int) -> Workload:
    """At most `requests_max` requests. Raises ConfigError naming the line that is wrong."""
    stamps: list[float] = []
    prompts: list[int] = []
    outputs: list[int] = []
    with path.open(encoding="utf-8", newline="") as file:
        for line, row in enumerate(csv.DictReader(file), start=2):
            if len(stamps) == requests_max:
                break
            try:
                stamps.append(datetime.fromisoformat(row[STAMP][:MICROSECOND_DIGITS]).timestamp())
                prompts.append(int(row[PROMPT]))
                outputs.append(int(row[OUTPUT]))
            except (ValueError, TypeError) as error:
                raise ConfigError(f"--trace: {path}, line {line}: {error}") from error
    if not stamps:
        raise ConfigError(f"--trace: {path} has no requests")
    arrival_s = np.array(stamps) - min(stamps)
    order = np.argsort(arrival_s, kind="stable")
    return Workload(
        name=path.stem,
        arrival_s=arrival_s[order],
        prompt_tokens=np.maximum(1, np.array(prompts))[order],
        output_tokens=np.maximum(1, np.array(outputs))[order],
    )
