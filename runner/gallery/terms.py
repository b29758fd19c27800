"""The index terms of a row: the words of its prompt, and its facets (`model tiny`, `seed 7`).

A term is bytes, so that a sorted list of terms can be searched inside a file. Case is folded in
words and facets; in scripts without spaces between words each letter is a word.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

# Every row has this term; lines that put no row have no terms.
EVERY_ROW = b"*"
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}\U00020000-\U0003ffff]|[^\W_{_UNSPACED}\U00020000-\U0003ffff]+")


def words(text: str) -> list[str]:
    """The words of a text in order, normalised and case-folded: Käse and KÄSE are equal."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def word_term(word: str) -> bytes:
    """The term of a word, or the beginning of such terms for the beginning of a word."""
    return b"w " + word.encode("utf-8", "replace")


def facet(name: str, value: object) -> bytes:
    """The term of one property of a picture."""
    return f"{name} {value}".casefold().encode("utf-8", "replace")


def terms_of(row: Mapping[str, Any]) -> Iterator[bytes]:
    """All terms of one row; a term may come more than once."""
    yield EVERY_ROW
    for word in words(str(row.get("prompt") or "")):
        yield word_term(word)
    for name in ("kind", "model", "pack", "seed", "job"):
        if row.get(name) is not None:
            yield facet(name, row[name])
    for tag in row.get("tags") or ():
        yield facet("tag", tag)
    if row.get("width") and row.get("height"):
        yield facet("size", f"{row['width']}x{row['height']}")


def identity(row_id: str) -> int:
    """The 64-bit hash by which an id is looked up; a match must be confirmed by the row."""
    return int.from_bytes(blake2b(row_id.encode("utf-8", "replace"), digest_size=8).digest())


def moment(text: object) -> int:
    """An RFC 3339 moment as milliseconds since 1970; UTC without an offset, 0 for anything else."""
    try:
        when = datetime.fromisoformat(str(text))
    except ValueError:
        return 0
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return round(when.timestamp() * 1000)
