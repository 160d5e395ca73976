"""A model directory either loads, or its error names the file and what to do about it."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sluice.engine.model_loader import geometry_for, group_layers_for, load_model
from sluice.engine.random_models import save_random_model
from sluice.errors import ConfigError, ModelLoadError

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("saved")
    save_random_model(directory, family="llama")
    return directory


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def edit_json(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


def shard(directory: Path) -> None:
    """Save again in several files."""
    module = AutoModelForCausalLM.from_pretrained(directory)
    (directory / "model.safetensors").unlink()
    module.save_pretrained(directory, max_shard_size="20KB")


def test_facts_say_what_the_model_is(saved: Path) -> None:
    heard: list[tuple[str, float]] = []
    loaded = load_model(str(saved), device="cpu", progress=lambda stage, done: heard.append((stage, done)))
    facts = loaded.facts
    assert (facts.layers, facts.kv_heads, facts.head_dim, facts.vocabulary) == (4, 2, 8, 101)
    assert (facts.dtype, facts.dtype_bytes, facts.device) == ("float32", 4, "cpu")
    assert (facts.architecture, facts.eos_token_ids, facts.sequence_tokens_max) == ("LlamaForCausalLM", (2,), 1024)
    assert [done for _, done in heard] == sorted(done for _, done in heard)
    assert heard[-1] == ("ready", 1.0)


def test_a_sharded_model_is_the_same_model(saved: Path, model: Path) -> None:
    shard(model)
    assert len(list(model.glob("*.safetensors"))) > 2
    assert load_model(str(model), device="cpu").facts.fingerprint == load_model(str(saved)).facts.fingerprint


def test_the_fingerprint_tells_weights_config_and_dtype_apart(saved: Path, model: Path, tmp_path: Path) -> None:
    original = load_model(str(saved), device="cpu").facts.fingerprint
    assert load_model(str(saved), device="cpu", dtype="bfloat16").facts.fingerprint != original
    edit_json(model / "config.json", rope_parameters={"rope_type": "default", "rope_theta": 777.0})
    assert load_model(str(model), device="cpu").facts.fingerprint != original
    save_random_model(tmp_path / "other", family="llama", seed=1)
    assert load_model(str(tmp_path / "other"), device="cpu").facts.fingerprint != original


def test_every_end_of_text_token_of_the_generation_config_counts(model: Path) -> None:
    edit_json(model / "generation_config.json", eos_token_id=[2, 7])
    assert load_model(str(model), device="cpu").facts.eos_token_ids == (2, 7)


def test_windows_are_known_per_layer(tmp_path: Path) -> None:
    save_random_model(tmp_path, family="gemma2")
    windows = load_model(str(tmp_path), device="cpu").windows
    assert windows == (20, None, 20, None)


def test_a_rope_that_switches_for_the_whole_batch_caps_sequences_before_it(model: Path) -> None:
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "original_max_position_embeddings": 256,
        "short_factor": [1.0] * 4,
        "long_factor": [2.0] * 4,
    }
    edit_json(model / "config.json", rope_parameters=rope)
    facts = load_model(str(model), device="cpu").facts
    assert facts.sequence_tokens_max == 256
    assert "longrope" in facts.notes[0]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def drop_weight(directory: Path) -> None:
    """Leave one tensor out of an otherwise good file."""
    path = directory / "model.safetensors"
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    header["model.norm.wait"] = header.pop("model.norm.weight")
    packed = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(packed)) + packed + content[8 + length :])


BREAKAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda at: (at / "config.json").unlink(), r"config\.json: is missing"),
    "config is not JSON": (lambda at: (at / "config.json").write_text("{"), r"config\.json: is not valid JSON"),
    "config is a list": (lambda at: (at / "config.json").write_text("[]"), r"config\.json: is not a JSON object"),
    "config is binary": (lambda at: (at / "config.json").write_bytes(b"\xff\xfe"), r"config\.json: is not valid JSON"),
    "no model type": (lambda at: edit_json(at / "config.json", model_type=None), r"config\.json: has no model_type"),
    "unknown model type": (lambda at: edit_json(at / "config.json", model_type="sluice9"), r"config\.json: .*sluice9"),
    "an encoder": (
        lambda at: edit_json(at / "config.json", architectures=["BertModel"]),
        r"config\.json: BertModel does not generate text",
    ),
    "an encoder-decoder": (
        lambda at: edit_json(at / "config.json", is_encoder_decoder=True),
        r"config\.json: is an encoder-decoder model",
    ),
    "a field of the wrong type": (lambda at: edit_json(at / "config.json", hidden_size="wide"), r"config\.json: "),
    "another vocabulary": (lambda at: edit_json(at / "config.json", vocab_size=90), "do not fit config.json|misshapen"),
    "another width": (lambda at: edit_json(at / "config.json", hidden_size=64), "do not fit config.json|misshapen"),
    "more layers": (lambda at: edit_json(at / "config.json", num_hidden_layers=5), "weights are missing"),
    "generation config is not JSON": (
        lambda at: (at / "generation_config.json").write_text("nope"),
        r"generation_config\.json: is not valid JSON",
    ),
    "no weights": (lambda at: (at / "model.safetensors").unlink(), r"model\.safetensors: is missing"),
    "only pickled weights": (
        lambda at: (at / "model.safetensors").rename(at / "pytorch_model.bin"),
        "none in safetensors; convert",
    ),
    "truncated weights": (lambda at: truncate(at / "model.safetensors"), r"model\.safetensors: is \d+ bytes and"),
    "empty weights": (lambda at: (at / "model.safetensors").write_bytes(b""), "is not a complete safetensors file"),
    "weights that are text": (lambda at: (at / "model.safetensors").write_text("x" * 500), "not a complete|broken"),
    "a weight is missing": (drop_weight, r"1 weights are missing or misshapen \(model.norm.weight\)"),
    "a shard is missing": (
        lambda at: (shard(at), sorted(at.glob("model-*.safetensors"))[1].unlink()),
        r"index\.json: names missing files: model-00002",
    ),
    "a truncated shard": (
        lambda at: (shard(at), truncate(min(at.glob("model-*.safetensors")))),
        r"model-00001.*: is \d+ bytes and should be",
    ),
    "an index without a map": (
        lambda at: (at / "model.safetensors.index.json").write_text("{}"),
        r"index\.json: has no weight_map",
    ),
    "chunked attention": (
        lambda at: edit_json(at / "config.json", layer_types=["chunked_attention"] * 4),
        "layers of type chunked_attention|config.json",
    ),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_broken_model_is_named_with_its_remedy(model: Path, breakage: str) -> None:
    break_it, message = BREAKAGES[breakage]
    break_it(model)
    with pytest.raises(ModelLoadError, match=message) as caught:
        load_model(str(model), device="cpu")
    assert ";" in str(caught.value), "a remedy follows the problem"


@pytest.mark.parametrize("name", ["/no/such/place", "./nowhere", "just-a-name", "a/b/c"])
def test_a_path_that_does_not_exist_is_said_to_be_missing(name: str) -> None:
    with pytest.raises(ModelLoadError, match="does not exist"):
        load_model(name)


def test_a_file_is_not_a_model(saved: Path) -> None:
    with pytest.raises(ModelLoadError, match="is a file; point to the directory"):
        load_model(str(saved / "config.json"))


UNSERVABLE: dict[str, dict[str, Any]] = {
    "mamba": {"state_size": 4},  # no keys and values at all
    "bloom": {"n_head": 2, "n_layer": 2},  # attention of its own
    "stablelm": {"intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 2},  # drops arguments
    "doge": {"intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 2},  # masks of its own
    "diffllama": {"intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 2},  # two calls a layer
    "bert": {"intermediate_size": 24, "num_attention_heads": 2},  # sees the future
}


@pytest.mark.parametrize("model_type", UNSERVABLE)
def test_a_model_whose_attention_the_pool_cannot_serve_is_refused(model_type: str, tmp_path: Path) -> None:
    settings = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, **UNSERVABLE[model_type]}
    config = AutoConfig.for_model(model_type, **settings)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match="serve a decoder-only model"):
        load_model(str(tmp_path), device="cpu")


@pytest.mark.parametrize(("device", "dtype"), [("gpu0", None), ("cpu", "float8"), ("cuda:0", None)])
def test_a_device_or_dtype_that_is_not_there_is_a_config_error(saved: Path, device: str, dtype: str | None) -> None:
    if device == "cuda:0" and torch.cuda.is_available():
        pytest.skip("this machine has the device")
    with pytest.raises(ConfigError):
        load_model(str(saved), device=device, dtype=dtype)


@pytest.mark.parametrize(("layers", "group"), [(1, 1), (2, 1), (4, 2), (8, 4), (16, 8), (17, 6), (32, 8), (80, 8)])
def test_layer_groups_are_even_and_at_least_two(layers: int, group: int) -> None:
    assert group_layers_for(layers) == group


def test_the_pool_is_as_large_as_its_memory_allows(saved: Path) -> None:
    facts = load_model(str(saved), device="cpu").facts
    geometry = geometry_for(facts, memory_bytes=10 * 16 * 4 * 2 * 2 * 8 * 4 + 5)
    assert geometry.blocks == 10
    with pytest.raises(ConfigError, match="one block needs"):
        geometry_for(facts, memory_bytes=100)
    with pytest.raises(ConfigError, match="neither"):
        geometry_for(facts)
