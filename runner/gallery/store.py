"""The gallery's index: TinyDB's documents, stored as one appended line for each row.

Plain TinyDB writes its whole file for each insert and reads it for each query. Here an added row is
one line, and a query reads only the rows that match according to the segments' indexes. Any number
of processes may read while one writes; a lock orders the writers. Everything can be made again from
the sidecars.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar

from tinydb.table import Document

from runner.gallery.index import Index
from runner.gallery.segments import SEGMENT, Moved, Segments
from runner.gallery.terms import identity

FOLDER = "gallery"
"""The name of the index's folder in a home's private `data/`."""

Row = dict[str, Any]
T = TypeVar("T")
# Selects lines of a segment by its index, as bits.
Plan = Callable[[Index], int]


class Gallery(Segments):
    """The index of all finished pictures; only for reading without `write`.

    `write` replaces a file atomically; `generation` is for rebuilds (see `Segments`). Nothing is
    read before the first query. Where the index is `missing` or `damaged`, `rebuild` makes it.
    """

    def add(self, *rows: Mapping[str, Any]) -> None:
        """Add rows; a row with a known id replaces the old one, unless they are equal."""

        def entries() -> Iterator[Mapping[str, Any]]:
            for row_id, row in {str(row["id"]): row for row in rows}.items():
                found = self.find(row_id)
                if found is None:
                    yield {"row": row}
                elif found != row:
                    yield {"row": row, "gone": [found.doc_id]}

        self.append(entries)

    def remove(self, *rows: str | Row) -> int:
        """Remove rows by id, or those still equal to the rows given; how many the index had."""
        gone: list[int] = []

        def entries() -> Iterator[Mapping[str, Any]]:
            for row in rows:
                found = self.find(row if isinstance(row, str) else row["id"])
                if found and row in (found["id"], found):
                    gone.append(found.doc_id)
            if gone:
                yield {"gone": gone}

        self.append(entries)
        return len(gone)

    def get(self, row_id: str) -> Row | None:
        """The row of one picture, or None."""
        return self._retrying(lambda: self.find(row_id))

    def find(self, row_id: str) -> Document | None:
        """The document with that id, or None."""
        key = identity(row_id)
        for number in range(len(self._indexes) - 1, -1, -1):
            for place in self._indexes[number].places(key):
                doc = number * SEGMENT + place + 1
                row = None if self._dead.get(number, 0) >> place & 1 else self.row(doc)
                if row is not None and row.get("id") == row_id:
                    return Document(row, doc)
        return None

    def page(self, plan: Plan, limit: int, offset: int) -> tuple[int, list[Row]]:
        """The number of rows that the plan selects, and one page of them, newest first."""
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


def _newest_first(number: int, bits: int) -> Iterator[int]:
    """The numbers of a segment's documents whose bits are set, highest first."""
    while bits:
        place = bits.bit_length() - 1
        bits ^= 1 << place
        yield number * SEGMENT + place + 1
