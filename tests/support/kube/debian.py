"""Gets what Debian offers: installed programs, one package's files, one package's sources.

Sources are fetched with a package list of their own, so that the machine's own lists stay as they
are. Needs root. Never builds anything: that is `build.py`.
"""

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from kube.commands import CommandError, UnfitError, run

PROGRAMS = {
    "containerd": "containerd",
    "runc": "runc",
    "etcd": "etcd-server",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ipset": "ipset",
    "dnsmasq": "dnsmasq-base",
    "debootstrap": "debootstrap",
    "ip": "iproute2",
    "mount": "mount",
    "gcc": "gcc",
}
CNI_PLUGINS = Path("/usr/lib/cni")
GO = Path("/usr/lib/go-1.19/bin/go")
MIRROR = "http://deb.debian.org/debian"
RELEASE = "bookworm"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
INSTALL_S_MAX = 900.0
QUIET = {"DEBIAN_FRONTEND": "noninteractive"}


def install_missing() -> list[str]:
    """Install what a test cluster runs on and is built with; returns the packages that were missing."""
    missing = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    missing += [] if CNI_PLUGINS.is_dir() else ["containernetworking-plugins"]
    missing += [] if GO.exists() else ["golang-1.19-go", "golang-1.19-src"]
    if missing:
        install(missing)
    return missing


def install(packages: Sequence[str]) -> None:
    """Install packages by name; what is installed already stays. Raises UnfitError."""
    environment = {**os.environ, **QUIET}
    _fetch(["apt-get", "update"], environment=environment)
    _fetch(["apt-get", "install", "-y", "--no-install-recommends", *packages], environment=environment)


def download(packages: Iterable[str], folder: Path) -> None:
    """The package files themselves, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    _fetch(["apt-get", "update"])
    _fetch(["apt-get", "download", *packages], folder=folder)


def download_source(package: str, folder: Path) -> None:
    """A source package's files, into `folder`; nothing is unpacked."""
    lists = folder / "lists"
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    sources = folder / "sources.list"
    sources.write_text(f"deb-src [signed-by={KEYRING}] {MIRROR} {RELEASE} main\n", encoding="utf-8")
    options = [
        f"-oDir::Etc::sourcelist={sources}",
        "-oDir::Etc::sourceparts=-",
        f"-oDir::State::lists={lists}",
        "-oAPT::Sandbox::User=root",
    ]
    _fetch(["apt-get", *options, "update"])
    _fetch(["apt-get", *options, "source", "--download-only", package], folder=folder)
    shutil.rmtree(lists)


def make_base_system(folder: Path) -> None:
    """A small Debian with Python in `folder`. Raises UnfitError if the packages cannot be had."""
    options = ["--variant=minbase", "--include=python3,ca-certificates"]
    _fetch(["debootstrap", *options, RELEASE, str(folder), MIRROR])


def _fetch(command: Sequence[str], *, folder: Path | None = None, environment: Mapping[str, str] | None = None) -> None:
    """Run what asks the distribution's servers. Raises UnfitError: what they do not give cannot be tested with."""
    try:
        run(command, deadline_s=INSTALL_S_MAX, folder=folder, environment=environment)
    except CommandError as error:
        raise UnfitError(f"the distribution's packages cannot be had here: {error}") from error


def unpack(package_file: Path, folder: Path) -> None:
    """A package's files into `folder`, without installing it."""
    run(["dpkg", "-x", package_file, folder])


def version_of(package: str) -> str:
    """The installed version of a package."""
    return run(["dpkg-query", "-W", "-f", "${Version}", package]).strip()
