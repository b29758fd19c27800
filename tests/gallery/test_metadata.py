"""What a picture says about itself: the same in every format, as much as was allowed, and back."""

from __future__ import annotations

import io
import json
import random
from contextlib import suppress
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter
from xml.etree.ElementTree import fromstring

import pytest
from PIL import Image

from runner.errors import InputBad, UsageProblem
from runner.gallery import infotext, metadata
from runner.gallery.metadata import Format, Level, embedded, encode, read
from specs.read import read as read_spec
from specs.validate import validate
from specs.write import to_yaml
from tests.gallery.samples import HOSTILE, picture, sidecar

FORMATS: tuple[Format, ...] = ("png", "jpeg", "webp")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("prompt", ["a red fox", "ein Käse, 猫 🦊\nsecond line", *HOSTILE])
def test_the_picture_alone_gives_the_whole_sidecar_back(format: Format, prompt: str) -> None:
    told = sidecar(prompt=prompt, notes="for you", loras=[{"path": "ink.safetensors"}])
    data = encode(picture(), told, format=format)
    assert read(data) == embedded(told)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("prompt", ["a red fox", "猫 & <b>\nsecond: „line“, \u2028 🦊"])
def test_all_places_say_the_same(format: Format, prompt: str) -> None:
    told = sidecar(prompt=prompt, kind="fill")
    data = encode(picture(), told, format=format)
    with Image.open(io.BytesIO(data)) as image:
        packet = image.info["xmp"]
    texts = metadata._texts(data, "x")
    said = infotext.parse(texts["parameters" if format == "png" else "UserComment"])
    fields = {element.tag.split("}")[1]: element.text for element in fromstring(packet).iter()}
    own = json.loads(texts["fluxdrop"])
    assert said is not None
    assert said.prompt == fields["AIPromptInformation"] == fields["li"] == own["prompt"] == prompt
    assert said.pairs["Seed"] == str(own["seed"]) == "7"
    assert said.pairs["Version"] == fields["CreatorTool"] == "fluxdrop 0.1.0"
    assert fields["CreateDate"] == own["result"]["created_at"]
    assert fields["AISystemUsed"] == own["result"]["model"]["repo"]
    assert said.pairs["Model"] == "FLUX.1-dev"


def test_what_was_read_is_a_valid_spec(tmp_path: Path) -> None:
    path = tmp_path / "hero-0001.png"
    path.write_bytes(encode(picture(), sidecar(model="tiny", precision="fp32")))
    checked = validate(read_spec(to_yaml(read(path))))
    assert (checked["prompt"], checked["seed"]) == ("a red fox in the snow", 7)


def test_a_picture_never_names_its_own_hash() -> None:
    assert "sha256" not in embedded(sidecar())["result"]
    assert sidecar()["result"]["sha256"].encode() not in encode(picture(), sidecar())


@pytest.mark.parametrize("format", FORMATS)
def test_minimal_says_how_it_was_made_but_not_from_what_words(format: Format) -> None:
    data = encode(picture(), sidecar(), format=format, level="minimal")
    assert b"trainedAlgorithmicMedia" in data and b"fluxdrop 0.1.0" in data
    for private in (b"fox", b"parameters", b"28", b"FLUX.1", b"Seed", b"2026-11-23"):
        assert private not in _texts(data)
    with pytest.raises(UsageProblem, match="does not say how it was made"):
        read(data)


@pytest.mark.parametrize("format", FORMATS)
def test_none_leaves_nothing_at_all(format: Format) -> None:
    data = encode(picture(), sidecar(), format=format, level="none")
    bare = io.BytesIO()
    options: dict[Format, dict[str, Any]] = {
        "png": {"compress_level": 4},
        "jpeg": {"quality": 92, "subsampling": "4:4:4"},
        "webp": {"quality": 90, "method": 4},
    }
    picture().save(bare, format.upper(), **options[format])
    assert data == bare.getvalue()


@pytest.mark.parametrize("kind", ["fill", "kontext", "text2img"])
def test_what_keeps_part_of_a_photo_is_called_a_composite(kind: str) -> None:
    assert b"digitalsourcetype/compositeWithTrainedAlgorithmicMedia" in encode(
        picture(), sidecar(kind=kind, image="photo.png")
    )


@pytest.mark.parametrize("kind", ["text2img", "control", "redux"])
def test_what_is_new_throughout_is_called_algorithmic(kind: str) -> None:
    data = encode(picture(), sidecar(kind=kind))
    assert b"digitalsourcetype/trainedAlgorithmicMedia" in data
    assert b"composite" not in data


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("level", ["full", "minimal", "none"])
def test_the_same_pixels_and_sidecar_give_the_same_bytes(format: Format, level: Level) -> None:
    first = encode(picture(), sidecar(), format=format, level=level)
    assert first == encode(picture(), sidecar(), format=format, level=level)


def test_the_callers_own_metadata_is_not_passed_on() -> None:
    image = picture()
    image.info = {"exif": b"Exif\0\0secret place", "xmp": b"secret", "icc_profile": b"secret"}
    for format in FORMATS:
        assert encode(image, sidecar(), format=format) == encode(
            picture(), sidecar(), format=format
        )
    assert "exif" in image.info


def test_png_pixels_are_untouched_and_jpeg_takes_any_mode() -> None:
    with Image.open(io.BytesIO(encode(picture(), sidecar()))) as back:
        assert back.tobytes() == picture().tobytes()
    with Image.open(
        io.BytesIO(encode(Image.new("RGBA", (64, 64)), sidecar(), format="jpeg"))
    ) as back:
        assert back.mode == "RGB"


def test_a_jpeg_drops_notes_before_it_grows_past_its_markers() -> None:
    told = sidecar(notes="n" * 70_000, x_mine="m" * 100)
    back = read(encode(picture(), told, format="jpeg"))
    assert back == {k: v for k, v in embedded(told).items() if k not in ("notes", "x_mine")}
    huge = sidecar(tags=["t" * 100] * 800)
    assert read(encode(picture(), huge, format="jpeg"))["seed"] == 7


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a", b"not a picture", b"\x89PNG\r\n\x1a\n" + b"x" * 40]
)
def test_what_is_no_picture_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises((InputBad, UsageProblem)):
        read(data)


@pytest.mark.parametrize("format", FORMATS)
def test_a_damaged_picture_is_read_or_refused_and_nothing_else(format: Format) -> None:
    whole = encode(picture(), sidecar(), format=format)
    chance = random.Random(format)
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.randrange(1, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        if chance.random() < 0.3:
            del data[chance.randrange(len(data)) :]
        with suppress(InputBad, UsageProblem), catch_warnings():
            simplefilter("ignore")
            assert isinstance(read(bytes(data)), dict)


def test_texts_behind_the_pixels_are_found_too() -> None:
    plain = encode(picture(), sidecar(), level="none")
    full = encode(picture(), sidecar())
    texts = full[full.index(b"tEXt") - 4 : full.index(b"IDAT") - 4]
    end = plain.index(b"IEND") - 4
    assert read(plain[:end] + texts + plain[end:]) == embedded(sidecar())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match=r"gone\.png cannot be read"):
        read(tmp_path / "gone.png")


def test_a_damaged_chunk_of_ours_falls_back_to_the_text_for_everyone() -> None:
    data = encode(picture(), sidecar()).replace(b'{"schema":1', b'{"schema"=1')
    # The chunk's checksum no longer fits either; where Pillow minds, the picture is refused.
    with pytest.raises(InputBad):
        read(data)
    told = metadata._from_texts({"fluxdrop": "{broken", "parameters": _parameters(sidecar())})
    assert told is not None and told["prompt"] == "a red fox in the snow"


def _parameters(told: dict[str, Any]) -> str:
    with Image.open(io.BytesIO(encode(picture(), told))) as image:
        return str(image.text["parameters"])  # type: ignore[attr-defined]


def _texts(data: bytes) -> bytes:
    """The file without its pixels, whose bytes may spell anything."""
    with Image.open(io.BytesIO(data)) as image:
        parts = [str(getattr(image, "text", "")), str(image.info), str(dict(image.getexif()))]
    return "".join(parts).encode()


def test_a_format_that_no_spec_may_name_is_never_opened(tmp_path: Path) -> None:
    """Seen red: a PSD, and whatever else Pillow has a reader for, was opened."""
    for format in ("PPM", "TGA", "PCX", "ICO", "DDS", "SGI"):
        buffer = io.BytesIO()
        picture().convert("RGB").save(buffer, format)
        with pytest.raises(InputBad, match="not a picture that can be read"):
            read(buffer.getvalue())


def test_a_text_that_is_too_long_is_passed_over_and_the_others_are_read() -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0" + b"{" * (metadata._LONGEST_TEXT + 1)
    told = sidecar()
    packet = metadata._exif_options(told, "full", limit=None)["xmp"]
    buffer = io.BytesIO()
    picture().save(buffer, "WEBP", exif=exif.tobytes(), xmp=packet)
    assert set(metadata._texts(buffer.getvalue(), "x")) == {"fluxdrop"}
    assert read(buffer.getvalue()) == embedded(told)
