"""Draws the two pictures that `sluice demo --images` sends, and writes the questions it asks with the right answers.

    python examples/demo_vision_model/draw_demo.py --out sluice/demo_vision_model [--seed N]

The pictures are drawn like those of training and evaluation, from a seed that neither uses. Knows no model.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import pictures
import questions

NAMES = ("first.png", "second.png")
THINGS = 5
KINDS = (
    questions.Kind.RELATION,
    questions.Kind.WHICH,
    questions.Kind.COUNT,
    questions.Kind.COLOUR,
    questions.Kind.PLACE,
)


def main() -> None:
    """Writes the pictures and questions.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", default="demo")
    args = parser.parse_args()
    rng = random.Random(f"demo {args.seed}")
    scenes = [_scene(rng) for _ in NAMES]
    for name, scene in zip(NAMES, scenes, strict=True):
        pictures.draw(scene).save(args.out / name, optimize=True)
    asked = [_exchange(rng, scenes, kind) for kind in KINDS]
    rows = [{"question": each.ask, "answer": each.answer} for each in asked]
    (args.out / "questions.json").write_text(json.dumps(rows, indent=2) + "\n")


def _scene(rng: random.Random) -> pictures.Scene:
    """One with enough to ask about."""
    while True:
        scene = pictures.scene(rng)
        if len(scene.things) == THINGS:
            return scene


def _exchange(rng: random.Random, scenes: list[pictures.Scene], kind: questions.Kind) -> questions.Exchange:
    """A question of a kind; never one whose answer is that there is nothing."""
    while True:
        exchange = questions.exchange(rng, scenes, kind)
        if exchange.answer not in {"nothing", "0"}:
            return exchange


if __name__ == "__main__":
    main()
