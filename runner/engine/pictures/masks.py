"""Masks for fill: white is painted anew, black stays; and the way back to the original pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from runner.engine.pictures.images import MAX_PIXELS, eight_bit, load
from runner.errors import InputBad
from runner.job import InputImage
from specs.rules import SIZE_STEP

if TYPE_CHECKING:
    from PIL.Image import Image

_SIDES = ("left", "top", "right", "bottom")


def open_mask(item: InputImage, size: tuple[int, int]) -> Image:
    """A mask as L with the values 0 and 255 only, in the size of its picture."""
    from PIL.Image import Resampling

    mask = _luminance(load(item.path))
    wide, high = size
    if abs(mask.width * high - mask.height * wide) > 0.02 * mask.height * wide:
        raise InputBad(
            f"the mask {item.path.name} is {mask.width}×{mask.height} and its picture"
            f" {wide}×{high}: give a mask of the same shape"
        )
    if mask.size != size:
        mask = mask.resize(size, Resampling.NEAREST)
    return mask.point(_threshold)


def refuse_empty(mask: Image) -> None:
    """A mask without white asks for nothing; to say so beats handing the original back."""
    if mask.getbbox() is None:
        raise InputBad("the mask has no white in it, so nothing would be painted")


def outpaint(picture: Image, margins: Mapping[str, int]) -> tuple[Image, Image]:
    """The picture on a larger canvas, and the mask of what is new.

    The margins asked for are widened until the sides are multiples of 16, so that nothing of the
    picture has to be cut off.
    """
    from PIL import Image as Pillow

    grow = {side: int(margins.get(side, 0)) for side in _SIDES}
    for first, second, length in (("right", "left", 0), ("bottom", "top", 1)):
        rest = -(picture.size[length] + grow[first] + grow[second]) % SIZE_STEP
        side = first if grow[first] else second
        if grow[side]:
            grow[side] += rest
    wide = picture.width + grow["left"] + grow["right"]
    high = picture.height + grow["top"] + grow["bottom"]
    if wide * high > MAX_PIXELS:
        raise InputBad(f"outpainted to {wide}×{high} the picture has too many pixels")
    canvas = Pillow.new("RGB", (wide, high), (128, 128, 128))
    canvas.paste(picture, (grow["left"], grow["top"]))
    mask = Pillow.new("L", (wide, high), 255)
    mask.paste(0, (grow["left"], grow["top"], wide - grow["right"], high - grow["bottom"]))
    return canvas, mask


def grown(mask: Image) -> Image:
    """An outpaint mask that reaches into the picture by the width of the soft edge.

    The edge then lies on pixels of the picture and not on the empty canvas beside them.
    """
    import numpy as np
    from PIL import Image as Pillow

    keep = 255 - np.asarray(mask)
    for _ in range(_edge(mask)):
        keep = _shrunk(keep)
    return Pillow.fromarray(255 - keep)


def whole_cells(mask: Image, cell: int) -> Image:
    """The mask grown to whole squares of `cell` pixels: each that it touches is white.

    Of a size that is a multiple of `cell`, as all sizes of models are.
    """
    import numpy as np
    from PIL import Image as Pillow

    values = np.asarray(mask)
    high, wide = (side // cell for side in values.shape)
    touched = values.reshape(high, cell, wide, cell).max(axis=(1, 3))
    return Pillow.fromarray(np.repeat(np.repeat(touched, cell, axis=0), cell, axis=1))


def soft_share(mask: Image) -> Image:
    """How much of the new picture shows: 0 outside of the mask, rising to 255 inside its edge.

    The ramp lies inside, so that outside every original pixel stays exactly as it was. A mask too
    thin for the whole ramp gets a shorter one, that reaches 255 in its middle.
    """
    import numpy as np
    from PIL import Image as Pillow

    layer = np.asarray(mask)
    total = np.zeros(layer.shape, dtype=np.uint32)
    rounds = 0
    while rounds < _edge(mask) and layer.any():
        total += layer
        layer = _shrunk(layer)
        rounds += 1
    return Pillow.fromarray((total // max(1, rounds)).astype(np.uint8))


def _edge(mask: Image) -> int:
    """The width of the soft edge in pixels: 2 at 64, 10 at 1024."""
    return max(2, min(mask.size) // 96)


def _shrunk(layer: Any) -> Any:
    """A mask less one pixel at its edge; the picture's own border is no edge."""
    import numpy as np

    padded = np.pad(layer, 1, mode="edge")
    high = np.minimum(np.minimum(padded[:-2], padded[1:-1]), padded[2:])
    return np.minimum(np.minimum(high[:, :-2], high[:, 1:-1]), high[:, 2:])


def _threshold(value: int) -> int:
    return 255 if value >= 128 else 0


def _luminance(picture: Image) -> Image:
    """What a mask says, as L.

    With transparency there are two customs: a black and white drawing on a clear ground (clear
    stays), and strokes of one colour, whatever the colour, whose opacity is the mask.
    """
    from PIL import Image as Pillow

    picture = eight_bit(picture)
    if not picture.has_transparency_data:
        return picture.convert("L")
    layered = picture.convert("RGBA")
    alpha = layered.getchannel("A")
    clear = alpha.histogram()
    strokes = layered.convert("L").histogram(alpha.point(_threshold))
    if any(clear[:128]) and sum(1 for count in strokes if count) == 1:
        return alpha
    ground = Pillow.new("RGBA", layered.size, "black")
    return Pillow.alpha_composite(ground, layered).convert("L")
