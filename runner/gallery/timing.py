"""Estimates how long an image takes on this machine, from the gallery's rows of similar images.

Does not import Pillow, and reads at most 200 rows each of that size and of any size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from runner.gallery.search import search
from runner.gallery.store import Gallery

_MOST_ROWS = 200
_COUNTED = 20


@dataclass(frozen=True)
class Like:
    """What an image's time mostly depends on; a size that follows the input is None.

    The size is that of the finished picture, `upscale` times as large as it was painted.
    """

    kind: str
    model: str
    width: int | None = None
    height: int | None = None
    steps: float | None = None
    upscale: int = 1


@dataclass(frozen=True)
class Measured:
    """The median seconds of `images` images; `exact` if they had the same size and steps."""

    seconds: float
    images: int
    exact: bool


def measured(gallery: Gallery, like: Like) -> Measured | None:
    """The time that similar images took; scaled by steps and pixels if none was the same.

    None if the gallery has no image of that model and kind.
    """
    rows = _rows(gallery, like, sized=True)
    same = [row["seconds"] for row in rows if like.steps in (None, passes(row))][:_COUNTED]
    if same:
        return Measured(median(same), len(same), True)
    scaled = [_scaled(row, like) for row in rows or _rows(gallery, like, sized=False)][:_COUNTED]
    return Measured(median(scaled), len(scaled), False) if scaled else None


def passes(fields: Mapping[str, Any]) -> float | None:
    """How often an image goes through the model: once a step, twice with a true CFG."""
    of_a_map = fields.get("kind") == "control"
    steps, strength = fields.get("steps"), 1 if of_a_map else fields.get("strength", 1)
    if not isinstance(steps, int | float) or not isinstance(strength, int | float):
        return None
    return steps * strength * (2 if {"negative_prompt", "true_cfg"} & fields.keys() else 1)


def _rows(gallery: Gallery, like: Like, *, sized: bool) -> list[dict[str, Any]]:
    """The newest rows of that model and kind, and of that size if `sized`."""
    size = f"{like.width}x{like.height}" if sized and like.width and like.height else None
    page = search(gallery, kind=like.kind, model=like.model, size=size, limit=_MOST_ROWS)
    timed = (row for row in page["rows"] if isinstance(row.get("seconds"), int | float))
    return [row for row in timed if (row.get("upscale") or 1) == like.upscale]


def _scaled(row: dict[str, Any], like: Like) -> float:
    seconds = float(row["seconds"])
    if like.steps and (made := passes(row)):
        seconds *= like.steps / made
    if like.width and like.height and row.get("width") and row.get("height"):
        seconds *= like.width * like.height / (row["width"] * row["height"])
    return seconds
