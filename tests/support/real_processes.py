"""Real processes in tests: what they hold, how to wait for them, and how to see that they are gone.

Only counts what belongs to the processes it is given, so that other programs on the machine do
not disturb a test. `in_process.py` is for tests that need no processes.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import grpc
import psutil

from sluice.cli.local_fleet import LocalFleet
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc as rpc

WAIT_S_MAX = 60.0
SHARED_MEMORY = re.compile(r"/dev/shm/(sluice-\S+)")


def wait_until(condition: Callable[[], bool], what: str, *, limit_s: float = WAIT_S_MAX) -> None:
    """Poll until `condition` holds; fails with `what` after `limit_s`."""
    deadline_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline_s, f"waited {limit_s:.0f} s for {what}"
        time.sleep(0.02)


def descendants(pid: int) -> list[psutil.Process]:
    """Every process started by `pid`, directly or not."""
    return psutil.Process(pid).children(recursive=True)


def are_gone(processes: Iterable[psutil.Process]) -> bool:
    """Whether all of them have ended; one that only waits to be collected has."""
    return not [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def shared_memory_of(pids: Iterable[int]) -> set[Path]:
    """Files in /dev/shm that these processes have mapped."""
    maps = [Path(f"/proc/{pid}/maps").read_text() for pid in pids]
    return {Path("/dev/shm", name) for text in maps for name in SHARED_MEMORY.findall(text)}


def sluice(*words: str, temporary: Path, **environment: str) -> "subprocess.Popen[str]":
    """A `sluice` command as a person would start it, with temporary files under `temporary`."""
    return subprocess.Popen(
        [sys.executable, "-m", "sluice.cli.main", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary), "COLUMNS": "120", **environment},
    )


def requests_of(fleet: LocalFleet) -> Sequence[pb.RequestRow]:
    """The router's records, newest first."""
    with grpc.insecure_channel(fleet.grpc_address) as channel:
        return rpc.AdminStub(channel).GetRequests(pb.GetRequestsRequest(limit=1000), timeout=10).requests


def workers_of(fleet: LocalFleet) -> Sequence[pb.WorkerRow]:
    """The workers the router knows."""
    with grpc.insecure_channel(fleet.grpc_address) as channel:
        return rpc.AdminStub(channel).GetWorkers(pb.GetWorkersRequest(), timeout=10).workers
