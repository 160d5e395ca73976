"""`sluice up` and `sluice demo` as a person runs them: whatever ends them, nothing is left behind."""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from real_processes import are_gone, descendants, shared_memory_of, sluice, wait_until

from sluice.cli.fleet_options import DEMO_MODEL
from sluice.kv_transfer import memory

pytestmark = pytest.mark.system

SMALL = ("--kv-memory-mib", "8")
STARTED = "Ctrl-C stops everything."


class Up:
    """One `sluice up` with a single worker, and all it has started."""

    def __init__(self, model: Path, temporary: Path) -> None:
        self.temporary = temporary
        words = ("up", "--model", str(model), "--mixed", "1", "--port", "0", "--grpc-port", "0", *SMALL)
        self.process = sluice(*words, temporary=temporary)
        self.said = ""

    def wait_started(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if STARTED in line:
                return
        raise AssertionError(f"it ended early: {self.said}")

    def children(self) -> list[psutil.Process]:
        return descendants(self.process.pid)

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)

    def close(self) -> None:
        if self.process.poll() is None:
            self.end(signal.SIGINT)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def up(model_path: Path, tmp_path: Path) -> Iterator[Up]:
    up = Up(model_path, tmp_path)
    yield up
    up.close()


def test_its_curl_line_works_when_pasted_and_ctrl_c_stops_every_child(up: Up) -> None:
    up.wait_started()
    assert up.said.startswith("Sluice serves tiny")
    command = up.said[up.said.index("curl ") : up.said.index("  sluice chat")].strip()
    if shutil.which("curl"):
        pasted = subprocess.run(
            ["bash", "-c", f"{command} -sS"], check=True, capture_output=True, text=True, timeout=60
        )
        assert '"finish_reason"' in pasted.stdout, pasted.stdout
    children = up.children()
    files = shared_memory_of(child.pid for child in children)
    assert len(children) == 2
    assert files
    assert up.end(signal.SIGINT) == 0
    assert are_gone(children)
    assert not any(path.exists() for path in files)
    assert not list(up.temporary.iterdir())


def test_a_killed_worker_is_started_again(up: Up) -> None:
    up.wait_started()
    before = {child.pid for child in up.children()}
    (worker,) = (child for child in up.children() if "worker" in child.cmdline())
    worker.kill()
    wait_until(lambda: len({child.pid for child in up.children()} - before) == 1, "another worker")
    assert up.process.stdout is not None
    assert "mixed-0 has ended" in up.process.stdout.readline()
    assert up.end(signal.SIGTERM) == 0
    assert not list(up.temporary.iterdir())


def test_killed_itself_it_takes_its_children_along(up: Up) -> None:
    wait_until(lambda: len(up.children()) == 2, "a router and a worker")
    wait_until(lambda: bool(shared_memory_of(child.pid for child in up.children())), "shared memory")
    children = up.children()
    files = shared_memory_of(child.pid for child in children)
    up.end(signal.SIGKILL)
    wait_until(lambda: are_gone(children), "the children's end", limit_s=10)
    wait_until(lambda: are_swept(files), "shared memory free to be removed")


def are_swept(files: set[Path]) -> bool:
    """Whether the next start of any worker removes them; a process's last thread holds them to its end."""
    memory.sweep_stale()
    return not any(path.exists() for path in files)


def test_interrupted_while_loading_it_stops_every_child(up: Up) -> None:
    wait_until(lambda: len(up.children()) == 2, "a router and a worker")
    children = up.children()
    for _ in range(3):  # an impatient person
        up.process.send_signal(signal.SIGINT)
    assert up.process.wait(30) == 0
    assert are_gone(children)
    assert not list(up.temporary.iterdir())


def test_too_little_shared_memory_is_one_message_and_leaves_nothing(model_path: Path, tmp_path: Path) -> None:
    words = ("up", "--model", str(model_path), "--mixed", "1", "--port", "0", "--grpc-port", "0")
    process = sluice(*words, "--kv-memory-mib", "99999999", "--transport", "shm", temporary=tmp_path)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    (line,) = err.splitlines()
    assert line.startswith("sluice up: mixed-0 could not run: shared memory: /dev/shm has ")
    assert "make it larger" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not (DEMO_MODEL / "model.safetensors").exists(), reason="the demo model has not been trained")
def test_the_demo_answers_rightly_over_two_pools_and_stops(tmp_path: Path) -> None:
    process = sluice("demo", *SMALL, temporary=tmp_path)
    out, err = process.communicate(timeout=110)
    assert process.returncode == 0, out + err
    assert "✗" not in out
    assert "KV over shm" in out
    assert "Every process has been stopped." in out
    assert not list(tmp_path.iterdir())


def test_the_demo_runs_with_any_model(model_path: Path, tmp_path: Path) -> None:
    process = sluice("demo", "--model", str(model_path), "--decode", "1", *SMALL, temporary=tmp_path)
    out, err = process.communicate(timeout=110)
    assert process.returncode == 0, out + err
    assert "prefill on prefill-0" in out
    assert "decode on decode-0" in out
    assert not list(tmp_path.iterdir())


def test_the_picture_demo_encodes_each_picture_once_and_is_right(tmp_path: Path) -> None:
    process = sluice("demo", "--images", *SMALL, temporary=tmp_path)
    out, err = process.communicate(timeout=110)
    assert process.returncode == 0, out + err
    assert "✗" not in out
    assert "10 images sent, 2 encoded by encode-" in out
    assert "8 cache hits." in out
    assert not list(tmp_path.iterdir())
