"""Input pictures: opened safely, converted to plain RGB, fitted to a size without stretching.

Size policy: where a spec names a size, the picture is scaled to cover it and its middle is cut
out. Where the size follows the picture, it is floored to multiples of 16 and the remainder is cut
off on both sides, so that no pixel is resampled; beyond the model's bounds it is scaled down.
"""

import io
from collections.abc import Mapping, Sequence
from itertools import chain, product
from pathlib import Path
from typing import Any

from PIL import Image as Pillow
from PIL import ImageCms, ImageOps
from PIL.Image import Image, Resampling

from runner.engine.models import Sizes
from runner.errors import InputBad, InputMissing
from runner.pictures import decoded
from runner.task import InputImage
from specs.rules import LARGEST_SIDE, SIZE_STEP, SMALLEST_SIDE

_BEYOND = {1.0: 16.0, 255.0: 1.5, 65535.0: 256.0, 2.0**32: float("inf")}
"""How far the lights of a picture may lie beyond its white; nothing else is in between."""
_COLOURS = bytes(chain.from_iterable(product(range(0, 256, 51), repeat=3)))
_LITTLE_CUT = 0.02


def open_image(item: InputImage) -> tuple[Image, tuple[str, ...]]:
    """The first frame of a picture as RGB: upright, over white where it is clear; and warnings."""
    return to_rgb(load(item.path), item.path.name)


def open_erased(item: InputImage) -> tuple[Image, tuple[str, ...]]:
    """The same, in the colours that an eraser left below what is clear; over white if it is one."""
    picture = load(item.path)
    if picture.mode in ("RGBA", "LA"):
        clear = picture.getchannel("A").point([255, *[0] * 255])
        shades = [sum(map(bool, band.histogram(clear))) for band in picture.split()[:-1]]
        if max(shades) != 1:
            picture = picture.convert("RGB")
    return to_rgb(picture, item.path.name)


def open_references(
    items: Sequence[InputImage], sizes: Sizes
) -> tuple[tuple[Image, ...], tuple[str, ...]]:
    """The same of each of a job. Raises InputBad where the model cannot read one's size."""
    pictures, warnings = zip(*map(open_image, items), strict=True)
    for item, (wide, high) in zip(items, (each.size for each in pictures), strict=True):
        if problem := sizes.reading_problem(wide, high):
            raise InputBad(
                f"the model {problem}, and {item.path.name} is {wide}×{high}: crop or enlarge it"
            )
    return pictures, tuple(chain.from_iterable(warnings))


def load(path: Path) -> Image:
    """A picture in the mode that it is stored in, fully decoded, its EXIF orientation applied.

    Raises InputMissing where there is no file, and InputBad for one that is damaged, of another
    format, or larger than MAX_PIXELS.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InputMissing(f"{path.name} is not there: drop the job again") from error
    except OSError as error:
        raise InputBad(f"{path.name} cannot be read: {error.strerror}") from error
    found = decoded(data, path.name)
    return _by_tags(upright(found), getattr(found, "tag_v2", {}))


def _by_tags(picture: Image, tags: Mapping[int, Any]) -> Image:
    """What a TIFF's tags say of its deep greys, and Pillow ignores: dark is high, or no sign."""
    import numpy as np

    if picture.mode.startswith("I;16") and tags.get(262) == 0:
        return Pillow.fromarray(65535 - np.array(picture, np.uint16))
    if picture.mode == "I" and tags.get(258) == (32,) and tags.get(339, (1,)) == (1,):
        return Pillow.fromarray(np.array(picture).view(np.uint32).astype(np.float32))
    return picture


def upright(picture: Image) -> Image:
    """A copy of the picture, rotated as its EXIF says; a damaged EXIF block rotates nothing."""
    try:
        # Without `in_place` this is always a copy.
        return ImageOps.exif_transpose(picture)
    except Exception:  # noqa: BLE001 Pillow raises whatever its formats do
        return picture.copy()


def to_rgb(picture: Image, name: str) -> tuple[Image, tuple[str, ...]]:
    """A picture of any mode as RGB, over white where it is transparent, with warnings."""
    picture, warnings = eight_bit(picture, name)
    picture = standard_colours(picture)
    if picture.has_transparency_data:
        layered = picture.convert("RGBA")
        white = Pillow.new("RGBA", layered.size, "white")
        picture = Pillow.alpha_composite(white, layered)
    return picture if picture.mode == "RGB" else picture.convert("RGB"), warnings


def standard_colours(picture: Image) -> Image:
    """A picture with another colour profile than sRGB (a phone's, a printer's) as sRGB.

    One in sRGB is returned as it is: a conversion would round. Some colours tell, for a linear one
    may have that name too. A profile that cannot be read is ignored, as viewers do.
    """
    profile = picture.info.get("icc_profile")
    if not profile or picture.mode not in {"RGB", "RGBA", "P", "PA", "CMYK"}:
        return picture
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        standard, mode = ImageCms.createProfile("sRGB"), "RGB"
        if picture.mode != "CMYK":
            probe = Pillow.frombytes("RGB", (len(_COLOURS) // 3, 1), _COLOURS)
            ImageCms.profileToProfile(probe, own, standard, inPlace=True)
            if max(abs(a - b) for a, b in zip(_COLOURS, probe.tobytes(), strict=True)) <= 2:
                return picture
            mode = "RGBA" if picture.has_transparency_data else "RGB"
            picture = picture if picture.mode == mode else picture.convert(mode)
        return ImageCms.profileToProfile(picture, own, standard, outputMode=mode) or picture
    except Exception:  # noqa: BLE001 as above
        return picture


def open_depth_map(item: InputImage) -> tuple[Image, tuple[str, ...]]:
    """A ready depth map, of any unit and range, as RGB; a warning where it had to be spread.

    Infinity counts as farthest.
    """
    picture, name = load(item.path), item.path.name
    values = _deep(picture, name, infinite=True)
    if values is None:
        return to_rgb(picture, name)
    low, high = float(values.min()), float(values.max())
    spread = _spread(values, low, high).convert("RGB")
    if (low, high) in ((0, 1), (0, 255), (0, 65535)):
        return spread, ()
    return spread, (
        f"{name} has depths from {low:g} to {high:g}, which were spread from black to"
        " white: if its small values are the near ones, invert it, for near is white",
    )


def eight_bit(picture: Image, name: str) -> tuple[Image, tuple[str, ...]]:
    """Pictures of more bits as L, the nearest usual white being 255, and a warning of a guess."""
    values = _deep(picture, name)
    if values is None:
        return picture, ()
    most, is_deep = float(values.max()), picture.mode not in ("F", "I")
    tops = (1.0, 255.0, 4095.0, 65535.0, 2.0**32)[picture.mode != "F" :]
    top = next(top for top in tops if most <= top * _BEYOND.get(top, 1.0))
    is_guess = most > 1.01 * top or top == 4095 or (is_deep and 0 < most <= 255)
    told = f"{name} has values up to {most:g}, of which {top:g} was taken for white"
    return _spread(values, 0.0, top), (told,) if is_guess else ()


def _deep(picture: Image, name: str, *, infinite: bool = False) -> Any:
    """The values of a picture of more than 8 bits in float32, of others None.

    With `infinite` infinity becomes the least of them.
    """
    import numpy as np

    if not (picture.mode.startswith("I") or picture.mode == "F"):
        return None
    values = np.array(picture, dtype=np.float32)
    if infinite:
        values[np.isinf(values)] = values.min(where=np.isfinite(values), initial=np.inf)
    if not np.isfinite(values).all():
        raise InputBad(f"{name} has values that are no numbers (NaN or infinite)")
    return values


def _spread(values: Any, low: float, high: float) -> Image:
    """These float32 values as L, from 0 for `low` to 255 for `high`; they are written over."""
    import numpy as np

    # In place: a picture may have 64 million of them.
    values -= low
    values *= 255.0 / ((high - low) or 1.0)
    return Pillow.fromarray(np.rint(values.clip(0.0, 255.0, out=values), out=values).astype("u1"))


def target_size(
    picture: tuple[int, int], width: int | None, height: int | None, sizes: Sizes
) -> tuple[int, int]:
    """The width and height to make: those given; one alone gets the other in proportion.

    `picture` is the width and height of the input. Raises InputBad where the model cannot make the
    size that follows from one side.
    """
    wide, high = picture
    if width and height:
        return width, height
    if sizes.only or not (width or height):
        return sizes.following(wide, high)
    height = height or sizes.side((width or 0) * high / wide)
    size = (width or sizes.side(height * wide / high), height)
    problem = sizes.problem(*size)
    if problem:
        raise InputBad(
            f"from a picture of {wide}×{high} this size follows: {size[0]}×{size[1]}; the model"
            f" {problem}: give both sides, or a smaller one"
        )
    return size


def on_grid(picture: Image, width: int, height: int) -> Image:
    """The picture fitted to this size where that cuts off less than 16 pixels, else unchanged.

    A model compares a reference and its edit by their places, so both need pixels of one size.
    """
    scale = max(width / picture.width, height / picture.height)
    cut = max(picture.width * scale - width, picture.height * scale - height)
    return fit(picture, width, height) if cut < SIZE_STEP else picture


def shrunk(picture: Image, area: int) -> Image:
    """The picture scaled down to at most this area, its sides cut to multiples of 16."""
    scale = min(1.0, (area / (picture.width * picture.height)) ** 0.5)
    sides = (int(side * scale + 1e-6) // SIZE_STEP * SIZE_STEP for side in picture.size)
    return fit(picture, *(max(SIZE_STEP, side) for side in sides))


def side_by_side(pictures: Sequence[Image], area: int) -> Image:
    """The pictures whole in a row, all of one height, of about `area` pixels where sides allow."""
    aspect = sum(each.width / each.height for each in pictures)
    high = min((area / aspect) ** 0.5, LARGEST_SIDE, LARGEST_SIDE / aspect)
    high = max(high, SMALLEST_SIDE, SMALLEST_SIDE / aspect)
    row = [
        each.resize((round(high * each.width / each.height), round(high)), Resampling.LANCZOS)
        for each in pictures
    ]
    joined = Pillow.new("RGB", (sum(each.width for each in row), round(high)))
    left = 0
    for each in row:
        joined.paste(each, (left, 0))
        left += each.width
    return fit(joined, Sizes().side(joined.width), Sizes().side(joined.height))


def cut_warning(name: str, picture: Image, width: int, height: int) -> tuple[str, ...]:
    """A sentence where `fit` cuts more than a fiftieth of a side off a picture; () elsewhere."""
    wide, high = picture.size
    left, top, right, bottom = seen(picture.size, width, height)
    cuts = {"width": 1 - (right - left) / wide, "height": 1 - (bottom - top) / high}
    side = max(cuts, key=cuts.__getitem__)
    told = f"{name} is {wide}×{high}: {min(cuts[side], 0.99):.0%} of its {side} was cut off for"
    return (f"{told} {width}×{height}",) if cuts[side] > _LITTLE_CUT else ()


def fit(picture: Image, width: int, height: int) -> Image:
    """The middle of a picture, scaled to cover exactly this size; masks keep their two values."""
    box = seen(picture.size, width, height)
    if all(isinstance(side, int) for side in box):
        return picture.crop(box)
    method = Resampling.NEAREST if picture.mode == "L" else Resampling.LANCZOS
    return picture.resize((width, height), method, box=box)


def seen(picture: tuple[int, int], width: int, height: int) -> tuple[float, float, float, float]:
    """The box of a picture that `fit` shows; at most 15 pixels more are cropped, not resampled."""
    wide, high = picture
    left, top = wide - width, high - height
    if 0 <= left < SIZE_STEP and 0 <= top < SIZE_STEP:
        return left // 2, top // 2, left // 2 + width, top // 2 + height
    scale = max(width / wide, height / high)
    inner_wide, inner_high = min(wide, width / scale), min(high, height / scale)
    x, y = (wide - inner_wide) / 2, (high - inner_high) / 2
    return x, y, x + inner_wide, y + inner_high
