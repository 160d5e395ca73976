"""KV transfer: GB/s and CPU time of each backend between two processes, beside memcpy in the same run.

    python benchmarks/transfer.py [--repeats 15] [--backends shm,tcp,nixl,nixl-tcp]

The payload is 32 MiB in three shapes: what a handoff of 16 blocks looks like with one range per
layer, with one range per block and group, and when blocks are contiguous. Every push goes through
a Mover. `of memcpy` divides by a memcpy of the same ranges within one process, interleaved with the
pushes, so it can be trusted on a busy machine; medians. CPU s/GB adds up both processes
and is the steadier column there.
`nixl` uses what UCX picks on one host, `nixl-tcp` is UCX held to TCP: the peer of our tcp backend.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import psutil

from sluice.domain.ids import BootId, WorkerId
from sluice.kv_transfer.backends import open_backends
from sluice.kv_transfer.byte_copy import copy_ranges
from sluice.kv_transfer.memory import KvMemory, allocate
from sluice.kv_transfer.mover import Mover
from sluice.kv_transfer.transport import Descriptors, PeerInfo, Push, PushState

PAYLOAD_BYTES = 32 << 20
REGION_BYTES = 2 * PAYLOAD_BYTES
SHAPES = (("1024 x 32 KiB", 1024), ("16 x 2 MiB", 16), ("1 x 32 MiB", 1))
BACKENDS = ("shm", "tcp", "nixl", "nixl-tcp")
GRANT = bytes(32)
WARMUPS = 3
PATIENCE_S = 60.0


class Passed:
    """A fence that has passed."""

    def wait(self) -> None:
        """The bytes are there."""


@dataclass(frozen=True, slots=True)
class Row:
    """Medians of one backend and shape."""

    gigabytes_per_s: float
    of_memcpy: float
    cpu_s_per_gigabyte: float
    memcpy_cpu_s_per_gigabyte: float


def scattered(count: int) -> Descriptors:
    """`count` ranges with gaps between them, at shuffled places on the target's side."""
    length = PAYLOAD_BYTES // count
    places = np.arange(count, dtype=np.int64) * (REGION_BYTES // count)
    shuffled = np.random.default_rng(0).permutation(places)
    return Descriptors(places, shuffled, np.full(count, length, dtype=np.int64))


def receive(backend: str) -> None:
    """The other process: prints its connection data, then waits for the end of stdin."""
    memory = allocate(REGION_BYTES, shared=True, prefault=True)
    mover = Mover(open_backends([backend], boot=BootId("receiver"), host="127.0.0.1").transports, memory.region())
    zero = np.zeros(1, dtype=np.int64)
    mover.allow(lease_s=60.0, grant=GRANT, ranges=Descriptors(zero, zero, np.asarray([REGION_BYTES], dtype=np.int64)))
    print(json.dumps([(name, info.hex()) for name, info in mover.local_infos()]), flush=True)
    sys.stdin.read()
    mover.close()
    memory.close()


def start_receiver(backend: str) -> tuple[subprocess.Popen[str], PeerInfo]:
    command = [sys.executable, __file__, "--receive", backend]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    infos = tuple((name, bytes.fromhex(info)) for name, info in json.loads(process.stdout.readline()))
    return process, PeerInfo(worker=WorkerId("w"), boot=BootId("receiver"), region_bytes=REGION_BYTES, infos=infos)


def measure(backend: str, repeats: int) -> None:
    """The sending process: prints one Row per shape as JSON."""
    process, info = start_receiver(backend)
    memories = [allocate(REGION_BYTES, shared=True, prefault=True), allocate(REGION_BYTES, shared=False, prefault=True)]
    np.frombuffer(memories[0].view, dtype=np.uint8)[:] = 7
    mover = Mover(open_backends([backend], boot=BootId("sender"), host="127.0.0.1").transports, memories[0].region())
    mover.connect(info).result(PATIENCE_S)
    meter = psutil.Process(process.pid)
    rows = [measure_shape(mover, memories, meter, scattered(count), repeats) for _, count in SHAPES]
    print(json.dumps([astuple(row) for row in rows]), flush=True)
    mover.close()
    process.communicate()


def measure_shape(
    mover: Mover, memories: list[KvMemory], meter: psutil.Process, what: Descriptors, repeats: int
) -> Row:
    seconds, copies, cpu_s, copy_cpu_s = [], [], 0.0, 0.0
    for turn in range(WARMUPS + repeats):
        start_s, copy_before_s = time.perf_counter(), time.process_time()
        copy_ranges(memories[0].view, memories[1].view, what)
        copy_s, copied_s = time.perf_counter() - start_s, time.process_time()
        before_s = time.process_time() + sum(meter.cpu_times()[:2])
        start_s = time.perf_counter()
        push = Push(push=turn, peer=BootId("receiver"), grant=GRANT, descriptors=what)
        result = mover.push(push, Passed()).result(PATIENCE_S)
        push_s = time.perf_counter() - start_s
        assert result.state is PushState.DONE, result.reason
        if turn >= WARMUPS:
            seconds.append(push_s)
            copies.append(copy_s)
            copy_cpu_s += copied_s - copy_before_s
            cpu_s += time.process_time() + sum(meter.cpu_times()[:2]) - before_s
    ratio = statistics.median(copy_s / push_s for copy_s, push_s in zip(copies, seconds, strict=True))
    moved_gigabytes = repeats * PAYLOAD_BYTES / 1e9
    rate = PAYLOAD_BYTES / 1e9 / statistics.median(seconds)
    return Row(rate, ratio, cpu_s / moved_gigabytes, copy_cpu_s / moved_gigabytes)


def run(backend: str, repeats: int) -> list[Row] | str:
    """Measure in a process of its own, so that UCX's settings can differ; a reason if it cannot."""
    name = backend.removesuffix("-tcp")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    if backend.endswith("-tcp"):
        environment["UCX_TLS"] = "tcp,self"
    command = [sys.executable, __file__, "--measure", name, "--repeats", str(repeats)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["failed"])[-1]
    return [Row(*row) for row in json.loads(done.stdout.strip().splitlines()[-1])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--backends", default=",".join(BACKENDS))
    parser.add_argument("--receive", help=argparse.SUPPRESS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.receive:
        receive(arguments.receive)
        return
    if arguments.measure:
        measure(arguments.measure, arguments.repeats)
        return
    print(f"{'backend':<10} {'payload':<14} {'GB/s':>6} {'of memcpy':>10} {'CPU s/GB':>9} {'memcpy CPU s/GB':>16}")
    for backend in arguments.backends.split(","):
        rows = run(backend, arguments.repeats)
        if isinstance(rows, str):
            print(f"{backend:<10} {rows}")
            continue
        for (shape, _), row in zip(SHAPES, rows, strict=True):
            figures = f"{row.gigabytes_per_s:>6.2f} {row.of_memcpy:>10.2f} {row.cpu_s_per_gigabyte:>9.2f}"
            print(f"{backend:<10} {shape:<14} {figures} {row.memcpy_cpu_s_per_gigabyte:>16.2f}", flush=True)


if __name__ == "__main__":
    main()
