"""The files of the gallery's index: lines that are only appended, in segments of bounded size.

    <folder>/current                    the name of the current generation
    <folder>/lock                       held by the writer during each write
    <folder>/<generation>/000000.rows   one line for each entry; a full segment never changes
    <folder>/<generation>/000000.index  the index of a full segment

An entry puts a row (`row`), removes documents (`gone`), or both. A line is valid once its line end
is written: readers skip an incomplete last line, and the next writer cuts it off. The number of a
document is its segment times SEGMENT, plus the place of its line in the segment, plus 1.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path
from threading import RLock
from typing import Any, cast

from runner.gallery import line_format
from runner.gallery.index import Index, SealedIndex
from runner.gallery.line_format import Entry
from runner.gallery.lock import locked
from specs.errors import FluxdropError

SEGMENT = 1024
Write = Callable[[Path, bytes], None]
# Follows the name in `current` if an insert made the generation: earlier sidecars may lack rows.
_PARTIAL = " partial"


class Moved(Exception):
    """A rebuild has replaced this generation: refresh, and read again."""


class Segments:
    """One folder of segments, for reading and, with a function that replaces files, for writing.

    With `generation` only that one is used, whether it is current or not: a rebuild fills its new
    generation so. Readers call `refresh` to read what has been added since. Writing raises
    TimeoutError where another process has the lock for longer than `patience` seconds.
    """

    _indexes: list[Index]
    _live: Index | None
    # By segment: the bits of the lines whose documents a later entry removed.
    _dead: dict[int, int]

    def __init__(
        self, folder: Path, write: Write | None = None, generation: str = "", patience: float = inf
    ) -> None:
        self.folder = folder
        self._write = write
        # A new generation has a lock of its own: its only writer is the rebuild that makes it.
        self._pinned = generation
        self._lock = folder / generation / "lock"
        self._patience = patience
        self._guard = RLock()
        self._reset("")

    @property
    def missing(self) -> bool:
        """Whether there is no complete index: never built, or deleted."""
        name = self._current()
        return not name or name.endswith(_PARTIAL) or not (self.folder / name).is_dir()

    @property
    def length(self) -> int:
        """The number of lines, including removed and damaged ones."""
        return sum(index.line_count for index in self._indexes)

    def refresh(self) -> None:
        """Read what other processes have added; cheap if they have added nothing."""
        with self._guard:
            name = self._current().removesuffix(_PARTIAL)
            if name != self.generation or (self._indexes and not self._rows(0).exists()):
                self._reset(name)
            while name and self._read_on():
                pass

    def indexes(self) -> Iterator[tuple[int, Index, int]]:
        """Every segment, newest first: its number, its index, the bits of its remaining rows."""
        for number in range(len(self._indexes) - 1, -1, -1):
            index = self._indexes[number]
            yield number, index, index.rows & ~self._dead.get(number, 0)

    def row(self, doc: int) -> dict[str, Any] | None:
        """The row of one document, or None if its line is damaged.

        Raises Moved if a rebuild has removed its file.
        """
        number, place = divmod(doc - 1, SEGMENT)
        start, end = self._indexes[number].offsets[place : place + 2]
        try:
            with self._rows(number).open("rb") as file:
                file.seek(start)
                entry = line_format.decode(file.read(end - start))
        except OSError as exc:
            if self._current().removesuffix(_PARTIAL) != self.generation:
                raise Moved from exc
            entry = None
        if entry is None:
            self.damaged = True
            return None
        row: dict[str, Any] | None = entry.get("row")
        return row

    def entries(self, after: int) -> Iterator[Entry]:
        """Every undamaged entry after the first `after` lines, oldest first."""
        for number in range(after // SEGMENT, len(self._indexes)):
            first = after % SEGMENT if number == after // SEGMENT else 0
            for line in self._lines(number)[first:]:
                entry = line_format.decode(line)
                if entry is not None:
                    yield entry

    def sound(self) -> bool:
        """Read every line and return whether the index is complete and undamaged."""
        self.refresh()
        if self.missing:
            return False
        last = len(self._indexes) - 1
        for number, index in enumerate(self._indexes):
            lines = self._lines(number)
            short = len(lines) < index.line_count or (number < last and index.line_count < SEGMENT)
            if short or not all(map(line_format.intact, lines)):
                self.damaged = True
        files = (self.folder / self.generation).glob("[0-9]*")
        if any(int(file.stem) > last for file in files if file.stem.isdigit()):
            # A segment is missing or lost its end, so that later ones cannot be reached.
            self.damaged = True
        return not self.damaged

    def append(self, make: Callable[[], Iterable[Entry]]) -> None:
        """Add the entries that `make` returns.

        It is called with the lock held and after everything that others wrote has been read.
        """
        with self.writing():
            entries = list(make())
            while entries:
                if self._live is None or self._live.line_count == SEGMENT:
                    self._rows(len(self._indexes)).touch()
                    self._read_next()
                live, number = cast(Index, self._live), len(self._indexes) - 1
                room = SEGMENT - live.line_count
                batch, entries = entries[:room], entries[room:]
                lines = [line_format.encode(entry) for entry in batch]
                line_format.append(self._rows(number), lines, live.size)
                for entry, line in zip(batch, lines, strict=True):
                    self._index_line(live, len(line), entry)
                if live.line_count == SEGMENT:
                    self._seal(number, live)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the lock, after reading what others wrote and cutting off an incomplete line.

        Raises PermissionError where the folder was opened without `write`.
        """
        if self._write is None:
            raise PermissionError(f"{self.folder} was opened for reading")
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._guard, locked(self._lock, self._patience):
            name = self._current().removesuffix(_PARTIAL)
            if not name or not (self.folder / name).is_dir():
                self.switch(name or "g000001", partial=True)
            self.refresh()
            if self._live is not None:
                path = self._rows(len(self._indexes) - 1)
                if path.stat().st_size > self._live.size:
                    os.truncate(path, self._live.size)
            yield

    def switch(self, generation: str, *, partial: bool = False) -> None:
        """Make that generation the current one."""
        assert self._write is not None
        (self.folder / generation).mkdir(exist_ok=True)
        name = generation + _PARTIAL if partial else generation
        self._write(self.folder / "current", name.encode())

    def _seal(self, number: int, live: Index) -> None:
        """Replace a full segment's index by its file, written if this process may write."""
        path = self._index_file(number)
        # The file is derived and checked when read: if it cannot be written (a full disk), the
        # index is only made again later.
        with suppress(OSError, FluxdropError, ValueError):
            if self._write is not None:
                self._write(path, live.encode())
            self._indexes[number] = SealedIndex(path, live.size)
            self._live = None

    def _read_on(self) -> bool:
        """Read what the newest segment has gained, or the next segment; False at the end."""
        live = self._live
        if live is None or live.line_count == SEGMENT:
            return self._read_next()
        path = self._rows(len(self._indexes) - 1)
        try:
            if path.stat().st_size <= live.size:
                return False
            with path.open("rb") as file:
                file.seek(live.size)
                lines = line_format.complete(file.read())
        except OSError:
            return False
        for line in lines[: SEGMENT - live.line_count]:
            self._index_line(live, len(line), line_format.decode(line))
        if live.line_count == SEGMENT:
            self._seal(len(self._indexes) - 1, live)
        return bool(lines)

    def _read_next(self) -> bool:
        """Open the segment after the last one; False if there is none."""
        number = len(self._indexes)
        try:
            size = self._rows(number).stat().st_size
        except OSError:
            return False
        try:
            sealed = SealedIndex(self._index_file(number), size)
        except (OSError, ValueError):
            self._live = Index()
            self._indexes.append(self._live)
            return True
        self._live = None
        self._indexes.append(sealed)
        self._mark_gone(sealed.gone)
        return True

    def _index_line(self, live: Index, length: int, entry: Entry | None) -> None:
        self.damaged |= entry is None
        live.add(length, entry)
        self._mark_gone(entry.get("gone", ()) if entry else ())

    def _mark_gone(self, docs: Iterable[int]) -> None:
        for doc in docs:
            number, place = divmod(doc - 1, SEGMENT)
            self._dead[number] = self._dead.get(number, 0) | 1 << place

    def _reset(self, generation: str) -> None:
        """Drop everything read, to read that generation from its beginning."""
        self.generation = generation
        self.damaged = False
        self._indexes = []
        self._live = None
        self._dead = {}

    def _current(self) -> str:
        """The name of the current generation, as recorded; "" without an index."""
        if self._pinned:
            return self._pinned
        try:
            return (self.folder / "current").read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return ""

    def _lines(self, number: int) -> list[bytes]:
        try:
            return line_format.complete(self._rows(number).read_bytes())
        except OSError:
            return []

    def _rows(self, number: int) -> Path:
        return self.folder / self.generation / f"{number:06}.rows"

    def _index_file(self, number: int) -> Path:
        return self.folder / self.generation / f"{number:06}.index"


def generations(folder: Path) -> list[int]:
    """The numbers of all generations in the folder, current or not."""
    names = (path.name for path in folder.glob("g??????"))
    return [int(name[1:]) for name in names if name[1:].isdigit()]
