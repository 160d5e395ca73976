"""Writes container image archives in the OCI layout, without a registry or a daemon.

A layer that the receiver has already need not be in the archive: its digest is enough. Owners are root, names are
sorted. Files keep their times, since compiled Python is only used beside a source of the right time. What
the layers contain is not decided here. Next: `sluice_images.py`.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

EPOCH = "1970-01-01T00:00:00Z"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True, slots=True)
class Layer:
    """A written layer. `path` is None if the receiver has it already."""

    digest: str
    size_bytes: int
    path: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the image's process starts."""

    entrypoint: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str = ""


def write_layer(target: Path, content: Mapping[str, Path]) -> Layer:
    """Write a layer's tar: a host path for every path in the image; folders bring what is below them."""
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as tar:
        for inside, path in sorted(content.items()):
            _add(tar, path, PurePosixPath(inside.lstrip("/")))
    with target.open("rb") as written:
        digest = hashlib.file_digest(written, "sha256").hexdigest()
    return Layer(digest, target.stat().st_size, target)


def write_archive(target: Path, *, name: str, layers: Sequence[Layer], settings: Settings) -> None:
    """Put layers together to one image called `name`."""
    image = {
        "architecture": "amd64",
        "os": "linux",
        "created": EPOCH,
        "config": {
            "Entrypoint": list(settings.entrypoint),
            "Env": [f"{key}={value}" for key, value in settings.environment.items()],
            "User": settings.user,
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.digest}" for layer in layers]},
        "history": [{"created": EPOCH} for _ in layers],
    }
    with tarfile.open(target, "w") as tar:
        _add_bytes(tar, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        for layer in layers:
            if layer.path is not None:
                tar.add(layer.path, f"blobs/sha256/{layer.digest}")
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": _add_blob(tar, CONFIG, image),
            "layers": [_descriptor(LAYER, layer.digest, layer.size_bytes) for layer in layers],
        }
        written = {**_add_blob(tar, MANIFEST, manifest), "annotations": {"io.containerd.image.name": name}}
        _add_bytes(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": [written]}).encode())


def _descriptor(kind: str, digest: str, size_bytes: int) -> dict[str, Any]:
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": size_bytes}


def _add_blob(tar: tarfile.TarFile, kind: str, document: dict[str, Any]) -> dict[str, Any]:
    content = json.dumps(document).encode()
    digest = hashlib.sha256(content).hexdigest()
    _add_bytes(tar, f"blobs/sha256/{digest}", content)
    return _descriptor(kind, digest, len(content))


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
