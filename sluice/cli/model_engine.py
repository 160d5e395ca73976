"""Builds a worker's engine around a real model: loads it with torch and takes the KV memory.

Next: `worker_process.py`; `emulated_engine.py` is the other way.
"""

import json
import logging
from pathlib import Path
from typing import Final

import torch

from sluice.capacity import catalogue, profile_file
from sluice.capacity.curve_fit import fit_model
from sluice.capacity.gpu_class import GpuClass
from sluice.capacity.model_shape import from_config
from sluice.capacity.roofline import Roofline
from sluice.capacity.step_curve import StepCurve
from sluice.cli.built_engine import MIB, BuiltEngine, BuiltStore, Standpoint, embedding_transports, limits_from
from sluice.config.worker import WorkerConfig
from sluice.engine import torch_runner
from sluice.engine.contract import ModelFacts
from sluice.engine.embedding_memory import embedding_geometry
from sluice.engine.embedding_store import EmbeddingStore
from sluice.engine.image_inputs import ImageShape
from sluice.engine.model_loader import LoadedModel, directory_of, geometry_for, load_model
from sluice.engine.vision.vision_fingerprint import vision_fingerprint
from sluice.errors import ConfigError
from sluice.kv_transfer import memory
from sluice.kv_transfer.backends import default_names
from sluice.kv_transfer.transport import Region

log = logging.getLogger(__name__)

EMBEDDINGS_BYTES_MIN: Final = 8 * MIB
EMBEDDINGS_BYTES_MAX: Final = 1024 * MIB
"""Main memory that a model of very long prompts takes for embeddings unless it is told otherwise."""


def build_engine(config: WorkerConfig) -> BuiltEngine:
    """Load the model and take the KV memory. Raises ModelLoadError or ConfigError."""
    settings = config.engine
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = None if settings.device == "auto" else settings.device
    dtype = None if settings.dtype == "auto" else settings.dtype
    model = load_model(config.model_path, device=device, dtype=dtype, progress=_log_progress)
    facts = model.facts
    geometry = geometry_for(facts, block_tokens=settings.block_tokens, memory_bytes=settings.kv_memory_mib * MIB)
    limits = limits_from(config, sequence_tokens_max=facts.sequence_tokens_max)
    standpoint = standpoint_of(config, facts, kv_token_bytes=geometry.token_bytes)
    prompt_tokens_max = min(limits.sequence_tokens_max, geometry.blocks * geometry.block_tokens)
    embeddings = _embedding_store(config, model, prompt_tokens_max=prompt_tokens_max)
    if facts.device != "cpu":
        engine = torch_runner.build_engine(model, geometry=geometry, limits=limits)
        region = Region(address=engine.kv_address, size_bytes=geometry.region_bytes, device=engine.kv_device, view=None)
        return BuiltEngine(engine, facts, region, None, standpoint, embeddings=embeddings)
    names = config.transfer.transports or default_names("cpu")
    kv_memory = memory.allocate(geometry.region_bytes, shared="shm" in names, prefault=True)  # no step waits for pages
    region = kv_memory.region()
    engine = torch_runner.build_engine(model, geometry=geometry, limits=limits, kv_buffer=region.view)
    return BuiltEngine(engine, facts, region, kv_memory, standpoint, embeddings=embeddings)


def embeddings_bytes(shape: ImageShape, *, prompt_tokens_max: int) -> int:
    """Room for two of the longest prompts if all their tokens are images': one is read while the other's come.

    What fills images up to whole blocks comes out of the second's.
    """
    token_bytes = shape.levels * shape.hidden * shape.dtype.itemsize
    return min(EMBEDDINGS_BYTES_MAX, max(EMBEDDINGS_BYTES_MIN, 2 * prompt_tokens_max * token_bytes))


def _embedding_store(config: WorkerConfig, model: LoadedModel, *, prompt_tokens_max: int) -> BuiltStore | None:
    """Where images' embeddings arrive: main memory, whatever the KV pool is in."""
    shape = model.image_shape
    if shape is None:
        return None
    geometry = embedding_geometry(
        levels=shape.levels,
        hidden=shape.hidden,
        dtype=model.facts.dtype,
        dtype_bytes=model.facts.dtype_bytes,
        memory_bytes=config.images.embeddings_mib * MIB or embeddings_bytes(shape, prompt_tokens_max=prompt_tokens_max),
    )
    held = memory.allocate(geometry.region_bytes, shared="shm" in embedding_transports(config))
    fingerprint = vision_fingerprint(directory_of(config.model_path), dtype=model.facts.dtype)
    return BuiltStore(EmbeddingStore(geometry, held.view), fingerprint, held.region(), held)


def standpoint_of(config: WorkerConfig, facts: ModelFacts, *, kv_token_bytes: int) -> Standpoint:
    """The class is the settings' or the device's own name; the curve the profile's, else the roofline's prior."""
    told = config.gpu
    name = told.gpu_class or (torch.cuda.get_device_name() if facts.device != "cpu" else facts.device)
    gpu = catalogue.class_of_device(name)
    curve = profile_file.read(Path(told.profile)).curve if told.profile else _prior(config, gpu)
    price_per_h = told.price_per_h or (gpu.price_per_h if gpu else 0.0)
    return Standpoint(
        gpu_class=gpu.name if gpu else name,
        tensor_parallel=told.tensor_parallel,
        price_per_h=price_per_h * told.tensor_parallel,
        link_bytes_per_s=gpu.link_bytes_per_s * told.tensor_parallel if gpu else 0.0,
        kv_token_bytes=kv_token_bytes,
        curve=curve,
    )


def _prior(config: WorkerConfig, gpu: GpuClass | None) -> StepCurve | None:
    """The roofline's curve where class and shape are known; nothing is lost where they are not."""
    path = Path(config.model_path) / "config.json"
    if gpu is None or not path.is_file():
        return None
    try:
        shape = from_config(path.parent.name, json.loads(path.read_text(encoding="utf-8")))
    except (ConfigError, ValueError) as error:
        log.info("no prior for the steps of %s: %s", path.parent.name, error)
        return None
    return fit_model(Roofline(gpu=gpu, shape=shape, tensor_parallel=config.gpu.tensor_parallel))


def _log_progress(stage: str, fraction: float) -> None:
    log.info("%s (%.0f %%)", stage, fraction * 100)
