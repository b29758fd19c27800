"""The index made again from the sidecars: when it is missing, when it is damaged, when asked.

Rows go into a new generation beside the old one, oldest picture first; what was added meanwhile
is brought along under the lock, and then one small file says that the new one counts. A reader
sees the old index or the new one, and a rebuild that dies leaves the old one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from itertools import batched
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from runner.errors import UsageProblem
from runner.gallery.rows import row_of
from runner.gallery.segments import SEGMENT, Segments, Write, generations
from runner.gallery.store import Gallery
from runner.gallery.terms import moment

Progress = Callable[[int, int], None]
_NOT_SIDECARS = frozenset({"status.json", "spec.json"})


def ensure(folder: Path, outbox: Path, write: Write, progress: Progress | None = None) -> bool:
    """Rebuild the index if it is missing or damaged; says whether it had to."""
    if Segments(folder).sound():
        return False
    rebuild(folder, outbox, write, progress)
    return True


def rebuild(folder: Path, outbox: Path, write: Write, progress: Progress | None = None) -> int:
    """Make the index again and return how many rows it has; `progress(done, total)` as it goes."""
    old = Segments(folder, write)
    with old.writing():
        began, mark = old.generation, old.length
        name = f"g{max(generations(folder), default=0) + 1:06}"
        (folder / name).mkdir()
    fresh = Gallery(folder, write, generation=name)
    try:
        for rows in batched(_oldest_first(outbox, progress), SEGMENT):
            fresh.segments.append(lambda rows=rows: [{"row": row} for row in rows])
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
    paths = list(_sidecars(outbox))
    for done, path in enumerate(paths, start=1):
        try:
            row = row_of(json.loads(path.read_bytes()))
        except (OSError, ValueError, AttributeError, UsageProblem):
            row = None
        # A folder that someone copied or renamed holds pictures whose paths would be wrong.
        if row is not None and row["job"] == path.parent.name:
            yield row
        if progress is not None and (done % 100 == 0 or done == len(paths)):
            progress(done, len(paths))


def _sidecars(outbox: Path) -> Iterator[Path]:
    if not outbox.is_dir():
        return
    for job in sorted(outbox.iterdir()):
        if (job / "status.json").is_file():
            found = (path for path in job.glob("*.json") if path.name not in _NOT_SIDECARS)
            yield from sorted(found)
