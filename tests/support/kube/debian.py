"""Gets what Debian offers: installed programs, one package's files, one package's sources.

Sources are fetched with a package list of their own, so that the machine's own lists stay as they
are. Needs root. Never builds anything: that is `build.py`.
"""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from kube.commands import run

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
INSTALL_S_MAX = 600.0
QUIET = {"DEBIAN_FRONTEND": "noninteractive"}


def install_missing() -> list[str]:
    """Install what a test cluster runs on and is built with; returns the packages that were missing."""
    missing = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    missing += [] if CNI_PLUGINS.is_dir() else ["containernetworking-plugins"]
    missing += [] if GO.exists() else ["golang-1.19-go", "golang-1.19-src"]
    if missing:
        environment = {**os.environ, **QUIET}
        run(["apt-get", "update"], deadline_s=INSTALL_S_MAX, environment=environment)
        command = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
        run(command, deadline_s=INSTALL_S_MAX, environment=environment)
    return missing


def download(packages: Iterable[str], folder: Path) -> None:
    """The package files themselves, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    run(["apt-get", "download", *packages], deadline_s=INSTALL_S_MAX, folder=folder)


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
    run(["apt-get", *options, "update"], deadline_s=INSTALL_S_MAX)
    run(["apt-get", *options, "source", "--download-only", package], deadline_s=INSTALL_S_MAX, folder=folder)
    shutil.rmtree(lists)


def unpack(package_file: Path, folder: Path) -> None:
    """A package's files into `folder`, without installing it."""
    run(["dpkg", "-x", package_file, folder])


def version_of(package: str) -> str:
    """The installed version of a package."""
    return run(["dpkg-query", "-W", "-f", "${Version}", package]).strip()
