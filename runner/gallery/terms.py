"""The index terms of a row: the words of its prompt, and its facets (`model tiny`, `seed 7`).

Case is folded in words and facets, and words lose their accents. In scripts without spaces between
words each letter is a word.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}\U00020000-\U0003ffff]|[^\W_{_UNSPACED}\U00020000-\U0003ffff]+")
# Of private use, and so in no word.
_FACET = "\ue000"
# Of Latin, Greek and Cyrillic letters; other scripts' marks make other letters.
_ACCENTS = re.compile("[\u0300-\u036f]")


def words(text: str) -> list[str]:
    """The words of a text in order, without case and accents: Käse, KÄSE and kase are equal."""
    plain = _ACCENTS.sub("", unicodedata.normalize("NFKD", text))
    return _WORD.findall(unicodedata.normalize("NFKC", plain).casefold())


def facet(name: str, value: object) -> str:
    """The term of one property of a picture; like a word, it has letters and digits only."""
    return _FACET + f"{name} {value}".casefold().encode("utf-8", "replace").hex()


def terms_of(row: Mapping[str, Any]) -> str:
    """All terms of one row, with spaces between them."""
    return " ".join((*words(str(row.get("prompt") or "")), *_facets(row)))


def _facets(row: Mapping[str, Any]) -> Iterator[str]:
    for name in ("kind", "model", "pack", "seed", "job"):
        if row.get(name) is not None:
            yield facet(name, row[name])
    for tag in row.get("tags") or ():
        yield facet("tag", tag)
    if row.get("width") and row.get("height"):
        yield facet("size", f"{row['width']}x{row['height']}")


def moment(text: object) -> int:
    """An RFC 3339 moment as milliseconds since 1970; UTC without an offset, 0 for anything else."""
    try:
        when = datetime.fromisoformat(str(text))
    except ValueError:
        return 0
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return round(when.timestamp() * 1000)
