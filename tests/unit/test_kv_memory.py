"""A pool's memory is there when it is promised, and gone when its owner is."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sluice.errors import ConfigError, TransportUnavailableError
from sluice.kv_transfer import memory
from sluice.kv_transfer.memory import NAME_PREFIX, SHM_DIRECTORY, allocate, sweep_stale


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("size", [1, 4096, 10_000])
def test_memory_is_zeroed_writable_and_as_large_as_asked(shared: bool, size: int) -> None:
    pool = allocate(size, shared=shared, prefault=True)
    region = pool.region()
    assert region.view is not None
    assert (len(region.view), region.size_bytes, region.device) == (size, size, "cpu")
    assert bytes(region.view) == bytes(size)
    region.view[size - 1] = 5
    array = np.frombuffer(region.view, dtype=np.uint8)
    assert array.ctypes.data == region.address
    del array, region
    pool.close()
    pool.close()


def test_shared_memory_has_an_unguessable_name_until_it_is_closed() -> None:
    pools = [allocate(4096, shared=True) for _ in range(2)]
    names = [str(pool.shm_name) for pool in pools]
    assert len(set(names)) == 2
    assert all(len(name) == len(NAME_PREFIX) + 32 for name in names)
    assert all((SHM_DIRECTORY / name).stat().st_mode & 0o777 == 0o600 for name in names)
    for pool in pools:
        pool.close()
    assert not any((SHM_DIRECTORY / name).exists() for name in names)


def test_closing_under_an_array_leaves_its_memory_mapped() -> None:
    pool = allocate(4096, shared=True)
    array = np.frombuffer(pool.view, dtype=np.uint8)
    pool.close()
    array[:] = 3
    assert array.sum() == 3 * 4096


def test_a_living_owners_memory_is_not_swept() -> None:
    pool = allocate(4096, shared=True)
    assert pool.shm_name not in sweep_stale()
    assert (SHM_DIRECTORY / str(pool.shm_name)).exists()
    pool.close()


def test_a_killed_owners_memory_is_swept() -> None:
    script = (
        "import time\n"
        "from sluice.kv_transfer.memory import allocate\n"
        "pool = allocate(4096, shared=True)\n"
        "print(pool.shm_name, flush=True)\n"
        "time.sleep(60)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
    assert owner.stdout
    name = owner.stdout.readline().strip()
    assert name not in sweep_stale()
    owner.kill()
    owner.communicate()
    sweep_stale()  # or another worker was faster
    assert not (SHM_DIRECTORY / name).exists()


def test_no_room_in_shared_memory_is_an_error_with_a_remedy_and_leaves_nothing() -> None:
    before = set(SHM_DIRECTORY.glob(f"{NAME_PREFIX}*"))
    with pytest.raises(TransportUnavailableError, match=r"MiB free and the KV pool needs .*; make it larger"):
        allocate(1 << 50, shared=True)
    assert set(SHM_DIRECTORY.glob(f"{NAME_PREFIX}*")) <= before


def test_room_that_vanishes_while_claiming_it_is_the_same_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(memory.os, "posix_fallocate", full)
    before = set(SHM_DIRECTORY.glob(f"{NAME_PREFIX}*"))
    with pytest.raises(TransportUnavailableError, match="make it larger"):
        allocate(4096, shared=True)
    assert set(SHM_DIRECTORY.glob(f"{NAME_PREFIX}*")) <= before


def test_a_missing_shared_memory_directory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SHM_DIRECTORY", Path("/nowhere"))
    with pytest.raises(TransportUnavailableError, match="mount a tmpfs"):
        allocate(4096, shared=True)


@pytest.mark.parametrize("size", [0, -1])
@pytest.mark.parametrize("shared", [True, False])
def test_a_size_that_is_not_positive_is_refused(size: int, shared: bool) -> None:
    with pytest.raises(ConfigError, match="size"):
        allocate(size, shared=shared)


def test_private_memory_that_cannot_be_had_is_refused_with_a_remedy() -> None:
    with pytest.raises(ConfigError, match="fewer KV blocks"):
        allocate(1 << 62, shared=False)
