"""Makes the gallery's row of one picture from its sidecar alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from runner.errors import UsageProblem
from runner.gallery.formatting import mapping

# These fields of `result` follow in this order, and then every other field of the spec.
_RESULTS = ("pack", "subject", "variable", "width", "height", "seconds", "created_at")
_LEFT_OUT = frozenset({"schema", "$schema", "result", "tags", "prompt", "kind", "model", "seed"})


def row_of(sidecar: Mapping[str, Any]) -> dict[str, Any]:
    """The row of one sidecar; its paths begin with `outbox/`, as a spec would name them.

    Raises UsageProblem for a mapping whose `result` does not name a job and a file.
    """
    result = mapping(sidecar.get("result"))
    job, file = result.get("job"), result.get("file")
    if not isinstance(job, str) or not isinstance(file, str):
        raise UsageProblem("this is no sidecar: its result names no job and file.")
    stem = PurePosixPath(file).stem
    row: dict[str, Any] = {
        "id": stem,
        "job": job,
        "index": result.get("index"),
        "file": f"outbox/{job}/{file}",
        "sidecar": f"outbox/{job}/{stem}.json",
        "thumbnail": f"outbox/{job}/thumbs/{stem}.webp",
        "prompt": sidecar.get("prompt") or "",
        "model": sidecar.get("model"),
        "kind": sidecar.get("kind"),
        "seed": sidecar.get("seed"),
        "tags": list(sidecar.get("tags") or ()),
    }
    row |= {name: result.get(name) for name in _RESULTS}
    for side in ("width", "height"):
        row[side] = row[side] or sidecar.get(side)
    return row | {
        name: value
        for name, value in sidecar.items()
        if name not in _LEFT_OUT and name not in row and value is not None
    }
