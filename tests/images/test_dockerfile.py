"""The Dockerfile builds, and its images are what the chart takes them for: two, small, not root, and they serve.

`make images` runs this: minutes, root, and a place to get packages from. Sizes and times are printed for
docs/kubernetes.md. Next: `tests/support/kube/dockerfile.py`.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from kube import dockerfile
from kube.commands import CommandError, UnfitError
from kube.dockerfile import Buildah, Built, run_as_pod
from kube.places import Places, cache_root

pytestmark = pytest.mark.timeout(1800)
USER = "10001:10001"
MIB = 2**20
CONTROL_MIB_MAX = 500  # over the base image; half of it compiles placement
WORKER_MIB_MAX = 1800


@dataclass(frozen=True, slots=True)
class Image:
    """An image that was built and can be tried."""

    built: Built
    files: Path
    own_mib: float  # over the base image

    def run(self, *command: str) -> str:
        started_s = time.monotonic()
        said = run_as_pod(self.built, self.files, *command)
        print(f"\n{' '.join(command)}: {time.monotonic() - started_s:.1f} s")
        return said


@pytest.fixture(scope="module")
def prepared() -> Iterator[tuple[Buildah, int]]:
    try:
        buildah, base_bytes = dockerfile.prepare(Places(cache_root()))
    except UnfitError as error:
        pytest.skip(str(error))
    print(f"\nbase: {base_bytes / MIB:.0f} MiB")
    yield buildah, base_bytes
    buildah.close()


@pytest.fixture(scope="module")
def control(prepared: tuple[Buildah, int]) -> Image:
    return image(prepared, "control")


@pytest.fixture(scope="module")
def worker(prepared: tuple[Buildah, int]) -> Image:
    return image(prepared, "worker")


def image(prepared: tuple[Buildah, int], target: str) -> Image:
    buildah, base_bytes = prepared
    built = buildah.build(target)
    own_mib = (built.size_bytes - base_bytes) / MIB
    print(f"\n{target}: base and {own_mib:.0f} MiB, built in {built.build_s:.0f} s")
    return Image(built, buildah.files(built.name), own_mib)


def test_both_images_run_sluice_and_not_as_root(control: Image, worker: Image) -> None:
    for one in (control, worker):
        assert (one.built.user, one.built.entrypoint) == (USER, ("sluice",))
        assert one.run("id", "-u").strip() == "10001"
        assert "usage: sluice COMMAND" in one.run("sluice", "--help")


def test_nothing_can_be_written_but_in_tmp(control: Image) -> None:
    control.run("touch", "/tmp/here")
    for place in ("/opt/sluice/lib/here", "/etc/here", "/here"):
        with pytest.raises(CommandError, match="Read-only file system"):
            control.run("touch", place)


def test_the_control_image_is_small_and_has_no_torch(control: Image) -> None:
    assert control.own_mib <= CONTROL_MIB_MAX
    assert "torch" not in control.run("ls", "/opt/sluice/lib").split()
    assert "--config" in control.run("sluice", "router", "--help")


def test_the_control_image_has_what_the_operator_and_the_planner_are_started_with(control: Image) -> None:
    control.run("python", "-c", "import sluice.operator.handlers")
    assert "kopf" in control.run("kopf", "--version")
    steps = control.run("sluice", "rollout", "plan", "--prefill=2", "--decode=2")
    assert "is drained" in steps
    assert "cheapest" in control.run("sluice", "plan", "--help")


def test_the_worker_image_serves_a_model(worker: Image) -> None:
    assert worker.own_mib <= WORKER_MIB_MAX
    assert "--config" in worker.run("sluice", "worker", "--help")
    worker.run("python", "-c", "import nixl_cu13, transformers")
    assert "✓ right" in worker.run("sluice", "demo")


def test_packages_are_compiled_in_the_images(control: Image, worker: Image) -> None:
    """A process that compiles what it imports, in a file system it may not write, does so at every start."""
    assert control.run("find", "/opt/sluice/lib/sluice/router", "-name", "*.pyc").split()
    assert worker.run("find", "/opt/sluice/lib/torch/nn", "-name", "*.pyc").split()


def test_this_machines_package_index_is_in_no_image(control: Image, worker: Image) -> None:
    for one in (control, worker):
        assert not [name for name in one.built.environment if name.startswith("PIP_")]
        with pytest.raises(CommandError, match="No such file"):
            one.run("cat", dockerfile.SETTINGS)
