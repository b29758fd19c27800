"""Reads a picture's background and things back from its pixels, to judge what a model drew.

A thing has a shape only if its overlap (intersection over union) with the ideal shape of the same
area is more than 0.75, so that a blob of the right colour does not count as a star.
"""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tests.engine.tiny.render import coverage
from tests.engine.tiny.vocabulary import SHAPES
from tests.engine.tiny.world import PALETTE, RADIUS, SIDE, Scene, Thing

_FOREGROUND = 55.0  # least distance from the background's colour; 441 is from black to white
_SAME_COLOUR = 70.0  # greatest distance from a colour of the palette
_SAME_SHAPE = 0.75
_SPECK = 25  # pixels; smaller parts are ignored
_OFF_CENTRE = 7.0  # pixels


@dataclass(frozen=True)
class Detection:
    """One thing found in a picture; "" is a colour or shape that scenes do not have.

    `x` and `y` are its centroid in pixels.
    """

    colour: str
    shape: str
    size: str
    x: float
    y: float

    def matches(self, thing: Thing) -> bool:
        """Whether colour, shape and size are those of a thing."""
        return (self.colour, self.shape, self.size) == (thing.colour, thing.shape, thing.size)


@dataclass(frozen=True)
class Reading:
    """The background and the things found in a picture."""

    background: str
    things: tuple[Detection, ...]


@dataclass(frozen=True)
class Verdict:
    """Which attributes of a scene a picture has right."""

    background: bool
    colour: bool
    shape: bool
    size: bool
    place: bool

    @property
    def all(self) -> bool:
        """Whether everything is right."""
        return self.background and self.colour and self.shape and self.size and self.place


@functools.lru_cache
def _palette() -> tuple[tuple[str, ...], Tensor]:
    return tuple(PALETTE), torch.tensor(list(PALETTE.values()), dtype=torch.float32)


@functools.lru_cache
def _areas_and_centroids() -> list[tuple[float, float, float]]:
    """The area and the centroid (x, y) of each shape at radius 1."""
    radius = 20.0
    figures = []
    for number in range(len(SHAPES)):
        mask = _ideal(number, 32.0, 32.0, radius)
        area = float(mask.sum())
        axis = torch.arange(SIDE) + 0.5
        x, y = float((mask.sum(0) * axis).sum()) / area, float((mask.sum(1) * axis).sum()) / area
        figures.append((area / radius**2, (x - 32) / radius, (y - 32) / radius))
    return figures


def _ideal(shape: int, x: float, y: float, radius: float) -> Tensor:
    """The (64, 64) mask, 0 or 1, of a shape (its index in SHAPES)."""
    centre, size = torch.tensor([[x, y]]), torch.tensor([radius])
    return (coverage(torch.tensor([shape]), centre, size)[0] > 0.5).float()


def colour_name(colour: Tensor) -> str:
    """The name of the palette's colour that is near to a (3,) colour in 0..255, or "" for none."""
    names, values = _palette()
    distance = (values - colour).norm(dim=1)
    nearest = int(distance.argmin())
    return names[nearest] if float(distance[nearest]) < _SAME_COLOUR else ""


def _components(foreground: Tensor) -> list[Tensor]:
    """The masks of the connected parts of a (64, 64) mask, without specks."""
    numbers = torch.arange(1, SIDE * SIDE + 1, dtype=torch.float32).view(1, 1, SIDE, SIDE)
    inside = foreground[None, None].float()
    labels = numbers * inside
    while True:
        spread = functional.max_pool2d(labels, 3, 1, 1) * inside
        if torch.equal(spread, labels):
            break
        labels = spread
    present, counts = labels[labels > 0].unique(return_counts=True)
    return [labels[0, 0] == label for label, n in zip(present, counts, strict=True) if n > _SPECK]


def _background(picture: Tensor) -> Tensor:
    """The (3,) median colour of the picture's border."""
    border = torch.ones(SIDE, SIDE, dtype=torch.bool)
    border[2:-2, 2:-2] = False
    return picture[:, border].median(dim=1).values


def _core(mask: Tensor) -> Tensor:
    """A (64, 64) mask without its outermost pixels, or as it is if nothing would be left."""
    core = -functional.max_pool2d(-mask.float()[None], 3, 1, 1)[0] > 0
    return core if core.any() else mask


def _shape(mask: Tensor, x: float, y: float) -> tuple[str, float]:
    """The shape that fits a mask best ("" if none fits well) and its radius in pixels."""
    area = float(mask.sum())
    best_overlap, best_name, best_radius = 0.0, "", 0.0
    for number, (unit, dx, dy) in enumerate(_areas_and_centroids()):
        radius = (area / unit) ** 0.5
        ideal = _ideal(number, x - dx * radius, y - dy * radius, radius).bool()
        overlap = float((ideal & mask).sum()) / float((ideal | mask).sum())
        if overlap > best_overlap:
            best_overlap, best_name, best_radius = overlap, SHAPES[number], radius
    return (best_name if best_overlap > _SAME_SHAPE else ""), best_radius


def read(picture: Tensor) -> Reading:
    """The background and the things of a (3, 64, 64) picture in 0..255."""
    picture = picture.float()
    background = _background(picture)
    foreground = (picture - background[:, None, None]).norm(dim=0) > _FOREGROUND
    things = []
    for mask in _components(foreground):
        ys, xs = mask.nonzero(as_tuple=True)
        x, y = float(xs.float().mean()) + 0.5, float(ys.float().mean()) + 0.5
        colour = picture[:, _core(mask)].median(dim=1).values
        shape, radius = _shape(mask, x, y)
        size = "small" if radius < (RADIUS["small"] + RADIUS["large"]) / 2 else "large"
        things.append(Detection(colour_name(colour), shape, size, x, y))
    return Reading(colour_name(background), tuple(things))


def silhouette(picture: Tensor) -> Tensor:
    """The things of a (3, 64, 64) picture in 0..255 as a boolean (1, 1, 64, 64) mask.

    Its borders are where the colour is halfway between a thing and the background.
    """
    picture = picture.float()
    background = _background(picture)
    distance = (picture - background[:, None, None]).norm(dim=0)
    things = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    for mask in _components(distance > _FOREGROUND):
        near = functional.max_pool2d(mask.float()[None], 3, 1, 1)[0] > 0
        things |= near & (distance > distance[_core(mask)].median() / 2)
    return things[None, None]


def in_order(things: tuple[Detection, ...]) -> tuple[str, tuple[Detection, ...]]:
    """The layout of detected things ("astray" if no scene has it), and the things in its order."""
    if len(things) == 1:
        middle = max(abs(things[0].x - 32), abs(things[0].y - 32)) < _OFF_CENTRE
        return ("single" if middle else "astray"), things
    if len(things) != 2:
        return "astray", things
    first, second = things
    if abs(first.x - second.x) > abs(first.y - second.y):
        return "row", tuple(sorted(things, key=lambda thing: thing.x))
    return "column", tuple(sorted(things, key=lambda thing: thing.y))


def judge(reading: Reading, scene: Scene) -> Verdict:
    """Compare a reading with a scene; with a wrong number of things only the background counts."""
    layout, things = in_order(reading.things)
    background = reading.background == scene.background
    if len(things) != len(scene.things):
        return Verdict(background, False, False, False, False)
    pairs = list(zip(things, scene.things, strict=True))
    return Verdict(
        background,
        all(thing.colour == wanted.colour for thing, wanted in pairs),
        all(thing.shape == wanted.shape for thing, wanted in pairs),
        all(thing.size == wanted.size for thing, wanted in pairs),
        layout == scene.layout,
    )
