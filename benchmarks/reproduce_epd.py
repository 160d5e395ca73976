"""EPD's printed tables beside ours: encode, prefill and decode apart, one request's images shared by encoders.

EPD (ICML 2025, arXiv 2501.05460), MiniCPM-V 2.6 on 8 A100-80G, 22 text tokens, 10 output tokens, 100 requests.
Published: TTFT by video frames (table 1), with and without intra-request parallelism (table 4), and a switch of roles
when outputs grow from 50 to 500 tokens (table 6). Encode times are not published. Each table has one row that
calibrates (the time of a slice and what comes on top, both on encoders that share nothing; for table 6 the decode
step, from the TPOT without a switch); the others are predictions. The rest of the language model's steps is the
datasheet's (Qwen2-7B on A100). The switch happens at their controller's first look after outputs grew; no controller
of ours decides it. What they left out stands beside it: a colocated fleet that shares images over all of its GPUs.
Means of seeds.

    python benchmarks/reproduce_epd.py [--seeds 5]
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from sluice.capacity.catalogue import gpu_class
from sluice.capacity.curve_fit import fit_model
from sluice.capacity.encode_curve import EncodeCurve
from sluice.capacity.model_shape import shape_of
from sluice.capacity.roofline import Roofline, kv_tokens
from sluice.capacity.step_curve import StepCurve
from sluice.domain.role import Role
from sluice.domain.slo import SloClass, Urgency
from sluice.policy.registry import make_policy
from sluice.simulator.encodes import EncodeRules
from sluice.simulator.fleet_run import FleetRun, RunResult
from sluice.simulator.instance_spec import InstanceSpec, StepOrder
from sluice.simulator.run_options import Addition, Objective, Removal, RunOptions
from sluice.simulator.traces.arrivals import gamma
from sluice.simulator.workload import Workload

TEXT_TOKENS, SLICE_TOKENS, IMAGE_SLICES = 22, 64, 10  # 4032 x 3024 pixels are nine slices and the whole
REQUESTS = 100
FRAMES, FRAMES_RATE = (8, 16, 32, 64), 1.0
TABLE_1 = {"vLLM 8": (0.42, 0.82, 1.59, 3.11), "EPD 5E2P1D": (0.24, 0.30, 0.49, 1.00)}
IMAGES, IMAGES_RATE = (2, 4, 6, 8), 0.25
TABLE_4 = {"not shared": (1.46, 2.47, 3.37, 4.27), "shared": (0.92, 1.02, 1.14, 1.74)}
TABLE_6 = {"5E1P2D all along": (61.10, 0.12), "5E1P2D to 2E1P5D": (28.01, 0.05)}
OUTPUTS = [50] * 10 + [500] * 90
SWITCH_S = 0.7  # of one instance, as printed
LOOK_S = 5.0  # between two looks of their controller
SLO = SloClass(name="epd", urgency=Urgency.STANDARD, ttft_s=60.0, tpot_s=1.0)
SHAPE, GPU = shape_of("Qwen2-7B"), gpu_class("A100")

E, P, D, M = Role.ENCODE, Role.PREFILL, Role.DECODE, Role.MIXED


@dataclass(frozen=True, slots=True)
class Changes:
    """What happens to a fleet while it runs."""

    removals: tuple[Removal, ...] = ()
    additions: tuple[Addition, ...] = ()


def spec(role: Role, encode: EncodeCurve, *, decode: StepCurve | None = None) -> InstanceSpec:
    """One A100 in a role; decoders and pure prefillers hold no tower."""
    model = decode or Roofline(gpu=GPU, shape=SHAPE)
    return InstanceSpec(
        name=role.value,
        gpu_class=GPU.name,
        role=role,
        model=model,
        curve=decode or fit_model(model),
        blocks=kv_tokens(GPU, SHAPE) // 16,
        unit_tokens=16,
        step_tokens_max=8192,
        step_order=StepOrder.CHUNKED,
        kv_token_bytes=SHAPE.kv_token_bytes,
        link_bytes_per_s=GPU.link_bytes_per_s,
        price_per_h=GPU.price_per_h,
        encode=encode if role in {E, M} else None,
    )


def requests(images: int, tokens: int, outputs: Sequence[int], *, rate: float, seed: int) -> Workload:
    """Poisson arrivals of equal prompts."""
    count = len(outputs)
    return Workload(
        name="epd",
        arrival_s=gamma(count, rate=rate, cv=1.0, generator=np.random.default_rng(seed)),
        prompt_tokens=np.full(count, TEXT_TOKENS + images * tokens),
        output_tokens=np.asarray(outputs),
        images=np.full(count, images),
        image_tokens=np.full(count, images * tokens),
    )


def replay(specs: Sequence[InstanceSpec], workload: Workload, *, is_sharded: bool, **more: object) -> RunResult:
    """One run. Nothing is ever late, so that images go to who is done first."""
    options = RunOptions(
        objective=Objective(slo=SLO), encode=EncodeRules(is_sharded=is_sharded, ttft_share=0.0), flip_s=SWITCH_S
    )
    policy = make_policy(str(more.pop("policy", "least_load")))
    return FleetRun(specs=specs, workload=workload, policy=policy, options=replace(options, **more)).run()  # type: ignore[arg-type]


def ttfts(
    roles: Sequence[Role], curve: EncodeCurve, counts: Sequence[int], *, slices: int, rate: float, seeds: int,
    is_sharded: bool,
) -> list[float]:  # fmt: skip
    """Mean TTFT by number of images; an image is `slices` slices, each encoded by itself."""
    specs = [spec(role, curve) for role in roles]
    return [
        fmean(
            float(
                np.nanmean(
                    replay(
                        specs,
                        requests(count * slices, SLICE_TOKENS, [10] * REQUESTS, rate=rate, seed=seed),
                        is_sharded=is_sharded,
                    ).outcome.ttft_s
                )
            )
            for seed in range(seeds)
        )
        for count in counts
    ]


def calibrated(
    roles: Sequence[Role], printed: Sequence[float], counts: Sequence[int], *, slices: int, rate: float
) -> EncodeCurve:
    """Slice and batch times with which an unshared fleet has the printed first and last TTFT; a fixed point."""
    slice_s, batch_s = 0.04, 0.01
    for _ in range(12):
        curve = EncodeCurve(batch_s=batch_s, image_s=slice_s, token_s=0.0)
        ends = (counts[0], counts[-1])
        got = ttfts(roles, curve, ends, slices=slices, rate=rate, seeds=2, is_sharded=False)
        wanted = (printed[0], printed[-1])
        slope = (wanted[1] - wanted[0] - got[1] + got[0]) / ((ends[1] - ends[0]) * slices)
        slice_s = max(1e-4, slice_s + 0.7 * slope)
        batch_s = max(0.0, batch_s + 0.7 * (wanted[0] - got[0] - slope * ends[0] * slices))
    return EncodeCurve(batch_s=batch_s, image_s=slice_s, token_s=0.0)


def print_table(title: str, heads: Sequence[object], rows: dict[str, Sequence[float]]) -> None:
    """One Markdown table of seconds."""
    print(f"\n{title}\n\n| | {' | '.join(map(str, heads))} |\n| --- |{' --: |' * len(heads)}")
    for name, values in rows.items():
        print(f"| {name} | {' | '.join(f'{value:.2f}' for value in values)} |")


def table_1(seeds: int) -> None:
    """TTFT by frames of a video."""
    epd, eight = [E] * 5 + [P] * 2 + [D], [M] * 8
    curve = calibrated(eight, TABLE_1["vLLM 8"], FRAMES, slices=1, rate=FRAMES_RATE)
    print(f"table 1: a frame takes {curve.image_s * 1e3:.1f} ms and a batch {curve.batch_s * 1e3:.1f} ms")

    def row(roles: Sequence[Role], *, is_sharded: bool) -> list[float]:
        return ttfts(roles, curve, FRAMES, slices=1, rate=FRAMES_RATE, seeds=seeds, is_sharded=is_sharded)

    rows: dict[str, Sequence[float]] = {
        "vLLM, printed (calibrates)": TABLE_1["vLLM 8"],
        "eight colocated, not shared": row(eight, is_sharded=False),
        "EPD, printed": TABLE_1["EPD 5E2P1D"],
        "5E2P1D": row(epd, is_sharded=True),
        "eight colocated, shared (not in the paper)": row(eight, is_sharded=True),
    }
    print_table("TTFT in seconds, by frames, 1 request/s", FRAMES, rows)


def table_4(seeds: int) -> None:
    """TTFT by images, with and without sharing them out."""
    epd, eight = [E] * 5 + [P] * 2 + [D], [M] * 8
    curve = calibrated(epd, TABLE_4["not shared"], IMAGES, slices=IMAGE_SLICES, rate=IMAGES_RATE)
    print(f"\ntable 4: a slice takes {curve.image_s * 1e3:.1f} ms and a batch {curve.batch_s * 1e3:.1f} ms")

    def row(roles: Sequence[Role], *, is_sharded: bool) -> list[float]:
        return ttfts(roles, curve, IMAGES, slices=IMAGE_SLICES, rate=IMAGES_RATE, seeds=seeds, is_sharded=is_sharded)

    rows: dict[str, Sequence[float]] = {
        "not shared, printed (calibrates)": TABLE_4["not shared"],
        "5E2P1D, not shared": row(epd, is_sharded=False),
        "shared, printed": TABLE_4["shared"],
        "5E2P1D, shared": row(epd, is_sharded=True),
        "eight colocated, shared (not in the paper)": row(eight, is_sharded=True),
    }
    print_table(f"TTFT in seconds, by images of ten slices, {IMAGES_RATE:g} requests/s", IMAGES, rows)


def tokens_of(fleet: Sequence[InstanceSpec], policy: str, changes: Changes, *, seeds: int) -> tuple[float, float, int]:
    """Mean latency and TPOT of the 90 long requests, and how many requests were lost."""
    runs = [
        replay(
            fleet,
            requests(1, IMAGE_SLICES * SLICE_TOKENS, OUTPUTS, rate=3.0, seed=seed),
            is_sharded=True,
            policy=policy,
            removals=changes.removals,
            additions=changes.additions,
            objective=Objective(slo=replace(SLO, tpot_s=0.06)),
        )
        for seed in range(seeds)
    ]
    late = np.mean([run.outcome.end_s[10:] - run.workload.arrival_s[10:] for run in runs])
    tpot = np.mean([run.outcome.tpot_s[10:] for run in runs])
    return float(late), float(tpot), sum(int((~run.outcome.is_finished).sum()) for run in runs)


def table_6(seeds: int) -> None:
    """Three of five encoders become decoders when outputs grow; who already decodes may be moved."""
    curve = EncodeCurve(batch_s=0.04, image_s=0.04, token_s=0.0)
    low, high = 1e-4, 2e-2  # of a decode step, per sequence: the printed TPOT without a switch calibrates
    for _ in range(12):
        step = StepCurve(base_s=0.01, prefill_token_s=5e-5, pair_s=0.0, decode_s=(low + high) / 2, context_token_s=0.0)
        fleet = [spec(role, curve, decode=step) for role in [E] * 5 + [P] + [D] * 2]
        is_slow = tokens_of(fleet, "least_load", Changes(), seeds=2)[1] > TABLE_6["5E1P2D all along"][1]
        low, high = (low, step.decode_s) if is_slow else (step.decode_s, high)
    print(f"\ntable 6: a decode step takes 10 ms and {low * 1e3:.2f} ms a sequence")
    switched_s = (int(10 / 3.0 / LOOK_S) + 1) * LOOK_S
    removals = tuple(Removal(slot=slot, at_s=switched_s) for slot in range(3))
    cold = replace(fleet[-1], start_s=SWITCH_S)
    additions = tuple(Addition(spec=cold, at_s=switched_s) for _ in range(3))
    switch = Changes(removals=removals, additions=additions)
    print(
        f"\n| 10 requests of 50 tokens, then 90 of 500, at 3/s; the switch at {switched_s:g} s | latency s | TPOT s |"
    )
    print("| --- | --: | --: |")
    for name, (latency_s, tpot_s) in TABLE_6.items():
        print(f"| {name}, printed | {latency_s:.2f} | {tpot_s:.3f} |")
    for name, policy, changes in (
        ("5E1P2D all along (calibrates TPOT)", "least_load", Changes()),
        ("three encoders become decoders", "least_load", switch),
        ("the same; Sluice places and moves what runs", "joint", switch),
    ):
        latency_s, tpot_s, lost = tokens_of(fleet, policy, changes, seeds=seeds)
        print(f"| {name}{f', {lost} lost' if lost else ''} | {latency_s:.2f} | {tpot_s:.3f} |")


def main() -> None:
    """Prints the three tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    table_1(seeds)
    table_4(seeds)
    table_6(seeds)


if __name__ == "__main__":
    main()
