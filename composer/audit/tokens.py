"""Cuts the working copy of a prompt into words and marks, and classifies the marks.

One pass, without backtracking. The tokens do not depend on terms or negations.
"""

from __future__ import annotations

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


_WORD = r"[^\W_]+(?:'[^\W_]+)*"
_PATTERN = re.compile(
    rf"""
    (?P<lora><(?:lora|lyco|hypernet)\b[^<>\n]{{0,200}}>)
  | (?P<weight>::?-?\d+(?:\.\d+)?(?=\s*[)\]}}]))
  | (?P<without>\bw/(?:o|out)\b)
  | (?P<flag>(?<!\S)--[a-z]+)
  | (?P<number>\d+[.,/:]\d+\w*)
  | (?P<abbreviation>\b(?:e\.g|i\.e|n/a)\b\.?)
  | (?P<word>{_WORD})
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
        name = match.lastgroup
        start, end = match.span()
        while pending and work.offsets[start] >= pending[-1]:
            pending.pop()
            tokens.append(Token(Kind.END, "", start, start))
        if name == "blank" or name == "weight":
            continue
        if name == "word":
            tokens.append(_word(work, match.group(), start, end))
        elif name == "mark":
            tokens.append(Token(_mark(text, start, end, tokens), match.group(), start, end))
        elif name == "line":
            tokens.append(Token(Kind.LINE, "\n", start, end))
        elif name == "flag":
            tokens.append(Token(Kind.FLAG, match.group(), start, end))
        elif name == "lora":
            tokens.append(Token(Kind.OTHER, "", start, end))
        else:
            plain = {"without": "without", "abbreviation": match.group().rstrip(".")}
            tokens.append(Token(Kind.WORD, plain.get(name or "", match.group()), start, end))
    return tokens


def _word(work: Working, text: str, start: int, end: int) -> Token:
    # BREAK in capitals divides a prompt in several front ends; "break" is an ordinary word.
    border = text == "break" and work.original[slice(*work.span(start, end))] == "BREAK"
    return Token(Kind.END if border else Kind.WORD, text, start, end)


def _mark(text: str, start: int, end: int, before: list[Token]) -> Kind:
    mark = text[start:end]
    if mark == "-":
        left = bool(before) and before[-1].end == start and before[-1].kind is Kind.WORD
        right = end < len(text) and text[end].isalnum()
        if left and right:
            return Kind.HYPHEN
        if left:
            return Kind.HYPHEN if _suspended(text, end) else Kind.END
        return Kind.OTHER if right else Kind.END
    if mark == ":" and (text[end : end + 1] == ":" or text[start - 1 : start] == ":"):
        return Kind.END  # `::` separates two prompts
    return _MARKS.get(mark, Kind.OTHER)


def _suspended(text: str, end: int) -> bool:
    """Whether a hyphen is followed by a comma or a conjunction: "logo- and text-free"."""
    return text.startswith((",", " and ", " or "), end)
