"""The scenes the built-in model can draw, and which of them training never sees.

A scene is one thing in the middle, or two side by side, or two one above the other, on a plain
background. What a prompt leaves open has one answer (large, white), so a prompt means one picture
up to a pixel of jitter; a small model learns that far better than a free choice. No torch here.
"""

import random
import zlib
from dataclasses import dataclass
from typing import Literal

from runner.engine.tiny.vocabulary import COLOURS, SHAPES, SIZES

SIDE = 64
RADIUS = {"small": 7.5, "large": 12.0}
JITTER = 1.0
"""How far, in pixels and in each direction, a thing may lie from its place."""

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
    """One coloured shape."""

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
    """The background of a prompt that names none: white, or what no thing hides in."""
    used = {thing.colour for thing in things}
    return next(colour for colour in ("white", "black", "blue") if colour not in used)


def is_held_out(scene: Scene) -> bool:
    """True for the tenth of all two-thing scenes that training must never draw.

    One-thing scenes are so few (448) that all are learned; sizes do not count as a difference.
    """
    if len(scene.things) == 1:
        return False
    things = " ".join(f"{thing.colour} {thing.shape}" for thing in scene.things)
    key = f"{scene.background}/{scene.layout}/{things}"
    return zlib.crc32(key.encode("ascii")) % _HELD_OUT_ONE_IN == 0


def draw_thing(rng: random.Random, background: str) -> Thing:
    """A random thing that can be seen on the background."""
    colour = rng.choice([each for each in COLOURS if each != background])
    return Thing(colour, rng.choice(SHAPES), rng.choice(SIZES))


def draw_scene(rng: random.Random, *, two: float = 0.65) -> Scene:
    """Any scene of the world; two things with the given probability."""
    background = rng.choice(COLOURS) if rng.random() < 0.9 else "white"
    if rng.random() >= two:
        return Scene(background, (draw_thing(rng, background),), "single")
    things = (draw_thing(rng, background), draw_thing(rng, background))
    return Scene(background, things, rng.choice(("row", "column")))


def draw_seen_scene(rng: random.Random, *, two: float = 0.65) -> Scene:
    """A scene that training may use."""
    while is_held_out(scene := draw_scene(rng, two=two)):
        pass
    return scene


def draw_unseen_scene(rng: random.Random) -> Scene:
    """A two-thing scene that training never used."""
    while not is_held_out(scene := draw_scene(rng, two=1.0)):
        pass
    return scene
