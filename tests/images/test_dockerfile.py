"""The Dockerfile builds, and its images are what the chart takes them for: two, small, not root, and they serve.

`make images` runs this: minutes, root, and a place to get packages from. Sizes and times are printed for
docs/kubernetes.md. Next: `tests/support/kube/dockerfile.py`.
"""

import time
from collections.abc import Iterator

import pytest
from kube import dockerfile
from kube.commands import UnfitError
from kube.dockerfile import Buildah, Built
from kube.places import Places, cache_root

pytestmark = pytest.mark.timeout(1800)
USER = "10001:10001"
MIB = 2**20
CONTROL_MIB_MAX = 600
WORKER_MIB_MAX = 4000


@pytest.fixture(scope="module")
def buildah() -> Iterator[Buildah]:
    try:
        made = dockerfile.prepare(Places(cache_root()))
    except UnfitError as error:
        pytest.skip(str(error))
    yield made
    made.close()


@pytest.fixture(scope="module")
def control(buildah: Buildah) -> Built:
    return built(buildah, "control")


@pytest.fixture(scope="module")
def worker(buildah: Buildah) -> Built:
    return built(buildah, "worker")


def built(buildah: Buildah, target: str) -> Built:
    image = buildah.build(target)
    print(f"\n{target}: {image.size_bytes / MIB:.0f} MiB, built in {image.build_s:.0f} s")
    return image


def timed(buildah: Buildah, container: str, *command: str) -> str:
    started_s = time.monotonic()
    said = buildah.run(container, *command)
    print(f"\n{' '.join(command)}: {time.monotonic() - started_s:.1f} s")
    return said


def test_both_images_run_sluice_and_not_as_root(control: Built, worker: Built) -> None:
    for image in (control, worker):
        assert (image.user, image.entrypoint) == (USER, ("sluice",))


def test_the_control_image_is_small_and_has_no_torch(buildah: Buildah, control: Built) -> None:
    assert control.size_bytes <= CONTROL_MIB_MAX * MIB
    container = buildah.start(control)
    assert "torch" not in buildah.run(container, "ls", "/opt/sluice/lib").split()
    assert buildah.run(container, "id", "-u").strip() == "10001"
    assert "--config" in timed(buildah, container, "sluice", "router", "--help")
    assert "kopf" in timed(buildah, container, "kopf", "--version")


def test_the_worker_image_serves_a_model(buildah: Buildah, worker: Built) -> None:
    assert worker.size_bytes <= WORKER_MIB_MAX * MIB
    container = buildah.start(worker)
    assert "--config" in timed(buildah, container, "sluice", "worker", "--help")
    assert "✓ right" in timed(buildah, container, "sluice", "demo")


def test_packages_are_compiled_in_the_images(buildah: Buildah, control: Built) -> None:
    """A process that compiles what it imports, in a file system it may not write, does so at every start."""
    container = buildah.start(control)
    assert buildah.run(container, "find", "/opt/sluice/lib/sluice/router", "-name", "*.pyc").split()
