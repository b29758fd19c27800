"""What a picture of unknown origin must be before anything is done with it: its format and size.

Only these formats are ever opened: Pillow has readers of many more, old and little looked at, and
some of them start other programs. Never writes one.
"""

from __future__ import annotations

import importlib.util
import io
import warnings
from typing import TYPE_CHECKING

from runner.errors import InputBad
from specs.read import left_in_place_of

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 64 * 1024 * 1024
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")
_HEIF = b"heic heix heim heis hevc hevx hevm hevs mif1 msf1".split()
"""The brands of HEIC, the pictures of phones, which only the package pillow-heif reads."""


def decoded(data: bytes, name: str = "this") -> Image:
    """The first frame of a picture, decoded whole; its `format` says what it was.

    Raises InputBad for what is damaged, of another format, or larger than MAX_PIXELS.
    """
    from PIL import Image as Pillow

    try:
        is_heic = _phone_format(data) == "HEIC"
        if is_heic:
            importlib.import_module("pillow_heif").register_heif_opener()
        with warnings.catch_warnings():  # Pillow's, of what is refused below
            warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)
            picture = Pillow.open(io.BytesIO(data), formats=("HEIF",) if is_heic else FORMATS)
        if picture.width * picture.height <= MAX_PIXELS:
            picture.load()
            return picture
    except Pillow.DecompressionBombError:
        pass
    except Exception as error:  # Pillow's readers raise whatever their formats do
        raise InputBad(f"{name} {_instead(data)}") from error
    raise InputBad(f"{name} has more than {MAX_PIXELS:,} pixels: shrink it")


def _phone_format(data: bytes) -> str:
    """AVIF or HEIC by the brands that a file of ISO media begins with; empty for others."""
    if data[4:8] != b"ftyp":
        return ""
    return "AVIF" if b"avif" in data[8:64] else "HEIC" if data[8:12] in _HEIF else ""


def _instead(data: bytes) -> str:
    """What a file that cannot be read as a picture is instead, and what to do."""
    from PIL import features

    if (left := left_in_place_of(data)) == "LFS":
        return "is a pointer of Git LFS: run `git lfs pull`"
    if left:
        return "is a web page and no picture: save the picture that it shows"
    phone = _phone_format(data)
    if phone == "AVIF" and not features.check("avif"):
        return "is an AVIF picture, which this Pillow cannot read: save it as JPEG or PNG"
    if phone == "HEIC" and not importlib.util.find_spec("pillow_heif"):
        return "is a HEIC picture: install pillow-heif beside fluxdrop, or save it as JPEG or PNG"
    if data[:4] in (b"II*\0", b"MM\0*"):
        return "is a TIFF that is damaged or has floats of 16 or 64 bits or in colour: save a PNG"
    return (
        f"cannot be read as a picture ({', '.join(FORMATS)}):"
        " it is damaged, incomplete or of another format"
    )
