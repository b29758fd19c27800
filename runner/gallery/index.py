"""The index of one segment: which of its lines have a term, as bits of a whole number.

Two of a kind: `LiveIndex` grows in memory with the segment being written; `SealedIndex` lies in a
file and is searched there, without being read into objects. A file's body:

    line offsets · moments · ids (sorted hashes, then their lines) · gone documents
    term starts · terms (sorted) · posting starts · postings (bits, or a few line numbers)

An index is derived from its lines: one that is missing or does not fit them is made again.
"""

from __future__ import annotations

import mmap
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from struct import Struct
from struct import error as StructError
from typing import Any, Protocol

from runner.gallery.terms import EVERY_ROW, identity, moment, terms_of

_HEAD = Struct(
    "=4sIQIIIIII"
)  # magic, lines, rows' bytes, body's CRC, ids, gone, terms, sizes of both blobs
_MAGIC = b"fdx1"


class Index(Protocol):
    """What a question needs of a segment."""

    @property
    def lines(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def gone(self) -> Sequence[int]: ...
    def bits(self, term: bytes) -> int: ...
    def prefix(self, beginning: bytes) -> int: ...
    def between(self, since: int | None, until: int | None) -> int: ...
    def places(self, key: int) -> list[int]: ...
    def span(self, place: int) -> tuple[int, int]: ...


class LiveIndex:
    """The index of the segment that is being written; one entry is one line."""

    def __init__(self) -> None:
        self.offsets = array("I", [0])
        self.moments = array("q")
        self.ids: list[tuple[int, int]] = []
        self.gone: list[int] = []
        self.postings: dict[bytes, list[int]] = {}
        self._places: dict[int, list[int]] = {}

    @property
    def lines(self) -> int:
        return len(self.offsets) - 1

    @property
    def rows(self) -> int:
        """The bits of the lines that put a row."""
        return self.bits(EVERY_ROW)

    @property
    def size(self) -> int:
        """Bytes of the lines seen so far."""
        return self.offsets[-1]

    def add(self, length: int, entry: Mapping[str, Any] | None) -> None:
        """One more line of that many bytes; None is a line that is damaged."""
        place = self.lines
        row = entry.get("row") if entry else None
        self.offsets.append(self.offsets[-1] + length)
        self.moments.append(moment(row.get("created_at")) if row else 0)
        if entry:
            self.gone.extend(entry.get("gone", ()))
        if row:
            key = identity(str(row.get("id")))
            self.ids.append((key, place))
            self._places.setdefault(key, []).append(place)
            for term in set(terms_of(row)):
                self.postings.setdefault(term, []).append(place)

    def bits(self, term: bytes) -> int:
        return _bits(self.postings.get(term, ()))

    def prefix(self, beginning: bytes) -> int:
        found = 0
        for term, posting in self.postings.items():
            if term.startswith(beginning):
                found |= _bits(posting)
        return found

    def between(self, since: int | None, until: int | None) -> int:
        return _between(self.moments, since, until)

    def places(self, key: int) -> list[int]:
        return self._places.get(key, [])

    def span(self, place: int) -> tuple[int, int]:
        return self.offsets[place], self.offsets[place + 1]

    def encode(self) -> bytes:
        """The file of a `SealedIndex` that answers the same."""
        width = _width(self.lines)
        names = sorted(self.postings)
        packed = [_pack(self.postings[name], width) for name in names]
        ids = sorted(self.ids)
        body = b"".join(
            (
                self.offsets.tobytes(),
                self.moments.tobytes(),
                array("Q", [key for key, _ in ids]).tobytes(),
                array("H", [place for _, place in ids]).tobytes(),
                array("Q", self.gone).tobytes(),
                _starts(names),
                b"".join(names),
                _starts(packed),
                b"".join(packed),
            )
        )
        sizes = (sum(map(len, names)), sum(map(len, packed)))
        counts = (len(ids), len(self.gone), len(names), *sizes)
        return _HEAD.pack(_MAGIC, self.lines, self.size, zlib.crc32(body), *counts) + body


class SealedIndex:
    """The index of a full segment, searched in its file; raises ValueError for one that is bad."""

    def __init__(self, path: Path, rows_bytes: int) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            magic, lines, size, crc, ids, gone, terms, names, packed = _HEAD.unpack_from(self._map)
        except StructError as exc:
            raise ValueError(f"{path.name} is too short") from exc
        view = memoryview(self._map)[_HEAD.size :]
        if magic != _MAGIC or size != rows_bytes or zlib.crc32(view) != crc:
            raise ValueError(f"{path.name} does not fit its segment")
        self.lines: int = lines
        at = 0

        def cut(length: int) -> memoryview:
            nonlocal at
            at += length
            return view[at - length : at]

        self._offsets = cut(4 * (lines + 1)).cast("I")
        self._moments = cut(8 * lines).cast("q")
        self._keys = cut(8 * ids).cast("Q")
        self._key_places = cut(2 * ids).cast("H")
        self.gone: Sequence[int] = list(cut(8 * gone).cast("Q"))
        self._name_starts = cut(4 * (terms + 1)).cast("I")
        self._names = cut(names)
        self._packed_starts = cut(4 * (terms + 1)).cast("I")
        self._packed = cut(packed)
        self._width = _width(lines)
        self._first = min(self._moments, default=0)
        self._last = max(self._moments, default=0)
        self.rows = self.bits(EVERY_ROW)

    def __len__(self) -> int:
        return len(self._name_starts) - 1

    def __getitem__(self, number: int) -> bytes:
        starts = self._name_starts
        return bytes(self._names[starts[number] : starts[number + 1]])

    def bits(self, term: bytes) -> int:
        number = bisect_left(self, term)
        return self._posting(number) if number < len(self) and self[number] == term else 0

    def prefix(self, beginning: bytes) -> int:
        found = 0
        # No UTF-8 text holds the byte 0xff, so this is the end of everything that begins so.
        first = bisect_left(self, beginning)
        for number in range(first, bisect_left(self, beginning + b"\xff", first)):
            found |= self._posting(number)
        return found

    def between(self, since: int | None, until: int | None) -> int:
        if (since is None or since <= self._first) and (until is None or until > self._last):
            return (1 << self.lines) - 1
        if (since is not None and since > self._last) or (
            until is not None and until <= self._first
        ):
            return 0
        return _between(self._moments, since, until)

    def places(self, key: int) -> list[int]:
        keys, found = self._keys, []
        number = bisect_left(keys, key)
        while number < len(keys) and keys[number] == key:
            found.append(self._key_places[number])
            number += 1
        return found

    def span(self, place: int) -> tuple[int, int]:
        return self._offsets[place], self._offsets[place + 1]

    def _posting(self, number: int) -> int:
        starts = self._packed_starts
        packed = self._packed[starts[number] : starts[number + 1]]
        if len(packed) == self._width:
            return int.from_bytes(packed, "little")
        return _bits(packed.cast("H"))


def _between(moments: Sequence[int] | memoryview, since: int | None, until: int | None) -> int:
    low, high = since if since is not None else 0, until if until is not None else 1 << 62
    found = 0
    for place, when in enumerate(moments):
        if low <= when < high:
            found |= 1 << place
    return found


def _width(lines: int) -> int:
    return (lines + 7) // 8


def _bits(places: Iterable[int]) -> int:
    found = 0
    for place in places:
        found |= 1 << place
    return found


def _pack(posting: Sequence[int], width: int) -> bytes:
    """A few line numbers of two bytes each, or all the bits where those are shorter."""
    if len(posting) * 2 >= width:
        return _bits(posting).to_bytes(width, "little")
    return array("H", posting).tobytes()


def _starts(parts: Sequence[bytes]) -> bytes:
    starts, at = array("I", [0]), 0
    for part in parts:
        at += len(part)
        starts.append(at)
    return starts.tobytes()
