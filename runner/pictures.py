"""What a picture of unknown origin must be before anything is done with it: its format and size.

Only these formats are ever opened: Pillow has readers of many more, old and little looked at, and
some of them start other programs. Never writes one.
"""

from __future__ import annotations

import io

from runner.errors import InputBad

MAX_PIXELS = 64 * 1024 * 1024
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP")
_GIT_LFS = b"version https://git-lfs.github.com/"


def check_picture(data: bytes, name: str = "this") -> str:
    """The usual file ending of a picture that can be decoded whole. Raises InputBad for others."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            if picture.width * picture.height <= MAX_PIXELS:
                picture.load()
                return str(picture.format).lower()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        pass
    except Exception as error:  # Pillow's readers raise whatever their formats do
        if data.startswith(_GIT_LFS):
            raise InputBad(f"{name} is a pointer of Git LFS: run `git lfs pull`") from None
        raise InputBad(
            f"{name} cannot be read as a picture ({', '.join(FORMATS)}):"
            " it is damaged, incomplete or of another format"
        ) from error
    raise InputBad(f"{name} has more than {MAX_PIXELS:,} pixels: shrink it")
