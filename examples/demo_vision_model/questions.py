"""Asks about one or two scenes, and knows the one right answer to each question.

Every question can be answered from the pictures alone: a colour or shape is asked for only where one
thing has it. Training and evaluation draw from the same phrasings. Knows nothing of tensors or tokens.
Read next: train.py.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Sequence
from dataclasses import dataclass

from pictures import GRID, Colour, Scene, Shape, Thing

END = "<|end|>"
ORDINALS = ("first", "second")
WAYS = {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}
PLACES = (
    ("top left", "top", "top right"),
    ("left", "middle", "right"),
    ("bottom left", "bottom", "bottom right"),
)
_WORD_LIST = """
what which where how many is are there a an the in of shape shapes colour color picture pictures first
second both neither left right above below top middle bottom nothing yes no shows has tell me find thing
things one two name and or does it on to What Which Where How Is Tell
"""
WORDS = (
    *(colour.word for colour in Colour),
    *(shape.word for shape in Shape),
    *(shape.value for shape in Shape),
    *_WORD_LIST.split(),
)


class Kind(enum.Enum):
    """What a question asks for."""

    COLOUR = "colour"
    SHAPE = "shape"
    COUNT = "count"
    RELATION = "relation"
    PLACE = "place"
    PRESENCE = "presence"
    WHICH = "which picture"


SINGLE = tuple(kind for kind in Kind if kind is not Kind.WHICH)
WEIGHTS = {
    Kind.COLOUR: 1,
    Kind.SHAPE: 1,
    Kind.COUNT: 2,
    Kind.RELATION: 3,
    Kind.PLACE: 1,
    Kind.PRESENCE: 1,
    Kind.WHICH: 1,
}


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question and its answer."""

    kind: Kind
    ask: str
    answer: str


def exchange(rng: random.Random, scenes: Sequence[Scene], kind: Kind | None = None) -> Exchange:
    """A question about the scenes, of the given kind or any. Two scenes at most."""
    assert 1 <= len(scenes) <= len(ORDINALS), "questions name pictures by ordinals"
    kinds = SINGLE if len(scenes) == 1 else tuple(Kind)
    chosen = kind or rng.choices(kinds, [WEIGHTS[each] for each in kinds])[0]
    if chosen is Kind.WHICH:
        ask, answer = _which(rng, scenes)
    else:
        index = rng.randrange(len(scenes))
        suffix = f" in the {ORDINALS[index]} picture" if len(scenes) > 1 else rng.choice(("", "", " in the picture"))
        ask, answer = _SINGLE[chosen](rng, scenes[index])
        ask = f"{ask}{suffix}?"
    if rng.random() < 0.3:
        ask = ask[0].upper() + ask[1:]
    return Exchange(chosen, ask, answer)


def _colour(rng: random.Random, scene: Scene) -> tuple[str, str]:
    shapes = [thing.shape for thing in scene.things]
    single = [thing for thing in scene.things if shapes.count(thing.shape) == 1]
    if not single:
        return _relation(rng, scene)
    thing = rng.choice(single)
    return f"what {rng.choice(('colour', 'color'))} is the {thing.shape.word}", thing.colour.word


def _shape(rng: random.Random, scene: Scene) -> tuple[str, str]:
    colours = [thing.colour for thing in scene.things]
    single = [thing for thing in scene.things if colours.count(thing.colour) == 1]
    if not single:
        return _relation(rng, scene)
    thing = rng.choice(single)
    form = rng.choice(("what shape is {}", "which shape is {}", "what shape is the {} thing"))
    return form.format(thing.colour.word), thing.shape.word


def _count(rng: random.Random, scene: Scene) -> tuple[str, str]:
    are = rng.choice((" are there", " are there", " are"))
    roll = rng.random()
    if roll < 0.3:
        return f"how many shapes{are}", str(len(scene.things))
    pool = scene.things if rng.random() < 0.7 else ()
    if roll < 0.65:
        shape = rng.choice(pool).shape if pool else rng.choice(tuple(Shape))
        return f"how many {shape.value}{are}", str(sum(thing.shape is shape for thing in scene.things))
    colour = rng.choice(pool).colour if pool else rng.choice(tuple(Colour))
    return f"how many {colour.word} shapes{are}", str(sum(thing.colour is colour for thing in scene.things))


def _relation(rng: random.Random, scene: Scene) -> tuple[str, str]:
    pairs = [(thing, way, scene.nearest(thing, down=d, across=a)) for thing in scene.things
             for way, (d, a) in WAYS.items()]  # fmt: skip
    found = [pair for pair in pairs if pair[2] is not None]
    thing, way, answer = rng.choice(found if found and rng.random() < 0.75 else pairs)
    return f"what is {way} the {thing.words}", "nothing" if answer is None else answer.words


def _place(rng: random.Random, scene: Scene) -> tuple[str, str]:
    thing = rng.choice(scene.things)
    return f"where is the {thing.words}", PLACES[thing.row][thing.column]


def _presence(rng: random.Random, scene: Scene) -> tuple[str, str]:
    if rng.random() < 0.5:
        return f"is there {_with_article(rng.choice(scene.things).words)}", "yes"
    wanted = _absent(rng, scene)
    return f"is there {_with_article(wanted)}", "no"


def _with_article(words: str) -> str:
    return f"an {words}" if words.startswith("o") else f"a {words}"


def _absent(rng: random.Random, scene: Scene) -> str:
    """Something not shown; half the time made of a colour and a shape that are."""
    shown = {thing.words for thing in scene.things}
    near = [f"{a.colour.word} {b.shape.word}" for a in scene.things for b in scene.things]
    every = [f"{colour.word} {shape.word}" for colour in Colour for shape in Shape]
    pool = [words for words in (near if rng.random() < 0.5 else every) if words not in shown]
    return rng.choice(pool or [words for words in every if words not in shown])


def _which(rng: random.Random, scenes: Sequence[Scene]) -> tuple[str, str]:
    first, second = ({thing.words for thing in scene.things} for scene in scenes)
    wanted: list[tuple[str, str]] = [(words, "first") for words in first - second]
    wanted += [(words, "second") for words in second - first]
    words, answer = rng.choice(sorted(wanted)) if wanted else (min(first), "both")
    named = rng.choice((f"the {words}", _with_article(words)))
    return f"which picture {rng.choice(('shows', 'has'))} {named}?", answer


_SINGLE = {
    Kind.COLOUR: _colour,
    Kind.SHAPE: _shape,
    Kind.COUNT: _count,
    Kind.RELATION: _relation,
    Kind.PLACE: _place,
    Kind.PRESENCE: _presence,
}


def facts(scene: Scene, *, row: int, column: int) -> list[int]:
    """What is true of a cell, as class numbers: what is there, what is nearest in each way, where it is, what counts.

    The vision tower is taught these beside the questions; see train.py. Sizes are in FACT_SIZES.
    """
    here = scene.at(row, column)
    anchor = here or Thing(colour=Colour.RED, shape=Shape.CIRCLE, row=row, column=column)
    seen = [here, *(scene.nearest(anchor, down=d, across=a) for d, a in WAYS.values())]
    classes: list[int] = []
    for thing in seen:
        classes += [0, 0] if thing is None else [1 + _COLOURS[thing.colour], 1 + _SHAPES[thing.shape]]
    classes += [row, column, len(scene.things)]
    classes += [sum(thing.shape is shape for thing in scene.things) for shape in Shape]
    classes += [sum(thing.colour is colour for thing in scene.things) for colour in Colour]
    return classes


_COLOURS = {colour: index for index, colour in enumerate(Colour)}
_SHAPES = {shape: index for index, shape in enumerate(Shape)}
FACT_SIZES = (*((len(Colour) + 1, len(Shape) + 1) * 5), GRID, GRID, 7, *((7,) * (len(Shape) + len(Colour))))
