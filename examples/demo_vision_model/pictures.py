"""Draws the vision demo's pictures: coloured shapes on a three by three grid, never two alike in one picture.

A `Scene` is what a picture shows, as values; `draw` makes it an image. Training and evaluation draw
fresh scenes from seeds of their own; `sluice demo --images` draws two. Asks nothing: read questions.py next.
"""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

GRID = 3
THINGS_MIN, THINGS_MAX = 2, 6
SUPERSAMPLING = 2  # edges are drawn larger and shrunk, so that they are smooth


class Colour(enum.Enum):
    """Six colours that nobody takes for one another."""

    RED = (214, 40, 40)
    GREEN = (44, 160, 44)
    BLUE = (35, 80, 220)
    YELLOW = (245, 210, 30)
    PURPLE = (135, 50, 170)
    ORANGE = (250, 130, 20)

    @property
    def word(self) -> str:
        """As questions and answers call it."""
        return self.name.lower()


class Shape(enum.Enum):
    """Four shapes; the value is the plural."""

    CIRCLE = "circles"
    SQUARE = "squares"
    TRIANGLE = "triangles"
    CROSS = "crosses"

    @property
    def word(self) -> str:
        """As questions and answers call it."""
        return self.name.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One shape. `offset` moves it within its cell and `radius` is its size, both as shares of the cell's side."""

    colour: Colour
    shape: Shape
    row: int
    column: int
    offset: tuple[float, float] = (0.0, 0.0)
    radius: float = 0.34

    @property
    def words(self) -> str:
        """`red circle`."""
        return f"{self.colour.word} {self.shape.word}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What one picture shows; no two things share a cell, or colour and shape."""

    things: tuple[Thing, ...]
    background: tuple[int, int, int] = (255, 255, 255)

    def at(self, row: int, column: int) -> Thing | None:
        """What is in a cell."""
        return next((thing for thing in self.things if (thing.row, thing.column) == (row, column)), None)

    def nearest(self, thing: Thing, *, down: int, across: int) -> Thing | None:
        """The first thing in one direction of the same row or column; None when there is none."""
        for distance in range(1, GRID):
            found = self.at(thing.row + down * distance, thing.column + across * distance)
            if found is not None:
                return found
        return None


def scene(rng: random.Random) -> Scene:
    """A random scene."""
    count = rng.randint(THINGS_MIN, THINGS_MAX)
    kinds = rng.sample([(colour, shape) for colour in Colour for shape in Shape], count)
    cells = rng.sample([(row, column) for row in range(GRID) for column in range(GRID)], count)
    things = tuple(
        Thing(
            colour=colour,
            shape=shape,
            row=row,
            column=column,
            offset=(rng.uniform(-0.12, 0.12), rng.uniform(-0.12, 0.12)),
            radius=rng.uniform(0.28, 0.37),
        )
        for (colour, shape), (row, column) in zip(kinds, cells, strict=True)
    )
    return Scene(things=things, background=(rng.randint(236, 255), rng.randint(236, 255), rng.randint(236, 255)))


def draw(scene: Scene, *, side_pixels: int = 144) -> Image.Image:
    """The scene as a square RGB image."""
    side = side_pixels * SUPERSAMPLING
    image = Image.new("RGB", (side, side), scene.background)
    canvas = ImageDraw.Draw(image)
    for thing in scene.things:
        _draw_thing(canvas, thing, cell=side / GRID)
    return image.reduce(SUPERSAMPLING)


def _draw_thing(canvas: ImageDraw.ImageDraw, thing: Thing, *, cell: float) -> None:
    x = (thing.column + 0.5 + thing.offset[0]) * cell
    y = (thing.row + 0.5 + thing.offset[1]) * cell
    radius = thing.radius * cell
    fill = thing.colour.value
    match thing.shape:
        case Shape.CIRCLE:
            canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
        case Shape.SQUARE:
            half = radius * 0.88
            canvas.rectangle((x - half, y - half, x + half, y + half), fill=fill)
        case Shape.TRIANGLE:
            canvas.polygon(((x, y - radius), (x - radius, y + radius * 0.8), (x + radius, y + radius * 0.8)), fill=fill)
        case Shape.CROSS:
            arm = radius * 0.32
            canvas.rectangle((x - radius, y - arm, x + radius, y + arm), fill=fill)
            canvas.rectangle((x - arm, y - radius, x + arm, y + radius), fill=fill)
