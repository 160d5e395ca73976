"""Runs every benchmark that needs no GPU, one after another, and sums up how each went.

Run `python benchmarks/run_all.py [--full] [NAME ...]`; names are files of this folder without `.py`.
Each prints its own table. Without `--full` they run fewer rounds, for a first look; figures in
docs/benchmarks.md come from full runs. `gpu.py` is left out: it needs a device.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).parent
LEFT_OUT = {Path(__file__).stem, "gpu"}
MARK = 'if __name__ == "__main__"'
TIMEOUT_S = 1800.0
OK = "ok"
SHORT = {
    "engine": ("--rounds", "2"),
    "handoff": ("--rounds", "3"),
    "migration": ("--contexts", "256", "1024", "--rounds", "2"),
    "router": ("--rounds", "1"),
    "soak": ("--requests", "400"),
    "transfer": ("--repeats", "5"),
}


def main() -> int:
    """Run the named benchmarks, or all; the number that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("--full", action="store_true", help="as many rounds as each script's own default")
    arguments = parser.parse_args()
    there = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in LEFT_OUT and MARK in path.read_text())
    unknown = [name for name in arguments.names if name not in there]
    if unknown:
        parser.error(f"no benchmark called {', '.join(unknown)}; there are {', '.join(there)}")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    names = arguments.names or there
    ends = {name: end_of(name, () if arguments.full else SHORT.get(name, ())) for name in names}
    print("\n=== summary")
    for name, (how, seconds) in ends.items():
        print(f"{name:12}{how:16}{seconds:6.0f} s")
    return sum(how != OK for how, _ in ends.values())


def end_of(name: str, options: tuple[str, ...]) -> tuple[str, float]:
    """Run one benchmark in a process of its own, its output passed through; how it ended, after how many seconds."""
    print(f"\n=== {name} {' '.join(options)}", flush=True)
    start_s = time.monotonic()
    try:
        status = subprocess.run([sys.executable, FOLDER / f"{name}.py", *options], check=False, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"over {TIMEOUT_S:.0f} s", TIMEOUT_S
    return OK if status.returncode == 0 else f"status {status.returncode}", time.monotonic() - start_s


if __name__ == "__main__":
    sys.exit(main())
