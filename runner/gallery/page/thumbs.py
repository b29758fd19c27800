"""Makes thumbnails: a small WebP file for each picture, never larger than the picture."""

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST = 256


def thumbnail(image: "Image") -> bytes:
    """The picture as WebP, at most 256 pixels on its longer side; small ones keep their size."""
    from PIL.Image import Resampling

    has_alpha = "A" in image.getbands() or "transparency" in image.info
    small = image.convert("RGBA" if has_alpha else "RGB")
    small.thumbnail((LONGEST, LONGEST), Resampling.LANCZOS)
    # Without this save() would copy the source's EXIF, ICC and XMP.
    small.info = {}
    buffer = io.BytesIO()
    # A higher method saves 3 % for three times the processor time, which rendering also needs.
    if max(small.size) <= 96:
        # The page enlarges so small a picture with hard edges, as pixel art, which would show lossy
        # colour blocks. Lossless files of that size have a few kilobytes.
        small.save(buffer, "WEBP", lossless=True, quality=0, method=1)
    else:
        small.save(buffer, "WEBP", quality=82, method=2)
    return buffer.getvalue()
