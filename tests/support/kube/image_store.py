"""Keeps the images that nodes start with, in one containerd folder, made once and kept up to date.

Layers that are there already are not written again: a change of Sluice's code costs seconds. Nodes
start with what `node.lend_images` lends them and never write here.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from kube import sluice_images
from kube.archive import Layer, Settings, write_archive, write_layer
from kube.commands import run
from kube.container_daemon import PAUSE_IMAGE, image_names, import_image, remove_image, wait_daemon, write_settings
from kube.places import Places
from kube.processes import Processes

PAUSE_SOURCE = """#include <signal.h>
#include <unistd.h>
#include <sys/wait.h>
static void down(int number) { (void)number; _exit(0); }
static void reap(int number) { (void)number; while (waitpid(-1, 0, WNOHANG) > 0) {} }
int main(void) { signal(SIGINT, down); signal(SIGTERM, down); signal(SIGCHLD, reap); for (;;) pause(); }
"""


@dataclass(frozen=True, slots=True)
class Images:
    """What a cluster's nodes have."""

    store: Path
    control: str
    worker: str


def prepare(places: Places) -> Images:
    """The images for the source tree as it is now. Raises CommandError."""
    tag = sluice_images.source_tag()
    images = Images(
        store=places.image_store / "content",
        control=sluice_images.image_name("control", tag),
        worker=sluice_images.image_name("worker", tag),
    )
    ready = places.image_store / "ready"
    if ready.exists() and ready.read_text(encoding="ascii") == f"{images.control} {images.worker}":
        return images
    ready.unlink(missing_ok=True)
    work = places.image_store / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    processes = Processes(work / "processes", places.logs)
    try:
        _update(places, images, work, processes)
    finally:
        processes.stop_all()
        shutil.rmtree(work, ignore_errors=True)
    ready.write_text(f"{images.control} {images.worker}", encoding="ascii")
    return images


def _update(places: Places, images: Images, work: Path, processes: Processes) -> None:
    socket = work / "containerd.sock"
    settings = work / "containerd.toml"
    write_settings(settings, root=images.store, state=work / "state", socket=socket, networks=work, plugins=work)
    processes.start("image-store", ["containerd", "--config", settings])
    wait_daemon(socket)
    present = set(image_names(socket))
    if PAUSE_IMAGE not in present:
        import_image(socket, _pause_archive(work))
    known = _KnownLayers(places.image_store / "layers.json")
    base = known.get("base") or sluice_images.base_layer(places, work / "base.layer")
    source = sluice_images.source_layer(work, work / "source.layer")
    for target, name in (("control", images.control), ("worker", images.worker)):
        wanted = sluice_images.packages_of(sluice_images.EXTRAS[target])
        key = f"{target} {sluice_images.packages_key(wanted)}"
        packages = known.get(key) or sluice_images.packages_layer(wanted, work / "packages.layer")
        archive = sluice_images.write_image(work, target=target, name=name, layers=(base, packages, source))
        import_image(socket, archive)
        archive.unlink()
        known.add("base", base)
        known.add(key, packages)
    for name in present - {PAUSE_IMAGE, images.control, images.worker}:
        remove_image(socket, name)


class _KnownLayers:
    """Which layers the store has, by what they were made of."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, list[object]] = json.loads(path.read_text(encoding="ascii")) if path.exists() else {}

    def get(self, key: str) -> Layer | None:
        found = self._found.get(key)
        return Layer(str(found[0]), int(str(found[1])), None) if found else None

    def add(self, key: str, layer: Layer) -> None:
        """The store has this layer now."""
        self._found[key] = [layer.digest, layer.size_bytes]
        self._path.write_text(json.dumps(self._found, indent=1), encoding="ascii")


def _pause_archive(work: Path) -> Path:
    (work / "pause.c").write_text(PAUSE_SOURCE, encoding="ascii")
    run(["gcc", "-static", "-O2", "-o", work / "pause", work / "pause.c"])
    layer = write_layer(work / "pause.layer", {"/pause": work / "pause"})
    archive = work / "pause.tar"
    write_archive(archive, name=PAUSE_IMAGE, layers=[layer], settings=Settings(entrypoint=("/pause",)))
    return archive
