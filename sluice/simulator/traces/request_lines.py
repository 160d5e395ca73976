"""Requests as JSON lines: Mooncake's traces with prefix hashes, and LLMServingSim's workloads and logs.

Next: `source.py`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from sluice.errors import ConfigError
from sluice.simulator.workload import Workload

UNIT_TOKENS: Final = 512  # of Mooncake's hash ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The names one format gives its fields."""

    arrival: str
    per_second: float  # of the arrival's unit
    prompt: str
    output: str
    hash_ids: str = ""

    def is_in(self, fields: set[str]) -> bool:
        """Whether a line with these fields is of this format."""
        return {self.arrival, self.prompt, self.output} <= fields


LAYOUTS: Final = (
    Layout(
        arrival="timestamp", per_second=1e3, prompt="input_length", output="output_length", hash_ids="hash_ids"
    ),  # Mooncake (FAST 2025)
    Layout(arrival="arrival_time_ns", per_second=1e9, prompt="input_toks", output="output_toks"),  # LLMServingSim
    Layout(arrival="arrival_time", per_second=1.0, prompt="input_toks", output="output_toks"),  # its logs of vLLM
)


def read(path: Path, layout: Layout, *, requests_max: int) -> Workload:
    """At most `requests_max` requests. Raises ConfigError naming the line that is wrong."""
    rows: list[tuple[float, int, int]] = []
    hash_ids: list[tuple[int, ...]] = []
    with path.open(encoding="utf-8") as file:
        for line, text in enumerate(file, start=1):
            if len(rows) == requests_max:
                break
            if not text.strip():
                continue
            try:
                content = json.loads(text)
                rows.append(_row(content, layout))
                if layout.hash_ids:
                    full = rows[-1][1] // UNIT_TOKENS  # a last, partial unit is never shared
                    hash_ids.append(tuple(map(int, content.get(layout.hash_ids, ())[:full])))
            except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
                raise ConfigError(f"--trace: {path}, line {line}: {type(error).__name__} {error}") from error
    if not rows:
        raise ConfigError(f"--trace: {path} has no requests")
    columns = np.array(rows)
    order = np.argsort(columns[:, 0], kind="stable")
    return Workload(
        name=path.stem,
        arrival_s=columns[order, 0] - columns[order[0], 0],
        prompt_tokens=columns[order, 1].astype(np.int64),
        output_tokens=columns[order, 2].astype(np.int64),
        unit_tokens=UNIT_TOKENS,
        hash_ids=[hash_ids[row] for row in order] if any(hash_ids) else (),
    )


def _row(content: Mapping[str, float], layout: Layout) -> tuple[float, int, int]:
    arrival_s = float(content[layout.arrival]) / layout.per_second
    return arrival_s, max(1, int(content[layout.prompt])), max(1, int(content[layout.output]))
