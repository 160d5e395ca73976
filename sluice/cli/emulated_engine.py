"""Builds a worker's engine around no model at all: steps last as a GPU class would need for a named model.

Blocks, scheduler, transports and protocols are production's. The KV of a token is a few bytes that follow
from the tokens instead of the model's hundred thousand; the block count is what the class's memory holds, and
transfers take the time of the real bytes on the class's link. Vocabulary and end of text are those of the
tokenizer in `model_path`. No torch. Next: `engine/emulated_runner.py`; `model_engine.py` is the real way.
"""

import hashlib
import json
from pathlib import Path
from typing import Final

from sluice.capacity import catalogue, sources
from sluice.capacity.curve_fit import fit_model
from sluice.capacity.model_shape import ModelShape, shape_of
from sluice.capacity.roofline import kv_tokens
from sluice.cli.built_engine import BuiltEngine, Standpoint, limits_from
from sluice.config.worker import WorkerConfig
from sluice.engine import emulated_model
from sluice.engine.contract import ModelFacts
from sluice.engine.emulated_model import TokenRule
from sluice.engine.emulated_runner import EmulatedRunner
from sluice.engine.engine import PagedEngine
from sluice.engine.pace import RealPace
from sluice.errors import ConfigError
from sluice.kv_transfer import memory
from sluice.kv_transfer.backends import default_names
from sluice.kv_transfer.paced_transport import LinkModel

LAYERS: Final = 4  # one layer group each: a handoff is pushed in so many parts
END_ONE_IN: Final = 200
SPECIAL_TOKENS: Final = 8  # below this id tokenizers keep theirs


def build_engine(config: WorkerConfig) -> BuiltEngine:
    """The emulated engine of `config.emulate` on `config.gpu`. Raises ConfigError naming what is wrong."""
    told = config.gpu
    if not told.gpu_class:
        raise ConfigError("gpu.gpu_class: is empty; an emulated worker needs a class, for example H100")
    gpu = catalogue.gpu_class(told.gpu_class, {told.gpu_class: told.price_per_h} if told.price_per_h else None)
    shape = shape_of(config.emulate)
    model = sources.step_model(gpu, shape, tensor_parallel=told.tensor_parallel, profile=told.profile)
    blocks = kv_tokens(gpu, shape, tensor_parallel=told.tensor_parallel) // config.engine.block_tokens
    geometry = emulated_model.geometry(layers=LAYERS, blocks=blocks, block_tokens=config.engine.block_tokens)
    facts, rule = _facts(config, shape)
    names = config.transfer.transports or default_names("cpu")
    kv_memory = memory.allocate(geometry.region_bytes, shared="shm" in names)
    region = kv_memory.region()
    assert region.view is not None, "the emulated pool is in main memory"
    pace = RealPace(model)
    runner = EmulatedRunner(facts, geometry, region.view, rule=rule, pace=pace)
    limits = limits_from(config, sequence_tokens_max=facts.sequence_tokens_max)
    link_bytes_per_s = gpu.link_bytes_per_s * told.tensor_parallel
    curve = fit_model(model)
    return BuiltEngine(
        engine=PagedEngine(runner, geometry=geometry, limits=limits, clock=pace, curve=curve),
        facts=facts,
        region=region,
        memory=kv_memory,
        standpoint=Standpoint(
            gpu_class=gpu.name,
            tensor_parallel=told.tensor_parallel,
            price_per_h=gpu.price_per_h * told.tensor_parallel,
            link_bytes_per_s=link_bytes_per_s,
            kv_token_bytes=shape.kv_token_bytes,
            curve=curve,
        ),
        link=LinkModel(bytes_per_s=link_bytes_per_s, byte_scale=shape.kv_token_bytes / geometry.token_bytes),
    )


def _facts(config: WorkerConfig, shape: ModelShape) -> tuple[ModelFacts, TokenRule]:
    """The model's facts for routers and peers: equal for all classes that emulate it."""
    vocabulary, eos_token_ids = _vocabulary(Path(config.model_path))
    identity = f"{shape} {vocabulary} {eos_token_ids} {END_ONE_IN} {LAYERS}"
    facts = ModelFacts(
        name=shape.name,
        fingerprint=f"emulated-{hashlib.sha256(identity.encode()).hexdigest()[:24]}",
        vocabulary=vocabulary,
        eos_token_ids=eos_token_ids,
        layers=LAYERS,
        kv_heads=1,
        head_dim=1,
        dtype="float32",
        dtype_bytes=4,
        sequence_tokens_max=shape.sequence_tokens_max,
        device=f"emulated {config.gpu.gpu_class}",
        architecture="emulated",
    )
    rule = TokenRule(
        vocabulary=vocabulary,
        token_min=min(SPECIAL_TOKENS, vocabulary - 1),
        eos_token_ids=eos_token_ids,
        end_one_in=END_ONE_IN,
    )
    return facts, rule


def _vocabulary(folder: Path) -> tuple[int, tuple[int, ...]]:
    """How many tokens there are and which end a text, from the `config.json` beside the tokenizer."""
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        eos = content["eos_token_id"]
        return int(content["vocab_size"]), tuple(eos) if isinstance(eos, list) else (int(eos),)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: has no vocab_size and eos_token_id ({error}); give a model's folder") from error
