"""Masks say what is painted; outside of them every original pixel stays as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runner.engine.pictures import masks
from runner.errors import InputBad
from runner.task import InputImage


def mask_of(folder: Path, picture: Image.Image, size: tuple[int, int] = (64, 64)) -> Image.Image:
    picture.save(folder / "m.png")
    return masks.open_mask(InputImage(folder / "m.png"), size)


def square(mode: str, outside: object, inside: object) -> Image.Image:
    picture = Image.new(mode, (64, 64), outside)  # type: ignore[arg-type]
    picture.paste(inside, (16, 16, 48, 48))  # type: ignore[arg-type]
    return picture


@pytest.mark.parametrize(
    "picture",
    [
        square("L", 0, 255),
        square("L", 100, 140),
        square("1", 0, 1),
        square("RGB", "black", "white"),
        square("RGBA", (0, 0, 0, 255), (255, 255, 255, 255)),
        square("RGBA", (0, 0, 0, 0), (255, 255, 255, 255)),
        square("RGBA", (255, 255, 255, 0), (255, 255, 255, 255)),
        square("RGBA", (0, 0, 0, 0), (0, 0, 0, 255)),
        square("RGBA", (0, 0, 0, 0), (200, 0, 30, 255)),
        square("I;16", 0, 65535),
    ],
    ids=lambda picture: f"{picture.mode}-{picture.getpixel((32, 32))}",
)
def test_the_customs_of_drawing_a_mask_agree(tmp_path: Path, picture: Image.Image) -> None:
    mask = mask_of(tmp_path, picture)
    assert mask.getbbox() == (16, 16, 48, 48)
    assert mask.histogram()[0] + mask.histogram()[255] == 64 * 64


def test_a_black_and_white_drawing_on_a_clear_ground_is_read_by_its_white(tmp_path: Path) -> None:
    picture = square("RGBA", (0, 0, 0, 0), (255, 255, 255, 255))
    picture.paste((0, 0, 0, 255), (16, 16, 32, 48))
    assert mask_of(tmp_path, picture).getbbox() == (32, 16, 48, 48)


def test_a_mask_of_another_size_but_the_same_shape_is_scaled(tmp_path: Path) -> None:
    assert mask_of(tmp_path, square("L", 0, 255), (128, 128)).getbbox() == (32, 32, 96, 96)


def test_a_mask_of_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputBad, match="64×64 and its picture 128×64"):
        mask_of(tmp_path, square("L", 0, 255), (128, 64))


def test_a_mask_without_white_is_refused() -> None:
    with pytest.raises(InputBad, match="no white"):
        masks.refuse_empty(Image.new("L", (64, 64), 0))


def test_the_soft_edge_lies_inside_of_the_mask() -> None:
    mask = square("L", 0, 255)
    share = np.asarray(masks.soft_share(mask))
    outside = np.asarray(mask) == 0
    assert (share[outside] == 0).all()
    assert 0 < share[16, 32] < 255
    assert share[32, 32] == 255


@pytest.mark.parametrize("width", [1, 2, 3])
def test_a_thin_mask_is_still_painted_in_full(width: int) -> None:
    mask = Image.new("L", (1024, 1024), 0)
    mask.paste(255, (500, 100, 500 + width, 900))
    assert np.asarray(masks.soft_share(mask)).max() == 255


def test_a_mask_that_touches_the_border_has_no_edge_there() -> None:
    assert (np.asarray(masks.soft_share(Image.new("L", (64, 64), 255))) == 255).all()


def test_outpainting_widens_the_margins_asked_for_to_multiples_of_sixteen() -> None:
    picture = Image.new("RGB", (100, 64), "red")
    canvas, mask = masks.outpaint(picture, {"left": 10, "bottom": 16})
    assert canvas.size == mask.size == (112, 80)
    assert canvas.getpixel((12, 0)) == (255, 0, 0)
    assert canvas.getpixel((11, 0)) == (128, 128, 128)
    assert mask.point(lambda value: 255 - value).getbbox() == (12, 0, 112, 64)


def test_an_outpaint_mask_reaches_into_the_picture_by_its_soft_edge() -> None:
    _, mask = masks.outpaint(Image.new("RGB", (48, 64), "red"), {"left": 16})
    share = np.asarray(masks.soft_share(masks.grown(mask)))
    assert (share[:, :16] == 255).all()
    assert (share[:, 16:18] > 0).all()
    assert (share[:, 18:] == 0).all()


def test_a_mask_in_cells_is_white_wherever_it_was_and_nowhere_a_whole_cell_was_black() -> None:
    mask = Image.new("L", (48, 32), 0)
    mask.putpixel((17, 31), 255)
    cells = masks.whole_cells(mask, 16)
    assert cells.getbbox() == (16, 16, 32, 32)
    assert cells.mode == "L"
    assert masks.whole_cells(cells, 16).tobytes() == cells.tobytes()
