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
WASTEFUL = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale", "usr/share/man")
APART = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
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


def base_system(folder: Path, *, packages: Sequence[str]) -> None:
    """A small Debian with these packages in `folder`, made once. Raises UnfitError if they cannot be had.

    debootstrap mounts /proc in the folder: in namespaces of its own, so that nothing stays mounted or goes on running
    if it is killed.
    """
    done = folder / "etc" / "sluice-base"
    if done.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    options = ["--variant=minbase", f"--include={','.join(packages)}"]
    _fetch([*APART, "debootstrap", *options, RELEASE, str(folder), MIRROR])
    for wasteful in WASTEFUL:
        shutil.rmtree(folder / wasteful, ignore_errors=True)
    shutil.rmtree(folder / "dev")  # device files; a container brings its own
    (folder / "dev").mkdir()
    done.touch()


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


def unpack_closure(packages: Sequence[str], folder: Path, *, suite: str) -> None:
    """Packages of another suite and all they need, unpacked into `folder`/root: for building, never for running.

    What is installed here counts for nothing, and nothing is installed. Raises UnfitError.
    """
    archives = folder / "archives"
    for one in (folder / "lists" / "partial", archives / "partial", folder / "root"):
        one.mkdir(parents=True)
    sources, installed = folder / "sources.list", folder / "status"
    sources.write_text(f"deb [signed-by={KEYRING}] {MIRROR} {suite} main\n", encoding="utf-8")
    installed.touch()
    options = [
        f"-oDir::Etc::sourcelist={sources}",
        "-oDir::Etc::sourceparts=-",
        f"-oDir::State::lists={folder / 'lists'}",
        f"-oDir::State::status={installed}",
        f"-oDir::Cache::archives={archives}",
        "-oDir::Cache::pkgcache=",
        "-oDir::Cache::srcpkgcache=",
        "-oAPT::Sandbox::User=root",
        "-oAPT::Install-Recommends=0",
    ]
    _fetch(["apt-get", *options, "update"])
    _fetch(["apt-get", *options, "install", "-y", "--download-only", *packages])
    for archive in sorted(archives.glob("*.deb")):
        if archive.name.startswith(("golang-", *packages)):
            unpack(archive, folder / "root")
