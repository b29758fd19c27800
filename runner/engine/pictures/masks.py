"""Masks for fill, where white is painted anew and black stays, and the soft edge between both.

Masks are Pillow images of mode L, or uint8 arrays (height, width), with the values 0 and 255 only.
"""

from collections.abc import Mapping

from PIL import Image as Pillow
from PIL import ImageFilter
from PIL.Image import Image, Resampling

from runner.engine.pictures.images import eight_bit, load
from runner.errors import InputBad
from runner.pictures import MAX_PIXELS
from runner.task import InputImage
from specs.rules import SIZE_STEP

_BLACK_OR_WHITE = [0] * 128 + [255] * 128


def open_mask(item: InputImage, size: tuple[int, int]) -> Image:
    """A mask in the `size` (width, height) of its picture; grey is cut at 128.

    Raises InputBad where its proportions are not the picture's, or as `images.load` does.
    """
    mask = _luminance(load(item.path))
    wide, high = size
    if abs(mask.width * high - mask.height * wide) > 0.02 * mask.height * wide:
        raise InputBad(
            f"the mask {item.path.name} is {mask.width}×{mask.height} and its picture"
            f" {wide}×{high}: give a mask of the same shape"
        )
    if mask.size != size:
        mask = mask.resize(size, Resampling.NEAREST)
    return mask.point(_BLACK_OR_WHITE)


def refuse_empty(mask: Image) -> None:
    """Raises InputBad for a mask without white: the result would be the original picture."""
    if mask.getbbox() is None:
        raise InputBad("the mask has no white in it, so nothing would be painted")


def outpaint(picture: Image, margins: Mapping[str, int]) -> tuple[Image, Image]:
    """An RGB picture on a larger canvas, and the mask of the new pixels.

    `margins` are pixels by side. They are widened until the width or height that they extend is a
    multiple of 16, so that nothing has to be cut off. Raises InputBad beyond MAX_PIXELS.
    """
    grow = {side: int(margins.get(side, 0)) for side in ("left", "top", "right", "bottom")}
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
    """An outpaint mask, grown into the picture by the width of the soft edge.

    The edge then lies on pixels of the picture and not on the empty canvas beside them.
    """
    for _ in range(_edge(mask)):
        mask = mask.filter(ImageFilter.MaxFilter(3))
    return mask


def whole_cells(mask: Image, cell: int) -> Image:
    """The mask grown to whole squares of `cell` by `cell` pixels: each that it touches is white.

    Width and height must be multiples of `cell`, as all sizes of models are.
    """
    import numpy as np

    values = np.asarray(mask)
    high, wide = (side // cell for side in values.shape)
    touched = values.reshape(high, cell, wide, cell).max(axis=(1, 3))
    return Pillow.fromarray(np.repeat(np.repeat(touched, cell, axis=0), cell, axis=1))


def soft_share(mask: Image) -> Image:
    """The opacity of the new picture, mode L: 0 outside the mask, rising to 255 inside its edge.

    The ramp lies inside, so that every pixel outside keeps its original value. A mask too thin for
    the whole ramp gets a shorter one, which reaches 255 in its middle.
    """
    import numpy as np

    layer, total, rounds = mask, np.zeros((mask.height, mask.width), dtype=np.uint32), 0
    while rounds < _edge(mask) and layer.getbbox():
        total += np.asarray(layer)
        layer = layer.filter(ImageFilter.MinFilter(3))  # one pixel less at its edges
        rounds += 1
    return Pillow.fromarray((total // max(1, rounds)).astype(np.uint8))


def _edge(mask: Image) -> int:
    """The width of the soft edge in pixels: 2 at a shorter side of 64, 10 at 1024."""
    return max(2, min(mask.size) // 96)


def _luminance(picture: Image) -> Image:
    """A mask file of any mode as L.

    Masks with transparency are of two sorts: a black and white drawing on a transparent ground,
    which counts as black, and strokes of one colour, whatever the colour, whose alpha is the mask.
    """
    picture = eight_bit(picture)
    if not picture.has_transparency_data:
        return picture.convert("L")
    layered = picture.convert("RGBA")
    alpha = layered.getchannel("A")
    opaque_greys = layered.convert("L").histogram(alpha.point(_BLACK_OR_WHITE))
    if any(alpha.histogram()[:128]) and sum(1 for count in opaque_greys if count) == 1:
        return alpha
    ground = Pillow.new("RGBA", layered.size, "black")
    return Pillow.alpha_composite(ground, layered).convert("L")
