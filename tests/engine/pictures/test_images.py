"""Input pictures of every mode become upright RGB, and bad ones one plain sentence."""

from __future__ import annotations

import io
import struct
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from runner.engine.models import Sizes
from runner.engine.pictures import images
from runner.errors import InputBad, InputMissing
from runner.task import InputImage


def opened(path: Path) -> Image.Image:
    return images.open_image(InputImage(path))[0]


def stored(folder: Path, picture: Image.Image, name: str = "p.png", **settings: object) -> Path:
    picture.save(folder / name, **settings)
    return folder / name


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert opened(stored(tmp_path, clear)).getpixel((0, 0)) == (255, 255, 255)
    half = Image.new("LA", (8, 8), (0, 128))
    red, green, blue = opened(stored(tmp_path, half)).getpixel((0, 0))
    assert red == green == blue == 127


def test_a_palette_with_a_transparent_colour_shows_white_there(tmp_path: Path) -> None:
    picture = Image.new("P", (8, 8), 0)
    picture.putpalette([255, 0, 0, 0, 0, 255] + [0] * 762)
    picture.paste(1, (4, 0, 8, 8))
    result = opened(stored(tmp_path, picture, transparency=0))
    assert result.getpixel((0, 0)) == (255, 255, 255)
    assert result.getpixel((7, 0)) == (0, 0, 255)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "CMYK", "YCbCr"])
def test_modes_without_transparency_become_rgb(tmp_path: Path, mode: str) -> None:
    picture = Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode)
    result = opened(stored(tmp_path, picture, "p.tiff"))
    assert result.mode == "RGB"
    assert result.getpixel((3, 3)) == (255, 255, 255)


def test_a_cmyk_jpeg_keeps_its_colours(tmp_path: Path) -> None:
    picture = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    red, green, blue = opened(stored(tmp_path, picture, "p.jpg", quality=95)).getpixel((8, 8))
    assert red > 240 and green < 15 and blue < 15


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    result = opened(stored(tmp_path, Image.fromarray(ramp)))
    assert np.array_equal(np.asarray(result)[..., 0].ravel(), np.arange(256))


def test_float_pictures_count_from_nought_to_one(tmp_path: Path) -> None:
    picture = Image.fromarray(np.full((8, 8), 0.5, dtype=np.float32))
    assert opened(stored(tmp_path, picture, "p.tiff")).getpixel((0, 0)) == (128, 128, 128)


def test_a_srgb_profile_changes_no_pixel_and_a_broken_one_neither(tmp_path: Path) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (srgb, b"no profile at all"):
        result = opened(stored(tmp_path, Image.fromarray(noise), icc_profile=profile))
        assert np.array_equal(np.asarray(result), noise)


def test_a_picture_of_another_colour_space_is_converted(tmp_path: Path) -> None:
    """The sRGB profile with red and blue exchanged, under another name."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile = profile.replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))
    profile = profile.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")
    path = stored(tmp_path, Image.new("RGB", (8, 8), "red"), icc_profile=bytes(profile))
    red, green, blue = opened(path).getpixel((0, 0))
    assert red < 10 and green < 10 and blue > 245


def profile_of(gamma: float, name: str = "sRGB but linear") -> bytes:
    """A profile with the primaries of sRGB and this gamma."""
    whole = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for n in range(int.from_bytes(whole[128:132], "big")):
        tag, at, size = struct.unpack_from(">4sII", whole, 132 + 12 * n)
        if tag in (b"rTRC", b"gTRC", b"bTRC"):
            curve = struct.pack(">4s4xHxxI", b"para", 0, round(gamma * 65536))
            whole[at : at + size] = curve.ljust(size, b"\0")
    return bytes(whole)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "P with a clear colour"])
def test_a_linear_picture_is_converted_by_its_profile_in_every_mode(
    tmp_path: Path, mode: str
) -> None:
    """Its profile still says sRGB, as those of programs that render do."""
    picture = Image.new("RGB", (8, 8), (55, 55, 55))
    picture.paste("white", (0, 0, 4, 4))
    settings: dict[str, object] = {"icc_profile": profile_of(1.0)}
    if mode == "RGBA":
        picture.putalpha(255)
        picture.paste((0, 0, 0, 0), (0, 0, 4, 4))
    elif mode != "RGB":
        picture = picture.quantize(4)
        if "clear" in mode:
            settings["transparency"] = picture.getpixel((0, 0))
    result = opened(stored(tmp_path, picture, **settings))
    assert result.getpixel((7, 7)) == (128, 128, 128)
    assert result.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("turn", range(1, 9))
def test_the_exif_orientation_is_applied(tmp_path: Path, turn: int) -> None:
    upright = Image.new("RGB", (32, 16), "white")
    upright.paste("red", (0, 0, 16, 8))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[0x0112] = turn
    seen = upright.transpose(undo[turn]) if turn in undo else upright
    result = opened(stored(tmp_path, seen, exif=exif))
    assert np.array_equal(np.asarray(result), np.asarray(upright))


def test_a_damaged_exif_block_turns_nothing(tmp_path: Path) -> None:
    path = stored(tmp_path, Image.new("RGB", (32, 16)), "p.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff")
    assert opened(path).size == (32, 16)


def test_only_the_first_frame_of_an_animation_is_read(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    path = stored(tmp_path, frames[0], "p.gif", save_all=True, append_images=frames[1:])
    assert opened(path).getpixel((0, 0)) == (255, 0, 0)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims a great size."""

    def chunk(name: bytes, body: bytes) -> bytes:
        tail = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + tail

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_000, 12_000, 60_000])
def test_a_picture_of_too_many_pixels_is_refused_unread(tmp_path: Path, side: int) -> None:
    (tmp_path / "p.png").write_bytes(bomb(side, side))
    with pytest.raises(InputBad, match="p.png has more than"):
        opened(tmp_path / "p.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "tiff", "bmp"])
def test_a_truncated_picture_is_bad_input(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = stored(tmp_path, Image.fromarray(noise), f"p.{suffix}")
    whole = path.read_bytes()
    for share in (0.02, 0.3, 0.6):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(InputBad, match="cannot be read as a picture|a TIFF that is damaged"):
            opened(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"%PDF-1.7", b"<svg/>", b"GIF89a"])
def test_what_is_no_picture_is_bad_input(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.png").write_bytes(content)
    with pytest.raises(InputBad):
        opened(tmp_path / "p.png")


def test_an_avif_picture_is_read_like_any_other(tmp_path: Path) -> None:
    red, green, blue = opened(
        stored(tmp_path, Image.new("RGB", (32, 16), (200, 30, 40)), "p.avif", quality=100)
    ).getpixel((8, 8))
    assert (red, green, blue) == pytest.approx((200, 30, 40), abs=4)


def test_an_avif_picture_that_this_pillow_cannot_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stored(tmp_path, Image.new("RGB", (32, 16)), "p.avif")
    monkeypatch.setattr("PIL.features.check", lambda name: False)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputBad, match="p.avif is an AVIF picture, which this Pillow cannot read"):
        opened(path)


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def test_a_heic_picture_is_read_where_pillow_heif_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its place stands a reader that finds a bitmap behind the first bytes."""
    import sys
    from types import SimpleNamespace

    from PIL import BmpImagePlugin

    def register_heif_opener() -> None:
        Image.register_open("HEIF", reader)

    def reader(file: object, name: str) -> Image.Image:
        file.seek(len(HEIC))  # type: ignore[attr-defined]
        return BmpImagePlugin.BmpImageFile(io.BytesIO(file.read()))  # type: ignore[attr-defined]

    stand_in = SimpleNamespace(register_heif_opener=register_heif_opener)
    monkeypatch.setitem(sys.modules, "pillow_heif", stand_in)
    monkeypatch.setitem(Image.OPEN, "HEIF", (reader, None))
    behind = io.BytesIO()
    Image.new("RGB", (8, 4), (1, 2, 3)).save(behind, "BMP")
    (tmp_path / "p.heic").write_bytes(HEIC + behind.getvalue())
    result = opened(tmp_path / "p.heic")
    assert result.size == (8, 4) and result.getpixel((0, 0)) == (1, 2, 3)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (HEIC, "p.png is a HEIC picture: install pillow-heif beside fluxdrop, or save it as"),
        (b"  <!DOCTYPE HTML>\n<html>", "p.png is a web page and no picture"),
        (b"<html lang=en>", "p.png is a web page and no picture"),
        (b"\xef\xbb\xbf<!doctype html>", "p.png is a web page and no picture"),
        (b'<?xml version="1.0"?>\n<Error>', "p.png is a web page and no picture"),
        (b"<!-- saved --><head>", "p.png is a web page and no picture"),
        (b'<?xml version="1.0"?><svg>', "p.png cannot be read as a picture"),
        *(
            (HEIC[:8] + brand + HEIC[12:], "p.png is a HEIC picture")
            for brand in (b"heim", b"heis", b"hevm", b"hevs")
        ),
        (b"version https://git-lfs.github.com/spec/v1\n", "p.png is a pointer of Git LFS: run"),
        (b"II*\0" + bytes(8), "p.png is a TIFF that is damaged or has floats of 16"),
    ],
)
def test_what_is_no_picture_is_named_as_what_it_is(
    tmp_path: Path, content: bytes, says: str
) -> None:
    (tmp_path / "p.png").write_bytes(content)
    with pytest.raises(InputBad, match=says):
        opened(tmp_path / "p.png")


def test_reading_a_picture_leaves_the_filters_of_warnings_as_they_were(tmp_path: Path) -> None:
    before = list(warnings.filters)
    opened(stored(tmp_path, Image.new("RGB", (8, 8))))
    assert warnings.filters == before


def test_32_bits_of_8_are_not_black(tmp_path: Path) -> None:
    picture = Image.fromarray(np.arange(256, dtype=np.int32).reshape(16, 16))
    result = opened(stored(tmp_path, picture, "p.tiff"))
    assert np.array_equal(np.asarray(result)[..., 0].ravel(), np.arange(256))


@pytest.mark.parametrize(
    ("values", "white", "is_told"),
    [
        (np.float32([0, 0.5, 1]), 1, False),
        (np.float32([0, 0.5, 1.0000001]), 1, False),
        (np.float32([0, 0.5, 1.02]), 1, True),
        (np.float32([0, 0.5, 4]), 1, True),
        (np.float32([0, 100, 255.5]), 255, False),
        (np.float32([0, 100, 300]), 255, True),
        (np.float32([0, 9000, 65535]), 65535, False),
        (np.int32([0, 100, 256]), 255, False),
        (np.int32([0, 100, 4000]), 4095, True),
        (np.uint16([0, 100, 255]), 255, True),
        (np.uint16([0, 900, 4095]), 4095, True),
        (np.uint16([0, 900, 4096]), 65535, False),
        (np.uint16([0, 0, 0]), 65535, False),
    ],
)
def test_the_nearest_usual_range_is_white_and_a_guess_is_told(
    tmp_path: Path, values: np.ndarray, white: float, is_told: bool
) -> None:
    path = stored(tmp_path, Image.fromarray(np.atleast_2d(values)), "p.tiff")
    picture, warnings = images.open_image(InputImage(path))
    expected = np.rint(values.clip(0, white) * (255.0 / white))
    assert np.abs(np.asarray(picture)[0, :, 0] - expected).max() <= 1
    assert bool(warnings) == is_told and all("taken for white" in each for each in warnings)


@pytest.mark.parametrize(
    ("values", "tag", "meaning"),
    [
        (np.uint16([0, 60000, 65535]), 262, 0),
        (np.uint32([2**32 - 1, 2**31, 0]).view(np.int32), 339, 1),
    ],
    ids=["white is nought", "no sign"],
)
def test_deep_greys_are_read_as_their_tags_say(
    tmp_path: Path, values: np.ndarray, tag: int, meaning: int
) -> None:
    path = stored(tmp_path, Image.fromarray(np.atleast_2d(values)), "p.tiff")
    data = bytearray(path.read_bytes())
    entry = data.index(struct.pack("<HHI", tag, 3, 1))
    data[entry + 8 : entry + 12] = struct.pack("<I", meaning)
    path.write_bytes(data)
    greys = np.asarray(opened(path))[0, :, 0].tolist()
    assert greys == [255, 128 if tag == 339 else 22, 0]


def test_the_memory_that_16_bits_take_is_bounded() -> None:
    deep = Image.fromarray(np.full((1000, 1000), 40_000, np.uint16))
    tracemalloc.start()
    try:
        images.eight_bit(deep, "deep.png")
        assert tracemalloc.get_traced_memory()[1] < 10_000_000, "ten bytes for each pixel"
    finally:
        tracemalloc.stop()


def test_a_missing_picture_is_missing_input(tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match=r"^gone\.png is not there"):
        opened(tmp_path / "gone.png")


def test_fitting_cuts_a_small_remainder_without_touching_a_pixel() -> None:
    noise = np.random.default_rng(2).integers(0, 256, (70, 79, 3), dtype=np.uint8)
    result = images.fit(Image.fromarray(noise), 64, 64)
    assert np.array_equal(np.asarray(result), noise[3:67, 7:71])


@pytest.mark.parametrize("size", [(200, 100), (100, 200), (33, 20), (640, 640)])
def test_fitting_never_stretches(size: tuple[int, int]) -> None:
    picture = Image.new("L", size, 0)
    side = min(size) // 2
    x, y = (size[0] - side) // 2, (size[1] - side) // 2
    picture.paste(255, (x, y, x + side, y + side))
    left, top, right, bottom = images.fit(picture, 64, 64).getbbox() or (0, 0, 0, 0)
    assert abs((right - left) - (bottom - top)) <= 2


@pytest.mark.parametrize(
    ("count", "shape", "area"),
    [
        (4, (1600, 900), 2048 * 2048),  # so wide a row that its height has to give
        (4, (1600, 400), 64 * 64),  # so small an area that the row would be 16 high
        (2, (250, 1000), 64 * 64),
        (3, (800, 600), 1024 * 1024),
    ],
)
def test_a_row_of_pictures_shows_each_of_them_whole(
    count: int, shape: tuple[int, int], area: int
) -> None:
    pictures = [Image.new("RGB", shape, (60 * n + 60, 0, 0)) for n in range(count)]
    row = np.asarray(images.side_by_side(pictures, area))[:, :, 0]
    high, wide = row.shape
    assert 64 <= min(row.shape) and max(row.shape) <= 4096
    shown = [np.count_nonzero(row[high // 2] == 60 * n + 60) for n in range(count)]
    assert sum(shown) == wide
    for each in shown:  # 16 are cut at most, from both ends together
        assert abs(each - high * shape[0] / shape[1]) <= 16 * shape[0] / shape[1] + 16


def test_a_lone_side_takes_the_other_from_the_picture() -> None:
    assert images.target_size((200, 100), 512, None, Sizes()) == (512, 256)
    assert images.target_size((200, 100), None, 512, Sizes()) == (1024, 512)
    assert images.target_size((200, 100), 64, 80, Sizes()) == (64, 80)


def test_a_side_that_follows_into_a_size_that_cannot_be_made_is_told_with_both_sides() -> None:
    sizes = Sizes(pixels=1_048_576)
    assert images.target_size((100, 100), 1024, None, sizes) == (1024, 1024)
    with pytest.raises(InputBad, match="1024×2048; the model makes at most 1,048,576 pixels"):
        images.target_size((100, 200), 1024, None, sizes)
