"""Makes the pages of the outbox: those of a job, and those of all jobs.

The pages are static files that need no server and no network; they work from `file://` and after
being copied. All text from specs is escaped here, and a Content-Security-Policy with the hashes of
the page's own script and styles lets no others run.
"""

import base64
import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from itertools import groupby
from math import ceil
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from runner.gallery.formatting import html_text as text
from runner.gallery.formatting import mapping
from runner.gallery.page import overview
from runner.gallery.page.layout import CRISP_UP_TO, Board, Shot
from runner.gallery.page.summary import Summary, progress_bar
from runner.job import FINAL_STATES
from runner.wire import PREVIEW

_PAGE = Path(__file__).parent


def page_name(number: int) -> str:
    """The file of one of a job's pages."""
    return "index.html" if number == 1 else f"page-{number}.html"


def body_of(board: Board, to_come: int = 0) -> dict[str, str]:
    """The parts of a page that tell of its pictures, and a place for those to come."""
    # In the order of the board, in which the script meets them.
    shots = [shot for row in board.rows.values() for cell in row for shot in cell]
    lines = ceil(board.seeds / board.abreast)
    layout = f"--columns:{len(board.columns)};--abreast:{board.abreast};--lines:{lines}"
    return {
        "layout": f":root{{{layout}}}",
        "data": _json(_job_data(shots)),
        "board": _board(board, to_come),
        "empty": "" if shots or to_come else '<p class="empty">No pictures.</p>',
    }


def job_page(
    status: Mapping[str, Any],
    summary: Summary,
    body: Mapping[str, str],
    number: int,
    starts: Sequence[int],
    beside: Collection[str] = (),
) -> str:
    """One page of a job; `starts` are the first images of its pages.

    The first page has the head and the progress; of the files `beside` it, the preview and a link
    to each table.
    """
    source = mapping(status.get("source")).get("sha256")
    first, state = number == 1, text(status.get("state", "unknown"))
    lives = status.get("state") not in FINAL_STATES and (first or number == len(starts))
    warnings = "".join(f"<li><bdi>{text(w)}</bdi></li>" for w in status.get("warnings") or ())
    figures = "".join(
        f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in summary.figures
    )
    head = {
        "state": f'<i class="pill" data-state="{state}">{state}</i>',
        "figures": figures,
        "progress": progress_bar(summary),
        "notice": _notice(status),
        "notes": f'<ul class="notes">{warnings}</ul>' if warnings else "",
        "preview": f'<img data-preview src="{PREVIEW}" alt="">'
        if lives and PREVIEW in beside
        else "",
        "tables": "".join(f' · <a href="{name}">{name}</a>' for name in beside if name != PREVIEW),
    }
    return _document(
        "job",
        **body,
        **(head if first else dict.fromkeys(head, "")),
        title=text(f"{status.get('id', 'job')} · {'' if first else f'{number} · '}fluxdrop"),
        refresh='<noscript><meta http-equiv="refresh" content="10"></noscript>' if lives else "",
        final=str(not lives).lower(),
        job=text(status.get("id", "job")),
        # Other homes have jobs of the same name.
        key=text(f"{status.get('id')}:{source}:{status.get('accepted_at')}"),
        subtitle=text(summary.subtitle),
        pages=_pages(number, starts),
    )


def _pages(number: int, starts: Sequence[int]) -> str:
    """The links between the pages of a job, as far as this one knows them."""
    if len(starts) == 1:
        return ""
    ways = {number: 'aria-current="page"', number - 1: 'rel="prev"', number + 1: 'rel="next"'}
    links = "".join(
        f'<a href="{page_name(page)}" data-start="{start}" {ways.get(page, "")}>{page}</a>'
        for page, start in enumerate(starts, start=1)
    )
    return f'<nav class="pages" aria-label="pages">Page {links}</nav>'


def outbox_page(
    jobs: Iterable[Mapping[str, Any]],
    packs: Mapping[str, str] | None = None,
    prompts: Mapping[str, str] | None = None,
    *,
    months: Iterable[str] = (),
    month: str = "",
) -> str:
    """The page of the latest jobs, newest first, or of a `month`, which lies in a folder below.

    `packs` names the pack that a job used, `prompts` has the words that it is found by; `months`
    are the files of older jobs.
    """
    listed = overview.latest(jobs)
    return _document(
        "outbox",
        layout="",
        title=f"{month} · fluxdrop" if month else "fluxdrop",
        heading=month or "fluxdrop",
        home=' href="../index.html" aria-label="newest jobs"' if month else "",
        count=text(overview.counted(listed)),
        now="" if month else overview.now(listed),
        refresh="" if month else '<noscript><meta http-equiv="refresh" content="30"></noscript>',
        days=overview.days(listed, packs or {}, prompts or {}, up="../" if month else ""),
        months=overview.links(months),
    )


def _document(name: str, *, layout: str, **parts: str) -> str:
    """Fill one of the page templates, and its policy with the hashes of its script and styles."""
    style, script = (_asset(f"common.{kind}") + _asset(f"{name}.{kind}") for kind in ("css", "js"))
    styles = " ".join(_hash(part) for part in (style, layout) if part)
    policy = (
        f"default-src 'none'; img-src 'self' file: data:; style-src {styles}; "
        f"script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    return Template(_asset("common.html") + _asset(f"{name}.html")).substitute(
        parts,
        policy=policy,
        style=style,
        layout=f"<style>{layout}</style>" if layout else "",
        script=script,
    )


@cache
def _asset(name: str) -> str:
    return (_PAGE / name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _json(data: Mapping[str, Any]) -> str:
    """JSON that is safe inside a script element: ASCII, without `<`, `>` and `&`."""
    dumped = json.dumps(data, separators=(",", ":"))
    return dumped.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _job_data(shots: Sequence[Shot]) -> dict[str, Any]:
    """The data of the page's script: each picture's settings, with shared ones listed once."""
    made = [shot for shot in shots if not shot.missing]
    spec, result = _shared([s.spec for s in made]), _shared([s.result for s in made])
    prompts = {prompt: n for n, prompt in enumerate(dict.fromkeys(shot.prompt for shot in made))}
    images = [
        {
            "file": shot.file,
            "prompt": prompts[shot.prompt],
            "spec": {k: v for k, v in shot.spec.items() if k not in spec and k != "prompt"},
            "result": {k: v for k, v in shot.result.items() if k not in result},
        }
        for shot in made
    ]
    return {
        "order": list(made[0].spec) if made else [],
        "spec": {k: v for k, v in spec.items() if k != "prompt"},
        "result": result,
        "prompts": list(prompts),
        "images": images,
    }


def _shared(mappings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The items that all of the mappings have in common."""
    if not mappings:
        return {}
    first, *others = mappings
    return {
        key: value
        for key, value in first.items()
        if all(key in other and other[key] == value for other in others)
    }


def _notice(status: Mapping[str, Any]) -> str:
    """Why the job failed or waits, in words; empty for a job without reason and message."""
    message, reason = status.get("message"), status.get("reason")
    if not message and not reason:
        return ""
    errors = "".join(
        f"<li>{_where(error)}<bdi>{text(error.get('message', ''))}</bdi></li>"
        for error in map(mapping, status.get("errors") or ())
    )
    listed = f"<ul>{errors}</ul>" if errors else ""
    return (
        f'<section class="notice" data-state="{text(status.get("state", ""))}">'
        f"<p><strong>{text(reason or '')}</strong> <bdi>{text(message or '')}</bdi></p>"
        f"{listed}</section>"
    )


def _where(error: Mapping[str, Any]) -> str:
    line = f"line {error['line']}, column {error.get('column', 0)}" if error.get("line") else ""
    parts = [part for part in (line, error.get("path")) if part]
    return "".join(f"<code>{text(part)}</code>: " for part in parts)


def _board(board: Board, to_come: int) -> str:
    if not board.down:
        shots = "".join(_shot(shot) for row in board.rows.values() for cell in row for shot in cell)
        return f'<div class="grid" data-board>{shots}{_to_come(to_come)}</div>'
    heads = ""
    if board.across:
        names = "".join(f'<div class="column"><bdi>{text(c)}</bdi></div>' for c in board.columns)
        corner = f'<div class="corner">{text(board.down)} ↓ {text(board.across)} →</div>'
        heads = f'<div class="heads">{corner}{names}</div>'
    rows = ""
    for group, same in groupby(board.rows.items(), key=lambda row: row[0][0]):
        level = "h3" if group else "h2"
        inside = "".join(_row(level, label, cells, board) for (_, label), cells in same)
        title = f"<h2><bdi>{text(group)}</bdi></h2>"
        rows += f'<section class="group">{title}{inside}</section>' if group else inside
    css_class = "board" if board.across else "board single"
    return f'<div class="{css_class}" data-board>{heads}{rows}{_to_come(to_come)}</div>'


def _row(level: str, label: str, cells: Sequence[Sequence[Shot]], board: Board) -> str:
    shown = "".join(
        f'<div class="cell" role="group" aria-label="{text(column or label)}">'
        f"{''.join(_shot(shot, on_board=True) for shot in shots)}</div>"
        for column, shots in zip(board.columns, cells, strict=True)
    )
    return (
        f'<section class="row"><{level} class="label"><bdi>{text(label)}</bdi></{level}>'
        f'<div class="cells">{shown}</div></section>'
    )


def _shot(shot: Shot, on_board: bool = False) -> str:
    """One picture, or why it is missing; on a board its headings tell the rest of its name."""
    seed = f"seed {text(shot.spec['seed'])}" if "seed" in shot.spec else f"picture {shot.index}"
    if shot.missing:
        # A CamelCase word may be broken between its parts.
        reason = re.sub(r"(?<=[a-z])(?=[A-Z])", "<wbr>", text(shot.missing))
        return (
            f'<div class="missing" title="{text(shot.message)}"><strong>{reason}'
            f"</strong><span><bdi>{text(shot.message)}</bdi></span><span>{seed}</span></div>"
        )
    width, height = shot.size
    crisp = " crisp" if max(width, height) <= CRISP_UP_TO else ""
    alt = "" if on_board else shot.prompt
    return (
        f'<a class="shot{crisp}" id="{text(shot.name)}" href="{quote(shot.file, safe="")}">'
        f'<img src="thumbs/{quote(shot.name, safe="")}.webp" width="{width}" height="{height}" '
        f'loading="lazy" decoding="async" alt="{text(alt)}">'
        f"<span>{seed}</span></a>"
    )


def _to_come(count: int) -> str:
    if not count:
        return ""
    return f'<div class="to-come"><strong>{count:,}</strong><span>to come</span></div>'
