"""Writes container image archives, in the form that `docker save` has, without a registry or a daemon.

The same folders give the same bytes: owners are root, names are sorted. Files keep their times, since compiled Python
is only used beside a source of the right time. What the layers contain is not decided here. Next: `sluice_images.py`.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

EPOCH = "1970-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Layer:
    """Files of one layer: a host path for every path in the image; folders bring what is below them."""

    content: Mapping[str, Path]

    def write(self, target: Path) -> str:
        """Write the layer's tar; returns its digest."""
        with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as tar:
            for inside, path in sorted(self.content.items()):
                _add(tar, path, PurePosixPath(inside.lstrip("/")))
        return _digest(target)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the image's process starts."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str = ""


def write_archive(target: Path, *, name: str, layers: Iterable[Path], settings: Settings) -> None:
    """Put written layers together to one image called `name`."""
    digests = [(path, _digest(path)) for path in layers]
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": EPOCH,
            "config": {
                "Entrypoint": list(settings.entrypoint),
                "Cmd": list(settings.command),
                "Env": [f"{key}={value}" for key, value in settings.environment.items()],
                "User": settings.user,
                "WorkingDir": "/",
            },
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for _, digest in digests]},
            "history": [{"created": EPOCH} for _ in digests],
        }
    ).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    files = [f"{digest}/layer.tar" for _, digest in digests]
    manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": files}]).encode()
    with tarfile.open(target, "w") as tar:
        _add_bytes(tar, config_name, config)
        for (path, _), file in zip(digests, files, strict=True):
            tar.add(path, file)
        _add_bytes(tar, "manifest.json", manifest)


def _add(tar: tarfile.TarFile, path: Path, inside: PurePosixPath) -> None:
    info = tar.gettarinfo(str(path), str(inside))
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    info.mtime = int(info.mtime)
    if info.isreg():
        info.type = tarfile.REGTYPE
        with path.open("rb") as content:
            tar.addfile(info, content)
        return
    tar.addfile(info)
    if info.isdir():
        for entry in sorted(path.iterdir()):
            _add(tar, entry, inside / entry.name)


def _add_bytes(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def _digest(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
