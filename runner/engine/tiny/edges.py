"""Edge maps to train and measure `control` with: true outlines, and the program's own Canny edges.

Users bring either, so the model must follow both. Maps are white lines, one pixel wide, on black,
as (n, 3, 64, 64) in -1..1.
"""

import random

import torch
from torch import Tensor
from torch.nn import functional

from runner.engine.pictures.canny import canny
from runner.engine.tiny.pictures import as_image, as_picture


def _neighbours(mask: Tensor) -> Tensor:
    """True where one of the four neighbours is set."""
    padded = functional.pad(mask, (1, 1, 1, 1))
    beside = padded[..., 1:-1, :-2] | padded[..., 1:-1, 2:]
    return beside | padded[..., :-2, 1:-1] | padded[..., 2:, 1:-1]


def outlines(masks: Tensor, *, inner: bool = True) -> Tensor:
    """Thin borders of (n, k, 64, 64) masks, all things of a picture together: (n, 1, 64, 64)."""
    inside = masks > 0.5
    border = inside & _neighbours(~inside) if inner else ~inside & _neighbours(inside)
    return border.any(1, keepdim=True)


def drawn(edges: Tensor) -> Tensor:
    """A boolean map as a picture."""
    return edges.float().expand(-1, 3, -1, -1) * 2 - 1


def canny_of(picture: Tensor, sigma: float = 0.0) -> Tensor:
    """The program's Canny edges of one (3, 64, 64) picture."""
    return as_picture(canny(as_image(picture), sigma=sigma))


def draw_edges(rng: random.Random, masks: Tensor, pictures: Tensor) -> Tensor:
    """An edge map for each picture, its making and a shift of a pixel left to chance."""
    maps = []
    for mask, picture in zip(masks, pictures, strict=True):
        making = rng.random()
        if making < 0.4:
            edges = drawn(outlines(mask[None], inner=making < 0.25))[0]
        else:
            edges = canny_of(picture, rng.choice((0.0, 0.0, 0.8, 1.2)))
        if rng.random() < 0.15:
            edges = torch.roll(edges, (rng.randint(-1, 1), rng.randint(-1, 1)), dims=(1, 2))
        maps.append(edges)
    return torch.stack(maps)
