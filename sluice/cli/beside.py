"""All-in-one: an encode worker in the process of another worker. To routers they are two. Decides names and sizes."""

from dataclasses import replace
from typing import Final

from sluice.config.worker import WorkerConfig
from sluice.domain.ids import WorkerId

BESIDE: Final = "-eye"
"""Ends the name of an encode worker that shares its process with another."""

KEPT_MIB: Final = 128
"""Embeddings it keeps unless told otherwise: as much as `sluice up` gives an encode worker of its own."""


def host_of(config: WorkerConfig) -> WorkerId | None:
    """The worker whose process an encode worker shares; None for one by itself."""
    is_beside = config.role == "encode" and config.worker.endswith(BESIDE)
    return WorkerId(config.worker.removesuffix(BESIDE)) if is_beside else None


def encoders_beside(config: WorkerConfig) -> list[WorkerConfig]:
    """The encode worker that shares this one's process, if it is to have one: a worker of its own to routers."""
    if not config.images.encodes or config.role == "encode":
        return []
    images = replace(config.images, encodes=False)
    engine = replace(config.engine, kv_memory_mib=config.images.embeddings_mib or KEPT_MIB)
    name = f"{config.worker}{BESIDE}"
    return [replace(config, worker=name, role="encode", kv_port=0, metrics_port=0, images=images, engine=engine)]
