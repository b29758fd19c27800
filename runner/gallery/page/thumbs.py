"""Thumbnails: one small WebP for each picture, never larger than the picture itself."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST = 256
# Below this side a picture is pixel art to the eye: the page enlarges it crisply, so lossy
# colour blocks would show. Lossless costs at most a few kilobytes there.
LOSSLESS_UP_TO = 96


def thumbnail(image: Image) -> bytes:
    """The picture as WebP, at most 256 pixels on its longer side; small ones keep their size."""
    from PIL.Image import Resampling

    has_alpha = "A" in image.getbands() or "transparency" in image.info
    small = image.convert("RGBA" if has_alpha else "RGB")
    small.thumbnail((LONGEST, LONGEST), Resampling.LANCZOS)
    # The source's own EXIF, ICC and XMP would be carried along by save().
    small.info = {}
    buffer = io.BytesIO()
    # More effort would save 3 % for three times the processor, which the pipeline wants too.
    if max(small.size) <= LOSSLESS_UP_TO:
        small.save(buffer, "WEBP", lossless=True, quality=0, method=1)
    else:
        small.save(buffer, "WEBP", quality=82, method=2)
    return buffer.getvalue()
