"""Makes the gallery's row of one picture from its sidecar alone, and the whole index from all.

A rebuild, if the index is missing or damaged or on request, writes the rows to a new generation,
oldest picture first. Then, under the lock, it gets the rows that others added or removed meanwhile,
and one small file is replaced to name it. A reader sees either the old index or the new one, and a
rebuild that fails leaves the old one.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from math import inf
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from types import UnionType
from typing import Any

from runner.errors import UsageProblem
from runner.gallery.formatting import mapping
from runner.gallery.lock import locked
from runner.gallery.segments import SEGMENT, Segments, Write, generations
from runner.gallery.store import Gallery
from runner.gallery.terms import moment
from runner.wire import read_json

Progress = Callable[[int, int], None]
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


def _typed(kind: type | UnionType, value: Any) -> Any:
    """A value of a sidecar, which anybody may have written, if it is what it should be."""
    return value if isinstance(value, kind) and not isinstance(value, bool) else None


def ensure(folder: Path, outbox: Path, write: Write, *, patience: float = inf) -> bool:
    """Add the rows that the index lacks, and return whether it had to be made again.

    For the start of a runner: it may have been killed after writing a sidecar and before adding
    its row, and a power cut loses the rows of the last seconds. Rows are added in the order of the
    images, so that an intact index lacks rows only of jobs whose last one it lacks. No date is
    looked at: the clock may have been set. Raises TimeoutError where another process makes the
    index, or writes it, for longer than `patience` seconds.
    """
    if not Segments(folder).sound():
        rebuild(folder, outbox, write, if_unsound=True, patience=patience)
        return True
    gallery = Gallery(folder, write, patience=patience)
    for sidecars in _sidecars(outbox):
        if sidecars and gallery.get(sidecars[-1].stem) is None:
            gallery.add(*filter(None, map(_row, sidecars)))
    return False


def rebuild(
    folder: Path, outbox: Path, write: Write, progress: Progress | None = None,
    *, if_unsound: bool = False, patience: float = inf,
) -> int:  # fmt: skip
    """Make the index again and return its number of rows; with `if_unsound` only where it must be.

    `progress(done, total)` is called now and then, with numbers of sidecars. Raises TimeoutError as
    `ensure` does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # The writers' own lock is held for moments only: they add rows meanwhile.
    with locked(folder / "rebuilding", patience):
        # Another process may have made it while this one waited.
        if if_unsound and (made := Gallery(folder)).sound():
            return len(made)
        count = None
        while count is None:
            count = _rebuilt(Segments(folder, write, patience=patience), outbox, write, progress)
    return count


def _rebuilt(old: Segments, outbox: Path, write: Write, progress: Progress | None) -> int | None:
    """The number of rows of the new index; None where another took the place of the old one."""
    folder = old.folder
    with old.writing():
        old_name, old_length = old.generation, old.length
        name = f"g{max(generations(folder), default=0) + 1:06}"
        (folder / name).mkdir()
    fresh = Gallery(folder, write, generation=name)
    try:
        rows = _oldest_first(outbox, progress)
        while batch := [{"row": row} for row in islice(rows, SEGMENT)]:
            fresh.append(partial(list, batch))
        with old.writing():
            if old.generation != old_name or not (folder / name).is_dir():
                shutil.rmtree(folder / name, ignore_errors=True)
                return None
            _replay(old, old_length, fresh)
            count = len(fresh)
            old.switch(name)
    except FileNotFoundError:
        if (folder / name).is_dir():
            raise
        return None
    except BaseException:
        shutil.rmtree(folder / name, ignore_errors=True)
        raise
    for number in generations(folder):
        # One that a reader on Windows still has open is removed by the next rebuild.
        if f"g{number:06}" < name:
            shutil.rmtree(folder / f"g{number:06}", ignore_errors=True)
    return count


def _replay(old: Segments, length: int, fresh: Gallery) -> None:
    """Apply to the new index what the old one gained after its first `length` lines."""
    for entry in old.entries(after=length):
        if "row" in entry:
            fresh.add(entry["row"])
        else:
            rows = [old.row(doc) for doc in entry.get("gone", ())]
            fresh.remove(*(str(row["id"]) for row in rows if row is not None))


def _oldest_first(outbox: Path, progress: Progress | None) -> Iterator[dict[str, Any]]:
    """All rows, oldest picture first; the rows wait in a temporary file, not in memory."""
    with TemporaryFile() as file:
        keys: list[tuple[int, str, int, int]] = []
        paths = [path for sidecars in _sidecars(outbox) for path in sidecars]
        for done, path in enumerate(paths, start=1):
            if (row := _row(path)) is not None:
                made, index = moment(row.get("created_at")), row.get("index")
                place = index if isinstance(index, int) else 0
                keys.append((made, str(row["job"]), place, file.tell()))
                file.write(json.dumps(row).encode() + b"\n")
            if progress is not None and (done % 100 == 0 or done == len(paths)):
                progress(done, len(paths))
        for *_, offset in sorted(keys):
            file.seek(offset)
            yield json.loads(file.readline())


def _row(sidecar: Path) -> dict[str, Any] | None:
    """The row of a sidecar, or None for a file that is none or lies in another job's folder."""
    try:
        row = row_of(found) if (found := read_json(sidecar)) else None
    except UsageProblem:
        return None
    # In a copied or renamed folder the row's paths would be wrong.
    is_own = row is not None and (row["job"], row["id"]) == (sidecar.parent.name, sidecar.stem)
    return row if is_own else None


def _sidecars(outbox: Path) -> Iterator[list[Path]]:
    """The sidecars of each job, in the order of its images."""
    for folder in sorted(outbox.iterdir()) if outbox.is_dir() else ():
        try:
            names = set(os.listdir(folder))
        except OSError:
            continue
        if "status.json" in names and not folder.is_symlink():
            # A recovery renames what it keeps without counting it.
            own = re.compile(rf"{re.escape(folder.name)}-\d+\.json")
            found = filter(own.fullmatch, names)
            yield [folder / name for name in sorted(found, key=lambda name: (len(name), name))]
