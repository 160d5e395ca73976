"""The ModelServices that end-to-end tests run, as a user would write them.

Never applies one. Next: `tests/e2e/conftest.py`, which does.
"""

import os
from typing import Any

from kube.api import Document
from kube.site import GPU

VERSION = "sluice.dev/v1alpha1"
SHAPE = "Llama-3.1-8B"
SMALL = {"cpu": "100m", "memory": "1Gi"}


def gpu_class(name: str, *, selector: dict[str, str], memory_gib: float, price_per_hour: float) -> Document:
    """GPUs of some nodes, named for the one whose time their steps take."""
    spec = {"nodeSelector": selector, "resource": GPU, "memoryGib": memory_gib, "pricePerHour": price_per_hour}
    return {"apiVersion": VERSION, "kind": "GPUClass", "metadata": {"name": name}, "spec": spec}


def l4() -> Document:
    """GPUs of every node."""
    return gpu_class("l4", selector={"kubernetes.io/os": "linux"}, memory_gib=24, price_per_hour=0.7)


def model_service(name: str, spec: Document) -> Document:
    return {
        "apiVersion": VERSION,
        "kind": "ModelService",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }


def autoscaler(pool: str, *, replicas: int) -> Document:
    """A HorizontalPodAutoscaler that wants a WorkerPool to have just so many workers."""
    target = {"apiVersion": VERSION, "kind": "WorkerPool", "name": pool}
    return {
        "apiVersion": "autoscaling/v1",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": pool, "namespace": "default"},
        "spec": {"scaleTargetRef": target, "minReplicas": replicas, "maxReplicas": replicas},
    }


def demo(*, has_gpus: bool) -> Document:
    """The service that is disturbed, on the engine that the environment asks for."""
    is_emulated = os.environ.get("SLUICE_E2E_ENGINE", "emulated") == "emulated"
    real: dict[str, Any] = {"engine": {"threads": 1, "kvMemoryMib": 192, "batchSequencesMax": 64}}
    pool = {
        "gpuClasses": ["l4"] if is_emulated and has_gpus else [],
        "replicas": {"min": 2, "max": 4},
        "resources": SMALL,
        **({} if is_emulated else real),
    }
    return model_service(
        "demo",
        {
            "model": {"emulated": {"shape": SHAPE, "gpu": "L4"}} if is_emulated else {},
            "routers": {"replicas": 2, "cpu": "100m"},
            "pools": {"prefill": pool, "decode": pool},
            "drain": {"deadlineSeconds": 120},
        },
    )


def sleepy() -> Document:
    """A service whose size the platform sets: nothing while nobody asks, up to three workers under load."""
    pool = {
        "gpuClasses": [],
        "replicas": {"min": 0, "max": 3},
        "resources": SMALL,
        "engine": {"batchSequencesMax": 24},
    }
    return model_service(
        "sleepy",
        {
            "model": {"emulated": {"shape": SHAPE, "gpu": "L4"}},
            "routers": {"cpu": "100m"},
            "pools": {"mixed": pool},
            "scaling": {"upAfterSeconds": 2, "downAfterSeconds": 4},
            "drain": {"deadlineSeconds": 60},
        },
    )
