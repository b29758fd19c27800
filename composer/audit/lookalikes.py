"""A table of letters that look like Latin letters, so that disguised words are found.

A small part of Unicode's confusables (UTS 39): those that people use to disguise Latin words. The
table is for matching only; the prompt itself is never changed.
"""

from __future__ import annotations

_PAIRS = {
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
}  # fmt: skip

# Capitals that resemble another letter than their small form does (Greek Η is like H, η like n).
_CAPITALS = {
    "Α": "a", "Β": "b", "Ε": "e", "Ζ": "z", "Η": "h", "Ι": "i", "Κ": "k", "Μ": "m", "Ν": "n",
    "Ο": "o", "Ρ": "p", "Τ": "t", "Υ": "y", "Χ": "x", "Ϲ": "c", "В": "b", "Н": "h", "Т": "t",
    "М": "m", "К": "k", "У": "y", "Ѕ": "s", "Ј": "j", "І": "i", "Ӏ": "i",
    "Ꮮ": "l", "Ꮯ": "c", "Ꭺ": "a", "Ꭼ": "e", "Ꮋ": "h", "Ꮇ": "m", "Ꭲ": "t", "Ꮪ": "s",
    "Ᏼ": "b", "Ꭰ": "d", "Ꮐ": "g", "Ꮶ": "k", "Ꮲ": "p", "Ꭱ": "e", "Ꮩ": "v", "Ꮃ": "w", "Ꮓ": "z",
}  # fmt: skip


def _enclosed() -> dict[str, str]:
    table: dict[str, str] = {}
    for start in (0x1F110, 0x1F130, 0x1F150, 0x1F170, 0x1F1E6):  # (A) [A] and flag letters
        table.update({chr(start + i): chr(ord("a") + i) for i in range(26)})
    for start in (0x24B6, 0x24D0):  # letters in circles
        table.update({chr(start + i): chr(ord("a") + i) for i in range(26)})
    return table


LOOKALIKES: dict[str, str] = {**_PAIRS, **_CAPITALS, **_enclosed()}
"""Each look-alike letter with the plain small letters it stands for."""

DIGITS_AS_LETTERS = str.maketrans({"0": "o", "1": "l", "3": "e", "4": "a", "5": "s", "7": "t"})
"""Digits that are used as letters; applied only to words that also contain letters."""
