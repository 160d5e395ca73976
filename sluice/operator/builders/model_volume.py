"""How the model's files get into a pod: a volume, a mount and, where they must be fetched first, an init step.

Pure. Routers fetch everything but weights. Next: `worker_workload.py`.
"""

from dataclasses import dataclass
from typing import Final, Literal

from sluice.config.operator import OperatorConfig
from sluice.operator import names
from sluice.operator.accept import AcceptedService
from sluice.operator.builders import pod_parts
from sluice.operator.manifest import Manifest
from sluice.operator.resources.model_service import HubSource, ImageSource

TEXT_FILES: Final = ("*.json", "*.jinja")
ALL_FILES: Final = (*TEXT_FILES, "*.safetensors")

Wanted = Literal["text", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVolume:
    """What a pod needs so that `path` holds the model."""

    path: str
    volumes: tuple[Manifest, ...] = ()
    mounts: tuple[Manifest, ...] = ()
    init: tuple[Manifest, ...] = ()


def model_volume(service: AcceptedService, config: OperatorConfig, *, image: str, wanted: Wanted) -> ModelVolume:
    """The model of a service for a pod of `image`; routers want its text side only."""
    model = service.spec.model
    read_only = {"name": "model", "mountPath": names.MODEL_FOLDER, "readOnly": True}
    writable = {"name": "model", "mountPath": names.MODEL_FOLDER}
    if model.pvc is not None:
        claim = {"name": "model", "persistentVolumeClaim": {"claimName": model.pvc.claim, "readOnly": True}}
        path = f"{names.MODEL_FOLDER}/{model.pvc.path.strip('/')}".rstrip("/")
        return ModelVolume(path=path, volumes=(claim,), mounts=(read_only,))
    if model.host_path is not None:
        folder = {"name": "model", "hostPath": {"path": model.host_path.path, "type": "Directory"}}
        return ModelVolume(path=names.MODEL_FOLDER, volumes=(folder,), mounts=(read_only,))
    if model.hugging_face is None and model.oci is None:
        return ModelVolume(path=names.DEMO_MODEL_FOLDER)
    if model.hugging_face is not None:
        step = _download(model.hugging_face, image=image, files=TEXT_FILES if wanted == "text" else ALL_FILES)
    else:
        assert model.oci is not None
        step = _copy(model.oci)
    init = {
        **step,
        "name": "model",
        "imagePullPolicy": config.image_pull_policy,
        "securityContext": pod_parts.container_security(),
        "volumeMounts": [writable, {"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - as in every container
    }
    return ModelVolume(
        path=names.MODEL_FOLDER,
        volumes=({"name": "model", "emptyDir": {}},),
        mounts=(read_only,),
        init=(init,),
    )


def _download(hub: HubSource, *, image: str, files: tuple[str, ...]) -> Manifest:
    token = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": hub.token_secret, "key": "token"}}}
    wanted = [word for pattern in files for word in ("--include", pattern)]
    return {
        "image": image,
        "command": ["hf", "download", hub.repo],
        "args": ["--revision", hub.revision, "--local-dir", names.MODEL_FOLDER, *wanted],
        "env": [*pod_parts.environment(), *([token] if hub.token_secret else [])],
    }


def _copy(source: ImageSource) -> Manifest:
    return {"image": source.image, "command": ["cp", "-r", f"{source.path.rstrip('/')}/.", names.MODEL_FOLDER]}
