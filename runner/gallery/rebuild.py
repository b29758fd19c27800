"""Makes the gallery's row of one picture from its sidecar alone, and the whole index from all.

It is made some hundred rows at a time, and known to be incomplete meanwhile; others read it, add
and remove rows.
"""

import errno
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from math import inf
from pathlib import Path, PurePosixPath
from types import UnionType
from typing import Any

from runner import reading
from runner.errors import UsageProblem
from runner.files import is_file, is_folder, is_link, is_there, names_in
from runner.gallery.formatting import mapping
from runner.gallery.keys import keys_in
from runner.gallery.lock import locked
from runner.gallery.store import FILE, Gallery
from runner.wire import read_json

Progress = Callable[[int, int], None]
log = logging.getLogger(__name__)

_BATCH = 500
_OF_ONE_FILE = (errno.EACCES, errno.EPERM, errno.EIO)
# These fields of `result` follow in this order, and then every other field of the spec.
_RESULTS: dict[str, type | UnionType] = {
    "pack": str, "subject": str | int, "variable": str | int, "width": int, "height": int,
    "seconds": int | float, "created_at": str,
}  # fmt: skip
_LEFT_OUT = frozenset({"schema", "$schema", "result", "tags", "prompt", "kind", "model", "seed"})


def row_of(sidecar: Mapping[str, Any]) -> dict[str, Any]:
    """The row of one sidecar; its paths begin with `outbox/`, as a spec would name them.

    Raises UsageProblem for a mapping whose `result` does not name a job and a file, or that holds
    what JSON cannot.
    """
    result = mapping(sidecar.get("result"))
    job, file = result.get("job"), result.get("file")
    if not isinstance(job, str) or not isinstance(file, str):
        raise UsageProblem("this is no sidecar: its result names no job and file.")
    stem = PurePosixPath(file).stem
    row: dict[str, Any] = {
        "id": stem,
        "job": job,
        "index": _typed(int, result.get("index")),
        "file": f"outbox/{job}/{file}",
        "sidecar": f"outbox/{job}/{stem}.json",
        "thumbnail": f"outbox/{job}/thumbs/{stem}.webp",
        "prompt": _typed(str, sidecar.get("prompt")) or "",
        "model": _typed(str, sidecar.get("model")),
        "kind": _typed(str, sidecar.get("kind")),
        "seed": _typed(int, sidecar.get("seed")),
        "tags": [t for t in _typed(list, sidecar.get("tags")) or () if isinstance(t, str)],
    }
    row |= {name: _typed(kind, result.get(name)) for name, kind in _RESULTS.items()}
    for side in ("width", "height"):
        row[side] = row[side] or _typed(int, sidecar.get(side))
    row |= {
        name: value
        for name, value in sidecar.items()
        if name not in _LEFT_OUT and name not in row and value is not None
    }
    try:
        json.dumps(row, allow_nan=False, ensure_ascii=False).encode()
    except ValueError:
        raise UsageProblem("this is no sidecar: it holds NaN, or text that is none.") from None
    return row


def entry_of(sidecar: Mapping[str, Any]) -> dict[str, Any]:
    """The same for the index, with the `keys` by which the picture is found again."""
    return row_of(sidecar) | {"keys": keys_in(sidecar)}


def _typed(kind: type | UnionType, value: Any) -> Any:
    """A value of a sidecar, which anybody may have written, if it is what it should be."""
    return value if isinstance(value, kind) and not isinstance(value, bool) else None


def rebuild(
    gallery: Gallery, outbox: Path, progress: Progress | None = None,
    *, anew: bool = True, if_missing: bool = False, patience: float = inf,
) -> int:  # fmt: skip
    """Make the index from the sidecars, and return its number of rows.

    Not `anew`, the rows that are there stay, unless the file is damaged. With `if_missing` only
    where it is missing or damaged. `progress(done, total)` is called after each job. A job that
    cannot be read is left out, and logged. Raises TimeoutError where another process does it, or
    writes the index, for longer than `patience` seconds.
    """
    gallery.folder.mkdir(exist_ok=True)
    with locked(gallery.folder / "rebuilding", patience):
        # Another process may have made it while this one waited.
        if not if_missing or gallery.missing or gallery.damaged:
            if anew or gallery.damaged:
                gallery.empty()
            _remove_others(gallery.folder)
            gallery.mark(complete=False)
            _add_missing(gallery, outbox, progress or (lambda done, total: None))
            gallery.mark(complete=True)
        return len(gallery)


def _add_missing(gallery: Gallery, outbox: Path, progress: Progress) -> None:
    """Add the rows that the index lacks, and those that have changed."""
    jobs = names_in(outbox)
    rows: list[dict[str, Any]] = []
    for done, job in enumerate(jobs, start=1):
        try:
            # A link leads to another job's folder, or out of the outbox.
            own = not is_link(outbox / job) and is_file(outbox / job / "status.json")
            for path in reading.sidecars(outbox / job).values() if own else ():
                if (row := _row(path)) is not None:
                    rows.append(row)
                if len(rows) >= _BATCH:
                    gallery.add(*rows)
                    rows.clear()
                    progress(done - 1, len(jobs))
        except OSError as error:
            if error.errno not in _OF_ONE_FILE or gallery.damaged:
                raise
            log.warning("%s is not in the gallery, it cannot be read: %s", outbox / job, error)
        progress(done, len(jobs))
    gallery.add(*rows)


def remove_gone(gallery: Gallery, outbox: Path, pause: Callable[[], object] = lambda: None) -> None:
    """Remove the rows whose sidecars are gone; calls `pause` after each few hundred."""
    last = ""
    while rows := gallery.after(last, _BATCH):
        last = str(rows[-1]["id"])
        # A row's paths begin with `outbox/`, whatever the settings name it.
        here = ((row, outbox / row["sidecar"].partition("/")[2]) for row in rows)
        gallery.remove(*(row for row, sidecar in here if not is_there(sidecar)))
        pause()


def _remove_others(folder: Path) -> None:
    """Remove what other versions keep there."""
    for name in names_in(folder):
        if not name.startswith((FILE, "rebuilding")):
            with suppress(OSError):
                path = folder / name
                shutil.rmtree(path) if is_folder(path) else path.unlink()


def _row(sidecar: Path) -> dict[str, Any] | None:
    """The row of a sidecar, or None for a file that is none or lies in another job's folder."""
    try:
        row = entry_of(found) if (found := read_json(sidecar)) else None
    except UsageProblem:
        return None
    # In a copied or renamed folder the row's paths would be wrong.
    is_own = row is not None and (row["job"], row["id"]) == (sidecar.parent.name, sidecar.stem)
    return row if is_own else None
