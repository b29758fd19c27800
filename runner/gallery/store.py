"""The gallery's index: TinyDB's documents and queries on a storage that grows by one line a row.

Plain TinyDB writes its whole file for each insert and reads it for each query. Here a table keeps
TinyDB's face (`search(where("kind") == "fill")`), an insert is one appended line, and a query
reads only what the segments' indexes say may fit. Any number of processes may read while one
writes; writers take turns. Everything here can be made again from the sidecars.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

from tinydb import TinyDB
from tinydb.queries import QueryLike
from tinydb.storages import Storage
from tinydb.table import Document, Table

from runner.gallery.index import Index
from runner.gallery.segments import SEGMENT, Moved, Segments, Write
from runner.gallery.terms import facet

FOLDER = "gallery"
"""Where the index lies in a home's private `data/`."""

Row = dict[str, Any]
T = TypeVar("T")
# Which lines of a segment fit: the bits of the index, at least those of the fitting rows.
Plan = Callable[[Index], int]
_INDEXED = frozenset({"kind", "model", "pack", "seed", "job", "subject", "variable"})


class Gallery:
    """The index of all finished pictures; without `write` only for reading, and lazily so.

    Nothing is read before the first question. `write` replaces a file atomically.
    """

    def __init__(self, folder: Path, write: Write | None = None, generation: str = "") -> None:
        self.segments = Segments(folder, write, generation)

    @property
    def table(self) -> RowTable:
        """The rows as a TinyDB table, newest first, for any TinyDB query."""
        return cast(RowTable, _Database(storage=_Lines, segments=self.segments).table("rows"))

    @property
    def missing(self) -> bool:
        return self.segments.missing

    @property
    def damaged(self) -> bool:
        """A line was met that does not hold what was written; `rebuild` mends it."""
        return self.segments.damaged

    def add(self, *rows: Mapping[str, Any]) -> None:
        """Put rows; one with a known id takes the old one's place, the same one changes nothing."""

        def entries() -> Iterator[Mapping[str, Any]]:
            for row_id, row in {str(row["id"]): row for row in rows}.items():
                found = self.segments.find(row_id)
                if found is None:
                    yield {"row": row}
                elif found[1] != row:
                    yield {"row": row, "gone": [found[0]]}

        self.segments.append(entries)

    def remove(self, *ids: str) -> int:
        """Take rows out by id; returns how many there were."""
        gone: list[int] = []

        def entries() -> Iterator[Mapping[str, Any]]:
            gone.extend(found[0] for row_id in ids if (found := self.segments.find(row_id)))
            if gone:
                yield {"gone": gone}

        self.segments.append(entries)
        return len(gone)

    def get(self, row_id: str) -> Row | None:
        """The row of one picture, or None."""
        found = self._looking(lambda: self.segments.find(row_id))
        return found[1] if found else None

    def page(self, plan: Plan, limit: int, offset: int = 0) -> tuple[int, list[Row]]:
        """How many rows fit the plan, and one page of them, newest first."""
        return self._looking(lambda: self._page(plan, limit, offset))

    def _page(self, plan: Plan, limit: int, offset: int) -> tuple[int, list[Row]]:
        total = 0
        rows: list[Row] = []
        for number, index, live in self.segments.indexes():
            fitting = plan(index) & live
            count = fitting.bit_count()
            first = max(0, offset - total)
            total += count
            if first >= count or len(rows) >= limit:
                continue
            for doc in islice(_newest_first(number, fitting), first, None):
                row = self.segments.row(doc)
                if row is not None:
                    rows.append(row)
                if len(rows) >= limit:
                    break
        return total, rows

    def _looking(self, look: Callable[[], T]) -> T:
        """See what is new, then look; again when a rebuild changes everything in between."""
        while True:
            self.segments.refresh()
            try:
                return look()
            except Moved:
                continue

    def __len__(self) -> int:
        self.segments.refresh()
        return sum(live.bit_count() for _, _, live in self.segments.indexes())


class RowTable(Table):
    """A TinyDB table whose documents are lines; its queries use the indexes where they can."""

    def __iter__(self) -> Iterator[Document]:
        return self._documents(None)

    def __len__(self) -> int:
        return sum(live.bit_count() for _, _, live in self._seen().indexes())

    def all(self) -> list[Document]:
        return list(self)

    def search(self, cond: QueryLike) -> list[Document]:
        return list(self._documents(cond))

    def get(  # type: ignore[override]
        self,
        cond: QueryLike | None = None,
        doc_id: int | None = None,
        doc_ids: list[int] | None = None,
    ) -> Document | list[Document] | None:
        if doc_ids is not None:
            wanted = set(doc_ids)
            return [document for document in self if document.doc_id in wanted]
        if doc_id is not None:
            return next((d for d in self._documents(None, doc_id) if d.doc_id == doc_id), None)
        return next(self._documents(cond), None) if cond is not None else None

    def contains(self, cond: QueryLike | None = None, doc_id: int | None = None) -> bool:
        return self.get(cond, doc_id) is not None

    def count(self, cond: QueryLike) -> int:
        return sum(1 for _ in self._documents(cond))

    def insert(self, document: Mapping[str, Any]) -> int:
        return self.insert_multiple([document])[0]

    def insert_multiple(self, documents: Iterable[Mapping[str, Any]]) -> list[int]:
        rows, segments = list(documents), self._segments()
        first: list[int] = []

        def entries() -> Iterator[Mapping[str, Any]]:
            first.append(segments.length + 1)
            yield from ({"row": dict(row)} for row in rows)

        segments.append(entries)
        return list(range(first[0], first[0] + len(rows)))

    def remove(
        self, cond: QueryLike | None = None, doc_ids: Iterable[int] | None = None
    ) -> list[int]:
        if cond is None and doc_ids is None:
            raise RuntimeError("Use truncate() to remove all documents")
        gone: list[int] = []

        def entries() -> Iterator[Mapping[str, Any]]:
            wanted = None if doc_ids is None else set(doc_ids)
            found = (document.doc_id for document in self._documents(cond))
            gone.extend(doc for doc in found if wanted is None or doc in wanted)
            if gone:
                yield {"gone": gone}

        self._segments().append(entries)
        return gone

    def _update_table(self, updater: Callable[[dict[int, Mapping[str, Any]]], None]) -> NoReturn:
        # update, upsert and truncate would rewrite everything, which is what this storage is not.
        raise NotImplementedError("rows are replaced with Gallery.add and deleted with remove")

    def _documents(self, cond: QueryLike | None, doc_id: int | None = None) -> Iterator[Document]:
        segments = self._seen()
        plan = _plan(getattr(cond, "_hash", None))
        for number, index, live in list(segments.indexes()):
            if doc_id is not None and (doc_id - 1) // SEGMENT != number:
                continue
            for doc in _newest_first(number, plan(index) & live):
                row = segments.row(doc)
                if row is not None and (cond is None or cond(row)):
                    yield Document(row, doc)

    def _segments(self) -> Segments:
        return cast(_Lines, self._storage).segments

    def _seen(self) -> Segments:
        segments = self._segments()
        segments.refresh()
        return segments


class _Lines(Storage):
    """The storage under the table: all rows at once for whoever asks TinyDB's way."""

    def __init__(self, segments: Segments) -> None:
        self.segments = segments

    def read(self) -> dict[str, dict[str, Any]] | None:
        self.segments.refresh()
        rows: dict[str, Any] = {}
        for number, _, live in self.segments.indexes():
            for doc in _newest_first(number, live):
                rows[str(doc)] = self.segments.row(doc)
        return {"rows": rows}

    def write(self, data: dict[str, dict[str, Any]]) -> None:
        raise NotImplementedError("this storage is never written as a whole")


class _Database(TinyDB):
    table_class = RowTable


def _newest_first(number: int, bits: int) -> Iterator[int]:
    """The documents of a segment whose bits are set, from the highest."""
    while bits:
        place = bits.bit_length() - 1
        bits ^= 1 << place
        yield number * SEGMENT + place + 1


def _plan(query: object) -> Plan:
    """What the indexes can say about a TinyDB query, read from the form it hashes by.

    It may only leave out rows that cannot fit: each row that is left is asked the query itself.
    """
    match query:
        case ("and", frozenset() as parts):
            plans = [_plan(part) for part in parts]
            return lambda index: _all(plan(index) for plan in plans)
        case ("or", frozenset() as parts):
            plans = [_plan(part) for part in parts]
            return lambda index: _any(plan(index) for plan in plans)
        case ("==", (str() as field,), str() | int() as value) if field in _INDEXED:
            term = facet(field, value)
            return lambda index: index.bits(term)
    return lambda index: -1


def _all(parts: Iterable[int]) -> int:
    found = -1
    for part in parts:
        found &= part
    return found


def _any(parts: Iterable[int]) -> int:
    found = 0
    for part in parts:
        found |= part
    return found
