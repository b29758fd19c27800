"""How the gallery's writers read values from a sidecar and write them, so that all agree."""

from collections.abc import Mapping
from html import escape
from typing import Any

# IPTC's terms for how a picture came about.
TRAINED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
COMPOSITE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
# The kinds that keep part of the caller's picture, where they get one.
COMPOSITE_KINDS = frozenset({"fill", "kontext", "text2img"})


def mapping(value: object) -> Mapping[str, Any]:
    """The value if it is a mapping, else an empty one: sidecars may come from anywhere."""
    return value if isinstance(value, Mapping) else {}


def made_with(result: Mapping[str, Any]) -> str:
    """The program and its version, as a picture's metadata names them."""
    version = mapping(result.get("versions")).get("fluxdrop")
    return f"fluxdrop {version}" if version else "fluxdrop"


def number_text(value: Any) -> str:
    """A number as text: 3.5, and 4 rather than 4.0."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def number_of(number: int, noun: str) -> str:
    """A number of things in words: "1 job", "1,200 pictures"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def duration(seconds: float) -> str:
    """A time as text: 0.4 s, 38 s, 4 min 10 s, 3 h 05 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60:02} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60:02} min"


def printable(text: str) -> str:
    """The text with NUL and lone surrogates, which no file format can hold, replaced."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def html_text(value: object) -> str:
    """Any value escaped for HTML, inside an element or a quoted attribute."""
    return escape(printable(str(value)), quote=True)
