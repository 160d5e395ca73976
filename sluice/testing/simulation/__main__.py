"""Run seeds: `python -m sluice.testing.simulation --seed 123 --runs 1`. A failing seed is printed with its history.

Exits 1 at the first failure. Next: `random_run.py`.
"""

import argparse
import sys
import time

from sluice.testing.simulation import random_run

LOG_LINES: int = 60


def describe(result: random_run.Result, *, sees: bool = False) -> str:
    """A failed run, short enough to read."""
    more = " SIM=--images" if sees else ""
    lines = [f"seed {result.seed} failed: make sim SEED={result.seed} RUNS=1{more}", *result.log[-LOG_LINES:]]
    return "\n".join([*lines, *(f"BROKEN: {what}" for what in result.broken)])


def main() -> int:
    """Run `--runs` seeds from `--seed` on."""
    parser = argparse.ArgumentParser(prog="sluice.testing.simulation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--keep-going", action="store_true", help="print every failing seed, not only the first")
    parser.add_argument("--images", action="store_true", help="prompts with pictures, and encode workers")
    parser.add_argument("--log", action="store_true", help="print the history of every run")
    arguments = parser.parse_args()
    out = sys.stdout
    started_s, failures, answered, clients = time.process_time(), 0, 0, 0
    for done, seed in enumerate(range(arguments.seed, arguments.seed + arguments.runs), start=1):
        result = random_run.run(seed, sees=arguments.images)
        answered, clients = answered + result.answered, clients + result.clients
        if arguments.log:
            out.write("\n".join(result.log) + "\n")
        if result.broken:
            failures += 1
            out.write(describe(result, sees=arguments.images) + "\n")
            if not arguments.keep_going:
                return 1
        if done % 500 == 0 or done == arguments.runs:
            rate = done / (time.process_time() - started_s)
            out.write(f"{done} runs, {rate:.0f} per second of CPU, {answered} of {clients} requests answered\n")
            out.flush()
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
