"""The index of one segment: which of its lines have a term.

A set of lines is an `int` whose bit n stands for the segment's line n, counted from 0; n is the
line's place. `Index` grows in memory with the segment being written. `SealedIndex` is a memory
map of a file, searched without reading it into objects. Such a file is a head and this body:

    line offsets · moments · ids (sorted hashes, then their places) · gone documents
    term starts · terms (sorted) · posting starts · postings (bits, or a few places)

An index is derived from its lines: one that is missing or does not fit them is made again.
"""

import mmap
import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, reduce
from itertools import accumulate
from operator import or_
from pathlib import Path
from struct import Struct
from typing import Any

from runner.gallery.terms import EVERY_ROW, identity, moment, terms_of

# Magic, number of lines, bytes of the lines, CRC of the body, number of ids, of gone documents and
# of terms, bytes of the terms and of the postings.
_HEAD = Struct("=4sIQIIIIII")
_MAGIC = b"fdx1"


class Index:
    """The index of the segment that is being written; one entry is one line.

    `offsets` are where each line begins and the last one ends, in bytes; `moments` are one for each
    line, in milliseconds since 1970; `gone` are the documents that the lines remove, also ones of
    other segments. Sets of lines are bits of an `int`.
    """

    def __init__(self) -> None:
        self.offsets: array[int] = array("I", [0])
        self.moments: array[int] = array("q")
        self.gone: list[int] = []
        self.postings: dict[bytes, list[int]] = {}
        self._places: dict[int, list[int]] = {}

    @property
    def line_count(self) -> int:
        return len(self.offsets) - 1

    @property
    def rows(self) -> int:
        """The lines that put a row."""
        return self.bits(EVERY_ROW)

    @property
    def size(self) -> int:
        """Bytes of all lines added so far."""
        return self.offsets[-1]

    def add(self, length: int, entry: Mapping[str, Any] | None) -> None:
        """Add the next line, of `length` bytes; the entry of a damaged line is None."""
        place = self.line_count
        row = entry.get("row") if entry else None
        self.offsets.append(self.offsets[-1] + length)
        self.moments.append(moment(row.get("created_at")) if row else 0)
        if entry:
            self.gone.extend(entry.get("gone", ()))
        if row:
            self._places.setdefault(identity(str(row.get("id"))), []).append(place)
            for term in set(terms_of(row)):
                self.postings.setdefault(term, []).append(place)

    def bits(self, term: bytes) -> int:
        """The lines with a term."""
        return _bits(self.postings.get(term, ()))

    def prefix(self, beginning: bytes) -> int:
        """The lines with a term that begins so."""
        postings = (post for term, post in self.postings.items() if term.startswith(beginning))
        return _bits(place for posting in postings for place in posting)

    def between(self, since: int | None, until: int | None) -> int:
        """The lines from `since` to before `until`, in milliseconds since 1970; None is open."""
        low, high = since if since is not None else 0, until if until is not None else 1 << 62
        return _bits(place for place, when in enumerate(self.moments) if low <= when < high)

    def places(self, key: int) -> list[int]:
        """The places of the rows whose id has this hash (`terms.identity`)."""
        return self._places.get(key, [])

    def encode(self) -> bytes:
        """The file of a `SealedIndex` with the same content."""
        width = _width(self.line_count)
        terms = sorted(self.postings)
        packed = [_pack(self.postings[term], width) for term in terms]
        ids = sorted((key, place) for key, places in self._places.items() for place in places)
        body = b"".join(
            (
                self.offsets.tobytes(),
                self.moments.tobytes(),
                array("Q", [key for key, _ in ids]).tobytes(),
                array("H", [place for _, place in ids]).tobytes(),
                array("Q", self.gone).tobytes(),
                _starts(terms),
                b"".join(terms),
                _starts(packed),
                b"".join(packed),
            )
        )
        sizes = (sum(map(len, terms)), sum(map(len, packed)))
        counts = (len(ids), len(self.gone), len(terms), *sizes)
        return _HEAD.pack(_MAGIC, self.line_count, self.size, zlib.crc32(body), *counts) + body


class SealedIndex(Index):
    """The index of a full segment, searched in its file.

    It is also the sorted sequence of its terms, for `bisect`. The constructor raises OSError or
    ValueError for a file that is missing, damaged, or not of a segment of `rows_bytes` bytes.
    """

    def __init__(self, path: Path, rows_bytes: int) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if len(self._map) < _HEAD.size:
            raise ValueError(f"{path.name} is too short")
        head = _HEAD.unpack_from(self._map)
        magic, lines, size, crc, ids, gone, terms, terms_bytes, packed_bytes = head
        view = memoryview(self._map)[_HEAD.size :]
        if magic != _MAGIC or size != rows_bytes or zlib.crc32(view) != crc:
            raise ValueError(f"{path.name} does not fit its segment")
        at = 0

        def take(length: int) -> memoryview:
            nonlocal at
            at += length
            return view[at - length : at]

        self.offsets = array("I", take(4 * (lines + 1)).tobytes())
        self.moments = array("q", take(8 * lines).tobytes())
        self._keys = take(8 * ids).cast("Q")
        self._key_places = take(2 * ids).cast("H")
        self.gone = list(take(8 * gone).cast("Q"))
        self._term_starts = take(4 * (terms + 1)).cast("I")
        self._terms = take(terms_bytes)
        self._packed_starts = take(4 * (terms + 1)).cast("I")
        self._packed = take(packed_bytes)
        self._width = _width(lines)

    @cached_property
    def rows(self) -> int:
        return super().rows

    def __len__(self) -> int:
        return len(self._term_starts) - 1

    def __getitem__(self, number: int) -> bytes:
        starts = self._term_starts
        return bytes(self._terms[starts[number] : starts[number + 1]])

    def bits(self, term: bytes) -> int:
        number = bisect_left(self, term)
        return self._posting(number) if number < len(self) and self[number] == term else 0

    def prefix(self, beginning: bytes) -> int:
        first = bisect_left(self, beginning)
        # The byte 0xff is in no UTF-8 text, so every term that begins so sorts before this one.
        end = bisect_left(self, beginning + b"\xff", first)
        return reduce(or_, map(self._posting, range(first, end)), 0)

    def places(self, key: int) -> list[int]:
        first = bisect_left(self._keys, key)
        return list(self._key_places[first : bisect_right(self._keys, key, first)])

    def _posting(self, number: int) -> int:
        starts = self._packed_starts
        packed = self._packed[starts[number] : starts[number + 1]]
        if len(packed) == self._width:
            return int.from_bytes(packed, "little")
        return _bits(packed.cast("H"))


def _width(lines: int) -> int:
    """The bytes that hold one bit for each line."""
    return (lines + 7) // 8


def _bits(places: Iterable[int]) -> int:
    return reduce(or_, (1 << place for place in places), 0)


def _pack(posting: Sequence[int], width: int) -> bytes:
    """The places as two bytes each, or as bits where those are no longer."""
    if len(posting) * 2 >= width:
        return _bits(posting).to_bytes(width, "little")
    return array("H", posting).tobytes()


def _starts(parts: Sequence[bytes]) -> bytes:
    """Where each part begins once all are joined, and where the last one ends."""
    return array("I", accumulate(map(len, parts), initial=0)).tobytes()
