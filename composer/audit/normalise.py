"""Makes a working copy of a prompt in plain small letters that keeps the original offsets.

Letters that look like Latin letters become these, so that disguised words are found. The copy is
for matching only; the prompt itself is never changed. The offset of every character of the copy is
recorded.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import lru_cache

# Runs of 26 letters: (A), [A] and flag letters, then letters in circles.
_ENCLOSED = (0x1F110, 0x1F130, 0x1F150, 0x1F170, 0x1F1E6, 0x24B6, 0x24D0)

LOOKALIKES: dict[str, str] = {
    # Cyrillic
    "а": "a", "в": "b", "ь": "b", "с": "c", "ԁ": "d", "е": "e", "ҽ": "e", "һ": "h", "н": "h",
    "і": "i", "ї": "i", "ӏ": "l", "ј": "j", "к": "k", "қ": "k", "м": "m", "о": "o",
    "ө": "o", "р": "p", "ԛ": "q", "ѕ": "s", "т": "t", "у": "y", "ү": "y", "ѵ": "v",
    "ԝ": "w", "х": "x", "ҳ": "x", "ʏ": "y", "ѡ": "w", "ғ": "f", "ё": "e",
    # Greek
    "α": "a", "β": "b", "ϲ": "c", "ε": "e", "η": "n", "ι": "i", "κ": "k", "μ": "u", "ν": "v",
    "ο": "o", "ρ": "p", "σ": "o", "ς": "s", "τ": "t", "υ": "u", "χ": "x", "ω": "w", "γ": "y",
    "ϳ": "j", "ϝ": "f",
    # Armenian
    "ա": "w", "օ": "o", "ս": "u", "հ": "h", "ո": "n", "ց": "g", "զ": "q", "յ": "j", "լ": "l",
    "ք": "p", "ւ": "i", "ե": "t", "ռ": "n",
    # Latin letters that have no decomposition
    "ı": "i", "ȷ": "j", "ɑ": "a", "ɡ": "g", "ɩ": "i", "ɪ": "i", "ʟ": "l", "ᴏ": "o", "ɢ": "g",
    "ᴀ": "a", "ʙ": "b", "ᴄ": "c", "ᴅ": "d", "ᴇ": "e", "ꜰ": "f", "ʜ": "h", "ᴊ": "j", "ᴋ": "k",
    "ᴍ": "m", "ɴ": "n", "ᴘ": "p", "ʀ": "r", "ꜱ": "s", "ᴛ": "t", "ᴜ": "u", "ᴠ": "v", "ᴡ": "w",
    "ᴢ": "z", "ø": "o", "đ": "d", "ł": "l", "ħ": "h", "ŧ": "t", "ƅ": "b", "ɦ": "h", "ƨ": "s",
    "ɓ": "b", "ɗ": "d", "ƙ": "k", "ƥ": "p", "ƭ": "t", "ɨ": "i", "ʋ": "v", "ƴ": "y", "ƶ": "z",
    "ʂ": "s", "ɾ": "r", "ɼ": "r", "ɭ": "l", "ɬ": "l", "ŋ": "n", "ɲ": "n", "ƞ": "n", "ɱ": "m",
    "æ": "ae", "œ": "oe", "þ": "p", "ǝ": "e", "ƒ": "f", "ə": "e", "ɛ": "e",
    "ɔ": "o", "ɯ": "m", "ʇ": "t",
    # Capitals that resemble another letter than their small form does (Greek Η is like H, η like n)
    "Α": "a", "Β": "b", "Ε": "e", "Ζ": "z", "Η": "h", "Ι": "i", "Κ": "k", "Μ": "m", "Ν": "n",
    "Ο": "o", "Ρ": "p", "Τ": "t", "Υ": "y", "Χ": "x", "Ϲ": "c", "В": "b", "Н": "h", "Т": "t",
    "М": "m", "К": "k", "У": "y", "Ѕ": "s", "Ј": "j", "І": "i", "Ӏ": "i",
    "Ꮮ": "l", "Ꮯ": "c", "Ꭺ": "a", "Ꭼ": "e", "Ꮋ": "h", "Ꮇ": "m", "Ꭲ": "t", "Ꮪ": "s",
    "Ᏼ": "b", "Ꭰ": "d", "Ꮐ": "g", "Ꮶ": "k", "Ꮲ": "p", "Ꭱ": "e", "Ꮩ": "v", "Ꮃ": "w", "Ꮓ": "z",
    **{chr(start + i): chr(ord("a") + i) for start in _ENCLOSED for i in range(26)},
}  # fmt: skip
"""Each look-alike letter with the plain small letters it stands for.

A small part of Unicode's confusables (UTS 39): those that people use to disguise Latin words.
"""

DIGITS_AS_LETTERS = str.maketrans({"0": "o", "1": "l", "3": "e", "4": "a", "5": "s", "7": "t"})
"""Digits that are used as letters; applied only to words that also contain letters."""

_INVISIBLE = (
    "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\u180b\u180c\u180d\u180e\u180f"
    + "".join(map(chr, range(0xFE00, 0xFE10)))
    + "".join(map(chr, range(0xE0100, 0xE01F0)))
)
_DASHES = "\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d\u2043\u02d7\u1806"
EM_DASH = "\u2014"
_EM_DASHES = "\u2014\u2015\u2e3a\u2e3b\u2500\ufe58\ufe31"
_APOSTROPHES = "\u2019\u2018\u02bc\u02b9\u2032\u201b\uff07\u0060\u00b4\u02bb\u05f3"
_QUOTES = "\u201c\u201d\u201e\u201f\u00ab\u00bb\uff02\u300c\u300d\u2039\u203a\u300e\u300f"
_LINE_ENDS = "\n\r\u2028\u2029\u0085\u000b\u000c"
_BLANKS = "\u2800\u00a0\u1680"

_FIXED: dict[str, str] = {
    char: becomes
    for chars, becomes in (
        (_LINE_ENDS, "\n"),
        (_DASHES, "-"),
        (_EM_DASHES, EM_DASH),
        (_APOSTROPHES, "'"),
        (_QUOTES, '"'),
        (_BLANKS + "_\t", " "),
        (_INVISIBLE, ""),
    )
    for char in chars
}
_ASCII = str.maketrans({char: to for char, to in _FIXED.items() if char.isascii()})


@dataclass(frozen=True)
class Working:
    """A prompt, its copy `text`, and the offset in the prompt of each character of the copy."""

    original: str
    text: str
    offsets: tuple[int, ...]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The original offsets of [start, end), including combining marks on the last letter."""
        stop = self.offsets[end - 1] + 1
        limit = self.offsets[end] if end < len(self.offsets) else len(self.original)
        while stop < limit and unicodedata.combining(self.original[stop]):
            stop += 1
        return self.offsets[start], stop


@lru_cache(maxsize=4096)
def _plain(char: str) -> str:
    """The text of one original character in the copy; empty for an invisible character."""
    if char in _FIXED:
        return _FIXED[char]
    if char in LOOKALIKES:
        return LOOKALIKES[char]
    category = unicodedata.category(char)
    if category == "Cf":
        return ""
    if category == "Zs":
        return " "
    if category == "So":  # ™ must stay a symbol: NFKC would make it the letters TM
        return char
    folded = unicodedata.normalize("NFKC", char).casefold()
    return "".join(_letter(part) for part in folded)


def _letter(char: str) -> str:
    if char in LOOKALIKES:
        return LOOKALIKES[char]
    apart = unicodedata.normalize("NFD", char)
    base = LOOKALIKES.get(apart[0], apart[0])
    # Marks on Latin letters are ignored (lógo is logo); in other scripts they make other letters.
    if len(apart) > 1 and base.isascii():
        return base
    return char


def normalise(original: str) -> Working:
    """Make the working copy of a prompt, in one pass."""
    if original.isascii():  # as nearly all are: every character keeps its offset
        return Working(original, original.lower().translate(_ASCII), tuple(range(len(original))))
    text: list[str] = []
    offsets: list[int] = []
    for offset, char in enumerate(original):
        if char.isascii() and (char.isalnum() or char == " "):
            becomes = char.lower()
        elif unicodedata.combining(char):
            # A combining mark: ignored after a Latin letter, part of the letter in other scripts.
            becomes = "" if text and text[-1].isascii() else char
        else:
            becomes = _plain(char)
        for part in becomes:
            text.append(part)
            offsets.append(offset)
    return Working(original, "".join(text), tuple(offsets))
