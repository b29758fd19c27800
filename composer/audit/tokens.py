"""Cuts the working copy of a prompt into words and marks, and classifies the marks.

One pass, without backtracking. The tokens do not depend on terms or negations.
"""

import re
import unicodedata
from collections.abc import Iterable
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
    SEMICOLON = "semicolon"  # a border, unless a list of unwanted things continues
    END = "end"  # any other border: full stop, spaced dash, block border, ...
    SYMBOL = "symbol"  # an emoji or another sign: a word where it is a cue or a mention
    FLAG = "flag"  # --ar, --no
    OTHER = "other"  # marks without a meaning


@dataclass(frozen=True, slots=True)
class Token:
    """One word or mark; `start` and `end` are offsets in the working copy."""

    kind: Kind
    text: str
    start: int
    end: int


WORDS = (Kind.WORD, Kind.SYMBOL)

UNSPACED = (
    "\u0e00-\u109f\u1100-\u11ff\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u3005-\ua4cf\ua960-\ua97f"
    "\ua9e0-\ua9ff\uaa60-\uaadf\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Ranges of the scripts in which words adjoin; a change to or from them is a border of a word."""
SPACED = rf"[^\W_{UNSPACED}]"
"""A letter or digit of a script with blanks between words, as a pattern."""

_PATTERN = re.compile(
    rf"""
    (?P<lora><(?:lora|lyco|hypernet)\b[^<>\n]{{0,200}}>)
  | (?P<weight>::?-?\d+(?:\.\d+)?(?=\s*[)\]}}]))
  | (?P<without>\bw/(?:o|out)\b)
  | (?P<flag>(?<!\S)--[a-z]+)
  | (?P<number>\b[a-z]/\d+(?:\.\d+)?|\d+[.,/:]\d+{SPACED}*|\d+[ ]?%)
  | (?P<abbreviation>\b(?:e\.g|i\.e|n/a|incl|excl)\b\.?)
  | (?P<elided>\b(?:[dln]|qu|un|nessun|quest|quell|(?:d?a|de|ne|su)ll)'(?={SPACED}))
  | (?P<word>{SPACED}+(?:'{SPACED}+)*|(?:(?!{SPACED})[^\W_])+)
  | (?P<ellipsis>\.{{2,}})
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
    ".": Kind.END, ";": Kind.SEMICOLON, "!": Kind.END, "?": Kind.END, "|": Kind.END,
    "。": Kind.END, EM_DASH: Kind.END, ">": Kind.END, "•": Kind.END, "·": Kind.END,
    "؛": Kind.SEMICOLON,
}  # fmt: skip

_KINDS = {"line": Kind.LINE, "flag": Kind.FLAG, "lora": Kind.OTHER, "ellipsis": Kind.END}

DASHES = ("-", EM_DASH, ">")
"""Marks that may stand for a colon after a title: "Avoid - logos"."""


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
        kind = _KINDS.get(name or "", Kind.WORD)
        if name == "mark":
            kind = _mark(text, start, end, tokens)
        elif name in ("lora", "without"):
            part = "" if name == "lora" else name
        elif name in ("abbreviation", "elided"):  # "l'" of "l'eau" is a word too
            part = part.rstrip("'.").replace("/", "")
        elif name == "number":
            part = part.replace(" ", "")
        elif part == "break" and work.original[slice(*work.span(start, end))] == "BREAK":
            # In capitals it divides a prompt in several front ends.
            kind = Kind.END
        tokens.append(Token(kind, part, start, end))
    return tokens


def _mark(text: str, start: int, end: int, before: list[Token]) -> Kind:
    mark = text[start:end]
    if mark == "-":
        left = bool(before) and before[-1].end == start and before[-1].kind is Kind.WORD
        right = text[end : end + 1].isalnum()
        # Before a comma or a conjunction it is suspended: "logo- and text-free".
        if left and (right or text.startswith((",", " and ", " or "), end)):
            return Kind.HYPHEN
        return Kind.OTHER if right and not left else Kind.END
    if mark == "/" and text[start - 1 : start] == text[end : end + 1] == " ":
        return Kind.COMMA
    if mark == ":" and (text[end : end + 1] == ":" or text[start - 1 : start] == ":"):
        return Kind.END  # `::` separates two prompts
    other = Kind.SYMBOL if unicodedata.category(mark) == "So" else Kind.OTHER
    return _MARKS.get(mark, other)
