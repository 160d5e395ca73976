"""Builds an encode worker's engine: the vision tower of a model over a pool of embeddings; no language weights.

Next: `worker_process.py`; `model_engine.py` builds those that speak.
"""

from dataclasses import replace
from typing import Final

import torch

from sluice.cli.built_engine import MIB, BuiltEngine, Sight, embedding_transports, limits_from
from sluice.cli.model_engine import standpoint_of
from sluice.config.worker import WorkerConfig
from sluice.domain.kv import KvGeometry
from sluice.engine.contract import ModelFacts
from sluice.engine.embedding_memory import EmbeddingMemory, embedding_geometry
from sluice.engine.engine import PagedEngine
from sluice.engine.model_loader import device_of, directory_of, dtype_of
from sluice.engine.vision.encoder import VisionEncoder
from sluice.engine.vision.eye import Eye
from sluice.engine.vision.prepared_store import PreparedStore
from sluice.engine.vision.preprocessor import PreparedImage
from sluice.engine.vision.vision_fingerprint import vision_fingerprint
from sluice.engine.vision.vision_runner import VisionRunner
from sluice.kv_transfer import memory

IMAGE_TOKENS_MAX: Final = 65_536
STEP_TOKENS_MIN: Final = 4096
"""An encode step takes at least so many image tokens: pictures of several requests share a forward pass."""
VOCABULARY: Final = 256
"""Beside images' tokens there are only fill and the canary."""


def build_engine(config: WorkerConfig) -> BuiltEngine:
    """Load the vision tower and take the memory of its embeddings. Raises ModelLoadError or ConfigError."""
    settings = config.engine
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = device_of(None if settings.device == "auto" else settings.device)
    dtype = dtype_of(None if settings.dtype == "auto" else settings.dtype, device)
    directory = directory_of(config.model_path)
    encoder = VisionEncoder.load(directory, dtype=dtype, device=device)
    name = str(dtype).removeprefix("torch.")
    geometry = embedding_geometry(
        levels=encoder.levels,
        hidden=encoder.hidden,
        dtype=name,
        dtype_bytes=dtype.itemsize,
        memory_bytes=settings.kv_memory_mib * MIB,
        block_tokens=settings.block_tokens,
    )
    fingerprint = vision_fingerprint(directory, dtype=name)
    facts = _facts(config, geometry, fingerprint=fingerprint, device=device)
    kv_memory = memory.allocate(geometry.region_bytes, shared="shm" in embedding_transports(config))
    prepared: PreparedStore[PreparedImage] = PreparedStore(bytes_max=config.images.prepared_mib * MIB)
    runner = VisionRunner(facts, encoder, EmbeddingMemory(geometry, kv_memory.view), prepared)
    limits = limits_from(config, sequence_tokens_max=IMAGE_TOKENS_MAX)
    limits = replace(limits, step_tokens_max=max(limits.step_tokens_max, STEP_TOKENS_MIN))
    engine = PagedEngine(runner, geometry=geometry, limits=limits)
    standpoint = standpoint_of(config, facts, kv_token_bytes=geometry.token_bytes)
    standpoint = replace(standpoint, curve=None)  # what the class's roofline says is of the half that speaks
    eye = Eye(directory, fingerprint=fingerprint, prepared=prepared)
    return BuiltEngine(engine, facts, kv_memory.region(), kv_memory, standpoint, sight=Sight(eye, runner.listen))


def _facts(config: WorkerConfig, geometry: KvGeometry, *, fingerprint: str, device: torch.device) -> ModelFacts:
    return ModelFacts(
        name=config.model_name or config.model_path,
        fingerprint=fingerprint,
        vocabulary=VOCABULARY,
        eos_token_ids=(),
        layers=geometry.layers,
        kv_heads=geometry.heads,
        head_dim=geometry.head_dim,
        dtype=geometry.dtype,
        dtype_bytes=geometry.dtype_bytes,
        sequence_tokens_max=IMAGE_TOKENS_MAX,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        image_token_bytes=geometry.token_bytes,
    )
