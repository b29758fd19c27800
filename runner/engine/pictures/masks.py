"""Masks for fill: what is painted, the region that a model works on, the soft edge around it.

Of a mask file with transparency that varies, what is clear is painted, whatever its colours, as
editors export a picture with a hole; of every other one, what is white. Masks are Pillow images of
mode L, or uint8 arrays (height, width), with the values 0 (stays) and 255 (painted) only.
"""

from collections.abc import Mapping
from dataclasses import replace

from PIL import Image as Pillow
from PIL import ImageChops, ImageFilter, ImageOps, ImageStat
from PIL.Image import Image, Resampling

from runner.engine.models import Sizes
from runner.engine.pictures.images import eight_bit, load, seen
from runner.errors import InputBad
from runner.pictures import MAX_PIXELS
from runner.task import InputImage

_BLACK_OR_WHITE = [0] * 128 + [255] * 128
_ANY_WHITE = [0] + [255] * 255


def open_mask(
    item: InputImage, size: tuple[int, int], *, invert: bool = False
) -> tuple[Image, tuple[str, ...]]:
    """A mask in the `size` (width, height) of its picture, and warnings; grey is cut at 128.

    Raises InputBad where its proportions are not the picture's, or as `images.load` does.
    """
    mask, warnings = _painted(load(item.path), item.path.name, invert=invert)
    wide, high = size
    if abs(mask.width * high - mask.height * wide) > 0.02 * mask.height * wide:
        raise InputBad(
            f"the mask {item.path.name} is {mask.width}×{mask.height} and its picture"
            f" {wide}×{high}: give a mask of the same shape"
        )
    if mask.size != size:
        mask = mask.resize(size, Resampling.NEAREST)
    mask = mask.point(_BLACK_OR_WHITE)
    return ImageChops.invert(mask) if invert else mask, warnings


def refuse_empty(mask: Image, name: str, *, invert: bool = False) -> None:
    """Raises InputBad for a mask that paints nothing: the result would be the original picture."""
    if mask.getbbox() is None:
        paint = "leave some of it black" if invert else "paint it white, erase more of it"
        remedy = "leave `invert_mask` out" if invert else "set `invert_mask: true`"
        raise InputBad(f"the mask {name} leaves nothing to repaint: {paint}, or {remedy}")


def cut_away(mask: Image, size: tuple[int, int]) -> tuple[str, ...]:
    """A warning where a part of what a mask paints is not seen in this size, InputBad for all."""
    kept = mask.crop(seen(mask.size, *size))
    painted, left = mask.histogram()[255], kept.histogram()[255]
    if left >= 0.9 * painted:
        return ()
    told = (
        f"{1 - left / painted:.0%} of what is to be painted lies in the part that is cut away for"
        f" {size[0]}×{size[1]}: leave `width`, `height` and `whole` out, or choose another shape"
    )
    if left:
        return (told,)
    raise InputBad(told)


def outpaint(picture: Image, margins: Mapping[str, int]) -> tuple[Image, Image]:
    """An RGB picture on a larger canvas, and the mask of the new pixels.

    The mask reaches into the picture by the width of the soft edge, which then lies on pixels of
    the picture and not on the empty canvas beside them. `margins` are pixels by side. Raises
    InputBad beyond MAX_PIXELS.
    """
    grow = [int(margins.get(side, 0)) for side in ("left", "top", "right", "bottom")]
    wide = picture.width + grow[0] + grow[2]
    high = picture.height + grow[1] + grow[3]
    if wide * high > MAX_PIXELS:
        raise InputBad(f"outpainted to {wide}×{high} the picture has too many pixels")
    canvas = Pillow.new("RGB", (wide, high), (128, 128, 128))
    canvas.paste(picture, (grow[0], grow[1]))
    mask = Pillow.new("L", (wide, high), 255)
    left, top, right, bottom = (new and new + _edge(mask) for new in grow)
    mask.paste(0, (left, top, max(left, wide - right), max(top, high - bottom)))
    return canvas, mask


def region(mask: Image, sizes: Sizes) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    """The box around what a mask paints, and the width and height in which a model works on it.

    The box is twice as wide and high as what is painted, and no smaller than the model's default
    size, as far as the picture reaches. It is scaled down to the area of that size, and up only
    where a side would be below the model's least.
    """
    left, top, right, bottom = mask.getbbox() or (0, 0, *mask.size)
    least = (right - left, bottom - top)
    box = [
        min(whole, max(2 * part, default))
        for whole, part, default in zip(mask.size, least, sizes.default, strict=True)
    ]
    area = sizes.default[0] * sizes.default[1]
    size = replace(sizes, follow=area).following(*box)
    # In the shape of that size, so that nothing is stretched, where it then still holds everything
    # and no side is below the least.
    scale = max(1.0, box[0] * box[1] / area) ** 0.5
    shaped = [min(most, round(side * scale)) for most, side in zip(box, size, strict=True)]
    if shaped[0] >= least[0] and shaped[1] >= least[1]:
        box = shaped
    x, y = (
        max(0, min((low + high - side) // 2, whole - side))
        for low, high, side, whole in zip((left, top), (right, bottom), box, mask.size, strict=True)
    )
    return (x, y, x + box[0], y + box[1]), size


def scaled(mask: Image, size: tuple[int, int]) -> Image:
    """A mask in another size, where each pixel that is painted in part is painted."""
    return mask.resize(size, Resampling.BOX).point(_ANY_WHITE)


def whole_cells(mask: Image, cell: int) -> Image:
    """The mask grown to whole squares of `cell` by `cell` pixels: each that it touches is white.

    Width and height must be multiples of `cell`, as all sizes of models are.
    """
    cells = scaled(mask, (mask.width // cell, mask.height // cell))
    return cells.resize(mask.size, Resampling.NEAREST)


def soft_share(mask: Image, worked: Image) -> Image:
    """The opacity of the new picture, mode L: 0 outside the mask, rising to 255 inside its edge.

    `worked` is the mask in the size that the model works in, where the edge is computed. The ramp
    lies inside, so that every pixel outside keeps its original value. A mask too thin for the whole
    ramp gets a shorter one, which reaches 255 in its middle.
    """
    import numpy as np

    layer, total, rounds = worked, np.zeros(worked.size[::-1], dtype=np.uint32), 0
    while rounds < _edge(worked) and layer.getbbox():
        total += np.asarray(layer)
        layer = layer.filter(ImageFilter.MinFilter(3))  # one pixel less at its edges
        rounds += 1
    share = Pillow.fromarray((total // max(1, rounds)).astype(np.uint8))
    return ImageChops.darker(share.resize(mask.size, Resampling.NEAREST), mask)


def _edge(mask: Image) -> int:
    """The width of the soft edge in pixels: 2 at a shorter side of 64, 10 at 1024."""
    return max(2, min(mask.size) // 96)


def _painted(picture: Image, name: str, *, invert: bool) -> tuple[Image, tuple[str, ...]]:
    """A mask file of any mode as L, the brighter the more it is painted, and warnings."""
    mask, said = eight_bit(picture, name)
    warnings = list(said)
    if mask.mode == "LAB":  # which Pillow makes no grey of
        mask = mask.convert("RGB")
    if mask.has_transparency_data:
        mask = mask.convert("RGBA")
        alpha = mask.getchannel("A")
        ((least, most),) = ImageStat.Stat(alpha).extrema
        if most < 16:
            if not invert:
                warnings.append(f"the mask {name} is clear everywhere: everything is repainted")
            mask = Pillow.new("L", mask.size, 255)
        elif least < min(most - 15, 240):  # less is noise of a lossy format, or of a resize
            alpha = ImageOps.autocontrast(alpha)  # of a half-transparent brush or eraser
            solid = mask.convert("L").histogram(alpha.point(_BLACK_OR_WHITE))
            what = "white" if any(solid[240:]) and not any(solid[16:240]) else "one colour"
            is_small = 2 * sum(solid) < mask.width * mask.height  # no layer with a hole
            if not invert and (what == "white" or (is_small and sum(map(bool, solid)) <= 8)):
                warnings.append(
                    f"the mask {name} is {what} on a clear ground: the clear part is repainted;"
                    f" set `invert_mask: true` if the {what.split()[-1]} is meant"
                )
            mask = ImageChops.invert(alpha)
    mask = mask.convert("L")
    greys = mask.histogram()[16:240]
    # Smooth outlines have grey too, but little of it.
    if sum(map(bool, greys)) > 8 and sum(greys) > 0.02 * mask.width * mask.height:
        warnings.append(
            f"the mask {name} has many shades between black and white: what is lighter than"
            " the middle (or more than half clear) is repainted, the rest is kept"
        )
    return mask, tuple(warnings)
