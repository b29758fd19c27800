"""The picture's file bytes with its settings inside, all from one source: the sidecar.

    place                    png                       jpeg, webp
    `parameters` (Forge)     text chunk `parameters`   EXIF UserComment
    our whole spec, JSON     iTXt chunk `fluxdrop`     XMP `fluxdrop:spec`
    how it was made (IPTC)   iTXt `XML:com.adobe.xmp`  XMP

`minimal` keeps the last row without the prompt, `none` keeps nothing. The same pixels and sidecar
give the same bytes. The file's own hash cannot stand inside the file, so it is left out.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from struct import error as StructError
from typing import TYPE_CHECKING, Any, Literal

from runner.errors import InputBad, UsageProblem
from runner.gallery import foreign, infotext, xmp
from runner.gallery.formatting import made_with, mapping, printable

if TYPE_CHECKING:
    from PIL.Image import Image

Format = Literal["png", "jpeg", "webp"]
Level = Literal["full", "minimal", "none"]

CHUNK = "fluxdrop"
_XMP_CHUNK = "XML:com.adobe.xmp"
_EXIF_IFD, _USER_COMMENT, _SOFTWARE = 0x8769, 0x9286, 0x0131
_UNICODE, _ASCII = b"UNICODE\0", b"ASCII\0\0\0"
# Measured on 1024² with Pillow's zlib-ng: noise takes the same time at every level and does not
# shrink; a photo is 12 % smaller from level 4 on, and no smaller at 6 or 9.
_PNG_LEVEL = 4
# What Pillow lets through from a file that is damaged in the wrong place.
_UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    LookupError,
    ArithmeticError,
    StructError,
)
# A JPEG marker holds 65,533 bytes, the name of the packet included.
_JPEG_SEGMENT = 65_000


def encode(
    image: Image,
    sidecar: Mapping[str, Any],
    *,
    format: Format = "png",
    quality: int | None = None,
    level: Level = "full",
) -> bytes:
    """The picture as a file of that format, with as much of its history as `level` lets out."""
    plain = image.convert("RGB") if format == "jpeg" and image.mode != "RGB" else image.copy()
    # What the picture was loaded with (a caller's EXIF, a profile) is not ours to publish.
    plain.info = {}
    buffer = io.BytesIO()
    if format == "png":
        plain.save(buffer, "PNG", compress_level=_PNG_LEVEL, **_png_places(sidecar, level))
    elif format == "jpeg":
        chosen = 92 if quality is None else quality
        # Colour at half resolution is what makes red edges crawl; only small files need it.
        sampling = "4:4:4" if chosen >= 90 else "4:2:0"
        places = _exif_places(sidecar, level, limit=_JPEG_SEGMENT)
        plain.save(buffer, "JPEG", quality=chosen, subsampling=sampling, **places)
    else:
        chosen = 90 if quality is None else quality
        places = _exif_places(sidecar, level, limit=None)
        plain.save(buffer, "WEBP", quality=chosen, method=4, **places)
    return buffer.getvalue()


def read(picture: bytes | Path) -> dict[str, Any]:
    """The spec that made a picture (or mflux's sidecar of one), ours first, then what others wrote.

    Raises UsageProblem where it tells nothing, InputBad where it is no picture at all.
    """
    name = picture.name if isinstance(picture, Path) else "this picture"
    try:
        data = picture.read_bytes() if isinstance(picture, Path) else picture
    except OSError as exc:
        raise UsageProblem(f"{name} cannot be read: {exc.strerror}.") from exc
    if data.lstrip()[:1] == b"{":
        found = _from_json(data.decode("utf-8", "replace"))
    else:
        found = _from_texts(_texts(data, name))
    if found is None:
        raise UsageProblem(
            f"{name} does not say how it was made; submit its sidecar (.json) instead, "
            "or write a spec."
        )
    return found


def embedded(sidecar: Mapping[str, Any]) -> dict[str, Any]:
    """The sidecar as it stands inside the picture: without the file's own hash."""
    inside = dict(sidecar)
    if isinstance(sidecar.get("result"), Mapping):
        inside["result"] = {k: v for k, v in sidecar["result"].items() if k != "sha256"}
    return inside


def _png_places(sidecar: Mapping[str, Any], level: Level) -> dict[str, Any]:
    from PIL.PngImagePlugin import PngInfo

    if level == "none":
        return {}
    info = PngInfo()
    if level == "full":
        # Pillow writes tEXt where Latin-1 is enough and iTXt otherwise, exactly as Forge does.
        info.add_text("parameters", printable(infotext.write(sidecar)))
        spec = json.dumps(embedded(sidecar), ensure_ascii=False, separators=(",", ":"))
        info.add_itxt(CHUNK, printable(spec))
    packet = xmp.packet(sidecar, full=level == "full")
    info.add_itxt(_XMP_CHUNK, packet.decode())
    return {"pnginfo": info}


def _exif_places(sidecar: Mapping[str, Any], level: Level, limit: int | None) -> dict[str, Any]:
    from PIL.Image import Exif

    if level == "none":
        return {}
    if level == "minimal":
        return {"xmp": xmp.packet(sidecar, full=False)}
    comment = printable(infotext.write(sidecar)).encode("utf-16-be")
    exif = Exif()
    exif[_SOFTWARE] = made_with(mapping(sidecar.get("result")))
    exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = _UNICODE + comment
    packet = _packet_within(sidecar, limit)
    return {"exif": exif.tobytes(), "xmp": packet}


def _packet_within(sidecar: Mapping[str, Any], limit: int | None) -> bytes:
    """The packet with the whole spec, or with as much of it as the format has room for."""
    inside = embedded(sidecar)
    own = {k: v for k, v in inside.items() if k != "notes" and not k.startswith("x_")}
    for spec in (inside, own):
        packet = xmp.packet(sidecar, full=True, spec=json.dumps(spec, separators=(",", ":")))
        if limit is None or len(packet) <= limit:
            return packet
    return xmp.packet(sidecar, full=True)


def _texts(data: bytes, name: str) -> dict[str, str]:
    """Every text of a picture that may hold settings, by place."""
    from PIL import Image, UnidentifiedImageError

    comment = packet = None
    try:
        with Image.open(io.BytesIO(data)) as image:
            found = {str(k): v for k, v in image.info.items() if isinstance(v, str)}
            png = image.format == "PNG"
            # Texts behind the pixels cost decoding all of them: only where there are none before.
            if png and not {CHUNK, "parameters", "exif"} & set(image.info):
                found |= {k: str(v) for k, v in getattr(image, "text", {}).items()}
            if not png or "exif" in image.info:
                comment = image.getexif().get_ifd(_EXIF_IFD).get(_USER_COMMENT)
            packet = image.info.get("xmp")
    except (*_UNREADABLE, UnidentifiedImageError, Image.DecompressionBombError) as exc:
        raise InputBad(f"{name} is not a picture that can be read.") from exc
    if isinstance(comment, bytes):
        found["UserComment"] = _comment_text(comment)
    elif isinstance(comment, str):
        found["UserComment"] = comment
    if isinstance(packet, bytes) and (spec := xmp.spec_in(packet)):
        found[CHUNK] = spec
    return found


def _comment_text(comment: bytes) -> str:
    body = comment[8:]
    if comment.startswith(_UNICODE):
        # The text has no mark for its byte order; settings are mostly ASCII, which tells.
        big = body[0::2].count(0) >= body[1::2].count(0)
        return body.decode("utf-16-be" if big else "utf-16-le", "replace")
    text = body if comment.startswith((_ASCII, b"\0" * 8)) else comment
    return text.decode("utf-8", "replace").rstrip("\0")


def _from_texts(texts: Mapping[str, str]) -> dict[str, Any] | None:
    for place in (CHUNK, "parameters", "UserComment"):
        text = texts.get(place)
        if not text:
            continue
        if text.lstrip().startswith("{"):
            found = _from_json(text)
        else:
            said = infotext.parse(text)
            found = foreign.from_infotext(said) if said else None
        if found is not None:
            return found
    return None


def _from_json(text: str) -> dict[str, Any] | None:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict):
        return None
    return said if isinstance(said.get("kind"), str) else foreign.from_mflux(said)
