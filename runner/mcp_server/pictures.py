"""Finished pictures of a job: a page of them, as image content and as links.

A picture counts from the moment its sidecar is there. Names come from the outbox and are never
followed out of the job's folder; an id that is not a plain name finds nothing.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mcp.types import ImageContent, ResourceLink

from runner.settings import Home
from runner.spool.store.names import is_safe_id
from runner.wire import read_json

PAGE = 4
"""Pictures in one answer: what a model can look at, and what fits into one message."""

_MOST_BYTES = 5_000_000
_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
_NUMBER = re.compile(r"-(\d{4,5})\.json")


def uri_of(job_id: str, number: int) -> str:
    """The address of a picture as a resource; numbers count from 1, as in file names."""
    return f"flux://jobs/{job_id}/images/{number}"


def type_of(file: str) -> str:
    """The media type of a picture by its name."""
    return _TYPES.get(Path(file).suffix.lower(), "application/octet-stream")


def number_of(file: str) -> int:
    """The number of a picture or a sidecar within its job, from its name."""
    found = re.search(r"-(\d+)\.\w+$", file)
    return int(found[1]) if found else 0


def file_of(home: Home, job_id: str, number: int) -> str | None:
    """The file name of a finished picture, or None where there is none."""
    output = _output(home, job_id, f"{job_id}-{number:04d}.json")
    return output["file"] if output else None


def page(home: Home, status: Mapping[str, Any], offset: int) -> list[dict[str, Any]]:
    """At most four finished pictures of a job, in the order of their numbers, from `offset` on."""
    job_id = str(status["id"])
    known = {output["sidecar"]: output for output in status.get("outputs", ())}
    if len(known) >= (status.get("images") or {}).get("done", 0):
        names = sorted(known, key=number_of)
    else:  # a long job: the status has its newest hundred only
        names = _sidecars(home.job(job_id))
    rows = []
    for name in names[offset : offset + PAGE]:
        output = known.get(name) or _output(home, job_id, name)
        if output is not None:
            number = number_of(name)
            where = {"path": f"outbox/{job_id}/{output['file']}", "uri": uri_of(job_id, number)}
            rows.append({**output, **where})
    return rows


def contents(
    home: Home, job_id: str, rows: list[dict[str, Any]], form: str
) -> list[ImageContent | ResourceLink]:
    """The pictures of a page: each as an image, in the form that was asked for, and as a link."""
    found: list[ImageContent | ResourceLink] = []
    for row in rows:
        words = f"{row.get('width')}x{row.get('height')}, seed {row.get('seed')}"
        image = _image(home, job_id, row, form)
        if image is not None:
            found.append(image)
        found.append(
            ResourceLink(
                uri=row["uri"], name=row["file"], mime_type=type_of(row["file"]),
                description=words, size=_size(home, job_id, row["file"]),
            )
        )  # fmt: skip
    return found


def read(home: Home, job_id: str, file: str) -> bytes | None:
    """The bytes of a file in a job's folder; None for what is not there, or lies outside."""
    if not is_safe_id(job_id):
        return None
    folder = Path(os.path.realpath(home.outbox)) / job_id
    place = Path(os.path.realpath(folder / file))
    if not place.is_relative_to(folder):
        return None
    try:
        return place.read_bytes()
    except OSError:
        return None


def _image(home: Home, job_id: str, row: Mapping[str, Any], form: str) -> ImageContent | None:
    file = {"full": row["file"], "thumbnail": row.get("thumbnail")}.get(form)
    data = read(home, job_id, file) if file else None
    if data is None and form == "thumbnail":
        data, file = read(home, job_id, row["file"]), row["file"]
    # Larger than any host takes: the link says where it is.
    if data is None or file is None or len(data) > _MOST_BYTES:
        return None
    return ImageContent(data=base64.b64encode(data).decode(), mime_type=type_of(file))


def _size(home: Home, job_id: str, file: str) -> int | None:
    try:
        return os.stat(home.job(job_id) / file).st_size
    except OSError:
        return None


def _sidecars(folder: Path) -> list[str]:
    try:
        names = [entry.name for entry in os.scandir(folder)]
    except OSError:
        return []
    stem = folder.name
    own = [n for n in names if n.startswith(stem) and _NUMBER.fullmatch(n[len(stem) :])]
    return sorted(own, key=number_of)


def _output(home: Home, job_id: str, sidecar: str) -> dict[str, Any] | None:
    """The line of a status for one picture, from its sidecar."""
    if not is_safe_id(job_id):
        return None
    found = read_json(home.job(job_id) / sidecar)
    result = found.get("result") if found else None
    file = result.get("file") if isinstance(result, dict) else None
    if found is None or result is None or not isinstance(file, str) or "/" in file or "\\" in file:
        return None
    thumbnail = f"thumbs/{Path(file).stem}.webp"
    return {
        "file": file,
        "sidecar": sidecar,
        "thumbnail": thumbnail if (home.job(job_id) / thumbnail).is_file() else None,
        "seed": found.get("seed"),
        **{name: result.get(name) for name in ("sha256", "width", "height")},
    }
