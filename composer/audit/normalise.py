"""Makes a working copy of a prompt in plain small letters that keeps the original offsets.

Letters that look like Latin letters become these, so that disguised words are found. The copy is
for matching only; the prompt itself is never changed. The offset of every character of the copy is
recorded.
"""

import unicodedata
from dataclasses import dataclass
from functools import lru_cache

# Runs of 26 letters: (A), [A] and flag letters, then letters in circles.
_ENCLOSED = (0x1F110, 0x1F130, 0x1F150, 0x1F170, 0x1F1E6, 0x24B6, 0x24D0)

_DRAWN_ALIKE = {
    "a": "аαɑᴀΑᎪ", "ae": "æ", "b": "вьβʙƅɓΒВᏴ", "c": "сϲᴄϹᏟ", "d": "ԁᴅđɗᎠ", "e": "еҽёεᴇǝəɛΕᎬᎡ",
    "f": "ғϝꜰƒ", "g": "ցɡɢᏀ", "h": "һнհʜħɦΗНᎻ", "i": "іїιւıɩɪɨΙІӀ", "j": "јϳյȷᴊЈ", "k": "кқκᴋƙΚКᏦ",
    "l": "ӏլʟłɭɬᏞ", "m": "мᴍɱɯΜМᎷ", "n": "ηոռɴŋɲƞΝ", "o": "оөοσօᴏøɔΟ", "oe": "œ", "p": "рρքᴘƥþΡᏢ",
    "q": "ԛզ", "r": "ʀɾɼ", "s": "ѕςꜱƨʂЅᏚ", "t": "тτեᴛŧƭʇΤТᎢ", "u": "μυսᴜ", "v": "ѵνᴠʋᏙ",
    "w": "ԝѡωաᴡᎳ", "x": "хҳχΧ", "y": "уүʏγƴΥУ", "z": "ᴢƶΖᏃ",
}  # fmt: skip
"""Plain letters with the signs that resemble them: Cyrillic, Greek, Armenian, Cherokee, and Latin
ones that have no decomposition. Capitals that resemble another letter than their small form does
stand for themselves (Greek Η is like H, η like n)."""

LOOKALIKES: dict[str, str] = {
    **{sign: letters for letters, signs in _DRAWN_ALIKE.items() for sign in signs},
    **{chr(start + i): chr(ord("a") + i) for start in _ENCLOSED for i in range(26)},
}
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
EM_DASH = "\u2014"

_FIXED: dict[str, str] = {
    char: becomes
    for becomes, chars in {
        "\n": "\n\r\u2028\u2029\u0085\u000b\u000c",
        "-": "\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d\u2043\u02d7\u1806",
        EM_DASH: "\u2014\u2015\u2e3a\u2e3b\u2500\ufe58\ufe31",
        "'": "\u2019\u2018\u02bc\u02b9\u2032\u201b\uff07\u0060\u00b4\u02bb\u05f3",
        '"': "\u201c\u201d\u201e\u201f\u00ab\u00bb\uff02\u300c\u300d\u2039\u203a\u300e\u300f",
        ">": "\u2192\u21d2\u21e8\u27a1\u279c\u2794\u279e\u27f6\u27f9",
        " ": "\u2800\u00a0\u1680_\t",
        "": _INVISIBLE,
    }.items()
    for char in chars
}
_KNOWN = LOOKALIKES | _FIXED
_ASCII = str.maketrans({char: to for char, to in _FIXED.items() if char.isascii()})


@dataclass(frozen=True)
class Working:
    """A prompt, its copy `text`, and the offset in the prompt of each character of the copy."""

    original: str
    text: str
    offsets: tuple[int, ...]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The original offsets of [start, end), with all parts of the last letter."""
        stop = self.offsets[end - 1] + 1
        limit = self.offsets[end] if end < len(self.offsets) else len(self.original)
        while stop < limit and _adds(self.original[stop]):
            stop += 1
        return self.offsets[start], stop


def _adds(char: str) -> bool:
    """Whether a character is a part of the letter before it: an accent, a later jamo."""
    return (
        "\u1160" <= char <= "\u11ff"
        or unicodedata.combining(unicodedata.normalize("NFKC", char)[0]) > 0
    )


@lru_cache(maxsize=4096)
def _plain(char: str) -> str:
    """The text of one original character in the copy; empty for an invisible character."""
    if char in _KNOWN:
        return _KNOWN[char]
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
            whole = unicodedata.normalize("NFC", text[-1] + part) if text else ""
            if len(whole) == 1:  # a letter that is written in parts: half-width kana, jamo
                text[-1] = whole
                continue
            text.append(part)
            offsets.append(offset)
    return Working(original, "".join(text), tuple(offsets))
