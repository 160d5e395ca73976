"""`sluice COMMAND`: finds the command's module, which parses its own arguments and runs.

Only the chosen command is imported, so `sluice get` needs no torch. Each command module has
`add_arguments(parser)` and `run(arguments) -> exit status`.
"""

import argparse
import importlib
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Final, Never, Protocol, cast

from sluice.errors import SluiceError

COMMANDS: Final = {
    "up": "start a router and workers on this machine and serve until Ctrl-C",
    "demo": "start a small platform, send requests, show where each one ran, stop",
    "chat": "talk to a running platform in the terminal",
    "get": "list the workers or the latest requests of a running platform",
    "explain": "say why a request went where it went: what was weighed, predicted and decided",
    "drain": "empty a worker without losing a request: move what runs there",
    "flip": "give a worker another role, weights kept",
    "migrate": "move one running request to another worker",
    "simulate": "replay a trace on a simulated fleet: attainment, goodput, cost, by policy",
    "profile": "measure what an engine's steps take here, for placement and planning",
    "plan": "find the cheapest GPUs for a trace and its objectives, and replay it on them",
    "doctor": "say what works on this machine, and how to mend what does not",
    "install": "print the manifests that install Sluice in a Kubernetes cluster",
    "status": "show the ModelServices of a Kubernetes cluster",
    "rollout": "print the steps by which workers would be replaced, without a cluster",
    "router": "run one router process",
    "worker": "run one worker process",
}
SERVERS: Final = {"router", "worker"}
EXTRAS: Final = {"kopf": "operator", "highspy": "planner"}  # what brings a module that may be missing


class Command(Protocol):
    """What a command's module offers."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, arguments: argparse.Namespace) -> int: ...


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; a named failure is one line on stderr and exit status 1."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] not in COMMANDS:
        return _explain(words)
    name = words[0]
    if name in SERVERS:
        signal.signal(signal.SIGTERM, _end_at_once)
    try:
        command = cast("Command", importlib.import_module(f"sluice.cli.{name}"))
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("sluice"):
            raise
        extra = EXTRAS.get(error.name or "", "worker")
        print(f"sluice {name}: needs {error.name}; pip install 'sluice[{extra}]'", file=sys.stderr)
        return 1
    parser = argparse.ArgumentParser(prog=f"sluice {name}", description=COMMANDS[name])
    command.add_arguments(parser)
    try:
        return command.run(parser.parse_args(words[1:]))
    except SluiceError as error:
        print(f"sluice {name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _end_at_once(number: int, _: FrameType | None) -> Never:
    """Until a server drains on SIGTERM it has nothing to drain.

    The first process of a container ignores signals that it does not handle: a pod deleted while it started would
    come up all the same, serve for its whole grace period, and be killed with what it serves.
    """
    sys.exit(128 + number)


def _explain(words: Sequence[str]) -> int:
    is_asking = not words or words[0] in {"-h", "--help", "help"}
    out = sys.stdout if is_asking else sys.stderr
    if not is_asking:
        print(f"sluice: there is no command '{words[0]}'", file=out)
    print("usage: sluice COMMAND [options]\n", file=out)
    for name, purpose in COMMANDS.items():
        print(f"  {name:8} {purpose}", file=out)
    print("\n`sluice COMMAND --help` lists a command's options.", file=out)
    return 0 if is_asking else 2


if __name__ == "__main__":
    sys.exit(main())
