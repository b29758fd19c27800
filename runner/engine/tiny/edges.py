"""Edge maps to train and measure `control` with: true outlines and Canny-like edges.

Users bring either, so the model must follow both. Maps are white lines, one pixel wide, on black,
as (n, 3, 64, 64) in -1..1. The program's own Canny lives elsewhere; this one works on whole
batches.
"""

import math
import random

import torch
from torch import Tensor
from torch.nn import functional


def _neighbours(mask: Tensor) -> Tensor:
    """True where one of the four neighbours is set."""
    padded = functional.pad(mask, (1, 1, 1, 1))
    return (
        padded[..., :-2, 1:-1] | padded[..., 2:, 1:-1] | padded[..., 1:-1, :-2] | padded[..., 1:-1, 2:]
    )


def outlines(masks: Tensor, *, inner: bool = True) -> Tensor:
    """The thin borders of (n, k, 64, 64) masks, all things of a picture together: (n, 1, 64, 64)."""
    inside = masks > 0.5
    border = inside & _neighbours(~inside) if inner else ~inside & _neighbours(inside)
    return border.any(1, keepdim=True)


def canny_like(grey: Tensor, sigma: float = 1.0, threshold: float = 0.25) -> Tensor:
    """Thinned edges of (n, 1, 64, 64) grey pictures in 0..1: blur, gradient, keep the crests."""
    reach = math.ceil(3 * sigma)
    bell = torch.exp(-(torch.arange(-reach, reach + 1, device=grey.device) ** 2) / (2 * sigma**2))
    bell = (bell / bell.sum()).to(grey.dtype)
    blurred = functional.pad(grey, (reach,) * 4, mode="replicate")
    blurred = functional.conv2d(blurred, bell.view(1, 1, -1, 1))
    blurred = functional.conv2d(blurred, bell.view(1, 1, 1, -1))
    around = functional.pad(blurred, (1, 1, 1, 1), mode="replicate")
    kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=grey.device) / 4
    gradient = functional.conv2d(around, torch.stack([kernel, kernel.T])[:, None])
    size = gradient.norm(dim=1, keepdim=True)
    octant = torch.round(torch.atan2(gradient[:, 1:], gradient[:, :1]) * 4 / math.pi) % 4
    padded = functional.pad(size, (1, 1, 1, 1))
    crest = torch.zeros_like(size, dtype=torch.bool)
    for number, (dx, dy) in enumerate(((1, 0), (1, 1), (0, 1), (-1, 1))):
        side = size.shape[-1]
        ahead = padded[..., 1 + dy : 1 + dy + side, 1 + dx : 1 + dx + side]
        behind = padded[..., 1 - dy : 1 - dy + side, 1 - dx : 1 - dx + side]
        crest |= (octant == number) & (size >= ahead) & (size > behind)
    strong = size > threshold * size.amax(dim=(2, 3), keepdim=True).clamp(min=1e-3)
    return crest & strong


def as_picture(edges: Tensor) -> Tensor:
    """A boolean map as a picture."""
    return edges.float().expand(-1, 3, -1, -1) * 2 - 1


def draw_edges(rng: random.Random, masks: Tensor) -> Tensor:
    """An edge map for (n, k, 64, 64) masks, of a randomly chosen making for the whole batch."""
    making = rng.random()
    if making < 0.25:
        edges = outlines(masks, inner=True)
    elif making < 0.4:
        edges = outlines(masks, inner=False)
    else:
        edges = canny_like(masks.amax(1, keepdim=True), rng.uniform(0.6, 1.4))
    if rng.random() < 0.15:
        edges = torch.roll(edges, (rng.randint(-1, 1), rng.randint(-1, 1)), dims=(2, 3))
    return as_picture(edges)
