"""Thumbnails: small, never enlarged, and nothing of the source's own metadata in them."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from runner.gallery.page.thumbs import thumbnail
from tests.gallery.samples import picture


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1024, 1024), (256, 256)),
        ((1024, 512), (256, 128)),
        ((64, 64), (64, 64)),
        ((16, 4096), (1, 256)),
    ],
)
def test_a_thumbnail_fits_256_pixels_and_small_pictures_keep_their_size(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    with Image.open(io.BytesIO(thumbnail(picture(size)))) as small:
        assert (small.format, small.size) == ("WEBP", expected)


def test_a_tiny_picture_keeps_every_pixel() -> None:
    image = picture()
    with Image.open(io.BytesIO(thumbnail(image))) as small:
        assert small.convert("RGB").tobytes() == image.tobytes()


def test_transparency_and_odd_modes_survive() -> None:
    for mode, expected in (("RGBA", "RGBA"), ("L", "RGB"), ("P", "RGB"), ("CMYK", "RGB")):
        image = Image.new(mode, (300, 300))
        with Image.open(io.BytesIO(thumbnail(image))) as small:
            assert small.mode == expected


def test_the_sources_own_metadata_stays_behind() -> None:
    image = picture((300, 300))
    image.info = {"exif": b"Exif\0\0secret place", "xmp": b"secret place", "icc_profile": b"x"}
    assert b"secret" not in thumbnail(image)
    assert image.info["xmp"] == b"secret place"
