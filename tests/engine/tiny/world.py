"""The scenes that the built-in model can draw, and which of them its training leaves out.

A scene is one thing in the middle, two side by side, or two one above the other, on a plain
background. What a prompt leaves open has a default (large, white), so that a prompt means one
picture, up to a pixel of jitter: a small model learns this far better than a random choice. Must
not import torch.
"""

import random
import zlib
from dataclasses import dataclass
from typing import Literal

from tests.engine.tiny.vocabulary import COLOURS, SHAPES, SIZES

SIDE = 64
RADIUS = {"small": 7.5, "large": 12.0}
JITTER = 1.0
"""The greatest distance in pixels, in each direction, of a thing from its place."""

Layout = Literal["single", "row", "column"]
PLACES: dict[Layout, tuple[tuple[float, float], ...]] = {
    "single": ((32.0, 32.0),),
    "row": ((16.5, 32.0), (47.5, 32.0)),
    "column": ((32.0, 16.5), (32.0, 47.5)),
}
SLOTS: dict[Layout, tuple[str, ...]] = {
    "single": ("centre",),
    "row": ("left", "right"),
    "column": ("top", "bottom"),
}
PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (218, 40, 40),
    "green": (40, 165, 75),
    "blue": (35, 85, 225),
    "yellow": (252, 218, 45),
    "purple": (160, 50, 190),
    "orange": (246, 132, 24),
    "white": (250, 250, 250),
    "black": (18, 18, 18),
}
_HELD_OUT_ONE_IN = 10


@dataclass(frozen=True)
class Thing:
    """One coloured shape of a scene."""

    colour: str
    shape: str
    size: str


@dataclass(frozen=True)
class Scene:
    """A background and one or two things: left before right, top before bottom."""

    background: str
    things: tuple[Thing, ...]
    layout: Layout


def default_background(things: tuple[Thing, ...]) -> str:
    """The background of a prompt that names none: white, or another colour that no thing has."""
    used = {thing.colour for thing in things}
    return next(colour for colour in ("white", "black", "blue") if colour not in used)


def is_held_out(scene: Scene) -> bool:
    """Whether training must not use a scene: a tenth of those with two things.

    There are so few with one thing (448) that training uses all. Sizes make no difference.
    """
    if len(scene.things) == 1:
        return False
    things = " ".join(f"{thing.colour} {thing.shape}" for thing in scene.things)
    key = f"{scene.background}/{scene.layout}/{things}"
    return zlib.crc32(key.encode("ascii")) % _HELD_OUT_ONE_IN == 0


def draw_thing(rng: random.Random, background: str) -> Thing:
    """A random thing that can be seen on the background."""
    colour = rng.choice([colour for colour in COLOURS if colour != background])
    return Thing(colour, rng.choice(SHAPES), rng.choice(SIZES))


def draw_scene(rng: random.Random, *, two: float = 0.65) -> Scene:
    """A random scene; `two` is the probability of two things."""
    background = rng.choice(COLOURS) if rng.random() < 0.9 else "white"
    if rng.random() >= two:
        return Scene(background, (draw_thing(rng, background),), "single")
    things = (draw_thing(rng, background), draw_thing(rng, background))
    return Scene(background, things, rng.choice(("row", "column")))


def draw_seen_scene(rng: random.Random) -> Scene:
    """A random scene that training may use."""
    while is_held_out(scene := draw_scene(rng)):
        pass
    return scene


def draw_unseen_scene(rng: random.Random) -> Scene:
    """A random scene with two things that training does not use."""
    while not is_held_out(scene := draw_scene(rng, two=1.0)):
        pass
    return scene
