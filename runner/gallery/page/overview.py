"""The cards of `outbox/index.html`: the latest jobs by day, each with its first few pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from urllib.parse import quote

from runner.gallery.formatting import html_text as text
from runner.gallery.formatting import mapping
from runner.gallery.page.layout import CRISP_UP_TO, leaf

MOST_JOBS = 500
_COVERS = 4


@dataclass(frozen=True)
class Card:
    """One job as the page of all jobs shows it.

    `day` and `moment` say when it was accepted. `covers` are the file names of up to four
    thumbnails, each with whether it is enlarged with hard edges.
    """

    id: str
    state: str
    title: str
    day: str
    moment: str
    done: int
    total: int
    packs: tuple[str, ...]
    covers: tuple[tuple[str, bool], ...]
    message: str


def cards(jobs: Iterable[Mapping[str, Any]], packs: Mapping[str, Sequence[str]]) -> list[Card]:
    """The latest jobs, newest first; `packs` maps a job's id to the packs it used."""
    all_cards = [_card(job, packs) for job in jobs if job.get("id")]
    return sorted(all_cards, key=lambda card: card.moment, reverse=True)[:MOST_JOBS]


def counted(listed: Sequence[Card]) -> str:
    """The numbers of jobs and pictures, in words."""
    pictures = sum(card.done for card in listed)
    return f"{_many(len(listed), 'job')}, {_many(pictures, 'picture')}"


def days(listed: Sequence[Card]) -> str:
    """The sections of the page, one for each day."""
    sections = []
    for day, cards_of_day in groupby(listed, key=lambda card: card.day):
        grid = "".join(map(_html, cards_of_day))
        sections.append(
            f'<section class="day"><h2>{text(day)}</h2><div class="cards">{grid}</div></section>'
        )
    return "".join(sections) or '<p class="empty">No jobs yet. Drop a spec into the inbox.</p>'


def _card(job: Mapping[str, Any], packs: Mapping[str, Sequence[str]]) -> Card:
    counts = mapping(job.get("images"))
    outputs = [mapping(output) for output in job.get("outputs") or ()]
    moment = str(job.get("accepted_at") or "")
    return Card(
        id=str(job["id"]),
        state=str(job.get("state") or "unknown"),
        title=" · ".join(str(job[k]) for k in ("kind", "model") if job.get(k)),
        day=moment[:10] or "without a date",
        moment=moment,
        done=int(counts.get("done") or len(outputs)),
        total=int(counts.get("total") or len(outputs)),
        packs=tuple(packs.get(str(job["id"]), ())),
        covers=tuple((leaf(output["thumbnail"]), _crisp(output)) for output in _spread(outputs)),
        message=str(job.get("message") or ""),
    )


def _spread(outputs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Up to four outputs spread over the job, because neighbouring pictures are often similar."""
    shown = [output for output in outputs if output.get("thumbnail")]
    if len(shown) <= _COVERS:
        # Three would leave one of the four quarters of the cover empty.
        return shown if len(shown) in (0, 1, 2, 4) else shown[:2]
    step = (len(shown) - 1) / (_COVERS - 1)
    return [shown[round(place * step)] for place in range(_COVERS)]


def _crisp(output: Mapping[str, Any]) -> bool:
    sides = [output.get("width"), output.get("height")]
    return all(isinstance(side, int) and side <= CRISP_UP_TO for side in sides)


def _html(card: Card) -> str:
    link, crisp_class = quote(card.id, safe=""), ' class="crisp"'
    covers = "".join(
        f'<img src="{link}/thumbs/{quote(name, safe="")}" alt="" loading="lazy" decoding="async"'
        f"{crisp_class if crisp else ''}>"
        for name, crisp in card.covers
    )
    if not covers and card.message:
        covers = f"<em><bdi>{text(card.message)}</bdi></em>"
    packs = "".join(f"<b>{text(pack)}</b>" for pack in card.packs)
    count = f"{card.done:,}" if card.done == card.total else f"{card.done:,} of {card.total:,}"
    pictures = "picture" if card.done == card.total == 1 else "pictures"
    title = f' title="{text(card.message)}"' if card.message else ""
    return (
        f'<a class="card" href="{link}/index.html" data-packs="{text(chr(10).join(card.packs))}"'
        f' data-day="{text(card.day)}"{title}>'
        f'<span class="cover" data-count="{len(card.covers)}">{covers}</span>'
        f'<strong><bdi>{text(card.id)}</bdi></strong><i class="pill" '
        f'data-state="{text(card.state)}">{text(card.state)}</i>'
        f'<span class="facts">{text(card.title)} <time datetime="{text(card.moment)}">'
        f"{text(card.moment[11:16])}</time></span>"
        f'<span class="facts">{count} {pictures}</span>{packs}</a>'
    )


def _many(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
