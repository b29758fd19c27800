"""Readers that others wrote find in our pictures what the sidecar says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from runner.gallery.metadata import Format, encode
from tests.gallery.samples import picture, sidecar

FORMATS: tuple[tuple[Format, str], ...] = (("png", "png"), ("jpeg", "jpg"), ("webp", "webp"))
PROMPT = "ein Käse, „weich“: 猫 & <b>mouse</b>"


def _needed(found: object, what: str) -> None:
    if not found:
        if os.environ.get("CI"):
            pytest.fail(f"CI must have {what}")
        pytest.skip(f"{what} is not installed")


@pytest.mark.parametrize(("format", "suffix"), FORMATS)
def test_exiftool_reads_the_provenance_and_the_comment(
    tmp_path: Path, format: Format, suffix: str
) -> None:
    _needed(shutil.which("exiftool"), "exiftool (Debian: libimage-exiftool-perl)")
    said = _exiftool(
        tmp_path / f"x.{suffix}", encode(picture(), sidecar(prompt=PROMPT), format=format)
    )
    assert said["XMP-iptcExt:DigitalSourceType"] == (
        "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    )
    assert said["XMP-iptcExt:AISystemUsed"] == "black-forest-labs/FLUX.1-dev"
    assert said["XMP-iptcExt:AISystemVersionUsed"] == "0ef5fff"
    assert said["XMP-iptcExt:AIPromptInformation"] == PROMPT
    assert said["XMP-dc:Description"] == PROMPT
    assert said["XMP-dc:Subject"] == "poster"
    assert said["XMP-xmp:CreatorTool"] == "fluxdrop 0.1.0"
    assert said["XMP-xmp:CreateDate"] == "2026:11:23 08:00:01.000Z"
    text = said["PNG:Parameters" if format == "png" else "ExifIFD:UserComment"]
    assert text.startswith(PROMPT) and "Seed: 7, Size: 64x64" in text
    assert not [key for key in said if key.endswith("Warning")]


@pytest.mark.parametrize(("format", "suffix"), FORMATS)
def test_exiftool_finds_a_minimal_picture_marked_and_nothing_else(
    tmp_path: Path, format: Format, suffix: str
) -> None:
    _needed(shutil.which("exiftool"), "exiftool (Debian: libimage-exiftool-perl)")
    data = encode(picture(), sidecar(), format=format, level="minimal")
    said = _exiftool(tmp_path / f"x.{suffix}", data)
    own = {key: value for key, value in said.items() if key.startswith("XMP-")}
    assert set(own) == {"XMP-iptcExt:DigitalSourceType", "XMP-xmp:CreatorTool"}


@pytest.mark.parametrize(("format", "suffix"), FORMATS)
def test_sd_parsers_reads_the_parameters(tmp_path: Path, format: Format, suffix: str) -> None:
    _needed(find_spec("sd_parsers"), "sd-parsers (pip)")
    parsers = import_module("sd_parsers")
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(encode(picture(), sidecar(prompt=PROMPT), format=format))
    said = parsers.ParserManager().parse(path)
    assert said is not None
    (sampler,) = said.samplers
    assert [prompt.value for prompt in said.prompts] == [PROMPT]
    assert (sampler.name, sampler.parameters["seed"], sampler.parameters["steps"]) == (
        "Euler",
        "7",
        "28",
    )
    assert (sampler.model.name, sampler.model.hash) == ("FLUX.1-dev", "58725940e3")
    assert said.metadata["Distilled CFG Scale"] == "3.5"


@pytest.mark.parametrize(("format", "suffix"), FORMATS[1:])
def test_piexif_and_exiv2_read_the_comment_as_text(
    tmp_path: Path, format: Format, suffix: str
) -> None:
    """Seen red: Pillow gives the comment the type BYTE, and exiv2 showed bare numbers."""
    _needed(find_spec("piexif"), "piexif (pip)")
    _needed(shutil.which("exiv2"), "exiv2 (Debian: exiv2)")
    piexif, helper = import_module("piexif"), import_module("piexif.helper")
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(encode(picture(), sidecar(prompt=PROMPT), format=format))
    comment = piexif.load(str(path))["Exif"][piexif.ExifIFD.UserComment]
    assert helper.UserComment.load(comment).startswith(PROMPT)
    command = ["exiv2", "-K", "Exif.Photo.UserComment", "-PEyct", str(path)]
    said = subprocess.run(command, capture_output=True, check=True, timeout=30).stdout.decode()
    assert "Undefined" in said and PROMPT in said


def _exiftool(path: Path, data: bytes) -> dict[str, Any]:
    path.write_bytes(data)
    command = ["exiftool", "-json", "-a", "-G1", "-charset", "UTF8", str(path)]
    done = subprocess.run(command, capture_output=True, check=True, timeout=30)
    (said,) = json.loads(done.stdout)
    return dict(said)
