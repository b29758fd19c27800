"""Divides the images of a job among its pages: `index.html`, `page-2.html`, … of at most 500 each.

A page is closed once all of its images are over and another one is: it is made once and not again,
but for the first one, which has the head and the progress. Reads and writes no files.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from runner.gallery.page.layout import Shot, arrange, axes_of, label
from runner.gallery.page.sheet import body_of, job_page, page_name
from runner.gallery.page.summary import summarise
from runner.job import FINAL_STATES

MOST_IMAGES = 500


@dataclass(frozen=True)
class Closed:
    """What the pages after the closed ones of a job need of these; `first` is the first one's body.

    `starts` has the number of each page's first image, the open page included; `seconds` how long
    each picture took.
    """

    starts: tuple[int, ...] = (1,)
    axes: tuple[str, ...] = ()
    seconds: tuple[Any, ...] = ()
    first: Mapping[str, str] | None = None


def pages_of(
    status: Mapping[str, Any],
    over: Sequence[int],
    shots: Callable[[Sequence[int]], Iterable[Shot]],
    closed: Closed = Closed(),
    beside: Collection[str] = (),
) -> tuple[dict[str, str], Closed]:
    """The pages of a job by file name, but for the closed ones, and which are closed by now.

    `over` are the numbers of the images that are over, in order, from the open page on; `shots`
    gives those of some numbers, as far as they are there. A page comes after those it links to.
    `beside` are the preview and the tables in the job's folder.
    """
    final = status.get("state") in FINAL_STATES
    bodies: dict[int, Mapping[str, str]] = {}
    while True:
        start, number = closed.starts[-1], len(closed.starts)
        is_full = len(over) > MOST_IMAGES and (final or over[MOST_IMAGES - 1] - start < MOST_IMAGES)
        found = {shot.index: shot for shot in shots(over[: MOST_IMAGES + is_full])}
        page = [found[each] for each in over[:MOST_IMAGES] if each in found]
        axes = axes_of([*found.values()], closed.axes, in_part=is_full or number > 1)
        if is_full:
            page = _whole_rows(page, found.get(over[MOST_IMAGES]), axes)
        seconds = (*closed.seconds, *(s.result.get("seconds") for s in page if not s.missing))
        if not is_full:
            break
        last = page[-1].index if page else over[MOST_IMAGES - 1]
        over = over[over.index(last) + 1 :]
        bodies[number] = body_of(arrange(page, axes))
        first = closed.first or bodies[1]
        closed = Closed((*closed.starts, last + 1), axes, seconds, first)
    summary = summarise(status, seconds)
    bodies[number] = body_of(arrange(page, axes), summary.to_come)
    bodies[1] = closed.first or bodies[1]
    return {
        page_name(each): job_page(status, summary, bodies[each], each, closed.starts, beside)
        for each in sorted(bodies, reverse=True)
    }, closed


def _whole_rows(page: list[Shot], following: Shot | None, axes: Sequence[str]) -> list[Shot]:
    """The page up to its last whole row; all of it where one row fills it, or where rows mix."""
    if not axes or following is None:
        return page
    labels = (label(shot, axes[0]) for shot in (*page, following))
    rows = [(row, len([*same])) for row, same in groupby(labels)]
    whole = sum(count for _, count in rows[:-1])
    return page[:whole] if whole and len(dict(rows)) == len(rows) else page
