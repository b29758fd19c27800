"""The files of the gallery's index: lines that are only ever added, in segments of bounded size.

    <folder>/current                  the name of the generation that counts
    <folder>/lock                     held for the moment of a write, by whoever writes
    <folder>/<generation>/000000.rows one line an entry; full ones never change
    <folder>/<generation>/000000.index

An entry puts a row, takes documents back, or both at once. A line counts once its end is there:
readers pass over a torn tail, the next writer cuts it off. A document's number is its place:
segment times SEGMENT plus line, from 1.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock
from typing import Any

from runner.gallery import line_format as lines
from runner.gallery.index import Index, LiveIndex, SealedIndex
from runner.gallery.line_format import Entry
from runner.gallery.lock import locked
from runner.gallery.terms import identity
from specs.errors import FluxdropError

SEGMENT = 1024
Write = Callable[[Path, bytes], None]
# Made by an insert where there was nothing: what the sidecars know besides is not in it.
_PARTIAL = " partial"


class Moved(Exception):
    """A rebuild has put another generation in this one's place: look again."""


class Segments:
    """One folder of segments, for reading and, where `write` is given, for adding to."""

    _indexes: list[Index]
    _live: LiveIndex | None
    # By segment: the lines that a later entry took back.
    _dead: dict[int, int]

    def __init__(self, folder: Path, write: Write | None = None, generation: str = "") -> None:
        self.folder = folder
        self._write = write
        # A generation that is being made does not count yet, and has one writer of its own.
        self._pinned = generation
        self._lock = folder / generation / "lock"
        self._guard = RLock()
        self._forget("")

    # --- reading ---

    @property
    def missing(self) -> bool:
        """Nobody has ever built it, or someone has deleted it."""
        name = self._current()
        return not name or name.endswith(_PARTIAL) or not (self.folder / name).is_dir()

    @property
    def length(self) -> int:
        """How many lines there are, dead and damaged ones included."""
        if not self._indexes:
            return 0
        return (len(self._indexes) - 1) * SEGMENT + self._indexes[-1].lines

    def refresh(self) -> None:
        """See what writers have added since; cheap when nothing was."""
        with self._guard:
            name = self._current().removesuffix(_PARTIAL)
            if name != self.generation or (self._indexes and not self._rows(0).exists()):
                self._forget(name)
            while name and self._read_on():
                pass

    def indexes(self) -> Iterator[tuple[int, Index, int]]:
        """Every segment from the newest: its number, its index, the bits of its live rows."""
        for number in range(len(self._indexes) - 1, -1, -1):
            index = self._indexes[number]
            yield number, index, index.rows & ~self._dead.get(number, 0)

    def row(self, doc: int) -> dict[str, Any] | None:
        """The row of one document, or None where its line is damaged."""
        number, place = divmod(doc - 1, SEGMENT)
        start, end = self._indexes[number].span(place)
        try:
            with self._rows(number).open("rb") as file:
                file.seek(start)
                entry = lines.decode(file.read(end - start))
        except OSError as exc:
            if self._current().removesuffix(_PARTIAL) != self.generation:
                raise Moved from exc
            entry = None
        if entry is None:
            self.damaged = True
            return None
        row: dict[str, Any] | None = entry.get("row")
        return row

    def find(self, row_id: str) -> tuple[int, dict[str, Any]] | None:
        """The live document of that id, with its row."""
        key = identity(row_id)
        for number in range(len(self._indexes) - 1, -1, -1):
            for place in self._indexes[number].places(key):
                if not self._dead.get(number, 0) >> place & 1:
                    doc = number * SEGMENT + place + 1
                    row = self.row(doc)
                    if row is not None and row.get("id") == row_id:
                        return doc, row
        return None

    def entries(self, after: int) -> Iterator[Entry]:
        """Every undamaged entry behind a place, oldest first."""
        for number in range(after // SEGMENT, len(self._indexes)):
            first = after % SEGMENT if number == after // SEGMENT else 0
            for line in self._lines(number)[first:]:
                entry = lines.decode(line)
                if entry is not None:
                    yield entry

    def sound(self) -> bool:
        """Read every byte there is and say whether all of it is there and holds."""
        self.refresh()
        if self.missing:
            return False
        last = len(self._indexes) - 1
        for number, index in enumerate(self._indexes):
            found = self._lines(number)
            short = len(found) < index.lines or (number < last and index.lines < SEGMENT)
            if short or not all(map(lines.intact, found)):
                self.damaged = True
        files = (self.folder / self.generation).glob("[0-9]*")
        if any(int(file.stem) > last for file in files if file.stem.isdigit()):
            # A segment that is gone, or lost its end: nothing behind it can be reached.
            self.damaged = True
        return not self.damaged

    # --- writing ---

    def append(self, make: Callable[[], Iterable[Entry]]) -> None:
        """Add the entries that `make` returns; it is called with the lock held and all seen."""
        with self.writing():
            entries = list(make())
            while entries:
                live = self._with_room()
                room = SEGMENT - live.lines
                self._add(live, entries[:room])
                entries = entries[room:]

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the lock, with everything seen that others wrote and a torn tail cut off."""
        if self._write is None:
            raise PermissionError(f"{self.folder} was opened for reading")
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._guard, locked(self._lock):
            name = self._current().removesuffix(_PARTIAL)
            if not name or not (self.folder / name).is_dir():
                self.switch(name or "g000001", partial=True)
            self.refresh()
            self._cut_torn_tail()
            yield

    def switch(self, generation: str, *, partial: bool = False) -> None:
        """Make that generation the one that counts."""
        assert self._write is not None
        (self.folder / generation).mkdir(exist_ok=True)
        name = generation + _PARTIAL if partial else generation
        self._write(self.folder / "current", name.encode())

    def _with_room(self) -> LiveIndex:
        """The segment that takes the next line, a new one where the last is full."""
        if self._live is None or self._live.lines == SEGMENT:
            self._rows(len(self._indexes)).touch()
            self._live = LiveIndex()
            self._indexes.append(self._live)
        return self._live

    def _add(self, live: LiveIndex, entries: list[Entry]) -> None:
        encoded = [lines.encode(entry) for entry in entries]
        number = len(self._indexes) - 1
        lines.append(self._rows(number), encoded, live.size)
        for entry, line in zip(entries, encoded, strict=True):
            self._take(live, len(line), entry)
        if live.lines == SEGMENT:
            self._seal(number, live)

    def _seal(self, number: int, live: LiveIndex) -> None:
        """Leave a full segment's index in its file, where this process may write one."""
        path = self._index_file(number)
        # Derived, and checked when read: a full disk here costs time later, and no row.
        with suppress(OSError, FluxdropError, ValueError):
            if self._write is not None:
                self._write(path, live.encode())
            self._indexes[number] = SealedIndex(path, live.size)
            self._live = None

    def _cut_torn_tail(self) -> None:
        if self._live is not None:
            path = self._rows(len(self._indexes) - 1)
            if path.stat().st_size > self._live.size:
                os.truncate(path, self._live.size)

    # --- the files ---

    def _read_on(self) -> bool:
        """Take in what the newest segment has gained, or the next one; False at the end."""
        live = self._live
        if live is None or live.lines == SEGMENT:
            return self._open_next()
        path = self._rows(len(self._indexes) - 1)
        try:
            if path.stat().st_size <= live.size:
                return False
            with path.open("rb") as file:
                file.seek(live.size)
                gained = lines.complete(file.read())
        except OSError:
            return False
        for line in gained[: SEGMENT - live.lines]:
            self._take(live, len(line), lines.decode(line))
        if live.lines == SEGMENT:
            self._seal(len(self._indexes) - 1, live)
        return bool(gained)

    def _open_next(self) -> bool:
        number = len(self._indexes)
        try:
            size = self._rows(number).stat().st_size
        except OSError:
            return False
        try:
            sealed = SealedIndex(self._index_file(number), size)
        except (OSError, ValueError):
            self._live = LiveIndex()
            self._indexes.append(self._live)
            return True
        self._live = None
        self._indexes.append(sealed)
        self._bury(sealed.gone)
        return True

    def _take(self, live: LiveIndex, length: int, entry: Entry | None) -> None:
        self.damaged |= entry is None
        live.add(length, entry)
        self._bury(entry.get("gone", ()) if entry else ())

    def _bury(self, docs: Iterable[int]) -> None:
        for doc in docs:
            number, place = divmod(doc - 1, SEGMENT)
            self._dead[number] = self._dead.get(number, 0) | 1 << place

    def _forget(self, generation: str) -> None:
        self.generation = generation
        self.damaged = False
        self._indexes = []
        self._live = None
        self._dead = {}

    def _current(self) -> str:
        if self._pinned:
            return self._pinned
        try:
            return (self.folder / "current").read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return ""

    def _lines(self, number: int) -> list[bytes]:
        try:
            return lines.complete(self._rows(number).read_bytes())
        except OSError:
            return []

    def _rows(self, number: int) -> Path:
        return self.folder / self.generation / f"{number:06}.rows"

    def _index_file(self, number: int) -> Path:
        return self.folder / self.generation / f"{number:06}.index"


def generations(folder: Path) -> list[int]:
    """The numbers of all generations that lie in the folder, whether they count or not."""
    names = (path.name for path in folder.glob("g??????"))
    return [int(name[1:]) for name in names if name[1:].isdigit()]
