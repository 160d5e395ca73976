"""Processes that go on running: started in a network namespace, remembered by id, stopped by id.

Every start leaves a file with the id and the start time, so that a later program can stop what an
interrupted one left, and can never stop a stranger that got the same id. Logs go to one file each.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

STOP_S = 5.0


class Processes:
    """The running processes of one cluster; their files lie in `folder`."""

    def __init__(self, folder: Path, logs: Path) -> None:
        self._folder = folder
        self._logs = logs
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, argv: Sequence[str | Path]) -> int:
        """Start a process in a session of its own; its output is appended to NAME.log. Returns its id."""
        for one in (self._folder, self._logs):
            one.mkdir(parents=True, exist_ok=True)
        with (self._logs / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(
                [str(part) for part in argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd="/",
            )
        self._children[name] = child
        started_s = psutil.Process(child.pid).create_time()
        (self._folder / f"{name}.pid").write_text(f"{child.pid} {started_s}\n", encoding="ascii")
        return child.pid

    def log(self, name: str) -> Path:
        """Where the output of process `name` is."""
        return self._logs / f"{name}.log"

    def has(self, name: str) -> bool:
        """Whether a process of that name was started and not stopped."""
        return (self._folder / f"{name}.pid").exists()

    def pid(self, name: str) -> int:
        """The id of a process that has a file here."""
        return int((self._folder / f"{name}.pid").read_text(encoding="ascii").split()[0])

    def assert_running(self, name: str) -> None:
        """Raises RuntimeError with the end of its log if the process has ended."""
        code = self._children[name].poll()
        if code is not None:
            text = self.log(name).read_text(encoding="utf-8", errors="replace")
            raise RuntimeError(f"{name} has ended with {code}:\n{text[-3000:]}")

    def stop(self, name: str, *, number: int = signal.SIGTERM) -> None:
        """Stop one process, by force if it does not end in time; returns when it is gone."""
        path = self._folder / f"{name}.pid"
        if not path.exists():
            return
        pid, started_s = path.read_text(encoding="ascii").split()
        stop_process(int(pid), started_s=float(started_s), number=number)
        child = self._children.pop(name, None)
        if child is not None:
            child.wait(timeout=STOP_S)
        path.unlink()

    def stop_all(self) -> None:
        """Stop every process that has a file here, the newest first."""
        files = sorted(self._folder.glob("*.pid"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in files:
            self.stop(path.stem)


def stop_process(pid: int, *, started_s: float, number: int = signal.SIGTERM) -> None:
    """Signal exactly the process that started then; kill it if it is still there after a while."""
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - started_s) > 0.1:
            return  # the id has gone to a stranger
        process.send_signal(number)
        if not _has_ended(process):
            process.kill()
            _has_ended(process)
    except psutil.NoSuchProcess:
        return


def _has_ended(process: psutil.Process) -> bool:
    """Whether it ends in time. A zombie has ended: it waits for a parent that may not be us."""
    end_s = time.monotonic() + STOP_S
    while time.monotonic() < end_s:
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def kill_all(pids: Sequence[int]) -> None:
    """Kill processes found in our own control groups or namespaces."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def wait_until(condition: Callable[[], bool], *, deadline_s: float, what: str, every_s: float = 0.2) -> None:
    """Return when the condition holds. Raises TimeoutError naming `what`."""
    end_s = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end_s:
            raise TimeoutError(f"{what}: not after {deadline_s:.0f} s")
        time.sleep(every_s)
