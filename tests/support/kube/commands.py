"""Runs a program to its end, with a deadline, and shows what it said if it failed.

Never starts what goes on running: that is `processes.py`.
"""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

DEADLINE_S = 120.0


class CommandError(RuntimeError):
    """A program failed or took too long; the message ends with its last words."""


class UnfitError(RuntimeError):
    """This machine cannot run a cluster, or cannot get what it takes; the message says what is missing."""


def run(
    argv: Sequence[str | Path],
    *,
    deadline_s: float = DEADLINE_S,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    text_in: str | None = None,
) -> str:
    """Standard output of a program that ended with 0. Raises CommandError."""
    shown = " ".join(str(part) for part in argv)[:300]
    try:
        done = subprocess.run(
            [str(part) for part in argv],
            cwd=folder,
            env=environment,
            input=text_in,
            capture_output=True,
            text=True,
            timeout=deadline_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"{shown}: not done after {deadline_s:.0f} s") from error
    except FileNotFoundError as error:
        raise CommandError(f"{shown}: {error.filename} is not installed") from error
    if done.returncode != 0:
        raise CommandError(f"{shown}: ended with {done.returncode}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}")
    return done.stdout
