"""The questions that the gallery answers, newest picture first.

Every word of the text must begin some word of the prompt, in any order; a word in double quotes
must be a whole one. The filters must all fit. What a page shows is read from the disk, no more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypedDict

from runner.errors import UsageProblem
from runner.gallery.terms import EVERY_ROW, facet, moment, word_term, words

if TYPE_CHECKING:
    from runner.gallery.index import Index
    from runner.gallery.store import Gallery, Plan

_PART = re.compile(r'"([^"]*)"|([^"]+)')
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_AGO = re.compile(r"(\d+)\s*([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Page(TypedDict):
    """One page of an answer: how many rows fit in all, and the rows of this page."""

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
    """The newest rows that fit everything asked.

    `since` and `until` are a day, a moment (RFC 3339, local without an offset) or an age such as
    `2d`; a day given as `until` is included. `size` is `1024x768`.
    """
    facets = {"kind": kind, "model": model, "pack": pack, "seed": seed, "job": job}
    exact = [facet(name, value) for name, value in facets.items() if value is not None]
    tags = [tag] if isinstance(tag, str) else tag or ()
    exact += [facet("tag", one) for one in tags]
    if size is not None:
        exact.append(facet("size", _size(size)))
    beginnings = []
    for whole, loose in _PART.findall(text):
        exact += [word_term(word) for word in words(whole)]
        beginnings += [word_term(word) for word in words(loose)]
    start, end = _when(since, last=False), _when(until, last=True)
    plan = _plan(exact or [EVERY_ROW], beginnings, start, end)
    total, rows = gallery.page(plan, max(0, limit), max(0, offset))
    return {"total": total, "rows": rows}


def _plan(
    exact: list[bytes], beginnings: list[bytes], since: int | None, until: int | None
) -> Plan:
    # The rarest first would be best; exact terms and long beginnings are a good guess at it.
    ordered = sorted(set(beginnings), key=len, reverse=True)

    def bits(index: Index) -> int:
        found = -1
        for term in exact:
            found &= index.bits(term)
            if not found:
                return 0
        for beginning in ordered:
            found &= index.prefix(beginning)
            if not found:
                return 0
        if since is not None or until is not None:
            found &= index.between(since, until)
        return found

    return bits


def _size(text: str) -> str:
    sides = re.fullmatch(r"\s*(\d+)\s*[x×*]\s*(\d+)\s*", text)
    if sides is None:
        raise UsageProblem(f"size is written like 1024x768, not {text!r}.")
    return f"{int(sides[1])}x{int(sides[2])}"


def _when(text: str | None, *, last: bool) -> int | None:
    """The moment that a date means, in milliseconds; the end of a day where it is the last one."""
    if text is None:
        return None
    if ago := _AGO.fullmatch(text.strip()):
        span = timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        return round((datetime.now(UTC) - span).timestamp() * 1000)
    try:
        when = datetime.fromisoformat(text.strip())
    except ValueError as exc:
        raise UsageProblem(
            f"a date is written like 2026-11-23, 2026-11-23T08:00 or 2d, not {text!r}."
        ) from exc
    if last and _DAY.fullmatch(text.strip()):
        when += timedelta(days=1)
    # What people type without an offset is their own time.
    local = when if when.tzinfo else when.astimezone()
    return moment(local.isoformat())
