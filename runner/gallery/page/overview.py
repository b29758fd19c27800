"""The cards of the pages of jobs, by day, each with its first few pictures.

`outbox/index.html` has the newest jobs; those of the months before are in `outbox/_months`, which
no job can be called.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from heapq import nlargest
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from runner.gallery.formatting import html_text as text
from runner.gallery.formatting import mapping, number_of
from runner.gallery.page.layout import CRISP_UP_TO, leaf
from runner.gallery.page.summary import progress_bar, summarise
from runner.wire import PREVIEW

MOST_JOBS = 500
MONTHS = "_months"
_COVERS = 4
_MONTH = re.compile(r"\d{4}-\d\d\.\d{3}\.html")


def months_in(outbox: Path) -> list[str]:
    """The files of older jobs that there are: `2026-10.001.html`, `2026-10.002.html`, …"""
    try:
        return sorted(filter(_MONTH.fullmatch, os.listdir(outbox / MONTHS)))
    except OSError:
        return []


def links(months: Iterable[str]) -> str:
    """The links to the pages of older jobs; those of a month after its first by their numbers."""
    texts = [(name, name[:7] if int(name[8:11]) == 1 else str(int(name[8:11]))) for name in months]
    listed = "".join(f'<a href="{MONTHS}/{name}">{shown}</a>' for name, shown in texts)
    return listed and f'<nav class="months" aria-label="older jobs">Older {listed}</nav>'


def prompts_of(*specs: Mapping[str, Any]) -> str:
    """The beginning of the prompts of a job's specs, by which it is found."""
    several = (mapping(spec.get("matrix")).get("prompt") or [spec.get("prompt")] for spec in specs)
    return " ".join(str(prompt) for prompts in several for prompt in prompts if prompt)[:1000]


def latest(jobs: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The latest 500 jobs, newest first, without what has no id."""
    return nlargest(MOST_JOBS, (job for job in jobs if job.get("id")), key=_accepted)


def counted(jobs: Sequence[Mapping[str, Any]]) -> str:
    """The numbers of jobs and pictures, in words."""
    pictures = sum(_done_and_total(job)[0] for job in jobs)
    return f"{number_of(len(jobs), 'job')}, {number_of(pictures, 'picture')}"


def _page_of(job: Mapping[str, Any]) -> str:
    """What shows a job: one of which no image is over has no page."""
    images = job.get("images") or {}
    over = any(images.get(name) for name in ("done", "failed"))
    return "index.html" if over or job.get("outputs") else "status.json"


def now(jobs: Sequence[Mapping[str, Any]]) -> str:
    """The jobs that run, each with the picture in hand, and how many wait; empty if there are none.

    It has a place for previews, whether there are any or not.
    """
    waiting = [job for job in jobs if job.get("state") == "queued"]
    running = "".join(
        f'<a href="{quote(str(job["id"]), safe="")}/{_page_of(job)}">'
        f'<img data-preview src="{quote(str(job["id"]), safe="")}/{PREVIEW}" alt="">'
        f"<strong><bdi>{text(job['id'])}</bdi></strong></a>"
        f"{progress_bar(summarise(job, [None] * _done_and_total(job)[0]))}"
        for job in jobs
        if job.get("state") == "running"
    )
    left = sum(max(0, total - done) for done, total in map(_done_and_total, waiting))
    queue = f"{number_of(len(waiting), 'more job')} in the queue: {number_of(left, 'picture')}"
    listed = running + (f"<p>{queue}</p>" if waiting else "")
    return listed and f'<section class="now" aria-label="now" data-live>{listed}</section>'


def days(
    jobs: Sequence[Mapping[str, Any]],
    packs: Mapping[str, str],
    prompts: Mapping[str, str],
    up: str = "",
) -> str:
    """The sections of the page, one for each day; `packs` and `prompts` are by the jobs' ids.

    `up` is the way from the page to the outbox.
    """

    sections = []
    for day, jobs_of_day in groupby(jobs, key=lambda job: _accepted(job)[:10]):
        day = text(day or "without a date")
        grid = "".join(_card(job, day, packs, prompts, up) for job in jobs_of_day)
        sections.append(
            f'<section class="day"><h2>{day}</h2><div class="cards">{grid}</div></section>'
        )
    return "".join(sections) or '<p class="empty">No jobs yet. Drop a spec into the inbox.</p>'


def _accepted(job: Mapping[str, Any]) -> str:
    return str(job.get("accepted_at") or "")


def _outputs(job: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [mapping(output) for output in job.get("outputs") or ()]


def _done_and_total(job: Mapping[str, Any]) -> tuple[int, int]:
    counts, made = mapping(job.get("images")), len(_outputs(job))
    return int(counts.get("done") or made), int(counts.get("total") or made)


def _spread(outputs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Up to four outputs spread over the job, because neighbouring pictures are often similar."""
    shown = [output for output in outputs if output.get("thumbnail")]
    if len(shown) <= _COVERS:
        # Three would leave one of the four quarters of the cover empty.
        return shown if len(shown) in (0, 1, 2, 4) else shown[:2]
    step = (len(shown) - 1) / (_COVERS - 1)
    return [shown[round(place * step)] for place in range(_COVERS)]


def _crisp_class(output: Mapping[str, Any]) -> str:
    """The class of a picture that is enlarged with hard edges."""
    sides = [output.get("width"), output.get("height")]
    crisp = all(isinstance(side, int) and side <= CRISP_UP_TO for side in sides)
    return ' class="crisp"' if crisp else ""


def _card(
    job: Mapping[str, Any], day: str, packs: Mapping[str, str], prompts: Mapping[str, str], up: str
) -> str:
    """One job with its first few pictures; without any, with its message."""
    pack, prompt = (words.get(str(job["id"]), "") for words in (packs, prompts))
    link, moment = up + quote(str(job["id"]), safe=""), _accepted(job)
    state, message = text(job.get("state") or "unknown"), text(job.get("message") or "")
    shown = _spread(_outputs(job))
    covers = "".join(
        f'<img src="{link}/thumbs/{quote(leaf(output["thumbnail"]), safe="")}" alt=""'
        f' loading="lazy" decoding="async"{_crisp_class(output)}>'
        for output in shown
    )
    if not covers and message:
        covers = f"<em><bdi>{message}</bdi></em>"
    done, total = _done_and_total(job)
    count = f"{done:,}" if done == total else f"{done:,} of {total:,}"
    pictures = "picture" if done == total == 1 else "pictures"
    title = f' title="{message}"' if message else ""
    tags = " ".join(f"#{text(tag)}" for tag in job.get("tags") or ())
    made_with = " · ".join(str(job[k]) for k in ("kind", "model") if job.get(k))
    return (
        f'<a class="card" href="{link}/{_page_of(job)}" data-pack="{text(pack)}"'
        f' data-day="{day}" data-words="{text(prompt)}"{title}>'
        f'<span class="cover" data-count="{len(shown)}">{covers}</span>'
        f'<strong><bdi>{text(job["id"])}</bdi></strong><i class="pill" '
        f'data-state="{state}">{state}</i>'
        f'<span class="facts">{text(made_with)} <time datetime="{text(moment)}">'
        f"{text(moment[11:16])}</time></span>"
        f'<span class="facts">{count} {pictures}</span>'
        f"{f'<em>{tags}</em>' if tags else ''}{f'<b>{text(pack)}</b>' if pack else ''}</a>"
    )
