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
BASE_PACKAGES = ("python3", "python3-pip", "ca-certificates")
BUILD_S_MAX = 1500.0
SETTINGS = "/etc/pip.conf"
SAYS_WHERE = ("cert", "find-links", "index-url", "extra-index-url")
ALONE = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child")
ENTER = """
set -e
ip link set lo up
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
mount -t tmpfs -o mode=1777 tmpfs "$1/tmp"
mount -o remount,bind,ro "$1"
shift
exec chroot "$@"
"""


@dataclass(frozen=True, slots=True)
class Built:
    """One image."""

    name: str
    size_bytes: int
    build_s: float
    user: str
    entrypoint: tuple[str, ...]
    environment: tuple[str, ...]  # NAME=value


class Buildah:
    """One storage folder; `close` removes it with everything that was built."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True)
        storage = {"--root": folder / "storage", "--runroot": folder / "run", "--storage-driver": "vfs"}
        self._program = ["buildah", *(str(part) for option in storage.items() for part in option)]

    def close(self) -> None:
        shutil.rmtree(self._folder)

    def make_base(self, system: Path) -> int:
        """The stand-in for the slim Python image; returns its size in bytes."""
        container = self._call("from", "scratch").strip()
        self._call("add", "--quiet", container, str(system), "/")
        self._call("commit", "--quiet", "--rm", container, BASE)
        return _size_bytes(system)

    def build(self, target: str) -> Built:
        """One target of the Dockerfile. Raises CommandError."""
        started_s = time.monotonic()
        name = f"localhost/sluice-{target}"
        lent = [f"--volume={one}" for one in self._lent_settings()]
        options = ["--isolation=chroot", "--pull-never", f"--target={target}", f"--build-arg=PYTHON_IMAGE={BASE}"]
        self._call("bud", *options, f"--tag={name}", *lent, ".")
        build_s = time.monotonic() - started_s
        settings = json.loads(self._call("inspect", "--type=image", name))["OCIv1"]["config"]
        return Built(
            name=name,
            size_bytes=_size_bytes(self.files(name)),
            build_s=build_s,
            user=settings["User"],
            entrypoint=tuple(settings["Entrypoint"]),
            environment=tuple(settings["Env"]),
        )

    def files(self, image: str) -> Path:
        """A new container's folder with an image's files."""
        container = self._call("from", "--pull-never", image).strip()
        return Path(self._call("mount", container).strip())

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

    def _call(self, *arguments: str) -> str:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
        return run([*self._program, *arguments], deadline_s=BUILD_S_MAX, folder=REPOSITORY, environment=environment)


def run_as_pod(image: Built, files: Path, *command: str, deadline_s: float = 240.0) -> str:
    """What a command said, run as a pod runs it. Raises CommandError.

    As the image's user, with the image's environment, no file writable but those in /tmp, and no network but
    its own loopback. `files` is the image's folder.
    """
    enter = ["sh", "-c", ENTER, "enter", files, f"--userspec={image.user}", files]
    return run([*ALONE, *enter, "/usr/bin/env", "-i", *image.environment, *command], deadline_s=deadline_s)


def prepare(places: Places) -> tuple[Buildah, int]:
    """Storage with the base image in it, and that one's size. Raises UnfitError naming what this machine lacks."""
    if os.geteuid() != 0:
        raise UnfitError("images are built by root here; build them with docker or buildah as the Dockerfile says")
    missing = [program for program in ("buildah", "debootstrap") if shutil.which(program) is None]
    if missing:
        debian.install(missing)
    system = places.root / "base-with-pip"
    debian.base_system(system, packages=BASE_PACKAGES)
    python = system / "usr" / "local" / "bin" / "python"
    if not python.is_symlink():
        python.symlink_to("/usr/bin/python3")
    shutil.rmtree(places.root / "buildah", ignore_errors=True)
    buildah = Buildah(places.root / "buildah")
    return buildah, buildah.make_base(system)


def pip_settings() -> dict[str, str]:
    """Where pip gets packages on this machine: of its files and the environment, the environment first."""
    found: dict[str, str] = {}
    for line in run([sys.executable, "-m", "pip", "config", "list"]).splitlines():
        name, _, value = line.partition("=")
        origin, _, key = name.rpartition(".")
        if origin.startswith(("global", ":env:")) and (key not in found or origin == ":env:"):
            found[key] = value.strip("'\"")
    return {key: " ".join(found[key].split()) for key in SAYS_WHERE if key in found}


def _size_bytes(folder: Path) -> int:
    return int(run(["du", "--summarize", "--bytes", "--one-file-system", folder]).split()[0])
