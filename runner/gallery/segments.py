"""The files of the gallery's index: lines that are only ever added, in segments of bounded size.

    <folder>/current                  the name of the generation that counts
    <folder>/lock                     held for the moment of a write, by whoever writes
    <folder>/<generation>/000000.rows one line an entry: CRC, JSON; full ones never change
    <folder>/<generation>/000000.index

An entry puts a row, takes documents back, or both at once. A line counts once its end is there:
readers pass over a torn tail, the next writer cuts it off. A document's number is its place:
segment times SEGMENT plus line, from 1.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock
from typing import Any

from runner.gallery.index import Index, LiveIndex, SealedIndex
from runner.gallery.lock import locked
from runner.gallery.terms import EVERY_ROW, identity

SEGMENT = 1024
FIRST_GENERATION = "g000001"
Write = Callable[[Path, bytes], None]
Entry = Mapping[str, Any]
# Not on every system; the other one also writes the file's times.
_sync: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)


class Segments:
    """One folder of segments, for reading and, where `write` is given, for adding to."""

    def __init__(self, folder: Path, write: Write | None = None, generation: str = "") -> None:
        self.folder = folder
        self._write = write
        # A generation that is being made does not count yet, and has one writer of its own.
        self._pinned = generation
        self._lock = folder / generation / "lock"
        self._guard = RLock()
        self.damaged = False
        self._forget("")

    # --- reading ---

    @property
    def missing(self) -> bool:
        """Nothing was ever written here, or someone has deleted it."""
        name = self._current()
        return not name or not (self.folder / name).is_dir()

    def refresh(self) -> None:
        """See what writers have added since; cheap when nothing was."""
        with self._guard:
            name = self._current()
            if name != self.generation:
                self._forget(name)
            if name:
                while self._read_tail():
                    pass

    def indexes(self) -> Iterator[tuple[int, Index, int]]:
        """Every segment from the newest: its number, its index, the bits of its live rows."""
        for number in range(len(self._indexes) - 1, -1, -1):
            index = self._indexes[number]
            yield number, index, index.bits(EVERY_ROW) & ~self._dead.get(number, 0)

    def row(self, doc: int) -> dict[str, Any] | None:
        """The row of one document, or None where its line does not hold any more."""
        number, place = divmod(doc - 1, SEGMENT)
        start, end = self._indexes[number].span(place)
        try:
            with self._rows(number).open("rb") as file:
                file.seek(start)
                entry = _decode(file.read(end - start))
        except OSError:
            entry = None
        if entry is None:
            self.damaged = True
            return None
        row: dict[str, Any] | None = entry.get("row")
        return row

    def find(self, row_id: str) -> tuple[int, dict[str, Any]] | None:
        """The live document of that id, with its row."""
        key = identity(row_id)
        for number, index, live in self.indexes():
            for place in index.places(key):
                if live >> place & 1:
                    doc = number * SEGMENT + place + 1
                    row = self.row(doc)
                    if row is not None and row.get("id") == row_id:
                        return doc, row
        return None

    def entries(self, after: int = 0) -> Iterator[Entry]:
        """Every undamaged entry from a place on, oldest first."""
        for number in range(after // SEGMENT, len(self._indexes)):
            lines = self._rows(number).read_bytes().split(b"\n")[:-1]
            first = after % SEGMENT if number == after // SEGMENT else 0
            for line in lines[first : self._indexes[number].lines]:
                entry = _decode(line + b"\n")
                if entry is not None:
                    yield entry

    @property
    def length(self) -> int:
        """How many lines there are, dead and damaged ones included."""
        if not self._indexes:
            return 0
        return (len(self._indexes) - 1) * SEGMENT + self._indexes[-1].lines

    def sound(self) -> bool:
        """Read every byte there is and say whether all of it holds."""
        self.refresh()
        for number, index in enumerate(self._indexes):
            whole = index.lines == SEGMENT or number == len(self._indexes) - 1
            lines = self._rows(number).read_bytes().splitlines(keepends=True)[: index.lines]
            if not whole or len(lines) != index.lines or not all(map(_intact, lines)):
                self.damaged = True
        return not (self.damaged or self.missing)

    # --- writing ---

    def append(self, make: Callable[[], Iterable[Entry]]) -> None:
        """Add the entries that `make` returns; it is called with the lock held and all seen."""
        with self.writing():
            entries = list(make())
            while entries:
                room = SEGMENT - (self._live.lines if self._live else 0)
                if self._live is None or not room:
                    self._begin_segment()
                    continue
                self._add(entries[:room])
                entries = entries[room:]

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the lock, with everything seen that others wrote and torn tails cut off."""
        if self._write is None:
            raise PermissionError(f"{self.folder} was opened for reading")
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._guard, locked(self._lock):
            if not self._current():
                self.switch(FIRST_GENERATION)
            self.refresh()
            self._cut_torn_tail()
            yield

    def switch(self, generation: str) -> None:
        """Make that generation the one that counts."""
        assert self._write is not None
        (self.folder / generation).mkdir(exist_ok=True)
        self._write(self.folder / "current", generation.encode())

    def _begin_segment(self) -> None:
        path = self._rows(len(self._indexes))
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        _sync_folder(path.parent)
        self._live = LiveIndex()
        self._indexes.append(self._live)

    def _add(self, entries: list[Entry]) -> None:
        live = self._live
        assert live is not None
        lines = [_encode(entry) for entry in entries]
        path = self._rows(len(self._indexes) - 1)
        file = os.open(path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0))
        try:
            data = memoryview(b"".join(lines))
            while data:
                data = data[os.write(file, data) :]
            _sync(file)
        except OSError:
            # A full disk: what stands half there must not, for the next one to fit on.
            with suppress(OSError):
                os.ftruncate(file, live.size)
            raise
        finally:
            os.close(file)
        for entry, line in zip(entries, lines, strict=True):
            self._take(live, len(line), entry)
        if live.lines == SEGMENT:
            self._seal(len(self._indexes) - 1, live)

    def _seal(self, number: int, live: LiveIndex) -> None:
        if self._write is not None:
            # Derived and checked when read: a full disk or a lost one costs time, not rows.
            with suppress(OSError):
                self._write(self._index_file(number), live.encode())

    def _cut_torn_tail(self) -> None:
        if self._live is None:
            return
        path = self._rows(len(self._indexes) - 1)
        if path.stat().st_size > self._live.size:
            os.truncate(path, self._live.size)

    # --- the files ---

    def _read_tail(self) -> bool:
        """Take in what the newest segment has gained, or the next one; False at the end."""
        if self._live is None or self._live.lines == SEGMENT:
            return self._open_next()
        path, live = self._rows(len(self._indexes) - 1), self._live
        try:
            if path.stat().st_size <= live.size:
                return False
            with path.open("rb") as file:
                file.seek(live.size)
                lines = file.read().split(b"\n")[:-1]
        except OSError:
            return False
        for line in lines[: SEGMENT - live.lines]:
            self._take(live, len(line) + 1, _decode(line + b"\n"))
        return bool(lines)

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
            self._read_tail()
            if self._live.lines == SEGMENT:
                self._seal(number, self._live)
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
        self._indexes: list[Index] = []
        self._live: LiveIndex | None = None
        self._dead: dict[int, int] = {}
        self.damaged = False

    def _current(self) -> str:
        if self._pinned:
            return self._pinned
        try:
            return (self.folder / "current").read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return ""

    def _rows(self, number: int) -> Path:
        return self.folder / self.generation / f"{number:06}.rows"

    def _index_file(self, number: int) -> Path:
        return self.folder / self.generation / f"{number:06}.index"


def generations(folder: Path) -> list[int]:
    """The numbers of all generations that lie in the folder, whether they count or not."""
    names = (path.name for path in folder.glob("g??????"))
    return [int(name[1:]) for name in names if name[1:].isdigit()]


def _encode(entry: Entry) -> bytes:
    body = json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return b"%08x %b\n" % (zlib.crc32(body), body)


def _intact(line: bytes) -> bool:
    return line[8:9] == b" " and line[:8] == b"%08x" % zlib.crc32(line[9:-1])


def _decode(line: bytes) -> dict[str, Any] | None:
    if not _intact(line):
        return None
    entry = json.loads(line[9:])
    return entry if isinstance(entry, dict) else None


def _sync_folder(folder: Path) -> None:
    # Windows cannot open a folder, and needs no such thing.
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
