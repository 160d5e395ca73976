"""The HTML report of a simulation: one file, tables and charts, nothing to load.

Decides what is shown. Next: `svg.py` for how charts are drawn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

import numpy as np

from sluice.simulator.comparison import Interval
from sluice.simulator.fleet_run import RunResult
from sluice.simulator.summary import Goal, Summary
from sluice.simulator.svg import Chart, Line, draw

STYLE: Final = """
body{font:14px/1.45 system-ui,sans-serif;max-width:1120px;margin:2em auto;padding:0 1em;color:#1f2328}
table{border-collapse:collapse;margin:1em 0}td,th{padding:.25em .7em;border-bottom:1px solid #d0d7de;text-align:right}
td:first-child,th:first-child{text-align:left}svg{width:520px;margin:.4em;border:1px solid #d0d7de;border-radius:6px}
svg text{font:11px system-ui,sans-serif;fill:#57606a}svg .title{font-weight:600;font-size:13px;fill:#1f2328}
svg .small{font-size:10px}svg polyline{fill:none;stroke-width:1.8}svg .grid{stroke:#eaeef2}
svg .mark{stroke:#8c959f;stroke-dasharray:3 3}code{background:#f6f8fa;padding:.1em .3em}
"""

FOOTER: Final = (
    "<p>Rejected and unfinished requests count as misses. Attainment is the share of all requests; the cost is that "
    "of the whole fleet from the first arrival to the last token.</p></html>"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRun:
    """One policy's part of a report."""

    policy: str
    result: RunResult  # of the first seed
    summary: Summary  # of the first seed
    by_seed: Sequence[Summary]
    over_rate: Sequence[Summary] = ()  # of the first seed, by rate


def render(*, title: str, command: str, runs: Sequence[ReportRun], differences: Mapping[str, Interval]) -> str:
    """The whole page. `differences` are paired, of goodput, first policy minus the named one."""
    charts = [*_distributions(runs), *_over_rate(runs), *_timelines(runs)]
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>',
        f"<h1>{escape(title)}</h1><p><code>{escape(command)}</code></p>",
        _table(runs),
        _difference_table(runs, differences),
        "".join(draw(chart) for chart in charts),
        FOOTER,
    ]
    return "\n".join(part for part in parts if part)


def _table(runs: Sequence[ReportRun]) -> str:
    rows: list[tuple[str, list[str]]] = [
        ("requests", [f"{run.summary.requests}" for run in runs]),
        ("offered, requests/s", [f"{run.summary.rate:.3g}" for run in runs]),
    ]
    rows += [(f"attained: {goal.value}", [f"{run.summary.attained[goal]:.2%}" for run in runs]) for goal in Goal]
    rows += [
        ("attained: all", [f"{run.summary.attained_all:.2%}" for run in runs]),
        ("goodput, requests/s", [f"{run.summary.goodput:.4g}" for run in runs]),
        ("goodput per GPU", [f"{run.summary.goodput_per_gpu:.4g}" for run in runs]),
        ("TTFT P50 / P90 / P99, s", [_three(run.summary) for run in runs]),
        (
            "TPOT P50 / P90, ms",
            [f"{run.summary.tpot_p50_s * 1e3:.1f} / {run.summary.tpot_p90_s * 1e3:.1f}" for run in runs],
        ),
        ("ITL P99, ms", [f"{run.summary.itl_p99_s * 1e3:.1f}" for run in runs]),
        ("$ per million output tokens", [f"{run.summary.dollars_per_million:.3f}" for run in runs]),
        ("$ per million good output tokens", [f"{run.summary.dollars_per_million_good:.3f}" for run in runs]),
        ("GPU utilisation", [", ".join(f"{k} {v:.0%}" for k, v in run.summary.utilisation.items()) for run in runs]),
        ("power, kW", [f"{run.summary.kw:.2f}" for run in runs]),
        ("prompt tokens found cached", [f"{run.summary.cached_share:.1%}" for run in runs]),
        ("KV moved, GB", [f"{run.summary.moved_gb:.1f}" for run in runs]),
        (
            "rejected, lost, preempted, moved",
            [
                f"{run.summary.rejected}, {run.summary.lost}, {run.summary.preempted}, {run.summary.moved}"
                for run in runs
            ],
        ),
    ]
    head = "".join(f"<th>{escape(run.policy)}</th>" for run in runs)
    body = "".join(
        f"<tr><td>{escape(name)}</td>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for name, cells in rows
    )
    return f"<table><tr><th></th>{head}</tr>{body}</table>"


def _three(summary: Summary) -> str:
    return f"{summary.ttft_p50_s:.3f} / {summary.ttft_p90_s:.3f} / {summary.ttft_p99_s:.3f}"


def _difference_table(runs: Sequence[ReportRun], differences: Mapping[str, Interval]) -> str:
    if not differences:
        return ""
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(str(each))}</td></tr>" for name, each in differences.items()
    )
    seeds = len(runs[0].by_seed)
    return f"<h2>Goodput over {seeds} seeds, {escape(runs[0].policy)} minus</h2><table>{rows}</table>"


def _distributions(runs: Sequence[ReportRun]) -> list[Chart]:
    slo = runs[0].result.options.objective
    ttft = [Line(run.policy, *_cdf(run.result.outcome.ttft_s)) for run in runs]
    tpot = [Line(run.policy, *_cdf(run.result.outcome.tpot_s * 1e3)) for run in runs]
    itl = []
    for run in runs:
        lengths_s, shares = run.result.gaps.cdf()
        itl.append(Line(run.policy, list(lengths_s * 1e3), list(shares)))
    y = "share of requests"
    return [
        Chart("Time to first token", "s", y, ttft, x_is_log=True, y_max=1.0, marks=[(slo.slo.ttft_s, "SLO")]),
        Chart("Mean gap of a request (TPOT)", "ms", y, tpot, y_max=1.0, marks=[(slo.slo.tpot_s * 1e3, "SLO")]),
        Chart("All gaps (ITL)", "ms", "share of gaps", itl, x_is_log=True, y_max=1.0, marks=[(slo.itl_s * 1e3, "SLO")]),
    ]


def _cdf(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[list[float], list[float]]:
    ordered = np.sort(values[~np.isnan(values)])
    return list(ordered), list(np.arange(1, len(ordered) + 1) / max(1, len(values)))


def _over_rate(runs: Sequence[ReportRun]) -> list[Chart]:
    swept = [run for run in runs if len(run.over_rate) > 1]
    if not swept:
        return []
    rates = [[each.rate for each in run.over_rate] for run in swept]
    share = [[each.attained_all for each in run.over_rate] for run in swept]
    cost = [[each.dollars_per_million_good for each in run.over_rate] for run in swept]
    names = [run.policy for run in swept]
    x = "requests/s"
    return [
        Chart("Attainment over rate", x, "share that meets all", _lines(names, rates, share), y_max=1.0),
        Chart("Cost over rate", x, "$ per million good output tokens", _lines(names, rates, cost)),
    ]


def _lines(names: Sequence[str], xs: Sequence[Sequence[float]], ys: Sequence[Sequence[float]]) -> list[Line]:
    return [Line(name, x, y) for name, x, y in zip(names, xs, ys, strict=True)]


def _timelines(runs: Sequence[ReportRun]) -> list[Chart]:
    charts = []
    for run in runs:
        timeline = run.result.timeline
        times, pools = timeline.times_s, timeline.pools.items()
        waiting = [Line(name, times[-len(pool.waiting) :], pool.waiting) for name, pool in pools]
        if any(timeline.unplaced):
            waiting.append(Line("without a place", times, [float(count) for count in timeline.unplaced]))
        running = [Line(name, times[-len(pool.running) :], pool.running) for name, pool in pools]
        kv = [Line(name, times[-len(pool.kv_share) :], pool.kv_share) for name, pool in pools]
        charts += [
            Chart(f"{run.policy}: waiting per replica", "s", "requests", waiting),
            Chart(f"{run.policy}: running per replica", "s", "requests", running),
            Chart(f"{run.policy}: KV blocks in use", "s", "share", kv, y_max=1.0),
        ]
    return charts
