"""How long an image takes on this machine: what the gallery's rows say of images like it.

An estimate for people. Never imports Pillow, and reads at most a page of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from runner.gallery.terms import facet

if TYPE_CHECKING:
    from runner.gallery.index import Index
    from runner.gallery.store import Gallery

_LOOKED_AT = 200
_COUNTED = 20


@dataclass(frozen=True)
class Like:
    """What the time of an image depends on most; a size that follows the input is None."""

    kind: str
    model: str
    width: int | None = None
    height: int | None = None
    steps: int | None = None


@dataclass(frozen=True)
class Measured:
    """Seconds for one image, the median of so many; `exact` where all of them were like it."""

    seconds: float
    images: int
    exact: bool


def measured(gallery: Gallery, like: Like) -> Measured | None:
    """What images like this one took; scaled by steps and pixels where none was quite like it."""
    rows = _rows(gallery, like, sized=True)
    same = [row["seconds"] for row in rows if like.steps in (None, row.get("steps"))][:_COUNTED]
    if same:
        return Measured(median(same), len(same), True)
    scaled = [_scaled(row, like) for row in rows or _rows(gallery, like, sized=False)][:_COUNTED]
    return Measured(median(scaled), len(scaled), False) if scaled else None


def _rows(gallery: Gallery, like: Like, *, sized: bool) -> list[dict[str, Any]]:
    """The newest rows of that model and kind, and of that size where it counts."""
    terms = [facet("kind", like.kind), facet("model", like.model)]
    if sized and like.width and like.height:
        terms.append(facet("size", f"{like.width}x{like.height}"))

    def bits(index: Index) -> int:
        found = -1
        for term in terms:
            found &= index.bits(term)
        return found

    rows = gallery.page(bits, _LOOKED_AT)[1]
    return [row for row in rows if isinstance(row.get("seconds"), int | float)]


def _scaled(row: dict[str, Any], like: Like) -> float:
    seconds = float(row["seconds"])
    if like.steps and row.get("steps"):
        seconds *= like.steps / row["steps"]
    if like.width and like.height and row.get("width") and row.get("height"):
        seconds *= like.width * like.height / (row["width"] * row["height"])
    return seconds
