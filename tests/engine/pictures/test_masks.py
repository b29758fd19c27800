"""Masks say what is painted, as editors export them, and where a model works for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from runner.engine.models import Sizes
from runner.engine.pictures import masks
from runner.errors import InputBad
from runner.task import InputImage


def told(
    folder: Path, picture: Image.Image, *, invert: bool = False
) -> tuple[Image.Image, tuple[str, ...]]:
    """The mask and its warnings."""
    picture.save(folder / "m.png")
    return masks.open_mask(InputImage(folder / "m.png"), picture.size, invert=invert)


def mask_of(folder: Path, picture: Image.Image, size: tuple[int, int] = (64, 64)) -> Image.Image:
    picture.save(folder / "m.png")
    return masks.open_mask(InputImage(folder / "m.png"), size)[0]


def noise(side: int = 64, seed: int = 5) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(values)


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
        square("RGBA", (0, 0, 0, 40), (255, 255, 255, 40)),
        square("RGBA", (0, 0, 0, 255), (0, 0, 0, 0)),
        square("RGBA", (0, 0, 0, 255), (255, 255, 255, 60)),
        square("RGBA", (255, 255, 255, 255), (255, 255, 255, 0)),
        square("RGBA", (200, 0, 30, 255), (0, 0, 0, 0)),
        square("LA", (0, 255), (0, 0)),
        square("I;16", 0, 65535),
        square("I", 0, 255),
    ],
    ids=lambda picture: f"{picture.mode}-{picture.getpixel((0, 0))}-{picture.getpixel((32, 32))}",
)
def test_the_customs_of_drawing_a_mask_agree(tmp_path: Path, picture: Image.Image) -> None:
    picture.save(tmp_path / "m.tiff")
    mask, warnings = masks.open_mask(InputImage(tmp_path / "m.tiff"), (64, 64))
    assert len(warnings) == (picture.getpixel((0, 0)) == (255, 255, 255, 255))
    assert mask.getbbox() == (16, 16, 48, 48)
    assert mask.histogram()[0] + mask.histogram()[255] == 64 * 64


def test_a_mask_in_the_colours_of_a_printing_program_is_read(tmp_path: Path) -> None:
    """Seen red with LAB, a mode that Pillow makes no grey of."""
    for mode in ("LAB", "CMYK", "YCbCr"):
        plain = square("RGB", "black", "white")
        if mode == "LAB":
            spaces = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
            picture = ImageCms.profileToProfile(plain, *spaces, outputMode="LAB")
            assert picture is not None
        else:
            picture = plain.convert(mode)
        picture.save(tmp_path / "m.tiff")
        mask, _ = masks.open_mask(InputImage(tmp_path / "m.tiff"), (64, 64))
        assert mask.getbbox() == (16, 16, 48, 48)


def test_the_clear_hole_of_a_photo_is_painted_and_not_its_bright_parts(tmp_path: Path) -> None:
    photo = noise().convert("RGBA")
    photo.paste((9, 9, 9, 0), (16, 16, 48, 48))
    mask, warnings = told(tmp_path, photo)
    assert mask.getbbox() == (16, 16, 48, 48) and warnings == ()
    assert mask.histogram()[255] == 32 * 32


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 0, 30)])
@pytest.mark.parametrize(("outside", "inside"), [(255, 100), (255, 150), (100, 0), (230, 200)])
def test_a_hole_is_judged_in_the_range_of_its_own_transparency(
    tmp_path: Path, colour: tuple[int, int, int], outside: int, inside: int
) -> None:
    mask = mask_of(tmp_path, square("RGBA", (*colour, outside), (*colour, inside)))
    assert mask.getbbox() == (16, 16, 48, 48)


def test_transparency_that_is_only_noise_of_a_lossy_format_is_none(tmp_path: Path) -> None:
    mask = mask_of(tmp_path, square("RGBA", (0, 0, 0, 251), (255, 255, 255, 255)))
    assert mask.getbbox() == (16, 16, 48, 48)


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 0, 30)])
def test_of_a_wholly_clear_mask_everything_is_painted_and_said(
    tmp_path: Path, colour: tuple[int, int, int]
) -> None:
    mask, (warning,) = told(tmp_path, Image.new("RGBA", (64, 64), (*colour, 0)))
    assert mask.getextrema() == (255, 255) and "everything is repainted" in warning


@pytest.mark.parametrize("alpha", [100, 255])
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 0, 30)])
def test_strokes_of_any_colour_on_a_clear_ground_are_kept_and_said(
    tmp_path: Path, colour: tuple[int, int, int], alpha: int
) -> None:
    mask, (warning,) = told(tmp_path, square("RGBA", (0, 0, 0, 0), (*colour, alpha)))
    assert mask.getpixel((0, 0)) == 255 and mask.getpixel((32, 32)) == 0
    assert "on a clear ground: the clear part is repainted" in warning


def test_white_strokes_on_a_clear_ground_are_kept_and_the_way_to_paint_them_is_said(
    tmp_path: Path,
) -> None:
    strokes = square("RGBA", (0, 0, 0, 0), (255, 255, 255, 255))
    strokes.paste((0, 0, 0, 255), (16, 16, 32, 48))
    mask, (warning,) = told(tmp_path, strokes)
    assert mask.getpixel((0, 0)) == 255 and mask.getpixel((40, 40)) == 0
    assert "m.png is white on a clear ground" in warning and "`invert_mask: true`" in warning
    assert told(tmp_path, strokes, invert=True)[0].getbbox() == (16, 16, 48, 48)


def test_who_inverts_a_mask_is_not_told_to_invert_it(tmp_path: Path) -> None:
    strokes = square("RGBA", (0, 0, 0, 0), (255, 255, 255, 255))
    strokes.paste((0, 0, 0, 255), (16, 16, 32, 48))
    assert told(tmp_path, strokes)[1] and told(tmp_path, strokes, invert=True)[1] == ()


def test_an_inverted_mask_is_painted_where_it_would_be_kept(tmp_path: Path) -> None:
    plain, inverted = (told(tmp_path, square("L", 0, 255), invert=each)[0] for each in (0, 1))
    assert np.array_equal(np.asarray(inverted), 255 - np.asarray(plain))


@pytest.mark.parametrize("picture", [noise(), Image.linear_gradient("L")], ids=["photo", "soft"])
def test_a_mask_of_many_greys_warns_where_it_is_cut(tmp_path: Path, picture: Image.Image) -> None:
    mask, (warning,) = told(tmp_path, picture)
    assert "m.png has many shades between black and white" in warning
    assert set(np.unique(np.asarray(mask))) == {0, 255}


def test_a_smooth_outline_is_no_reason_to_warn(tmp_path: Path) -> None:
    from PIL import ImageDraw

    drawn = Image.new("L", (2048, 2048), 0)
    ImageDraw.Draw(drawn).ellipse((400, 300, 1700, 1600), fill=255)
    mask, warnings = told(tmp_path, drawn.resize((512, 512), Image.Resampling.LANCZOS))
    assert warnings == () and mask.getbbox() is not None


def test_a_mask_of_another_size_but_the_same_shape_is_scaled(tmp_path: Path) -> None:
    assert mask_of(tmp_path, square("L", 0, 255), (128, 128)).getbbox() == (32, 32, 96, 96)


def test_a_mask_of_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputBad, match="64×64 and its picture 128×64"):
        mask_of(tmp_path, square("L", 0, 255), (128, 64))


def test_a_mask_that_paints_nothing_is_refused_by_its_name_with_what_to_do() -> None:
    black = Image.new("L", (64, 64), 0)
    with pytest.raises(InputBad, match=r"mask m\.png .*paint it white, .* or set `invert_mask: tr"):
        masks.refuse_empty(black, "m.png")
    with pytest.raises(InputBad, match=r"mask m\.png .*black, or leave `invert_mask` out"):
        masks.refuse_empty(black, "m.png", invert=True)


def test_the_soft_edge_lies_inside_of_the_mask() -> None:
    mask = square("L", 0, 255)
    share = np.asarray(masks.soft_share(mask, mask))
    outside = np.asarray(mask) == 0
    assert (share[outside] == 0).all()
    assert 0 < share[16, 32] < 255
    assert share[32, 32] == 255


@pytest.mark.parametrize("width", [1, 2, 3])
def test_a_thin_mask_is_still_painted_in_full(width: int) -> None:
    mask = Image.new("L", (1024, 1024), 0)
    mask.paste(255, (500, 100, 500 + width, 900))
    assert np.asarray(masks.soft_share(mask, mask)).max() == 255


def test_a_mask_that_touches_the_border_has_no_edge_there() -> None:
    mask = Image.new("L", (64, 64), 255)
    assert (np.asarray(masks.soft_share(mask, mask)) == 255).all()


def test_an_edge_that_is_computed_in_a_smaller_size_stays_inside_of_the_mask() -> None:
    mask = Image.new("L", (1000, 800), 0)
    mask.paste(255, (301, 203, 803, 641))
    mask.paste(255, (10, 10, 11, 700))
    share = np.asarray(masks.soft_share(mask, masks.scaled(mask, (320, 256))))
    painted = np.asarray(mask) == 255
    assert (share[~painted] == 0).all() and share[400, 500] == 255
    assert 0 < share[400, 301] < 255 and share[400, 10] > 100


def test_outpainting_adds_the_margins_that_are_asked_for() -> None:
    picture = Image.new("RGB", (100, 64), "red")
    canvas, mask = masks.outpaint(picture, {"left": 10, "bottom": 16})
    assert canvas.size == mask.size == (110, 80)
    assert canvas.getpixel((10, 0)) == (255, 0, 0)
    assert canvas.getpixel((9, 0)) == (128, 128, 128)
    assert mask.point(lambda value: 255 - value).getbbox() == (12, 0, 110, 62)


def test_an_outpaint_mask_reaches_into_the_picture_by_its_soft_edge() -> None:
    _, mask = masks.outpaint(Image.new("RGB", (48, 64), "red"), {"left": 16})
    share = np.asarray(masks.soft_share(mask, mask))
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


def region_of(size: tuple[int, int], *boxes: tuple[int, int, int, int], **sizes: Any) -> Any:
    mask = Image.new("L", size, 0)
    for box in boxes:
        mask.paste(255, box)
    box, worked = masks.region(mask, Sizes(**sizes))
    left, top, right, bottom = box
    assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
    painted = mask.getbbox()
    assert painted and left <= painted[0] and top <= painted[1]
    assert painted[2] <= right and painted[3] <= bottom
    assert masks.scaled(mask.crop(box), worked).size == worked
    assert sizes or worked[0] * worked[1] <= 1_048_576
    return box, worked


def test_a_small_spot_of_a_large_photo_is_worked_on_pixel_by_pixel() -> None:
    assert region_of((4032, 3024), (2000, 1000, 2100, 1200)) == (
        (1538, 588, 2562, 1612), (1024, 1024)
    )  # fmt: skip
    assert region_of((4032, 3024), (0, 2950, 40, 3024)) == ((0, 2000, 1024, 3024), (1024, 1024))


def test_a_large_spot_is_worked_on_with_its_surroundings_near_a_megapixel() -> None:
    (left, top, right, bottom), (wide, high) = region_of((4032, 3024), (1000, 1000, 2000, 1800))
    assert (right - left, bottom - top) == pytest.approx((2000, 1600), abs=40)
    assert wide * high > 0.95 * 1024**2
    assert (right - left) / wide == pytest.approx((bottom - top) / high, abs=0.002)


@pytest.mark.parametrize("size", [(4032, 3024), (1000, 1000), (300, 200), (3000, 70), (70, 3000)])
def test_a_mask_over_everything_is_worked_on_whole_in_a_size_that_can_be_made(
    size: tuple[int, int],
) -> None:
    box, worked = region_of(size, (0, 0, *size))
    assert box == (0, 0, *size)
    assert Sizes().problem(*worked) is None


def test_a_photo_no_larger_than_the_model_is_not_resampled_where_the_mask_leaves_it_room() -> None:
    assert region_of((1000, 1000), (300, 300, 600, 600)) == ((0, 0, 992, 992), (992, 992))
    assert region_of((1000, 1000), (4, 300, 998, 600)) == ((0, 0, 1000, 1000), (992, 992))
    assert region_of((1000, 1000), (700, 700, 995, 995)) == ((8, 8, 1000, 1000), (992, 992))


def test_two_spots_far_apart_are_worked_on_together() -> None:
    region_of((4032, 3024), (10, 10, 40, 40), (4000, 3000, 4020, 3020))


def test_a_model_of_one_size_works_in_it() -> None:
    tiny = {"default": (64, 64), "only": ((64, 64),)}
    assert region_of((200, 100), (10, 10, 20, 30), **tiny) == ((0, 0, 64, 64), (64, 64))
    assert region_of((96, 64), (0, 0, 96, 64), **tiny) == ((0, 0, 96, 64), (64, 64))


def test_a_line_of_one_pixel_is_not_lost_where_the_region_is_scaled_down() -> None:
    mask = Image.new("L", (3000, 3000), 0)
    mask.paste(255, (10, 1501, 2990, 1502))
    box, worked = masks.region(mask, Sizes())
    assert np.asarray(masks.scaled(mask.crop(box), worked)).max(axis=0).mean() > 250


def test_a_layer_that_is_evenly_half_transparent_counts_by_its_colours(tmp_path: Path) -> None:
    """Seen red: of an opacity of 127 and 128 the dither was painted."""
    picture = square("L", 0, 255).convert("RGBA")
    alpha = Image.fromarray(np.indices((64, 64)).sum(0).astype("u1") % 2 + 127)
    picture.putalpha(alpha)
    assert mask_of(tmp_path, picture).tobytes() == square("L", 0, 255).tobytes()
