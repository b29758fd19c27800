"""The index made again from the sidecars: when it is missing, when it is damaged, when asked.

Rows go into a new generation beside the old one, oldest picture first; what was added meanwhile
is brought along under the lock, and then one small file says that the new one counts. A reader
sees the old index or the new one, and a rebuild that dies leaves the old one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from runner.errors import UsageProblem
from runner.gallery.rows import row_of
from runner.gallery.segments import SEGMENT, Segments, Write, generations
from runner.gallery.store import Gallery
from runner.gallery.terms import moment

# Longer than any system keeps written bytes to itself, and clocks are allowed to differ a little.
_LOOK_BACK = 600.0
Progress = Callable[[int, int], None]
_NOT_SIDECARS = frozenset({"status.json", "spec.json"})


def ensure(folder: Path, outbox: Path, write: Write, progress: Progress | None = None) -> bool:
    """Bring the index up to the sidecars; says whether that took making it anew.

    For the start of a runner: a kill may have come between a sidecar and its row, a power cut
    just after it.
    """
    if not Segments(folder).sound():
        rebuild(folder, outbox, write, progress)
        return True
    gallery = Gallery(folder, write)
    newest = gallery.page(lambda index: -1, limit=1)[1]
    since = moment(newest[0].get("created_at")) / 1000 - _LOOK_BACK if newest else 0
    for job in _jobs(outbox):
        if job.stat().st_mtime >= since:
            gallery.add(*(row for path in _sidecars(job) if (row := _row(path)) is not None))
    return False


def rebuild(folder: Path, outbox: Path, write: Write, progress: Progress | None = None) -> int:
    """Make the index again and return how many rows it has; `progress(done, total)` as it goes."""
    old = Segments(folder, write)
    with old.writing():
        began, mark = old.generation, old.length
        name = f"g{max(generations(folder), default=0) + 1:06}"
        (folder / name).mkdir()
    fresh = Gallery(folder, write, generation=name)
    try:
        rows = _oldest_first(outbox, progress)
        while batch := [{"row": row} for row in islice(rows, SEGMENT)]:
            fresh.segments.append(partial(list, batch))
        with old.writing():
            if old.generation == began:
                _bring_along(old, mark, fresh)
            count = len(fresh)
            old.switch(name)
    except BaseException:
        shutil.rmtree(folder / name, ignore_errors=True)
        raise
    for number in generations(folder):
        # A newer one belongs to a rebuild that is still at work. A reader on Windows may hold an
        # old one open: then the next rebuild takes it away.
        if f"g{number:06}" < name:
            shutil.rmtree(folder / f"g{number:06}", ignore_errors=True)
    return count


def _bring_along(old: Segments, mark: int, fresh: Gallery) -> None:
    """Do to the new index what others did to the old one since the rebuild began."""
    for entry in old.entries(after=mark):
        if "row" in entry:
            fresh.add(entry["row"])
        else:
            rows = [old.row(doc) for doc in entry.get("gone", ())]
            fresh.remove(*(str(row["id"]) for row in rows if row is not None))


def _oldest_first(outbox: Path, progress: Progress | None) -> Iterator[dict[str, Any]]:
    """All rows in the order in which the pictures were made; memory holds their places only."""
    with TemporaryFile() as spool:
        places: list[tuple[int, str, int, int]] = []
        for row in _rows(outbox, progress):
            made, index = moment(row.get("created_at")), row.get("index")
            place = index if isinstance(index, int) else 0
            places.append((made, str(row["job"]), place, spool.tell()))
            spool.write(json.dumps(row).encode() + b"\n")
        for *_, at in sorted(places):
            spool.seek(at)
            yield json.loads(spool.readline())


def _rows(outbox: Path, progress: Progress | None) -> Iterator[dict[str, Any]]:
    paths = [path for job in _jobs(outbox) for path in _sidecars(job)]
    for done, path in enumerate(paths, start=1):
        if (row := _row(path)) is not None:
            yield row
        if progress is not None and (done % 100 == 0 or done == len(paths)):
            progress(done, len(paths))


def _row(sidecar: Path) -> dict[str, Any] | None:
    try:
        row = row_of(json.loads(sidecar.read_bytes()))
    except (OSError, ValueError, AttributeError, UsageProblem):
        return None
    # A folder that someone copied or renamed holds pictures whose paths would be wrong.
    return row if row["job"] == sidecar.parent.name else None


def _jobs(outbox: Path) -> list[Path]:
    if not outbox.is_dir():
        return []
    return sorted(job for job in outbox.iterdir() if (job / "status.json").is_file())


def _sidecars(job: Path) -> list[Path]:
    return sorted(path for path in job.glob("*.json") if path.name not in _NOT_SIDECARS)
