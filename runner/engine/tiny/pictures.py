"""Converts images to float (3, 64, 64) and back: -1..1 for models, 0..255 for the classifier."""

import torch
from PIL import Image
from torch import Tensor

from runner.engine.tiny.world import SIDE


def as_image(picture: Tensor) -> Image.Image:
    """A (3 or 1, 64, 64) picture in -1..1 as an RGB image."""
    levels = ((picture.expand(3, -1, -1).clamp(-1, 1) + 1) * 127.5).round().byte()
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())


def as_levels(image: Image.Image) -> Tensor:
    """An image as (3, 64, 64) in 0..255."""
    flat = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
    return flat.view(SIDE, SIDE, 3).permute(2, 0, 1).float()


def as_picture(image: Image.Image) -> Tensor:
    """An image as (3, 64, 64) in -1..1."""
    return as_levels(image) / 127.5 - 1
