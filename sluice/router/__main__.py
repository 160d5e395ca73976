"""Starts a router: `python -m sluice.router --config FILE`. Next: `process.py`."""

import argparse
import sys
from pathlib import Path

import uvloop

from sluice.config import load
from sluice.config.router import RouterConfig
from sluice.errors import SluiceError
from sluice.router import process


def main() -> int:
    """Run until stopped. A wrong setting ends with one line on stderr and exit code 2."""
    parser = argparse.ArgumentParser(prog="sluice.router", description="Serve the OpenAI API over connected workers.")
    parser.add_argument("--config", type=Path, required=True, help="a YAML file of RouterConfig fields")
    arguments = parser.parse_args()
    try:
        config = load.load(arguments.config, RouterConfig)
        uvloop.run(process.run(config))
    except SluiceError as error:
        sys.stderr.write(f"sluice router: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
