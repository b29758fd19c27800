"""The gallery's index: TinyDB's documents and queries, stored as one appended line for each row.

Plain TinyDB writes its whole file for each insert and reads it for each query. Here the table has
TinyDB's queries (`search(where("kind") == "fill")`), an added row is one line, and a query
reads only the rows that can match according to the segments' indexes. Any number of processes may
read while one writes; a lock orders the writers. Everything can be made again from the sidecars.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from itertools import islice
from operator import and_, or_
from typing import Any, NoReturn, TypeVar

from tinydb.queries import QueryLike
from tinydb.storages import MemoryStorage
from tinydb.table import Document, Table

from runner.gallery.index import Index
from runner.gallery.segments import SEGMENT, Moved, Segments
from runner.gallery.terms import FACETS, facet

FOLDER = "gallery"
"""The name of the index's folder in a home's private `data/`."""

Row = dict[str, Any]
T = TypeVar("T")
# Selects lines of a segment by its index, as bits: all that match, and maybe some that do not.
Plan = Callable[[Index], int]


class Gallery(Segments):
    """The index of all finished pictures; only for reading without `write`.

    `write` replaces a file atomically; `generation` is for rebuilds (see `Segments`). Nothing is
    read before the first query. Where the index is `missing` or `damaged`, `rebuild` makes it.
    """

    @property
    def table(self) -> "RowTable":
        """The rows as a TinyDB table, newest first, for any TinyDB query."""
        return RowTable(self)

    def add(self, *rows: Mapping[str, Any]) -> None:
        """Add rows; a row with a known id replaces the old one, unless they are equal."""

        def entries() -> Iterator[Mapping[str, Any]]:
            for row_id, row in {str(row["id"]): row for row in rows}.items():
                found = self.find(row_id)
                if found is None:
                    yield {"row": row}
                elif found[1] != row:
                    yield {"row": row, "gone": [found[0]]}

        self.append(entries)

    def remove(self, *rows: str | Row) -> int:
        """Remove rows by id, or those still equal to the rows given; how many the index had."""
        gone: list[int] = []

        def entries() -> Iterator[Mapping[str, Any]]:
            for row in rows:
                found = self.find(row if isinstance(row, str) else row["id"])
                if found and row in (found[1]["id"], found[1]):
                    gone.append(found[0])
            if gone:
                yield {"gone": gone}

        self.append(entries)
        return len(gone)

    def get(self, row_id: str) -> Row | None:
        """The row of one picture, or None."""
        found = self._retrying(lambda: self.find(row_id))
        return found[1] if found else None

    def page(self, plan: Plan, limit: int, offset: int = 0) -> tuple[int, list[Row]]:
        """The number of rows that the plan selects, and one page of them, newest first.

        The plan must be exact: its lines are not tested further.
        """
        return self._retrying(lambda: self._page(plan, limit, offset))

    def _page(self, plan: Plan, limit: int, offset: int) -> tuple[int, list[Row]]:
        total = 0
        rows: list[Row] = []
        for number, index, live in self.indexes():
            selected = plan(index) & live
            count = selected.bit_count()
            first = max(0, offset - total)
            total += count
            if first >= count or len(rows) >= limit:
                continue
            for doc in islice(_newest_first(number, selected), first, None):
                row = self.row(doc)
                if row is not None:
                    rows.append(row)
                if len(rows) >= limit:
                    break
        return total, rows

    def _retrying(self, read: Callable[[], T]) -> T:
        """Read with the segments refreshed; again whenever a rebuild replaces them meanwhile."""
        while True:
            self.refresh()
            try:
                return read()
            except Moved:
                continue

    def __len__(self) -> int:
        self.refresh()
        return sum(live.bit_count() for _, _, live in self.indexes())


class RowTable(Table):
    """A TinyDB table to read: its documents are lines, and queries use the indexes.

    Documents come newest first. What would write raises NotImplementedError.
    """

    def __init__(self, segments: Segments) -> None:
        super().__init__(MemoryStorage(), "rows")  # type: ignore[no-untyped-call]
        self._segments = segments

    def __iter__(self) -> Iterator[Document]:
        return self._documents(None)

    def search(self, cond: QueryLike) -> list[Document]:
        return list(self._documents(cond))

    def _read_table(self) -> dict[str, Mapping[str, Any]]:
        """All rows, for the methods of TinyDB that no index helps."""
        return {str(document.doc_id): document for document in self}

    def _update_table(self, updater: Callable[[dict[int, Mapping[str, Any]]], None]) -> NoReturn:
        # It would rewrite the whole table; the segments are only appended to.
        raise NotImplementedError("rows are added with Gallery.add and deleted with remove")

    def _documents(self, cond: QueryLike | None) -> Iterator[Document]:
        self._segments.refresh()
        plan = _plan(getattr(cond, "_hash", None))
        for number, index, live in list(self._segments.indexes()):
            for doc in _newest_first(number, plan(index) & live):
                row = self._segments.row(doc)
                if row is not None and (cond is None or cond(row)):
                    yield Document(row, doc)


def _newest_first(number: int, bits: int) -> Iterator[int]:
    """The numbers of a segment's documents whose bits are set, highest first."""
    while bits:
        place = bits.bit_length() - 1
        bits ^= 1 << place
        yield number * SEGMENT + place + 1


def _plan(query: object) -> Plan:
    """The plan of a TinyDB query, derived from the nested tuple by which TinyDB compares queries.

    It leaves out only rows that cannot match; the query itself is tested on the others.
    """
    match query:
        case ("and", frozenset() as parts):
            plans = [_plan(part) for part in parts]
            return lambda index: reduce(and_, (plan(index) for plan in plans), -1)
        case ("or", frozenset() as parts):
            plans = [_plan(part) for part in parts]
            return lambda index: reduce(or_, (plan(index) for plan in plans), 0)
        case ("==", (str() as field,), str() | int() as value) if field in FACETS:
            term = facet(field, value)
            return lambda index: index.bits(term)
    return lambda index: -1
