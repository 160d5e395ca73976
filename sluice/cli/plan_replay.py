"""Replays a trace on the fleet a plan describes and says what share of requests met their objectives.

The one place where planner and simulator meet. Decides nothing: the policy is the router's own.
Next: `plan.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from sluice.capacity.curve_fit import fit_model, usual_steps
from sluice.capacity.step_curve import StepCurve
from sluice.domain.role import Role
from sluice.errors import ConfigError
from sluice.planner.plan import Plan, Pool
from sluice.planner.replica_kind import ReplicaKind
from sluice.planner.throughput import Phase
from sluice.planner.verification import Attained
from sluice.policy.policy import Policy
from sluice.simulator.fleet_run import FleetRun
from sluice.simulator.instance_spec import InstanceSpec
from sluice.simulator.run_options import Objective, RunOptions
from sluice.simulator.workload import Workload

BLOCK_TOKENS = 16
REPLICAS_MAX = 2000
CURVE_JUMPS, MODEL_JUMPS = 4096, 64  # steps over which step time is linear in context

_ROLES = {
    Phase.ENCODE: Role.ENCODE,
    Phase.PREFILL: Role.PREFILL,
    Phase.DECODE: Role.DECODE,
    Phase.MIXED: Role.MIXED,
    Phase.TOKENS: Role.MIXED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A trace, some seeds and a policy; called with a plan it answers what was attained, the mean over seeds."""

    trace: Workload
    seeds: Sequence[int]
    policy: Callable[[], Policy]
    objective: Objective

    def __call__(self, plan: Plan) -> Attained:
        """Raises ConfigError for a plan the simulator has no roles for."""
        specs = specs_of(plan)
        slo = self.objective.slo
        found: list[Attained] = []
        for seed in self.seeds:
            options = RunOptions(objective=self.objective)
            run = FleetRun(specs=specs, workload=self.trace.resampled(seed), policy=self.policy(), options=options)
            outcome = run.run().outcome
            ttft, tpot = outcome.meets_ttft(slo.ttft_s), outcome.meets_tpot(slo.tpot_s)
            found.append(
                Attained(
                    both=float((ttft & tpot).mean()),
                    ttft=float(ttft.mean()),
                    tpot=float(tpot.mean()),
                    deadlines=float(outcome.meets_deadlines().mean()),
                    itl=float(outcome.meets_itl().mean()),
                )
            )
        return Attained(
            both=fmean(each.both for each in found),
            ttft=fmean(each.ttft for each in found),
            tpot=fmean(each.tpot for each in found),
            deadlines=fmean(each.deadlines for each in found),
            itl=fmean(each.itl for each in found),
        )


def specs_of(plan: Plan) -> list[InstanceSpec]:
    """One instance for every replica."""
    count = sum(pool.replicas for pool in plan.pools)
    if count > REPLICAS_MAX:
        raise ConfigError(f"replay: the plan has {count} replicas, at most {REPLICAS_MAX} are replayed; use --rounds 0")
    curves: dict[str, StepCurve] = {}
    specs: list[InstanceSpec] = []
    for pool in plan.pools:
        if pool.kind.name not in curves:
            curves[pool.kind.name] = _believed(pool.kind)
        specs += [_spec(pool, curves[pool.kind.name])] * pool.replicas
    return specs


def _believed(kind: ReplicaKind) -> StepCurve:
    """What policies know of a kind: the linear curve nearest to its model."""
    steps = usual_steps(step_tokens_max=kind.step_tokens, batch_sequences_max=kind.batch_sequences_max)
    return kind.model if isinstance(kind.model, StepCurve) else fit_model(kind.model, steps)


def _spec(pool: Pool, curve: StepCurve) -> InstanceSpec:
    kind = pool.kind
    tower_tokens = kind.tower_tokens if pool.phase is Phase.MIXED else 0
    return InstanceSpec(
        name=f"{kind.name} {pool.phase.value}",
        gpu_class=kind.name,
        role=_ROLES[pool.phase],
        model=kind.model,
        curve=curve,
        blocks=max(1, (kind.kv_tokens - tower_tokens) // BLOCK_TOKENS),
        block_tokens=BLOCK_TOKENS,
        step_tokens_max=kind.step_tokens,
        batch_sequences_max=kind.batch_sequences_max,
        kv_token_bytes=kind.kv_token_bytes,
        link_bytes_per_s=kind.link_bytes_per_s,
        gpus=kind.tensor_parallel,
        price_per_h=kind.price_per_h,
        encode=kind.encode_curve if pool.phase in {Phase.ENCODE, Phase.MIXED} else None,
        jump_steps_max=CURVE_JUMPS if isinstance(kind.model, StepCurve) else MODEL_JUMPS,
    )
