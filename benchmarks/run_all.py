"""Runs every benchmark that needs no GPU, one after another, and says which failed.

Run `python benchmarks/run_all.py [NAME ...]`; names are files of this folder without `.py`.
Each prints its own table. `gpu.py` is left out: it needs a device.
"""

import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).parent
LEFT_OUT = {Path(__file__).stem, "gpu"}
TIMEOUT_S = 1800.0


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all; the number that failed."""
    there = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in LEFT_OUT)
    unknown = [name for name in names if name not in there]
    if unknown:
        print(f"no benchmark called {', '.join(unknown)}; there are {', '.join(there)}", file=sys.stderr)
        return len(unknown)
    failed = [name for name in names or there if not succeeds(name)]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


def succeeds(name: str) -> bool:
    """Run one benchmark in a process of its own, its output passed through."""
    print(f"\n=== {name}", flush=True)
    start_s = time.monotonic()
    try:
        status = subprocess.run([sys.executable, FOLDER / f"{name}.py"], check=False, timeout=TIMEOUT_S).returncode
    except subprocess.TimeoutExpired:
        print(f"still running after {TIMEOUT_S:.0f} s; stopped")
        return False
    print(f"=== {name}: {time.monotonic() - start_s:.0f} s, exit status {status}")
    return status == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
