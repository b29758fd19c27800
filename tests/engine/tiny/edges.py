"""Makes edge maps for training and measuring `control`: true outlines, and fluxdrop's Canny edges.

Users submit either, so the model must follow both. Maps are (n, 3, 64, 64) float tensors in -1..1:
white lines, one pixel wide, on black.
"""

import random

import torch
from PIL import ImageFilter
from torch import Tensor
from torch.nn import functional

from runner.engine.pictures.canny import canny
from tests.engine.tiny.render import as_image, as_picture


def _neighbours(mask: Tensor) -> Tensor:
    """True where one of the four neighbours is set: boolean (…, 64, 64) to the same shape."""
    padded = functional.pad(mask, (1, 1, 1, 1))
    beside = padded[..., 1:-1, :-2] | padded[..., 1:-1, 2:]
    return beside | padded[..., :-2, 1:-1] | padded[..., 2:, 1:-1]


def outlines(masks: Tensor, *, inner: bool = True) -> Tensor:
    """Borders, one pixel wide, of (n, k, 64, 64) masks: boolean (n, 1, 64, 64).

    The borders of all k things are in one map, just inside the things or, without `inner`, outside.
    """
    inside = masks > 0.5
    border = inside & _neighbours(~inside) if inner else ~inside & _neighbours(inside)
    return border.any(1, keepdim=True)


def drawn(edges: Tensor) -> Tensor:
    """A boolean (n, 1, 64, 64) map as (n, 3, 64, 64) pictures in -1..1."""
    return edges.float().expand(-1, 3, -1, -1) * 2 - 1


def canny_of(picture: Tensor, sigma: float = 0.0) -> Tensor:
    """The Canny edges of one (3, 64, 64) picture in -1..1, in the same form; `sigma` in pixels."""
    image = as_image(picture)
    return as_picture(canny(image.filter(ImageFilter.GaussianBlur(sigma)) if sigma else image))


def draw_edges(rng: random.Random, masks: Tensor, pictures: Tensor) -> Tensor:
    """An edge map of a random sort for each picture, some shifted by a pixel.

    `masks` are (n, k, 64, 64), `pictures` and the maps (n, 3, 64, 64).
    """
    maps = []
    for mask, picture in zip(masks, pictures, strict=True):
        sort = rng.random()
        if sort < 0.4:
            edges = drawn(outlines(mask[None], inner=sort < 0.25))[0]
        else:
            edges = canny_of(picture, rng.choice((0.0, 0.0, 0.8, 1.2)))
        if rng.random() < 0.15:
            edges = torch.roll(edges, (rng.randint(-1, 1), rng.randint(-1, 1)), dims=(1, 2))
        maps.append(edges)
    return torch.stack(maps)
