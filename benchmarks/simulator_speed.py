"""How fast the simulator is: CPU time and memory of many requests over many GPUs, per policy.

    python benchmarks/simulator_speed.py [--requests 1000000] [--gpus 1000] [--policies lmetric,joint]

Requests are made up (Azure's conversation lengths: mean prompt 1,155, output 211), arriving at a rate that
keeps the fleet about two thirds busy: 350 prefill and 650 decode replicas of one H100 per thousand. The whole
product path of a policy runs for each request. Each policy in a process of its own; the bar is 900 us and 4 KiB
a request.
"""

import argparse
import resource
import subprocess
import sys
import time
from typing import Final

from sluice.capacity.catalogue import gpu_class
from sluice.capacity.curve_fit import fit_model
from sluice.capacity.model_shape import shape_of
from sluice.capacity.roofline import Roofline
from sluice.domain.role import Role
from sluice.policy.registry import make_policy
from sluice.simulator.fleet_run import FleetRun
from sluice.simulator.instance_spec import InstanceSpec
from sluice.simulator.run_options import RunOptions
from sluice.simulator.summary import summarise
from sluice.simulator.traces import synthetic

RATE_PER_GPU: Final = 3.0
KIB: Final = 1024


def main() -> None:
    """One row a policy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--gpus", type=int, default=1000)
    parser.add_argument("--policies", default="round_robin,lmetric")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        measure(arguments.policies, arguments.requests, arguments.gpus)
        return
    print("| policy | requests | GPUs | CPU s | us a request | peak MiB | simulated s | attained |")
    print("| --- | --: | --: | --: | --: | --: | --: | --: |", flush=True)
    for policy in arguments.policies.split(","):
        size = ("--requests", str(arguments.requests), "--gpus", str(arguments.gpus))
        subprocess.run([sys.executable, __file__, "--one", "--policies", policy, *size], check=True)


def measure(policy: str, requests: int, gpus: int) -> None:
    """One row, in this process."""
    knobs = "synthetic:isl=1155,osl=211,spread=0.9"
    workload = synthetic.generate(knobs, rate=RATE_PER_GPU * gpus, seed=1, requests_max=requests)
    specs = [spec(Role.PREFILL)] * round(0.35 * gpus) + [spec(Role.DECODE)] * (gpus - round(0.35 * gpus))
    start_s = time.process_time()
    options = RunOptions(tend_every_s=0.0)
    result = FleetRun(specs=specs, workload=workload, policy=make_policy(policy), options=options).run()
    cpu_s = time.process_time() - start_s
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB
    print(
        f"| {policy} | {requests} | {gpus} | {cpu_s:.0f} | {cpu_s / requests * 1e6:.0f} | {peak_mib:.0f} "
        f"| {result.ended_s:.0f} | {summarise(result).attained_all:.2%} |",
        flush=True,
    )


def spec(role: Role) -> InstanceSpec:
    """One H100 that serves an 8B model."""
    gpu, shape = gpu_class("H100"), shape_of("llama-3.1-8b")
    curve = fit_model(Roofline(gpu=gpu, shape=shape))
    return InstanceSpec(
        name=f"H100 {role.value}",
        gpu_class="H100",
        role=role,
        model=curve,
        curve=curve,
        blocks=25_000,
        step_tokens_max=2048,
        kv_token_bytes=shape.kv_token_bytes,
        link_bytes_per_s=gpu.link_bytes_per_s,
        price_per_h=gpu.price_per_h,
    )


if __name__ == "__main__":
    main()
