"""Finished pictures of a job: a page of them, as image content and as links.

A picture counts from the moment its sidecar exists. File names come from the outbox, and nothing
outside the job's folder is ever read; an id that is not a plain name has no pictures.
"""

import base64
import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mcp.types import ImageContent, ResourceLink

from runner import reading
from runner.files import MAX_FILE_BYTES, is_file, read_file
from runner.settings import Home
from runner.spool.store.names import is_safe_id
from runner.spool.store.outbox import output_entry
from runner.wire import Output, read_json

PAGE = 4
"""The number of pictures in one result, few enough for a model and for one message."""

BUDGET = 900_000
"""The most characters that the pictures of one result take: hosts cut at about a million."""
_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}


def uri_of(job_id: str, number: int) -> str:
    """The address of a picture as a resource; numbers count from 1, as in file names."""
    return f"flux://jobs/{job_id}/images/{number}"


def type_of(file: str) -> str:
    """The media type of a picture by its name."""
    return _TYPES.get(Path(file).suffix.lower(), "application/octet-stream")


def number_in(file: str) -> int:
    """The number of a picture or a sidecar within its job, from its name; 0 without one."""
    match = re.search(r"-(\d+)\.\w+$", file)
    return int(match[1]) if match else 0


def file_of(home: Home, job_id: str, number: int) -> str | None:
    """The file name of a finished picture, or None where there is none."""
    output = _output(home, job_id, f"{job_id}-{number:04d}.json")
    return output["file"] if output else None


def page(home: Home, status: Mapping[str, Any], offset: int) -> list[dict[str, Any]]:
    """At most four finished pictures of a job, in the order of their numbers, from `offset` on."""
    job_id = str(status["id"])
    known = {output["sidecar"]: output for output in status.get("outputs", ())}
    if len(known) >= (status.get("images") or {}).get("done", 0):
        names = sorted(known, key=number_in)
    else:  # a long job, whose status has the newest hundred only
        names = [file.name for file in reading.sidecars(home.job(job_id)).values()]
    rows = []
    for name in names[offset : offset + PAGE]:
        output = known.get(name) or _output(home, job_id, name)
        if output is not None:
            path, uri = f"outbox/{job_id}/{output['file']}", uri_of(job_id, number_in(name))
            rows.append({**output, "path": path, "uri": uri})
    return rows


def contents(
    home: Home, job_id: str, rows: list[dict[str, Any]], form: str
) -> tuple[list[ImageContent | ResourceLink], str]:
    """The pictures of a page, each as an image and as a link, and which of them are made smaller.

    `form` is `thumbnail`, `full`, or `none` for links only. Images share the budget of a result.
    """
    content: list[ImageContent | ResourceLink] = []
    smaller: list[str] = []
    for row in rows:
        image = _image(home, job_id, row, form, BUDGET // len(rows))
        if image is not None:
            content.append(image[0])
            smaller += image[1:]
        description = f"{row.get('width')}x{row.get('height')}, seed {row.get('seed')}"
        content.append(
            ResourceLink(
                uri=row["uri"], name=row["file"], mime_type=type_of(row["file"]),
                description=description, size=_size(home, job_id, row["file"]),
            )
        )  # fmt: skip
    told = f"shown smaller, to fit one answer: {', '.join(smaller)}; `path` has the whole file"
    return content, told if smaller else ""


def read(home: Home, job_id: str, file: str, most: int = MAX_FILE_BYTES) -> bytes | None:
    """The bytes of a file in a job's folder; None where there is none, or it lies outside.

    None as well where it has more than `most` bytes.
    """
    if not is_safe_id(job_id):
        return None
    folder = Path(os.path.realpath(home.outbox)) / job_id
    try:
        path = Path(os.path.realpath(folder / file))
        return read_file(path, most) if path.is_relative_to(folder) else None
    except (OSError, ValueError):  # a name that no file can have, too
        return None


def _image(
    home: Home, job_id: str, row: Mapping[str, Any], form: str, budget: int
) -> tuple[ImageContent] | tuple[ImageContent, str] | None:
    """A picture in at most `budget` characters, and what it is told as if it is made smaller."""
    names = {"full": [row["file"]], "thumbnail": [row.get("thumbnail"), row["file"]]}
    for file in filter(None, names.get(form, ())):
        if (data := read(home, job_id, file)) is not None:
            most = budget * 3 // 4
            if len(data) <= most:
                return (_content(data, type_of(file)),)
            if made := _smaller(data, most):
                return _content(made[0], "image/webp"), f"{row['file']} ({made[1]})"
    return None


def _content(data: bytes, media_type: str) -> ImageContent:
    return ImageContent(data=base64.b64encode(data).decode(), mime_type=media_type)


def _smaller(data: bytes, most: int) -> tuple[bytes, str] | None:
    """A picture as WebP of at most `most` bytes, and its size; None for what is no picture."""
    from runner.errors import InputBad
    from runner.pictures import decoded

    try:
        picture = decoded(data).convert("RGB")
    except InputBad:
        return None
    while True:
        stream = io.BytesIO()
        picture.save(stream, "webp", quality=85)
        if stream.tell() <= most:
            return stream.getvalue(), f"{picture.width}x{picture.height}"
        picture = picture.resize((max(picture.width * 3 // 4, 1), max(picture.height * 3 // 4, 1)))


def _size(home: Home, job_id: str, file: str) -> int | None:
    try:
        return os.stat(home.job(job_id) / file).st_size
    except (OSError, ValueError):
        return None


def _output(home: Home, job_id: str, sidecar: str) -> dict[str, Any] | None:
    """The entry of a status' `outputs` for one picture, made from its sidecar."""
    if not is_safe_id(job_id):
        return None
    content = read_json(home.job(job_id) / sidecar)
    try:
        output = output_entry(content or {}, None)
        thumbnail = f"thumbs/{Path(output['file']).stem}.webp"
    except (LookupError, TypeError):
        return None
    if {"/", "\\"}.intersection(output["file"]):
        return None
    if is_file(home.job(job_id) / thumbnail):
        output["thumbnail"] = thumbnail
    return reading.checked(output, Output)
