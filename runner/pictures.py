"""What a picture of unknown origin must be before anything is done with it: its format and size.

Only these formats are ever opened: Pillow has readers of many more, old and little looked at, and
some of them start other programs. Never writes one.
"""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

from runner.errors import InputBad
from specs.read import LFS_POINTER

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 64 * 1024 * 1024
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP")


def decoded(data: bytes, name: str = "this") -> Image:
    """The first frame of a picture, decoded whole; its `format` says what it was.

    Raises InputBad for what is damaged, of another format, or larger than MAX_PIXELS.
    """
    from PIL import Image as Pillow

    # Pillow would print a warning for what is refused below.
    warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)
    try:
        picture = Pillow.open(io.BytesIO(data), formats=FORMATS)
        if picture.width * picture.height <= MAX_PIXELS:
            picture.load()
            return picture
    except Pillow.DecompressionBombError:
        pass
    except Exception as error:  # Pillow's readers raise whatever their formats do
        if data.startswith(LFS_POINTER):
            raise InputBad(f"{name} is a pointer of Git LFS: run `git lfs pull`") from None
        raise InputBad(
            f"{name} cannot be read as a picture ({', '.join(FORMATS)}):"
            " it is damaged, incomplete or of another format"
        ) from error
    raise InputBad(f"{name} has more than {MAX_PIXELS:,} pixels: shrink it")
