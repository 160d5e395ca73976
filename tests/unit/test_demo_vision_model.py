"""The vision demo ships small, and is right about pictures it has never seen.

Pictures and questions come from examples/demo_vision_model, as its lessons did, with seeds of their own. Answers come
from transformers' `generate`, so that a failure here is about the model's files and never about Sluice's engine.
"""

from __future__ import annotations

import importlib
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "sluice" / "demo_vision_model"
EXAMPLES = ROOT / "examples" / "demo_vision_model"
SIZE_MAX_BYTES = 6 * 1024 * 1024
PROMPTS_A_KIND = 12
RIGHT_SHARE_MIN = 0.95


@pytest.fixture(scope="module")
def examples() -> Iterator[dict[str, Any]]:
    """The example's files as modules; they import one another by bare names, which are taken back afterwards."""
    names = ("pictures", "questions", "evaluate")
    sys.path.insert(0, str(EXAMPLES))
    before = {name: sys.modules.pop(name, None) for name in names}
    try:
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(EXAMPLES))
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


@pytest.fixture(scope="module")
def examinee(examples: dict[str, Any]) -> Iterator[Any]:
    """The model in float32 on one thread; the thread count is put back afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield examples["evaluate"].Examinee.load(MODEL)
    torch.set_num_threads(threads)


def test_the_files_fit_into_six_megabytes() -> None:
    assert sum(path.stat().st_size for path in MODEL.iterdir() if path.is_file()) <= SIZE_MAX_BYTES


def test_new_pictures_are_answered_rightly(examples: dict[str, Any], examinee: Any) -> None:
    shares = {
        (kind.value, shown): examples["evaluate"].accuracy(
            examinee, random.Random(f"test {kind.value} {shown}"), kind, shown=shown, prompts=PROMPTS_A_KIND
        )
        for kind in examples["questions"].Kind
        for shown in (1, 2)
        if not (shown == 1 and kind is examples["questions"].Kind.WHICH)
    }
    assert sum(shares.values()) / len(shares) >= RIGHT_SHARE_MIN, shares


def test_the_demos_own_questions_are_answered_rightly(examinee: Any) -> None:
    shown = [Image.open(MODEL / name) for name in ("first.png", "second.png")]
    asked = json.loads((MODEL / "questions.json").read_text())
    assert [examinee.answer(shown, each["question"]) for each in asked] == [each["answer"] for each in asked]


def test_every_question_is_answered_by_the_scene(examples: dict[str, Any]) -> None:
    """Relations and counts are worked out a second time, from the things' places alone."""
    pictures, questions = examples["pictures"], examples["questions"]
    for seed in range(300):
        rng = random.Random(seed)
        scene = pictures.scene(rng)
        places = {(thing.row, thing.column): thing.words for thing in scene.things}
        assert len(places) == len(set(places.values())) == len(scene.things)
        relation = questions.exchange(rng, [scene], questions.Kind.RELATION)
        words = " ".join(relation.ask.rstrip("?").removesuffix(" in the picture").split()[-2:])
        row, column = next(place for place, name in places.items() if name == words)
        line = {
            "left": [(row, c) for c in range(column - 1, -1, -1)],
            "right": [(row, c) for c in range(column + 1, 3)],
            "above": [(r, column) for r in range(row - 1, -1, -1)],
            "below": [(r, column) for r in range(row + 1, 3)],
        }[relation.ask.split()[2]]
        assert relation.answer == next((places[place] for place in line if place in places), "nothing")
