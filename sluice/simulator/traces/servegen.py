"""ServeGen's client generators (arXiv 2505.09999): windows of arrivals and empirical lengths, made into requests.

`chunk-N-trace.csv` is one client: window start (s), rate, CV, distribution of gaps, its shape and scale;
`chunk-N-dataset.json` its histograms of lengths by window. Images stay with their request: how many, and
how many of the prompt's tokens they are. Next: `arrivals.py`.
"""

import ast
import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from sluice.errors import ConfigError
from sluice.simulator.traces import arrivals
from sluice.simulator.workload import Workload

REQUESTS: Final = 10_000  # unless limited otherwise
DEFAULT_WINDOW_S: Final = 600.0
TEXT, IMAGE, IMAGES, OUTPUT, PROMPT = "text_tokens", "image_tokens", "image_count", "output_tokens", "input_tokens"

Histogram = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]  # values, probabilities


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    start_s: float
    rate: float
    is_weibull: bool
    cv: float
    shape: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Client:
    windows: list[_Window]
    lengths: list[tuple[float, Mapping[str, Histogram]]]  # by window start, ascending


@dataclass(frozen=True, slots=True)
class _Draw:
    """Columns of one client's requests of one window."""

    arrival_s: npt.NDArray[np.float64]
    prompt_tokens: npt.NDArray[np.int64]
    output_tokens: npt.NDArray[np.int64]
    images: npt.NDArray[np.int64]
    image_tokens: npt.NDArray[np.int64]


def generate(folder: Path, *, rate: float | None, seed: int, requests_max: int) -> Workload:
    """The first `requests_max` requests of all clients of `folder` together; `rate` scales their sum.

    Raises ConfigError where the folder holds no clients or a file is malformed.
    """
    clients = _read_clients(folder)
    wanted = min(requests_max, REQUESTS) if requests_max > 1_000_000 else requests_max
    generator = np.random.default_rng(seed)
    draws: list[_Draw] = []
    count = 0
    starts = sorted({window.start_s for client in clients for window in client.windows})
    for position, start_s in enumerate(starts):
        end_s = starts[position + 1] if position + 1 < len(starts) else start_s + DEFAULT_WINDOW_S
        for client in clients:
            draws += [draw for draw in [_draw(client, start_s, end_s, generator)] if len(draw.arrival_s)]
        count = sum(len(draw.arrival_s) for draw in draws)
        if count >= wanted:
            break
    if not draws:
        raise ConfigError(f"--trace: {folder} describes no requests")
    order = np.argsort(np.concatenate([draw.arrival_s for draw in draws]), kind="stable")[:wanted]

    def column(name: str) -> npt.NDArray[np.int64]:
        return np.asarray(np.concatenate([getattr(draw, name) for draw in draws])[order])

    images = column("images")
    trace = Workload(
        name=folder.name,
        arrival_s=np.concatenate([draw.arrival_s for draw in draws])[order],
        prompt_tokens=column("prompt_tokens"),
        output_tokens=column("output_tokens"),
        images=images if images.any() else np.zeros(0, dtype=np.int64),
        image_tokens=column("image_tokens") if images.any() else np.zeros(0, dtype=np.int64),
    )
    return trace if rate is None else trace.at_rate(rate)


def _draw(client: _Client, start_s: float, end_s: float, generator: np.random.Generator) -> _Draw:
    window = next((window for window in client.windows if window.start_s == start_s), None)
    none = np.zeros(0, dtype=np.int64)
    if window is None or window.rate <= 0.0:
        return _Draw(np.zeros(0), none, none, none, none)
    room = int(window.rate * (end_s - start_s) * 2 + 50 * max(1.0, window.cv) ** 2)
    if window.is_weibull:
        times = arrivals.weibull(room, rate=window.rate, shape=window.shape, generator=generator)
    else:
        times = arrivals.gamma(room, rate=window.rate, cv=window.cv, generator=generator)
    times = times[times < end_s - start_s] + start_s
    lengths = next((found for since_s, found in reversed(client.lengths) if since_s <= start_s), client.lengths[0][1])
    count = len(times)
    images = _pick(lengths, IMAGES, count, generator)
    image_tokens = _pick(lengths, IMAGE, count, generator) * (images > 0)
    text = _pick(lengths, TEXT if TEXT in lengths else PROMPT, count, generator)
    return _Draw(
        times,
        np.maximum(1, text + image_tokens),
        np.maximum(1, _pick(lengths, OUTPUT, count, generator)),
        images,
        image_tokens,
    )


def _pick(
    lengths: Mapping[str, Histogram], name: str, count: int, generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    if name not in lengths:
        return np.zeros(count, dtype=np.int64)
    values, shares = lengths[name]
    return generator.choice(values, size=count, p=shares)


def _read_clients(folder: Path) -> list[_Client]:
    clients = []
    for path in sorted(folder.glob("chunk-*-trace.csv")):
        dataset = path.with_name(path.name.replace("-trace.csv", "-dataset.json"))
        if dataset.exists():
            clients.append(_Client(windows=_read_windows(path), lengths=_read_lengths(dataset)))
    if not clients:
        raise ConfigError(f"--trace: {folder} has no chunk-N-trace.csv with its chunk-N-dataset.json (ServeGen)")
    return clients


def _read_windows(path: Path) -> list[_Window]:
    windows = []
    with path.open(encoding="utf-8", newline="") as file:
        for line, row in enumerate(csv.reader(file), start=1):
            try:
                start_s, rate, cv, kind, shape, _ = row
                window = _Window(
                    start_s=float(start_s),
                    rate=float(rate),
                    cv=float(cv or 1.0),
                    is_weibull=kind == "Weibull",
                    shape=float(shape or 1.0),
                )
            except ValueError as error:
                raise ConfigError(f"--trace: {path}, line {line}: {error}") from error
            windows.append(window)
    return windows


def _read_lengths(path: Path) -> list[tuple[float, Mapping[str, Histogram]]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = [(float(start), {name: _histogram(text) for name, text in by.items()}) for start, by in content.items()]
    except (json.JSONDecodeError, ValueError, SyntaxError, AttributeError) as error:
        raise ConfigError(f"--trace: {path}: {error}") from error
    if not found:
        raise ConfigError(f"--trace: {path} holds no histograms")
    return sorted(found, key=lambda item: item[0])


def _histogram(text: str) -> Histogram:
    """`{974: 8.4e-05, ...}` as the data has it, a mapping written in a string."""
    mapping = ast.literal_eval(text)
    values = np.array(list(mapping), dtype=np.int64)
    shares = np.array(list(mapping.values()), dtype=np.float64)
    return values, shares / shares.sum()
