"""Encodes a picture with the settings of its sidecar inside, and reads them from a picture.

    content                  png                       jpeg, webp
    `parameters` (Forge)     text chunk `parameters`   EXIF UserComment
    the sidecar, as JSON     iTXt chunk `fluxdrop`     XMP `fluxdrop:spec`
    how it was made (IPTC)   iTXt `XML:com.adobe.xmp`  XMP

The level `minimal` writes the last row without the prompt, `none` writes nothing. The same pixels
and sidecar give the same bytes. A file cannot contain its own hash, so that is left out.
"""

import io
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from runner.errors import InputBad, UsageProblem
from runner.files import read_file
from runner.gallery import foreign, infotext, xmp
from runner.gallery.formatting import made_with, mapping, printable
from runner.pictures import FORMATS, MAX_PIXELS

if TYPE_CHECKING:
    from PIL.Image import Image

Format = Literal["png", "jpeg", "webp"]
Level = Literal["full", "minimal", "none"]

CHUNK = "fluxdrop"
_EXIF_IFD, _USER_COMMENT, _SOFTWARE = 0x8769, 0x9286, 0x0131
_BYTE, _UNDEFINED = 1, 7
_UNICODE, _ASCII = b"UNICODE\0", b"ASCII\0\0\0"
_INVOKEAI = ("invokeai_metadata", "invokeai_graph", "invokeai_workflow")
_GRAPHS = {"workflow": "ComfyUI", "prompt": "ComfyUI"} | dict.fromkeys(_INVOKEAI, "InvokeAI")
# Pillow's bound for a text of a PNG too.
_LONGEST_TEXT = 1 << 20


def encode(
    image: "Image",
    sidecar: Mapping[str, Any],
    *,
    format: Format = "png",
    quality: int | None = None,
    level: Level = "full",
) -> bytes:
    """The bytes of the picture's file in that format, with the metadata that `level` allows.

    `quality` is for JPEG and WebP, 1 to 100.
    """
    plain = image.convert("RGB") if format == "jpeg" and image.mode != "RGB" else image.copy()
    # Metadata of a caller's picture (EXIF, a colour profile) must not be published.
    plain.info = {}
    buffer = io.BytesIO()
    if format == "png":
        # Measured on 1024² with Pillow's zlib-ng: noise takes the same time at every level and does
        # not shrink; a photo is 12 % smaller from level 4 on, and no smaller at 6 or 9.
        plain.save(buffer, "PNG", compress_level=4, **_png_options(sidecar, level))
    elif format == "jpeg":
        quality = 92 if quality is None else quality
        # Colour at half resolution shows at red edges: only low qualities, for small files, use it.
        sampling = "4:4:4" if quality >= 90 else "4:2:0"
        # A JPEG segment holds 65,533 bytes, including the name of the packet.
        options = _exif_options(sidecar, level, limit=65_000)
        plain.save(buffer, "JPEG", quality=quality, subsampling=sampling, **options)
    else:
        quality = 90 if quality is None else quality
        options = _exif_options(sidecar, level, limit=None)
        plain.save(buffer, "WEBP", quality=quality, method=4, **options)
    return buffer.getvalue()


def read(picture: bytes | Path) -> dict[str, Any]:
    """The spec that made a picture, from the picture or from a JSON sidecar (ours or mflux's).

    What fluxdrop wrote is preferred to what other programs wrote. Raises UsageProblem where the
    file cannot be read or says nothing about how it was made, InputBad where it is no picture.
    """
    name = picture.name if isinstance(picture, Path) else "this picture"
    try:
        data = read_file(picture, follow=True) if isinstance(picture, Path) else picture
    except OSError as exc:
        raise UsageProblem(f"{name} cannot be read: {exc.strerror or exc}.") from exc
    texts: dict[str, str] = {}
    if data.lstrip()[:1] == b"{":
        spec = _from_json(data.decode("utf-8", "replace"))
    else:
        spec = _from_texts(texts := _texts(data, name))
    if spec is None:
        if maker := next(filter(None, map(_GRAPHS.get, texts)), None):
            raise UsageProblem(f"{name} has a workflow of {maker}, which is not read: write a spec")
        raise UsageProblem(
            f"{name} does not say how it was made; submit its sidecar (.json) instead, "
            "or write a spec."
        )
    return spec


def embedded(sidecar: Mapping[str, Any]) -> dict[str, Any]:
    """The sidecar as the picture contains it: without the file's own hash."""
    inside = dict(sidecar)
    if isinstance(sidecar.get("result"), Mapping):
        inside["result"] = {k: v for k, v in sidecar["result"].items() if k != "sha256"}
    return inside


def _png_options(sidecar: Mapping[str, Any], level: Level) -> dict[str, Any]:
    """The arguments with which Pillow writes the metadata into a PNG."""
    from PIL.PngImagePlugin import PngInfo

    if level == "none":
        return {}
    info = PngInfo()
    if level == "full":
        # Pillow writes tEXt where Latin-1 is enough and iTXt otherwise, as Forge does.
        info.add_text("parameters", printable(infotext.write(sidecar)))
        spec = json.dumps(embedded(sidecar), ensure_ascii=False, separators=(",", ":"))
        info.add_itxt(CHUNK, printable(spec))
    info.add_itxt("XML:com.adobe.xmp", xmp.packet(sidecar, full=level == "full").decode())
    return {"pnginfo": info}


def _exif_options(sidecar: Mapping[str, Any], level: Level, limit: int | None) -> dict[str, Any]:
    """The arguments with which Pillow writes the metadata into a JPEG or a WebP file.

    `limit` is the most bytes that the XMP packet may have.
    """
    from PIL.Image import Exif

    if level == "none":
        return {}
    if level == "minimal":
        return {"xmp": xmp.packet(sidecar, full=False)}
    comment = printable(infotext.write(sidecar)).encode("utf-16-be")
    exif = Exif()
    exif[_SOFTWARE] = made_with(mapping(sidecar.get("result")))
    exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = _UNICODE + comment
    data = exif.tobytes()
    entry = struct.pack(">HHI", _USER_COMMENT, _BYTE, len(_UNICODE + comment))
    place = data.index(entry) + 2
    # Pillow writes BYTE, which piexif and readers of Forge's settings do not take for text.
    data = data[:place] + struct.pack(">H", _UNDEFINED) + data[place + 2 :]
    return {"exif": data, "xmp": _packet_within(sidecar, limit)}


def _packet_within(sidecar: Mapping[str, Any], limit: int | None) -> bytes:
    """The packet with the sidecar; without its notes and `x_` fields, or without it, to fit."""
    complete = embedded(sidecar)
    reduced = {k: v for k, v in complete.items() if k != "notes" and not k.startswith("x_")}
    for spec in (complete, reduced):
        packet = xmp.packet(sidecar, full=True, spec=json.dumps(spec, separators=(",", ":")))
        if limit is None or len(packet) <= limit:
            return packet
    return xmp.packet({**sidecar, "tags": ()}, full=True)


def _texts(data: bytes, name: str) -> dict[str, str]:
    """Every text of a picture that may hold settings, by the name of its chunk or tag."""
    from PIL import Image

    comment = packet = None
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            texts = {str(k): v for k, v in image.info.items() if isinstance(v, str)}
            png = image.format == "PNG"
            # Reading texts after the pixels decodes all pixels: only if none precede them.
            late = png and not {CHUNK, "parameters", "exif"} & set(image.info)
            if late and image.width * image.height <= MAX_PIXELS:
                texts |= {k: str(v) for k, v in getattr(image, "text", {}).items()}
            if not png or "exif" in image.info:
                comment = image.getexif().get_ifd(_EXIF_IFD).get(_USER_COMMENT)
            packet = image.info.get("xmp")
    except Exception as exc:  # Pillow's readers raise whatever their formats do
        raise InputBad(f"{name} is not a picture that can be read.") from exc
    if isinstance(comment, bytes):
        texts["UserComment"] = _comment_text(comment)
    elif isinstance(comment, str):
        texts["UserComment"] = comment
    if isinstance(packet, bytes) and (spec := xmp.spec_in(packet)):
        texts[CHUNK] = spec
    return {name: text for name, text in texts.items() if len(text) <= _LONGEST_TEXT}


def _comment_text(comment: bytes) -> str:
    """The text of an EXIF UserComment, which begins with eight bytes that name its encoding."""
    body = comment[8:]
    if comment.startswith(_UNICODE):
        # The byte order is not recorded; settings are mostly ASCII, whose high bytes are zero.
        big = body[0::2].count(0) >= body[1::2].count(0)
        return body.decode("utf-16-be" if big else "utf-16-le", "replace")
    text = body if comment.startswith((_ASCII, b"\0" * 8)) else comment
    return text.decode("utf-8", "replace").rstrip("\0")


def _from_texts(texts: Mapping[str, str]) -> dict[str, Any] | None:
    for place in (CHUNK, "parameters", "UserComment"):
        text = texts.get(place, "")
        if text.lstrip().startswith("{"):
            spec = _from_json(text)
        else:
            parsed = infotext.parse(text)
            spec = foreign.from_infotext(parsed) if parsed else None
        if spec is not None:
            return spec
    return None


def _from_json(text: str) -> dict[str, Any] | None:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    return document if isinstance(document.get("kind"), str) else foreign.from_mflux(document)
