"""Line charts as SVG text: axes, lines, a legend. No library, no script; the page that holds them is one file.

Decides how a chart looks, never what is in it. Next: `report.py`.
"""

import math
from collections.abc import Sequence
from html import escape
from typing import Final, NamedTuple

WIDTH: Final = 520
HEIGHT: Final = 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 34, 46
COLOURS: Final = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#0a7ea4", "#bf3989", "#57606a")
UPRIGHT: Final = f'transform="rotate(-90 12 {HEIGHT / 2})"'
POINTS_MAX: Final = 400
TICKS: Final = 5


class Line(NamedTuple):
    """One line of a chart."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]


class Chart(NamedTuple):
    """What a chart shows."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    x_is_log: bool = False
    y_max: float | None = None  # None: what fits
    marks: Sequence[tuple[float, str]] = ()  # vertical lines at x, with a word


def draw(chart: Chart) -> str:
    """The chart as one `<svg>` element."""
    lines = [_thinned(line, is_log=chart.x_is_log) for line in chart.lines]
    lines = [line for line in lines if line.xs]
    if not lines:
        return f"<p>{escape(chart.title)}: nothing to show</p>"
    x_low, x_high = _extent([x for line in lines for x in line.xs], is_log=chart.x_is_log)
    y_high = chart.y_max or 1.05 * max(max(line.ys) for line in lines) or 1.0

    def x_of(x: float) -> float:
        share = (_scale(x, is_log=chart.x_is_log) - x_low) / (x_high - x_low)
        return LEFT + min(1.0, max(0.0, share)) * (WIDTH - LEFT - RIGHT)

    def y_of(y: float) -> float:
        return HEIGHT - BOTTOM - min(1.0, max(0.0, y / y_high)) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(chart.title)}">',
        f'<text x="{LEFT}" y="16" class="title">{escape(chart.title)}</text>',
        f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(chart.x_label)}</text>',
        f'<text x="12" y="{HEIGHT / 2}" text-anchor="middle" {UPRIGHT}>{escape(chart.y_label)}</text>',
    ]
    for tick in range(TICKS + 1):
        y = y_high * tick / TICKS
        scaled = x_low + (x_high - x_low) * tick / TICKS
        x = math.exp(scaled) if chart.x_is_log else scaled
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y_of(y):.1f}" y2="{y_of(y):.1f}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y_of(y) + 4:.1f}" text-anchor="end">{_tick(y)}</text>')
        parts.append(f'<text x="{x_of(x):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{_tick(x)}</text>')
    for x, word in chart.marks:
        parts.append(f'<line x1="{x_of(x):.1f}" x2="{x_of(x):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" class="mark"/>')
        parts.append(f'<text x="{x_of(x) + 3:.1f}" y="{TOP + 10}" class="small">{escape(word)}</text>')
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in zip(line.xs, line.ys, strict=True))
        parts.append(f'<polyline points="{points}" stroke="{colour}"/>')
        y = TOP + 6 + 14 * number
        parts.append(f'<text x="{WIDTH - RIGHT}" y="{y}" text-anchor="end" fill="{colour}">{escape(line.name)}</text>')
    return "".join([*parts, "</svg>"])


def _tick(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _scale(x: float, *, is_log: bool) -> float:
    return math.log(x) if is_log else x


def _extent(xs: Sequence[float], *, is_log: bool) -> tuple[float, float]:
    low, high = _scale(min(xs), is_log=is_log), _scale(max(xs), is_log=is_log)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _thinned(line: Line, *, is_log: bool) -> Line:
    """At most POINTS_MAX finite points, evenly taken, the last included."""
    points = [
        (float(x), float(y))
        for x, y in zip(line.xs, line.ys, strict=True)
        if math.isfinite(x) and math.isfinite(y) and (x > 0.0 or not is_log)
    ]
    step = max(1, -(-len(points) // POINTS_MAX))
    kept = points[::step]
    if points and kept[-1] != points[-1]:
        kept.append(points[-1])
    return line._replace(xs=[x for x, _ in kept], ys=[y for _, y in kept])
