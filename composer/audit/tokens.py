"""Cuts the working copy of a prompt into words and marks, and classifies the marks.

One pass, without backtracking. The tokens do not depend on terms or negations.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from composer.audit.normalise import EM_DASH, Working


class Kind(Enum):
    """What a token means for the scope of a negation."""

    WORD = "word"
    HYPHEN = "hyphen"  # between two letters without blanks: a compound
    COMMA = "comma"
    SLASH = "slash"
    AND = "and"  # & and +
    COLON = "colon"
    QUOTE = "quote"
    OPEN = "open"
    CLOSE = "close"
    LINE = "line"  # a line end: a border, unless a bulleted list continues
    END = "end"  # any other border: full stop, semicolon, spaced dash, block border, ...
    FLAG = "flag"  # --ar, --no
    OTHER = "other"  # marks without a meaning


@dataclass(frozen=True, slots=True)
class Token:
    """One word or mark; `start` and `end` are offsets in the working copy."""

    kind: Kind
    text: str
    start: int
    end: int


_PATTERN = re.compile(
    r"""
    (?P<lora><(?:lora|lyco|hypernet)\b[^<>\n]{0,200}>)
  | (?P<weight>::?-?\d+(?:\.\d+)?(?=\s*[)\]}]))
  | (?P<without>\bw/(?:o|out)\b)
  | (?P<flag>(?<!\S)--[a-z]+)
  | (?P<number>\d+[.,/:]\d+\w*)
  | (?P<abbreviation>\b(?:e\.g|i\.e|n/a)\b\.?)
  | (?P<word>[^\W_]+(?:'[^\W_]+)*)
  | (?P<line>\n)
  | (?P<blank>[^\S\n]+)
  | (?P<mark>.)
    """,
    re.VERBOSE,
)
_MARKS = {
    ",": Kind.COMMA, "、": Kind.COMMA, "،": Kind.COMMA, "/": Kind.SLASH, "&": Kind.AND,
    "+": Kind.AND, ":": Kind.COLON, "=": Kind.COLON, '"': Kind.QUOTE, "'": Kind.QUOTE,
    "(": Kind.OPEN, "[": Kind.OPEN, "{": Kind.OPEN,
    ")": Kind.CLOSE, "]": Kind.CLOSE, "}": Kind.CLOSE,
    ".": Kind.END, ";": Kind.END, "!": Kind.END, "?": Kind.END, "|": Kind.END, "。": Kind.END,
    EM_DASH: Kind.END, "→": Kind.END, ">": Kind.END, "•": Kind.END, "·": Kind.END, "؛": Kind.END,
}  # fmt: skip

DASHES = ("-", EM_DASH, ">", "\u2192")
"""Marks that may stand for a colon after a title: "Avoid - logos"."""


def word_at(tokens: Sequence[Token], index: int) -> str:
    """The text of a token if the index exists and the token is a word, else empty."""
    inside = 0 <= index < len(tokens) and tokens[index].kind is Kind.WORD
    return tokens[index].text if inside else ""


def tokenise(work: Working, borders: Iterable[int] = ()) -> list[Token]:
    """Cut the working copy into tokens; `borders` are original offsets of block borders."""
    pending = sorted(set(borders), reverse=True)
    tokens: list[Token] = []
    text = work.text
    for match in _PATTERN.finditer(text):
        name, part = match.lastgroup, match.group()
        start, end = match.span()
        while pending and work.offsets[start] >= pending[-1]:
            pending.pop()
            tokens.append(Token(Kind.END, "", start, start))
        if name == "blank" or name == "weight":
            continue
        kind = {"line": Kind.LINE, "flag": Kind.FLAG, "lora": Kind.OTHER}.get(name or "", Kind.WORD)
        if name == "mark":
            kind = _mark(text, start, end, tokens)
        elif name == "lora":
            part = ""
        elif name == "without":
            part = "without"
        elif name == "abbreviation":
            part = part.rstrip(".")
        elif part == "break" and work.original[slice(*work.span(start, end))] == "BREAK":
            # In capitals it divides a prompt in several front ends.
            kind = Kind.END
        tokens.append(Token(kind, part, start, end))
    return tokens


def _mark(text: str, start: int, end: int, before: list[Token]) -> Kind:
    mark = text[start:end]
    if mark == "-":
        left = bool(before) and before[-1].end == start and before[-1].kind is Kind.WORD
        right = end < len(text) and text[end].isalnum()
        if left and right:
            return Kind.HYPHEN
        if left:
            # Before a comma or a conjunction it is suspended: "logo- and text-free".
            suspended = text.startswith((",", " and ", " or "), end)
            return Kind.HYPHEN if suspended else Kind.END
        return Kind.OTHER if right else Kind.END
    if mark == ":" and (text[end : end + 1] == ":" or text[start - 1 : start] == ":"):
        return Kind.END  # `::` separates two prompts
    return _MARKS.get(mark, Kind.OTHER)
