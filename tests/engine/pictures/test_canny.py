"""The one Canny function draws thin, connected lines, whatever the picture's polarity."""

from __future__ import annotations

import hashlib

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from runner.engine.pictures.canny import canny


def drawn() -> Image.Image:
    picture = Image.new("RGB", (96, 80), (200, 220, 240))
    pen = ImageDraw.Draw(picture)
    pen.ellipse((10, 10, 50, 50), fill=(180, 20, 20))
    pen.polygon([(60, 70), (75, 30), (90, 70)], fill=(20, 20, 180))
    return picture


def white(edges: Image.Image) -> np.ndarray:
    assert edges.mode == "RGB"
    assert set(np.unique(np.asarray(edges))) <= {0, 255}
    return np.asarray(edges)[..., 0] > 0


def test_a_flat_picture_has_no_edges() -> None:
    assert not white(canny(Image.new("RGB", (64, 48), "red"))).any()


def test_a_straight_border_is_one_pixel_wide_and_unbroken() -> None:
    picture = Image.new("RGB", (64, 64), "black")
    picture.paste("white", (32, 0, 64, 64))
    edges = white(canny(picture))
    assert (edges.sum(axis=1) == 1).all()
    assert edges[:, 31:33].any(axis=1).all()


def test_an_inverted_picture_has_the_same_edges() -> None:
    there, back = canny(drawn()), canny(ImageChops.invert(drawn()))
    assert np.array_equal(white(there), white(back))


def test_weak_edges_stay_only_where_they_touch_strong_ones() -> None:
    levels = np.zeros((64, 64), dtype=np.uint8)
    levels[:, 32:] = np.linspace(15, 100, 64).astype(np.uint8)[:, None]  # one edge, ever stronger
    levels[20:30, 4:14] = 20  # weak all around
    edges = white(canny(Image.fromarray(levels)))
    assert edges[:, 30:34].any(axis=1)[5:].all()
    assert not edges[:, :20].any()


def test_colour_alone_makes_an_edge() -> None:
    picture = Image.new("RGB", (64, 64), (255, 0, 0))
    picture.paste((0, 76 * 2, 0), (32, 0, 64, 64))
    assert white(canny(picture))[:, 30:34].any(axis=1).all()


def test_the_map_is_that_of_opencv() -> None:
    """OpenCV 5.0.0 gave these for `cv2.Canny(picture, 50, 200)`."""
    y, x = np.mgrid[0:80, 0:96]
    disc = ((x - 48) ** 2 + (y - 40) ** 2 < 900) * 180
    layers = [(x * x + y * y) // 40 % 256, (3 * x + y * y // 9) % 256, disc]
    edges = white(canny(Image.fromarray(np.stack(layers, axis=2).astype(np.uint8))))
    assert edges.sum() == 789
    expected = "7455e6739c826f08fcd41d0b2aab5efbac41ecf3f195f33110e18cc3e873fcb4"
    assert hashlib.sha256(np.packbits(edges).tobytes()).hexdigest() == expected
