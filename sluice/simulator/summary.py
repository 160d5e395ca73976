"""The figures of one run: attainment by objective, goodput, cost, how busy the GPUs were.

Decides nothing. Rejected and unfinished requests count as misses. Next: `comparison.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

import numpy as np
import numpy.typing as npt

from sluice.errors import ConfigError
from sluice.simulator.fleet_run import RunResult
from sluice.simulator.outcome import Fate

HOUR_S: Final = 3600.0
MILLION: Final = 1e6

BoolColumn = npt.NDArray[np.bool_]


class Goal(Enum):
    """One thing a request may be asked to meet."""

    TTFT = "ttft"
    TPOT = "tpot"  # mean per request
    DEADLINE = "deadline"  # every token by its own deadline
    ITL = "itl"  # P99 of its gaps


ALL_GOALS: Final = tuple(Goal)


def parse_goals(text: str) -> tuple[Goal, ...]:
    """`ttft,itl` as goals. Raises ConfigError naming an unknown one."""
    names = [part.strip() for part in text.split(",") if part.strip()]
    known = {goal.value: goal for goal in Goal}
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ConfigError(f"--goal: '{','.join(unknown) or text}' is unknown; use some of {', '.join(known)}")
    return tuple(known[name] for name in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One run in figures. Times are seconds, shares of all requests from 0 to 1."""

    requests: int
    rejected: int
    lost: int
    rate: float  # requests per second offered
    attained: dict[Goal, float]
    attained_all: float  # share that meets every goal asked for
    goodput: float  # requests per second that do
    ttft_p50_s: float
    ttft_p90_s: float
    ttft_p99_s: float
    tpot_p50_s: float
    tpot_p90_s: float
    itl_p99_s: float  # over all gaps of all requests
    cached_share: float  # of prompt tokens
    gpus: int
    price_per_h: float
    dollars_per_million: float  # per million output tokens of finished requests
    dollars_per_million_good: float  # per million output tokens of requests that meet every goal
    utilisation: dict[str, float]  # share of time in steps, by kind of replica
    kw: float  # mean power of the fleet
    moved_gb: float
    preempted: int
    moved: int

    @property
    def goodput_per_gpu(self) -> float:
        """Requests per second and GPU that meet every goal."""
        return self.goodput / self.gpus


def meets(result: RunResult, goal: Goal) -> BoolColumn:
    """Which requests meet one goal."""
    outcome = result.outcome
    ttft_s, tpot_s = result.options.objective.limits(result.workload)
    return {
        Goal.TTFT: lambda: outcome.meets_ttft(ttft_s),
        Goal.TPOT: lambda: outcome.meets_tpot(tpot_s),
        Goal.DEADLINE: outcome.meets_deadlines,
        Goal.ITL: outcome.meets_itl,
    }[goal]()


def summarise(result: RunResult, goals: Sequence[Goal] = ALL_GOALS) -> Summary:
    """The run's figures; `goals` are those goodput asks for."""
    outcome, workload = result.outcome, result.workload
    met = {goal: meets(result, goal) for goal in Goal}
    met_all = np.logical_and.reduce([met[goal] for goal in goals])
    ttft_s = outcome.ttft_s[outcome.is_finished]
    tpot_s = outcome.tpot_s[outcome.is_finished]
    tpot_s = tpot_s[~np.isnan(tpot_s)]
    price_per_h = sum(instance.spec.price_per_h for instance in result.instances)
    ended_s = max(result.ended_s, workload.duration_s)
    dollars = sum(one.spec.price_per_h / HOUR_S * one.paid_s(ended_s) for one in result.instances)
    prompt_tokens = int(workload.prompt_tokens[outcome.is_finished].sum())
    return Summary(
        requests=len(outcome),
        rejected=int((outcome.fate == Fate.REJECTED).sum()),
        lost=int((outcome.fate == Fate.LOST).sum()),
        rate=workload.rate,
        attained={goal: float(met[goal].mean()) for goal in Goal},
        attained_all=float(met_all.mean()),
        goodput=float(met_all.mean()) * workload.rate,
        ttft_p50_s=_quantile(ttft_s, 0.5),
        ttft_p90_s=_quantile(ttft_s, 0.9),
        ttft_p99_s=_quantile(ttft_s, 0.99),
        tpot_p50_s=_quantile(tpot_s, 0.5),
        tpot_p90_s=_quantile(tpot_s, 0.9),
        itl_p99_s=result.gaps.quantile_s(0.99),
        cached_share=float(outcome.cached_tokens.sum()) / max(1, prompt_tokens),
        gpus=sum(instance.spec.gpus for instance in result.instances),
        price_per_h=price_per_h,
        dollars_per_million=_per_million(dollars, outcome.output_tokens),
        dollars_per_million_good=_per_million(dollars, outcome.output_tokens[met_all]),
        utilisation=_utilisation(result),
        kw=_mean_kw(result),
        moved_gb=result.links.moved_bytes / 1e9,
        preempted=int(outcome.preempted.sum()),
        moved=int(outcome.moves.sum()),
    )


def _quantile(values: npt.NDArray[np.float64], share: float) -> float:
    return float(np.quantile(values, share)) if len(values) else float("nan")


def _per_million(dollars: float, tokens: npt.NDArray[np.int32]) -> float:
    total = int(tokens.sum())
    return dollars / total * MILLION if total else float("inf")


def _utilisation(result: RunResult) -> dict[str, float]:
    busy_s: dict[str, list[float]] = {}
    for instance in result.instances:
        busy_s.setdefault(instance.spec.name, []).append(instance.busy_s)
    return {name: float(np.mean(values)) / max(1e-9, result.ended_s) for name, values in busy_s.items()}


def _mean_kw(result: RunResult) -> float:
    """Idle power always, the rest while in steps: POLCA's and Splitwise's traces are close to two levels."""
    watts = 0.0
    for instance in result.instances:
        share = instance.busy_s / max(1e-9, result.ended_s)
        watts += instance.spec.idle_w + share * (instance.spec.peak_w - instance.spec.idle_w)
    return watts / 1e3
