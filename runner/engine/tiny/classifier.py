"""Reads a picture back: its background and what lies where. The judge of every figure.

It is strict on purpose: a blob of the right colour is not a star. A thing's shape counts only when
it overlaps the ideal shape of its own area by more than three quarters.
"""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from runner.engine.tiny.render import coverage
from runner.engine.tiny.vocabulary import SHAPES
from runner.engine.tiny.world import PALETTE, RADIUS, SIDE, Scene

_FOREGROUND = 55.0  # how far a pixel's colour is from the background's, of 441
_SAME_COLOUR = 70.0
_SAME_SHAPE = 0.75
_SPECK = 25  # pixels
_OFF_CENTRE = 7.0


@dataclass(frozen=True)
class Seen:
    """One thing found in a picture; "" stands for what is no colour or no shape of the world."""

    colour: str
    shape: str
    size: str
    x: float
    y: float


@dataclass(frozen=True)
class Reading:
    """All that was found in a picture."""

    background: str
    things: tuple[Seen, ...]


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
        """Everything right at once."""
        return self.background and self.colour and self.shape and self.size and self.place


@functools.lru_cache
def _palette() -> tuple[tuple[str, ...], Tensor]:
    return tuple(PALETTE), torch.tensor(list(PALETTE.values()), dtype=torch.float32)


@functools.lru_cache
def _figures() -> list[tuple[float, float, float]]:
    """Area and centroid of each shape at radius 1."""
    radius = 20.0
    found = []
    for number in range(len(SHAPES)):
        mask = _ideal(number, 32.0, 32.0, radius)
        area = float(mask.sum())
        axis = torch.arange(SIDE) + 0.5
        x, y = float((mask.sum(0) * axis).sum()) / area, float((mask.sum(1) * axis).sum()) / area
        found.append((area / radius**2, (x - 32) / radius, (y - 32) / radius))
    return found


def _ideal(shape: int, x: float, y: float, radius: float) -> Tensor:
    centre, size = torch.tensor([[x, y]]), torch.tensor([radius])
    return (coverage(torch.tensor([shape]), centre, size)[0] > 0.5).float()


def colour_name(colour: Tensor) -> str:
    """The palette's name for a colour in 0..255, or ""."""
    names, values = _palette()
    distance = (values - colour).norm(dim=1)
    nearest = int(distance.argmin())
    return names[nearest] if float(distance[nearest]) < _SAME_COLOUR else ""


def _components(front: Tensor) -> list[Tensor]:
    """The connected parts of a (64, 64) mask that are more than specks."""
    numbers = torch.arange(1, SIDE * SIDE + 1, dtype=torch.float32).view(1, 1, SIDE, SIDE)
    inside = front[None, None].float()
    labels = numbers * inside
    while True:
        spread = functional.max_pool2d(labels, 3, 1, 1) * inside
        if torch.equal(spread, labels):
            break
        labels = spread
    found, counts = labels[labels > 0].unique(return_counts=True)
    return [labels[0, 0] == label for label, n in zip(found, counts, strict=True) if n > _SPECK]


def _ground(picture: Tensor) -> Tensor:
    """The colour along the picture's border."""
    border = torch.ones(SIDE, SIDE, dtype=torch.bool)
    border[2:-2, 2:-2] = False
    return picture[:, border].median(dim=1).values


def _core(mask: Tensor) -> Tensor:
    """A mask without its rim, unless nothing else is left."""
    core = -functional.max_pool2d(-mask.float()[None], 3, 1, 1)[0] > 0
    return core if core.any() else mask


def _shape(mask: Tensor, x: float, y: float) -> tuple[str, float]:
    """The best fitting shape ("" if none fits) and the radius it has."""
    area = float(mask.sum())
    best, name, reach = 0.0, "", 0.0
    for number, (unit, dx, dy) in enumerate(_figures()):
        radius = (area / unit) ** 0.5
        ideal = _ideal(number, x - dx * radius, y - dy * radius, radius).bool()
        overlap = float((ideal & mask).sum()) / float((ideal | mask).sum())
        if overlap > best:
            best, name, reach = overlap, SHAPES[number], radius
    return (name if best > _SAME_SHAPE else ""), reach


def read(picture: Tensor) -> Reading:
    """What a (3, 64, 64) picture in 0..255 shows."""
    picture = picture.float()
    ground = _ground(picture)
    front = (picture - ground[:, None, None]).norm(dim=0) > _FOREGROUND
    things = []
    for mask in _components(front):
        ys, xs = mask.nonzero(as_tuple=True)
        x, y = float(xs.float().mean()) + 0.5, float(ys.float().mean()) + 0.5
        paint = picture[:, _core(mask)].median(dim=1).values
        shape, radius = _shape(mask, x, y)
        size = "small" if radius < (RADIUS["small"] + RADIUS["large"]) / 2 else "large"
        things.append(Seen(colour_name(paint), shape, size, x, y))
    return Reading(colour_name(ground), tuple(things))


def silhouette(picture: Tensor) -> Tensor:
    """What is not background: a (1, 1, 64, 64) mask whose borders lie halfway between colours."""
    picture = picture.float()
    ground = _ground(picture)
    distance = (picture - ground[:, None, None]).norm(dim=0)
    found = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    for mask in _components(distance > _FOREGROUND):
        near = functional.max_pool2d(mask.float()[None], 3, 1, 1)[0] > 0
        found |= near & (distance > distance[_core(mask)].median() / 2)
    return found[None, None]


def in_order(things: tuple[Seen, ...]) -> tuple[str, tuple[Seen, ...]]:
    """The layout of what was seen, and the things as a scene lists them."""
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
    """Compare a reading with what was asked for; a thing too many or too few spoils all things."""
    layout, things = in_order(reading.things)
    background = reading.background == scene.background
    if len(things) != len(scene.things):
        return Verdict(background, False, False, False, False)
    pairs = list(zip(things, scene.things, strict=True))
    return Verdict(
        background,
        all(seen.colour == asked.colour for seen, asked in pairs),
        all(seen.shape == asked.shape for seen, asked in pairs),
        all(seen.size == asked.size for seen, asked in pairs),
        layout == scene.layout,
    )
