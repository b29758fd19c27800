"""Draws scenes exactly, as tensors, for training and evaluation; converts them to and from images.

Each shape is a signed distance that is sampled from one template, so that thousands of pictures
take a second. Pictures are float32 (n, 3, 64, 64) in -1..1.
"""

import functools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from tests.engine.tiny.vocabulary import SHAPES
from tests.engine.tiny.world import JITTER, PALETTE, PLACES, RADIUS, SIDE, Scene

_TEMPLATE_SIDE = 256
_TEMPLATE_REACH = 2.0  # a template covers -2..2 radii


@dataclass(frozen=True)
class Drawing:
    """n scenes of up to k things as tensors; radius 0 means that there is no such thing."""

    background: Tensor  # float (n, 3) in 0..1
    shape_index: Tensor  # int64 (n, k), index into SHAPES
    colour: Tensor  # float (n, k, 3) in 0..1
    centre: Tensor  # float (n, k, 2), x and y in pixels
    radius: Tensor  # float (n, k) in pixels


def rgb(colour: str) -> tuple[float, float, float]:
    """A colour of the palette in 0..1."""
    red, green, blue = PALETTE[colour]
    return red / 255, green / 255, blue / 255


def offsets(
    rng: random.Random, scenes: Sequence[Scene], jitter: float = JITTER
) -> list[list[tuple[float, float]]]:
    """A random offset from its place for each thing, in pixels; an edit keeps the offsets."""
    return [
        [(rng.uniform(-jitter, jitter), rng.uniform(-jitter, jitter)) for _ in scene.things]
        for scene in scenes
    ]


def arrange(
    scenes: Sequence[Scene],
    moved: Sequence[Sequence[tuple[float, float]]],
    grown: float = 1.0,
) -> Drawing:
    """Scenes as tensors, with each thing's offset and with all radii multiplied by `grown`."""
    background, shape, colour, centre, radius = [], [], [], [], []
    for scene, moves in zip(scenes, moved, strict=True):
        background.append(rgb(scene.background))
        shapes, colours, centres, radii = [0, 0], [(0.0, 0.0, 0.0)] * 2, [(0.0, 0.0)] * 2, [0.0] * 2
        for n, thing in enumerate(scene.things):
            x, y = PLACES[scene.layout][n]
            shapes[n] = SHAPES.index(thing.shape)
            colours[n] = rgb(thing.colour)
            centres[n] = (x + moves[n][0], y + moves[n][1])
            radii[n] = RADIUS[thing.size] * grown
        shape.append(shapes)
        colour.append(colours)
        centre.append(centres)
        radius.append(radii)
    return Drawing(
        torch.tensor(background),
        torch.tensor(shape),
        torch.tensor(colour),
        torch.tensor(centre),
        torch.tensor(radius),
    )


def _polygon(shape: str) -> list[tuple[float, float]]:
    """The corners (x, y) of a shape that is no circle, at radius 1."""
    if shape == "square":
        return [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)]
    if shape == "triangle":
        angles = [-math.pi / 2 + n * math.tau / 3 for n in range(3)]
        return [(1.25 * math.cos(angle), 1.25 * math.sin(angle)) for angle in angles]
    angles = [-math.pi / 2 + n * math.tau / 10 for n in range(10)]
    radii = [1.28 if n % 2 == 0 else 0.55 for n in range(10)]
    return [(r * math.cos(a), r * math.sin(a)) for a, r in zip(angles, radii, strict=True)]


def _polygon_distance(points: list[tuple[float, float]], x: Tensor, y: Tensor) -> Tensor:
    """The distance of points to a polygon's edge, negative inside (even-odd rule)."""
    nearest = torch.full_like(x, math.inf)
    inside = torch.zeros_like(x, dtype=torch.bool)
    for (ax, ay), (bx, by) in zip(points, points[1:] + points[:1], strict=True):
        ex, ey = bx - ax, by - ay
        along = (((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey)).clamp(0, 1)
        nearest = torch.minimum(nearest, torch.hypot(x - ax - along * ex, y - ay - along * ey))
        if ay != by:
            crosses = (ay > y) != (by > y)
            inside ^= crosses & (x < ex * (y - ay) / ey + ax)
    return torch.where(inside, -nearest, nearest)


@functools.lru_cache
def _templates() -> Tensor:
    """The signed distances at radius 1: float (shapes, 1, 256, 256)."""
    step = 2 * _TEMPLATE_REACH / _TEMPLATE_SIDE
    axis = (torch.arange(_TEMPLATE_SIDE) + 0.5) * step - _TEMPLATE_REACH
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    distances = [
        torch.hypot(x, y) - 1.0 if shape == "circle" else _polygon_distance(_polygon(shape), x, y)
        for shape in SHAPES
    ]
    return torch.stack(distances)[:, None]


def coverage(shape_index: Tensor, centre: Tensor, radius: Tensor, side: int = SIDE) -> Tensor:
    """The part of each pixel that a thing covers: float (m, side, side) in 0..1 for m things.

    `shape_index` is int64 (m,), `centre` (m, 2) and `radius` (m,) are in pixels.
    """
    axis = torch.arange(side, device=centre.device) + 0.5
    size = radius.clamp(min=1e-3)
    x = (axis[None, :] - centre[:, 0:1]) / size[:, None] / _TEMPLATE_REACH
    y = (axis[None, :] - centre[:, 1:2]) / size[:, None] / _TEMPLATE_REACH
    many = centre.shape[0]
    grid = torch.stack(
        [x[:, None, :].expand(many, side, side), y[:, :, None].expand(many, side, side)], dim=-1
    )
    templates = _templates().to(centre.device)[shape_index]
    distance = functional.grid_sample(
        templates, grid, mode="bilinear", padding_mode="border", align_corners=False
    )[:, 0]
    outside = grid.abs().amax(-1) > 1  # there the template's border value may be too small
    covered = (0.5 - distance * size[:, None, None]).clamp(0, 1)
    return torch.where(outside | (radius[:, None, None] <= 0), 0.0, covered)


def masks_of(drawing: Drawing, times: int = 1) -> Tensor:
    """The part of each pixel that each thing covers: float (n, k, 64, 64) in 0..1.

    With sides `times` as long of the same drawing.
    """
    many, things = drawing.radius.shape
    return coverage(
        drawing.shape_index.reshape(-1),
        drawing.centre.reshape(-1, 2) * times,
        drawing.radius.reshape(-1) * times,
        SIDE * times,
    ).view(many, things, SIDE * times, SIDE * times)


def render(drawing: Drawing, times: int = 1) -> Tensor:
    """The pictures of a drawing, later things over earlier ones: (n, 3, 64, 64) in -1..1.

    With sides `times` as long of the same drawing.
    """
    many, things = drawing.radius.shape
    side = SIDE * times
    masks = masks_of(drawing, times)[:, :, None]
    picture = drawing.background[:, :, None, None].expand(many, 3, side, side)
    for n in range(things):
        colour = drawing.colour[:, n, :, None, None]
        picture = picture * (1 - masks[:, n]) + colour * masks[:, n]
    return picture * 2 - 1


def as_image(picture: Tensor) -> Image.Image:
    """A (3 or 1, 64, 64) picture in -1..1 as an RGB image."""
    levels = ((picture.expand(3, -1, -1).clamp(-1, 1) + 1) * 127.5).round().byte()
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())


def as_levels(image: Image.Image) -> Tensor:
    """An image as float (3, 64, 64) in 0..255, for the classifier."""
    flat = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
    return flat.view(SIDE, SIDE, 3).permute(2, 0, 1).float()


def as_picture(image: Image.Image) -> Tensor:
    """An image as (3, 64, 64) in -1..1."""
    return as_levels(image) / 127.5 - 1
