"""Pools on the command line become workers, and encode workers stand apart or beside as asked."""

import argparse
import json
from pathlib import Path

import pytest
import torch

from sluice.cli import fleet_options
from sluice.cli.beside import encoders_beside
from sluice.cli.fleet_options import add_fleet_arguments, plan_from
from sluice.cli.local_fleet import FleetPlan
from sluice.cli.model_engine import EMBEDDINGS_BYTES_MAX, EMBEDDINGS_BYTES_MIN, embeddings_bytes
from sluice.config.worker import ImagesConfig, WorkerConfig
from sluice.engine.image_inputs import ImageShape
from sluice.errors import ConfigError


def model_of(directory: Path, **config: object) -> Path:
    (directory / "config.json").write_text(json.dumps({"model_type": "llava", **config}))
    return directory


@pytest.fixture(autouse=True)
def any_directory_is_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_options, "find_model", Path)


@pytest.fixture
def seeing(tmp_path: Path) -> Path:
    return model_of(tmp_path, vision_config={})


def plan(model: Path, *words: str) -> FleetPlan:
    parser = argparse.ArgumentParser()
    add_fleet_arguments(parser, prefill=1, decode=1)
    return plan_from(parser.parse_args(["--model", str(model), *words]), http_port=0, grpc_port=0)


@pytest.mark.parametrize(
    ("words", "members"),
    [
        (("--pools", "encode=2,prefill=1,decode=1"), ["encode-0", "encode-1", "prefill-0", "decode-0"]),
        (("--encode", "1"), ["encode-0", "prefill-0", "decode-0"]),
        (("--pools", "encode=1,mixed=2"), ["encode-0", "mixed-0", "mixed-1"]),
        (
            ("--pools", "prefill=1,encode+decode=2"),
            ["prefill-0", "decode-0", "decode-1", "decode-0-eye", "decode-1-eye"],
        ),
        (("--pools", "encode=1,encode+mixed=1"), ["encode-0", "mixed-0", "mixed-0-eye"]),
        ((), ["prefill-0", "decode-0", "prefill-0-eye"]),
        (("--pools", "mixed=2"), ["mixed-0", "mixed-1", "mixed-0-eye", "mixed-1-eye"]),
    ],
)
def test_who_encodes_follows_from_the_pools(seeing: Path, words: tuple[str, ...], members: list[str]) -> None:
    assert plan(seeing, *words).members() == members


def test_a_model_of_text_alone_has_no_encode_workers_beside_others(tmp_path: Path) -> None:
    assert plan(model_of(tmp_path)).members() == ["prefill-0", "decode-0"]


@pytest.mark.parametrize(
    "words", ["encode", "encode=x", "eyes=1", "prefill=1;decode=1", "mixed=1,decode=1", "encode=-1", "encode+encode=1"]
)
def test_pools_that_are_none_are_refused_by_name(seeing: Path, words: str) -> None:
    with pytest.raises(ConfigError, match="--pools"):
        plan(seeing, "--pools", words)


def test_an_encode_worker_beside_another_is_a_worker_of_its_own() -> None:
    config = WorkerConfig(worker="m", model_path="/m", role="mixed", kv_port=7, metrics_port=8)
    assert encoders_beside(config) == []
    beside = WorkerConfig(
        worker="m", model_path="/m", kv_port=7, metrics_port=8, images=ImagesConfig(encodes=True, embeddings_mib=5)
    )
    (encoder,) = encoders_beside(beside)
    assert (encoder.worker, encoder.role, encoder.kv_port, encoder.metrics_port) == ("m-eye", "encode", 0, 0)
    assert encoder.engine.kv_memory_mib == 5
    assert encoders_beside(encoder) == []


def test_the_room_for_embeddings_follows_from_the_longest_prompt_there_can_be() -> None:
    shape = ImageShape(levels=1, hidden=3584, dtype=torch.bfloat16, has_grid=True)
    assert embeddings_bytes(shape, prompt_tokens_max=32_768) == 2 * 32_768 * 7168
    assert embeddings_bytes(shape, prompt_tokens_max=10) == EMBEDDINGS_BYTES_MIN
    assert embeddings_bytes(shape, prompt_tokens_max=10**9) == EMBEDDINGS_BYTES_MAX
