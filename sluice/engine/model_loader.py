"""Loads a Hugging Face causal language model and says in plain values what it is.

Any directory (or hub id, where there is a network) whose architecture transformers knows. Decides
device and dtype when not told: CUDA and bfloat16 if there is a GPU, else CPU and float32. Never
loads a tokenizer (the router owns text) and never runs remote code. Every failure is a
ModelLoadError naming file and remedy. Next: `model_probe.py`, then `kv_cache.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from sluice.domain.kv import K_AND_V, KvGeometry
from sluice.engine.attention import ATTENTION_NAME
from sluice.engine.contract import ModelFacts
from sluice.engine.fingerprint import fingerprint_of
from sluice.engine.image_inputs import ImageShape
from sluice.engine.kv_cache import DTYPES
from sluice.engine.model_files import check_model_files
from sluice.engine.model_probe import KvShape, probe_model
from sluice.engine.packed_linear import pack_linears
from sluice.engine.vision.families import FAMILIES, VisionFamily, embedding_levels, family_of
from sluice.engine.vision.vision_loader import load_language_part
from sluice.errors import ConfigError, ModelLoadError

Progress = Callable[[str, float], None]
"""Hears what is being done and which fraction of the loading is behind us, 0 to 1."""

HUB_FILES: Final = ("*.json", "*.safetensors")
SEQUENCE_TOKENS_DEFAULT: Final = 4096
GROUP_LAYERS_MAX: Final = 8
SWITCHING_ROPES: Final = {"dynamic", "longrope"}
"""Rotary embeddings whose frequencies change for everyone in the batch once one sequence is long."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run on the paged cache, and what it is. `windows`: sliding window per layer.

    The language half of a vision-language model has a `family`, and an `image_shape` its embeddings must have.
    """

    module: PreTrainedModel
    facts: ModelFacts
    windows: tuple[int | None, ...]
    family: VisionFamily | None = None
    image_shape: ImageShape | None = None


def load_model(
    path_or_hub_id: str, *, device: str | None = None, dtype: str | None = None, progress: Progress | None = None
) -> LoadedModel:
    """Load the model in a directory, or of a hub id.

    `device` is a torch device, `dtype` one of float32, bfloat16, float16. Raises ModelLoadError for
    anything wrong with the model, ConfigError for a device or dtype that is not there.
    """
    report = progress or _ignore
    target = device_of(device)
    precision = dtype_of(dtype, target)
    report("finding files", 0.0)
    directory = directory_of(path_or_hub_id)
    check_model_files(directory)
    report("reading configuration", 0.05)
    config = _read_config(directory)
    report("loading weights", 0.1)
    is_seeing = config.model_type in FAMILIES
    if is_seeing:
        module = load_language_part(directory, dtype=precision, device=target)
    else:
        module = _read_weights(directory, config, precision, target)
    report("checking", 0.85)
    loaded = adopt_module(module, name=_name_of(path_or_hub_id))
    report("ready", 1.0)
    return _seeing(loaded, config) if is_seeing else loaded


def _speaker(module: PreTrainedModel) -> PreTrainedModel:
    """What of a model has the paged cache: all of it, or the language part of one that sees."""
    family = FAMILIES.get(str(module.config.model_type))
    whole: Any = module
    speaker: PreTrainedModel = whole if family is None else getattr(whole.model, family.language_part)
    return speaker


def _seeing(loaded: LoadedModel, config: PreTrainedConfig) -> LoadedModel:
    """The language half of a vision-language model, with what it takes of images."""
    family = family_of(str(config.model_type))
    hidden, dtype = int(config.get_text_config().hidden_size), loaded.module.dtype
    shape = ImageShape(levels=embedding_levels(config), hidden=hidden, dtype=dtype, has_grid=family.has_grid)
    facts = replace(loaded.facts, image_token_bytes=shape.levels * hidden * dtype.itemsize)
    return replace(loaded, facts=facts, family=family, image_shape=shape)


def adopt_module(module: PreTrainedModel, *, name: str) -> LoadedModel:
    """Make a model that is already on its device ready for the paged cache; the caller gives it up.

    Raises ModelLoadError if its attention does not fit one paged pool.
    """
    fingerprint = fingerprint_of(module.config.to_dict(), module.named_parameters())
    speaker = _speaker(module)
    shape = probe_model(speaker, name=name)
    speaker.set_attn_implementation(ATTENTION_NAME)
    facts = _facts(module, name=name, shape=shape, fingerprint=fingerprint)
    pack_linears(module)
    return LoadedModel(module=module, facts=facts, windows=shape.windows)


def geometry_for(
    facts: ModelFacts,
    *,
    block_tokens: int = 16,
    blocks: int | None = None,
    memory_bytes: int | None = None,
    group_layers: int | None = None,
) -> KvGeometry:
    """The KV pool for a model: as many `blocks` as told, or as `memory_bytes` hold.

    `group_layers` defaults to at most 8 layers and at least two groups, so that pushing one
    overlaps with computing the next. Raises ConfigError when not even one block fits.
    """
    token_bytes = facts.layers * K_AND_V * facts.kv_heads * facts.head_dim * facts.dtype_bytes
    if blocks is None:
        if memory_bytes is None:
            raise ConfigError("kv: neither blocks nor memory is set; set one of them")
        blocks = memory_bytes // (token_bytes * block_tokens)
    if blocks < 1:
        raise ConfigError(f"kv.memory: one block needs {token_bytes * block_tokens} bytes; give more memory")
    return KvGeometry(
        layers=facts.layers,
        group_layers=group_layers or group_layers_for(facts.layers),
        heads=facts.kv_heads,
        head_dim=facts.head_dim,
        block_tokens=block_tokens,
        blocks=blocks,
        dtype=facts.dtype,
        dtype_bytes=facts.dtype_bytes,
    )


def group_layers_for(layers: int) -> int:
    """Layers per group: equal groups of at most 8 layers, at least two groups where there are two layers."""
    groups = max(2, -(-layers // GROUP_LAYERS_MAX)) if layers > 1 else 1
    return -(-layers // groups)


def _ignore(_stage: str, _fraction: float) -> None:
    """Nobody wants to hear of progress."""


def device_of(device: str | None) -> torch.device:
    """A torch device, the GPU if there is one and none is named. Raises ConfigError."""
    if device is None:
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device: '{device}' is not a device; use cpu or cuda:0") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device: '{device}' is not there (torch sees no GPU); use cpu, or install CUDA")
    return chosen


def dtype_of(dtype: str | None, device: torch.device) -> torch.dtype:
    """A precision by name, or the device's usual one. Raises ConfigError."""
    if dtype is None:
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if dtype not in DTYPES:
        raise ConfigError(f"dtype: '{dtype}' is not supported; use one of {', '.join(DTYPES)}")
    return DTYPES[dtype]


def directory_of(path_or_hub_id: str) -> Path:
    """Where the model's files are, fetched from the hub if need be. Raises ModelLoadError."""
    path = Path(path_or_hub_id).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ModelLoadError(f"{path}: is a file; point to the directory that holds config.json")
    if path.is_absolute() or path_or_hub_id.startswith((".", "~")) or path_or_hub_id.count("/") != 1:
        raise ModelLoadError(f"{path}: does not exist; point to a model directory or a hub id like owner/name")
    try:
        return Path(snapshot_download(path_or_hub_id, allow_patterns=list(HUB_FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        remedy = "check the name and the network, or download it and point to the directory"
        raise ModelLoadError(f"{path_or_hub_id}: is neither a directory nor a reachable hub model; {remedy}") from error


def _read_config(directory: Path) -> PreTrainedConfig:
    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    except (ValueError, KeyError, OSError, TypeError, ImportError, StrictDataclassError) as error:
        problem = _first_line(error)
        remedy = "use a model that this version of transformers knows"
        raise ModelLoadError(f"{directory / 'config.json'}: {problem}; {remedy}") from error
    assert isinstance(config, PreTrainedConfig)
    return config


def _read_weights(
    directory: Path, config: PreTrainedConfig, dtype: torch.dtype, device: torch.device
) -> PreTrainedModel:
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers is partly typed
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            directory,
            config=config,
            dtype=dtype,
            attn_implementation="eager",
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (ValueError, KeyError, OSError, TypeError, ImportError, RuntimeError, SafetensorError) as error:
        problem = _first_line(error)
        raise ModelLoadError(f"{directory}: the weights do not fit config.json ({problem}); copy both again") from error
    module, report = loaded
    missing, mismatched = sorted(report["missing_keys"]), sorted(map(str, report["mismatched_keys"]))
    if missing or mismatched:
        named = ", ".join((missing + mismatched)[:5])
        count = len(missing) + len(mismatched)
        raise ModelLoadError(f"{directory}: {count} weights are missing or misshapen ({named}); copy the files again")
    try:
        placed: PreTrainedModel = module.to(device).eval().requires_grad_(requires_grad=False)
    except torch.OutOfMemoryError as error:
        raise ModelLoadError(f"{directory}: does not fit into the memory of {device}; use a smaller model") from error
    return placed


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _name_of(path_or_hub_id: str) -> str:
    path = Path(path_or_hub_id).expanduser()
    return path.resolve().name if path.is_dir() else path_or_hub_id


def _facts(module: PreTrainedModel, *, name: str, shape: KvShape, fingerprint: str) -> ModelFacts:
    device, dtype = module.device, module.dtype
    config = module.config.get_text_config()
    longest = int(getattr(config, "max_position_embeddings", None) or SEQUENCE_TOKENS_DEFAULT)
    notes: tuple[str, ...] = ()
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in SWITCHING_ROPES:
        longest = int(rope.get("original_max_position_embeddings") or longest)
        notes = (f"sequences end at {longest} tokens, where {rope['rope_type']} would change all of a batch",)
    return ModelFacts(
        name=name,
        fingerprint=fingerprint,
        vocabulary=_vocabulary(module),
        eos_token_ids=_eos_token_ids(module),
        layers=shape.layers,
        kv_heads=shape.heads,
        head_dim=shape.head_dim,
        dtype=str(dtype).removeprefix("torch."),
        dtype_bytes=dtype.itemsize,
        sequence_tokens_max=longest,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        architecture=type(module).__name__,
        notes=notes,
    )


def _vocabulary(module: PreTrainedModel) -> int:
    """Token ids the model can read; some models pad it above the tokenizer's."""
    embeddings: Any = module.get_input_embeddings()
    return int(embeddings.weight.shape[0])


def _eos_token_ids(module: PreTrainedModel) -> tuple[int, ...]:
    """Tokens that end a text: generation config first, as generate() does, else the config's."""
    generation = getattr(module, "generation_config", None)
    ids = getattr(generation, "eos_token_id", None)
    if ids is None:
        ids = getattr(module.config.get_text_config(), "eos_token_id", None)
    if ids is None:
        return ()
    return tuple(ids) if isinstance(ids, list | tuple) else (int(ids),)
