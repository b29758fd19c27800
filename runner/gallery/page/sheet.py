"""Makes the pages of the outbox: `outbox/<id>/index.html` for a job, `outbox/index.html` for all.

The pages are static files that need no server and no network; they work from `file://` and after
being copied. All text from specs is escaped here, and a Content-Security-Policy with the hashes of
the page's own script and styles lets no others run.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from runner.gallery.formatting import html_text as text
from runner.gallery.formatting import mapping
from runner.gallery.page import overview
from runner.gallery.page.layout import CRISP_UP_TO, Board, Shot, arrange, shots_of
from runner.gallery.page.summary import Summary, summarise
from runner.job import FINAL_STATES

_PAGE = Path(__file__).parent


def job_page(
    status: Mapping[str, Any],
    sidecars: Iterable[Mapping[str, Any]],
    *,
    failures: Iterable[Mapping[str, Any]] = (),
) -> str:
    """The contact sheet of one job.

    A failure is `{"index", "reason", "message"}` with any other known fields of that image
    (`prompt`, `seed`, `subject`, `variable`); the failures of the status are shown too.
    """
    shots = shots_of(sidecars, [*(status.get("failures") or ()), *failures])
    board = arrange(shots)
    summary = summarise(status, shots)
    final = status.get("state") in FINAL_STATES
    warnings = "".join(f"<li><bdi>{text(w)}</bdi></li>" for w in status.get("warnings") or ())
    return _document(
        "job",
        layout=f":root{{--columns:{len(board.columns)};--abreast:{board.abreast}}}",
        data=_json(_job_data(status, shots, final)),
        title=text(f"{status.get('id', 'job')} · fluxdrop"),
        refresh="" if final else '<noscript><meta http-equiv="refresh" content="10"></noscript>',
        job=text(status.get("id", "job")),
        state=text(status.get("state", "unknown")),
        subtitle=text(summary.subtitle),
        figures="".join(
            f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>"
            for name, value in summary.figures
        ),
        progress=_progress(summary),
        notice=_notice(status),
        notes=f'<ul class="notes">{warnings}</ul>' if warnings else "",
        board=_board(board, summary),
        empty="" if shots else f'<p class="empty">No pictures{"" if final else " yet"}.</p>',
    )


def outbox_page(jobs: Iterable[Mapping[str, Any]], packs: Mapping[str, str] | None = None) -> str:
    """The page of the latest jobs, newest first; `packs` names the pack that a job used."""
    listed = overview.latest(jobs)
    return _document(
        "outbox",
        layout="",
        title="fluxdrop",
        count=text(overview.counted(listed)),
        days=overview.days(listed, packs or {}),
    )


def _document(name: str, *, layout: str, **parts: str) -> str:
    """Fill one of the page templates, and its policy with the hashes of its script and styles."""
    style, script = _asset("common.css") + _asset(f"{name}.css"), _asset(f"{name}.js")
    styles = " ".join(_hash(part) for part in (style, layout) if part)
    policy = (
        f"default-src 'none'; img-src 'self' file: data:; style-src {styles}; "
        f"script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    return Template(_asset(f"{name}.html")).substitute(
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


def _job_data(status: Mapping[str, Any], shots: Sequence[Shot], final: bool) -> dict[str, Any]:
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
        "job": status.get("id", "job"),
        "final": final,
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


def _progress(summary: Summary) -> str:
    if summary.fraction is None:
        return ""
    return (
        f'<div class="progress"><progress max="1" value="{summary.fraction:.4f}" '
        f'aria-label="progress">{summary.fraction:.0%}</progress><p>{text(summary.doing)}</p></div>'
    )


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


def _board(board: Board, summary: Summary) -> str:
    if not board.down:
        shots = "".join(_shot(shot) for row in board.rows.values() for cell in row for shot in cell)
        return f'<div class="grid" data-board>{shots}{_to_come(summary)}</div>'
    heads = ""
    if board.across:
        names = "".join(f'<div class="column"><bdi>{text(c)}</bdi></div>' for c in board.columns)
        corner = f'<div class="corner">{text(board.down)} ↓ {text(board.across)} →</div>'
        heads = f'<div class="heads" aria-hidden="true">{corner}{names}</div>'
    rows = "".join(_row(label, cells, board) for label, cells in board.rows.items())
    css_class = "board" if board.across else "board single"
    return f'<div class="{css_class}" data-board>{heads}{rows}{_to_come(summary)}</div>'


def _row(label: str, cells: Sequence[Sequence[Shot]], board: Board) -> str:
    shown = "".join(
        f'<div class="cell" data-label="{text(column)}">{"".join(map(_shot, shots))}</div>'
        for column, shots in zip(board.columns, cells, strict=True)
    )
    return (
        f'<section class="row"><h2><bdi>{text(label)}</bdi></h2>'
        f'<div class="cells">{shown}</div></section>'
    )


def _shot(shot: Shot) -> str:
    if shot.missing:
        seed = f"<span>seed {text(shot.spec['seed'])}</span>" if "seed" in shot.spec else ""
        # A CamelCase word may be broken between its parts.
        reason = re.sub(r"(?<=[a-z])(?=[A-Z])", "<wbr>", text(shot.missing))
        return (
            f'<div class="missing" title="{text(shot.message)}"><strong>{reason}'
            f"</strong><span><bdi>{text(shot.message)}</bdi></span>{seed}</div>"
        )
    width, height = shot.size
    crisp = " crisp" if max(width, height) <= CRISP_UP_TO else ""
    alt = shot.prompt or f"picture {shot.index}"
    return (
        f'<a class="shot{crisp}" id="{text(shot.name)}" href="{quote(shot.file, safe="")}">'
        f'<img src="thumbs/{quote(shot.name, safe="")}.webp" width="{width}" height="{height}" '
        f'loading="lazy" decoding="async" alt="{text(alt)}">'
        f"<span>{text(shot.spec.get('seed', ''))}</span></a>"
    )


def _to_come(summary: Summary) -> str:
    if not summary.to_come:
        return ""
    return f'<div class="to-come"><strong>{summary.to_come:,}</strong><span>to come</span></div>'
