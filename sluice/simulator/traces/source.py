"""Reads `--trace` as a person types it, and gives the workload behind it.

    azure.csv | mooncake.jsonl | requests.jsonl | lengths.csv     files, known by their columns
    servegen/multimodal/mm-image                                  a folder of ServeGen's generators
    synthetic:isl=1024,osl=256,prefix=0.5                         made up, see synthetic.py

Decides by content, never by a file's name. Next: the other files here, one format each.
"""

import json
from pathlib import Path
from typing import Final

from sluice.errors import ConfigError
from sluice.simulator.traces import lengths_csv, request_lines, servegen, synthetic, timed_csv
from sluice.simulator.workload import Workload

SYNTHETIC: Final = "synthetic"
REQUESTS_MAX: Final = 5_000_000
KNOWN: Final = (
    "a CSV with TIMESTAMP, ContextTokens, GeneratedTokens (Azure) or num_prefill_tokens, num_decode_tokens; "
    "JSON lines with timestamp, input_length, output_length (Mooncake) or input_toks, output_toks (LLMServingSim); "
    "a folder of ServeGen; or synthetic:isl=1024,osl=256"
)


def read_trace(text: str, *, rate: float | None, seed: int, requests_max: int = REQUESTS_MAX) -> Workload:
    """The workload that `text` names, at `rate` requests per second if that is given.

    Raises ConfigError naming what is wrong and what would be accepted.
    """
    if requests_max <= 0:
        raise ConfigError(f"--requests: is {requests_max}; use 1 or more")
    if text == SYNTHETIC or text.startswith(SYNTHETIC + ":"):
        return synthetic.generate(text, rate=rate or 1.0, seed=seed, requests_max=requests_max)
    path = Path(text).expanduser()
    if path.is_dir():
        return servegen.generate(path, rate=rate, seed=seed, requests_max=requests_max)
    try:
        with path.open(encoding="utf-8") as file:
            first = file.readline()
    except OSError as error:
        raise ConfigError(f"--trace: {path} cannot be read ({error.strerror}); give {KNOWN}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--trace: {path} is not text; give {KNOWN}") from error
    return _read_file(path, first, rate=rate, seed=seed, requests_max=requests_max)


def _read_file(path: Path, first: str, *, rate: float | None, seed: int, requests_max: int) -> Workload:
    if first.lstrip().startswith("{"):
        fields = _fields(path, first)
        for layout in request_lines.LAYOUTS:
            if layout.is_in(fields):
                trace = request_lines.read(path, layout, requests_max=requests_max)
                return trace if rate is None else trace.at_rate(rate)
    columns = [column.strip() for column in first.strip().split(",")]
    if set(columns) >= timed_csv.COLUMNS:
        trace = timed_csv.read(path, requests_max=requests_max)
        return trace if rate is None else trace.at_rate(rate)
    if set(columns) >= lengths_csv.COLUMNS:
        return lengths_csv.read(path, rate=rate, seed=seed, requests_max=requests_max)
    raise ConfigError(f"--trace: {path} starts with '{first.strip()[:60]}', which is no known format; give {KNOWN}")


def _fields(path: Path, line: str) -> set[str]:
    try:
        content = json.loads(line)
    except json.JSONDecodeError as error:
        raise ConfigError(f"--trace: {path}, line 1: is not JSON ({error.msg}); give {KNOWN}") from error
    return set(content) if isinstance(content, dict) else set()
