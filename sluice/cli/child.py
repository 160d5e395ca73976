"""One child process that never outlives its parent, and whose last words are kept.

Next: `leash.py`, which is why it does not.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from sluice.config import load
from sluice.errors import SluiceError

LAST_WORDS_LINES: Final = 15
NAMED_FAILURE: Final = re.compile(r"sluice \w+: (.+)")  # what `main` prints of a SluiceError


class ChildDiedError(SluiceError):
    """A process of the local platform ended when it should not have."""


@dataclass(slots=True)
class Child:
    """A `sluice` command run as a process of its own; `words` are the command and its arguments."""

    name: str
    words: Sequence[str]
    log_path: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    _process: "subprocess.Popen[bytes] | None" = None
    _log: IO[bytes] | None = None

    def start(self) -> None:
        """Start it with output going to `log_path`."""
        self._log = self.log_path.open("ab")
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and modules
            [sys.executable, "-m", "sluice.cli.leash", str(os.getpid()), *self.words],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=load.child_environment(self.environment),
            start_new_session=True,  # Ctrl-C reaches us alone; we stop children in order
        )

    @property
    def pid(self) -> int:
        assert self._process is not None, "start() comes first"
        return self._process.pid

    def is_alive(self) -> bool:
        """Whether it runs now."""
        return self._process is not None and self._process.poll() is None

    def check_alive(self) -> None:
        """Raise ChildDiedError with its last words if it has ended."""
        if not self.is_alive():
            raise ChildDiedError(f"{self.name} {self.last_words()}")

    def last_words(self) -> str:
        """How it ended: the named failure it spoke of, or else its status and the end of its output."""
        assert self._process is not None
        lines = self.log_path.read_text(errors="replace").splitlines()[-LAST_WORDS_LINES:]
        if lines and (said := NAMED_FAILURE.fullmatch(lines[-1])):
            return f"could not run: {said[1]}"
        status = self._process.returncode
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return "\n".join([f"{how}; it said last:", *(f"    {line}" for line in lines or ["(nothing)"])])

    def ask_to_stop(self) -> None:
        """Send SIGTERM, once it is running."""
        if self.is_alive():
            assert self._process is not None
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        assert self._process is not None
        self._process.kill()

    def stop(self, *, grace_s: float) -> None:
        """Wait for it to end after `ask_to_stop`; kill it when the grace is over."""
        if self._process is not None:
            try:
                self._process.wait(timeout=grace_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._log is not None:
            self._log.close()
            self._log = None
