"""Small fleets and workloads for tests of the simulator, and policies that need no thought."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from sluice.capacity.step_curve import StepCurve
from sluice.domain.role import Role
from sluice.policy.fleet_table import FleetTable
from sluice.policy.policy import Ask, Flip, Move, Placed, Running, Unplaced
from sluice.simulator.fleet_run import FleetRun, RunResult
from sluice.simulator.instance_spec import InstanceSpec
from sluice.simulator.run_options import RunOptions
from sluice.simulator.workload import Workload

CURVE = StepCurve(base_s=0.008, prefill_token_s=3e-5, pair_s=2e-9, decode_s=5e-5, context_token_s=5e-8)


class Turns:
    """Round robin over whoever has the role, blind to load."""

    name = "turns"

    def __init__(self) -> None:
        self._turn = 0

    def place(
        self, ask: Ask, fleet: FleetTable, cached_tokens: Mapping[int, int], *, now_s: float
    ) -> Placed | Unplaced:
        ready = np.flatnonzero(fleet.is_ready[: fleet.rows])
        prefill = [int(slot) for slot in ready if fleet.role_bits[slot] & 1]
        decode = [int(slot) for slot in ready if fleet.role_bits[slot] & 2]
        if not prefill or not decode:
            return Unplaced(reason="nobody is ready")
        self._turn += 1
        by = prefill[self._turn % len(prefill)]
        to = by if by in decode else decode[self._turn % len(decode)]
        return Placed(prefill=by, decode=to, cached_tokens=cached_tokens.get(by, 0), reason="its turn")

    def tend(self, fleet: FleetTable, running: Sequence[Running], *, now_s: float) -> Sequence[Move | Flip]:
        return ()


def spec(role: Role = Role.MIXED, **changes: object) -> InstanceSpec:
    """A small instance."""
    plain = InstanceSpec(
        name=f"TINY {role.value}",
        gpu_class="TINY",
        role=role,
        model=CURVE,
        curve=CURVE,
        blocks=400,
        unit_tokens=16,
        step_tokens_max=512,
        batch_sequences_max=32,
        price_per_h=1.0,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def workload(requests: Sequence[tuple[float, int, int]], hash_ids: Sequence[Sequence[int]] = ()) -> Workload:
    """From (arrival_s, prompt tokens, output tokens) in order."""
    columns = list(zip(*requests, strict=True))
    return Workload(
        name="test",
        arrival_s=np.array(columns[0], dtype=float),
        prompt_tokens=np.array(columns[1]),
        output_tokens=np.array(columns[2]),
        unit_tokens=16,
        hash_ids=hash_ids,
    )


def run(specs: Sequence[InstanceSpec], trace: Workload, **options: object) -> RunResult:
    """Replay it under Turns."""
    settings = RunOptions(**{"tend_every_s": 0.0, **options})  # type: ignore[arg-type]
    return FleetRun(specs=specs, workload=trace, policy=Turns(), options=settings).run()
