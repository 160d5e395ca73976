"""A plan as a table, as JSON and as a ModelService: the same facts three ways.

Decides wording only. Next: `plan.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import yaml
from rich.console import Console

from sluice.cli.tables import Column, show
from sluice.operator.names import POOL_NAME_CHARS_MAX
from sluice.planner.plan import Plan, Pool
from sluice.planner.sensitivity import Relief, Rival
from sluice.planner.solver import Outcome
from sluice.planner.throughput import Phase
from sluice.planner.verification import Round

API_VERSION = "sluice.dev/v1alpha1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """All that `sluice plan` found out."""

    model: str
    trace: str
    plan: Plan
    rounds: Sequence[Round]  # empty: not replayed
    reliefs: Sequence[Relief]
    rivals: Sequence[Rival]

    @property
    def confirmed(self) -> Round | None:
        """The replay of the plan; None if there was none."""
        return next((each for each in self.rounds if each.plan is self.plan), None)


def show_answer(answer: Answer, console: Console) -> None:
    """Print it for a person."""
    plan = answer.plan

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False)

    target = plan.target
    say(
        f"{answer.model}, {plan.workload.rate_per_s:.2f} requests/s of {answer.trace}; TTFT {target.ttft_s:g} s, "
        f"TPOT {target.tpot_s * 1e3:g} ms for {plan.promise:.1%} of requests\n"
    )
    show(_columns(plan.pools), console)
    proof = "proven cheapest" if plan.outcome is Outcome.OPTIMAL else f"at most {plan.gap:.1%} above the cheapest"
    say(
        f"\n${plan.cost_per_h:.2f}/h, ${plan.cost_per_million_tokens:.2f} per million output tokens; {proof} "
        "for these loads"
    )
    if plan.unreachable_share:
        say(f"{plan.unreachable_share:.1%} of requests are too long for these objectives on every class: not promised")
    for line in (*_replay_lines(answer), *_relief_lines(answer.reliefs), *_rival_lines(plan, answer.rivals)):
        say(line)


def as_json(answer: Answer) -> dict[str, object]:
    """Everything, for programs. Costs that are infinite (cannot serve) are null."""
    plan = answer.plan
    confirmed = answer.confirmed
    return {
        "model": answer.model,
        "requests_per_s": plan.workload.rate_per_s,
        "objectives": {"ttft_s": plan.target.ttft_s, "tpot_s": plan.target.tpot_s},
        "promise": plan.promise,
        "unreachable_share": plan.unreachable_share,
        "outcome": plan.outcome.value,
        "cost_per_h": plan.cost_per_h,
        "bound_per_h": plan.bound_per_h,
        "gap": plan.gap,
        "cost_per_million_output_tokens": plan.cost_per_million_tokens,
        "headroom": {"prefill": plan.headroom.prefill, "decode": plan.headroom.decode},
        "pools": [
            {
                "phase": pool.phase.value,
                "gpu_class": pool.kind.gpu.name,
                "tensor_parallel": pool.kind.tensor_parallel,
                "replicas": pool.replicas,
                "gpus": pool.gpus,
                "cost_per_h": pool.cost_per_h,
                "load": pool.load,
                "request_share": pool.request_share,
                "limit": pool.limit.value,
            }
            for pool in plan.pools
        ],
        "replay": confirmed and {**_attained(confirmed), "is_kept": confirmed.is_kept, "rounds": len(answer.rounds)},
        "rounds": [{"cost_per_h": each.plan.cost_per_h, **_attained(each)} for each in answer.rounds],
        "would_save": [
            {"bound": relief.bound.value, "what": relief.what, "saved_per_h": relief.saved_per_h}
            for relief in answer.reliefs
        ],
        "instead": {rival.what: None if math.isinf(rival.cost_per_h) else rival.cost_per_h for rival in answer.rivals},
    }


def as_model_service(answer: Answer) -> str:
    """A ModelService that runs the plan, once it says where the model is."""
    plan = answer.plan
    sees = any(bucket.images for bucket in plan.workload.buckets)
    pools = {
        _pool_name(pool, number): {
            "role": "mixed" if pool.phase is Phase.TOKENS else pool.phase.value,
            **({"encodes": True} if pool.phase is Phase.MIXED and sees else {}),
            "gpuClasses": [pool.kind.gpu.name.lower()],
            "replicas": {"min": pool.replicas, "max": pool.replicas},
            **({"tensorParallel": pool.kind.tensor_parallel} if pool.kind.tensor_parallel > 1 else {}),
        }
        for number, pool in enumerate(plan.pools)
    }
    resource = {
        "apiVersion": API_VERSION,
        "kind": "ModelService",
        "metadata": {"name": _resource_name(answer.model)},
        "spec": {
            "model": {"name": answer.model},
            "objectives": {"ttftSeconds": plan.target.ttft_s, "tpotSeconds": plan.target.tpot_s},
            "pools": pools,
        },
    }
    head = (
        f"# ${plan.cost_per_h:.2f}/h for {plan.workload.rate_per_s:.2f} requests/s, "
        f"{plan.promise:.1%} within objectives.\n"
        "# Say under spec.model where the model is; every class named needs a GPUClass.\n"
    )
    return head + yaml.safe_dump(resource, sort_keys=False)


def _pool_name(pool: Pool, number: int) -> str:
    """By phase and class where the operator takes so long a name."""
    name = f"{pool.phase.value}-{_resource_name(pool.kind.name)}"
    return name if len(name) <= POOL_NAME_CHARS_MAX else f"{pool.phase.value}-{number}"


def _resource_name(model: str) -> str:
    return "".join(char if char.isalnum() else "-" for char in model.lower()).strip("-")


def _attained(each: Round) -> dict[str, object]:
    return {
        "attained": each.attained.both,
        "ttft": each.attained.ttft,
        "tpot": each.attained.tpot,
        "every_token_by_its_deadline": each.attained.deadlines,
        "itl_p99": each.attained.itl,
    }


def _columns(pools: Sequence[Pool]) -> list[Column]:
    return [
        Column("PHASE", [pool.phase.value for pool in pools]),
        Column("GPU", [pool.kind.gpu.name for pool in pools]),
        Column("REPLICAS", [str(pool.replicas) for pool in pools]),
        Column("GPUS EACH", [str(pool.kind.tensor_parallel) for pool in pools], spare=3),
        Column("$/H", [f"{pool.cost_per_h:.2f}" for pool in pools]),
        Column("LOAD", [f"{pool.load:.0%}" for pool in pools], spare=1),
        Column("REQUESTS", [f"{pool.request_share:.0%}" for pool in pools], spare=2),
        Column("LIMITED BY", [pool.limit.value for pool in pools]),
    ]


def _replay_lines(answer: Answer) -> list[str]:
    confirmed = answer.confirmed
    if confirmed is None:
        return ["not replayed: the loads are analytic"]
    attained = confirmed.attained
    verdict = "promise kept" if confirmed.is_kept else "PROMISE NOT KEPT: no round did; take more GPUs than this"
    each_alone = f"TTFT {attained.ttft:.1%}, TPOT {attained.tpot:.1%}"
    lines = [
        f"replayed: {attained.both:.1%} met both objectives ({each_alone}): {verdict}",
        f"not promised: every token by its own deadline {attained.deadlines:.1%}, P99 gap in time {attained.itl:.1%}",
    ]
    if len(answer.rounds) > 1:
        found = dict.fromkeys(f"${each.plan.cost_per_h:.2f}/h {each.attained.both:.1%}" for each in answer.rounds)
        tried = ", ".join(found)
        lines.append(
            f"{len(answer.rounds)} rounds: {tried}; headroom prefill {answer.plan.headroom.prefill:.2f}, "
            f"decode {answer.plan.headroom.decode:.2f}"
        )
    return lines


def _relief_lines(reliefs: Sequence[Relief]) -> list[str]:
    if not reliefs:
        return ["nothing that could be loosened would make it cheaper"]
    first, *others = reliefs
    lines = [f"binding: {first.what} would save ${first.saved_per_h:.2f}/h"]
    lines += [f"         {relief.what} would save ${relief.saved_per_h:.2f}/h" for relief in others]
    return lines


def _rival_lines(plan: Plan, rivals: Sequence[Rival]) -> list[str]:
    def worth(rival: Rival) -> str:
        if math.isinf(rival.cost_per_h):
            return f"{rival.what} cannot"
        return f"{rival.what} ${rival.cost_per_h:.2f}/h ({plan.cost_per_h / rival.cost_per_h - 1:+.0%})"

    return [f"instead: {', '.join(worth(rival) for rival in rivals)}"] if rivals else []
