"""Searches the gallery, newest picture first.

Each word of the text must be the beginning of a word of the prompt, in any order; a word in double
quotes must be a complete word. All filters must match. Only the rows of one page are read from
the disk.
"""

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypedDict

from runner.errors import UsageProblem
from runner.gallery.store import Gallery
from runner.gallery.terms import facet, words
from specs.times import parse_duration, parse_moment

_PART = re.compile(r'"([^"]*)"|([^"]+)')
_DAY = re.compile(r"\d{4}-\d\d-\d\d")


class Page(TypedDict):
    """One page of a result: the number of all rows that match, and the rows of this page."""

    total: int
    rows: list[dict[str, Any]]


def search(
    gallery: Gallery,
    text: str = "",
    *,
    kind: str | None = None,
    model: str | None = None,
    pack: str | None = None,
    tag: str | Iterable[str] | None = None,
    seed: int | None = None,
    since: str | None = None,
    until: str | None = None,
    size: str | None = None,
    job: str | None = None,
    limit: int = 50,
    offset: int = 0,
) -> Page:
    """The newest rows that match the text and every filter.

    `since` and `until` are a day, a moment (RFC 3339, local time without an offset) or an age such
    as `2d` (m, h, d or w); a day given as `until` is included. `size` is written `1024x768`.
    Raises UsageProblem for a date or a size that cannot be read.
    """
    facets = {"kind": kind, "model": model, "pack": pack, "seed": seed, "job": job}
    exact = [facet(name, value) for name, value in facets.items() if value is not None]
    exact += [facet("tag", one) for one in ([tag] if isinstance(tag, str) else tag or ())]
    if size is not None:
        exact.append(facet("size", _size(size)))
    beginnings: list[str] = []
    found = False
    for quoted, unquoted in _PART.findall(text):
        exact += words(quoted)
        beginnings += words(unquoted)
        found |= bool(words(quoted + unquoted))
    if text.strip() and not found:
        return {"total": 0, "rows": []}  # signs that are in no word
    asked = [f'"{term}"' for term in exact] + [f'"{word}"*' for word in beginnings]
    start, end = _when(since, last=False), _when(until, last=True)
    match = " ".join(dict.fromkeys(asked))
    total, rows = gallery.page(match, start, end, max(0, limit), max(0, offset))
    return {"total": total, "rows": rows}


def _size(text: str) -> str:
    sides = re.fullmatch(r"\s*(\d+)\s*[x×*]\s*(\d+)\s*", text)
    if sides is None:
        raise UsageProblem(f"size is written like 1024x768, not {text!r}.")
    return f"{int(sides[1])}x{int(sides[2])}"


def _when(text: str | None, *, last: bool) -> int | None:
    """A date as milliseconds since 1970; a day means its beginning, or its end if it is `last`."""
    if text is None:
        return None
    text = text.strip()
    try:
        if (ago := parse_duration(text)) is not None:
            when = datetime.now(UTC) - timedelta(seconds=ago)
        elif last and _DAY.fullmatch(text):
            when = parse_moment((date.fromisoformat(text) + timedelta(days=1)).isoformat())
        else:
            when = parse_moment(text)
    except (ValueError, OverflowError) as exc:
        raise UsageProblem(
            f"a date is written like 2026-11-23, 2026-11-23T08:00 or 2d, not {text!r}."
        ) from exc
    return round(when.timestamp() * 1000)
