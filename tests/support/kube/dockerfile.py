"""Builds the Dockerfile's targets without a registry, and runs commands in them: buildah, with storage of its own.

A small Debian with Python and pip stands in for the slim Python image. Packages come from wherever this machine's pip
gets them: its settings are lent to the build and are in no image. Needs root; removes nothing but its own folder.
Next: `tests/images/test_dockerfile.py`.
"""

import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from kube import debian
from kube.commands import UnfitError, run
from kube.places import Places

REPOSITORY = Path(__file__).parents[3]
BASE = "localhost/python:3.11"
BUILD_S_MAX = 1500.0
SETTINGS = "/etc/pip.conf"
SAYS_WHERE = ("cert", "find-links", "index-url", "extra-index-url")


@dataclass(frozen=True, slots=True)
class Built:
    """One image."""

    name: str
    size_bytes: int
    build_s: float
    user: str
    entrypoint: tuple[str, ...]


class Buildah:
    """One storage folder; `close` removes it with everything that was built."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True)
        storage = {"--root": folder / "storage", "--runroot": folder / "run", "--storage-driver": "vfs"}
        self._program = ["buildah", *(str(part) for option in storage.items() for part in option)]

    def close(self) -> None:
        shutil.rmtree(self._folder)

    def make_base(self, system: Path) -> None:
        """The stand-in for the slim Python image."""
        container = self._call("from", "scratch").strip()
        self._call("add", "--quiet", container, str(system), "/")
        self._call("commit", "--quiet", "--rm", container, BASE)

    def build(self, target: str, *, torch: str = "torch") -> Built:
        """One target of the Dockerfile. Raises CommandError."""
        started_s = time.monotonic()
        name = f"localhost/sluice-{target}"
        arguments = [f"PYTHON_IMAGE={BASE}", f"TORCH_PACKAGES={torch}"]
        options = [f"--build-arg={one}" for one in arguments]
        options += [f"--volume={lent}" for lent in self._lent_settings()]
        self._call("bud", "--isolation=chroot", "--pull-never", f"--target={target}", f"--tag={name}", *options, ".")
        build_s = time.monotonic() - started_s
        (listed,) = json.loads(self._call("images", "--json", name))
        settings = json.loads(self._call("inspect", "--type=image", name))["OCIv1"]["config"]
        return Built(
            name=name,
            size_bytes=self._size_bytes(listed["id"]),
            build_s=build_s,
            user=settings["User"],
            entrypoint=tuple(settings["Entrypoint"]),
        )

    def start(self, image: Built) -> str:
        """A container of an image: its files, and nothing that runs. Returns its id."""
        return self._call("from", "--pull-never", image.name).strip()

    def run(self, container: str, *command: str, deadline_s: float = 120.0) -> str:
        """What a command said, run as the image's user."""
        return self._call("run", "--isolation=chroot", container, "--", *command, deadline_s=deadline_s)

    def _size_bytes(self, image: str) -> int:
        (top,) = [one for one in self._images() if one["id"].startswith(image)]
        folder = self._folder / "storage" / "vfs" / "dir" / top["layer"]
        return int(run(["du", "--summarize", "--bytes", folder]).split()[0])

    def _images(self) -> list[dict[str, str]]:
        found = json.loads((self._folder / "storage" / "vfs-images" / "images.json").read_text(encoding="utf-8"))
        return list(found)

    def _lent_settings(self) -> list[str]:
        """This machine's pip settings and the files they name, as mounts of the build."""
        settings = pip_settings()
        text = "[global]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items())
        path = self._folder / "pip.conf"
        path.write_text(text, encoding="utf-8")
        named = {word for key in SAYS_WHERE for word in settings.get(key, "").split()}
        local = {Path(urlsplit(word).path) for word in named if urlsplit(word).scheme in {"", "file"}}
        # A local index is a folder `simple` whose pages link to files beside it.
        places = {place.parent if place.name == "simple" else place for place in local}
        return [f"{path}:{SETTINGS}:ro", *(f"{place}:{place}:ro" for place in sorted(places) if place.exists())]

    def _call(self, *arguments: str, deadline_s: float = BUILD_S_MAX) -> str:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
        return run([*self._program, *arguments], deadline_s=deadline_s, folder=REPOSITORY, environment=environment)


def prepare(places: Places) -> Buildah:
    """Storage with the base image in it. Raises UnfitError naming what this machine lacks."""
    if os.geteuid() != 0:
        raise UnfitError("images are built by root here; build them with docker or buildah as the Dockerfile says")
    missing = [program for program in ("buildah", "debootstrap") if shutil.which(program) is None]
    if missing:
        debian.install(missing)
    system = places.root / "base-with-pip"
    if not (system / "done").exists():
        shutil.rmtree(system, ignore_errors=True)
        debian.make_base_system(system, packages=("python3", "python3-pip", "ca-certificates"))
        (system / "usr" / "local" / "bin" / "python").symlink_to("/usr/bin/python3")
        (system / "done").touch()
    shutil.rmtree(places.root / "buildah", ignore_errors=True)
    buildah = Buildah(places.root / "buildah")
    buildah.make_base(system)
    return buildah


def pip_settings() -> dict[str, str]:
    """Where pip gets packages on this machine: of its files and the environment, the environment first."""
    found: dict[str, str] = {}
    for line in run([sys.executable, "-m", "pip", "config", "list"]).splitlines():
        name, _, value = line.partition("=")
        origin, _, key = name.rpartition(".")
        if origin.startswith(("global", ":env:")) and (key not in found or origin == ":env:"):
            found[key] = value.strip("'\"")
    return {key: " ".join(found[key].split()) for key in SAYS_WHERE if key in found}
