"""Lists the readings of each word of a prompt: as it is, with digits as letters, spelt out.

Disguised single letters have been replaced before, by `composer.audit.normalise`. Linear in the
prompt: a word spelt letter by letter is searched for at its first letter only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from composer.audit.normalise import DIGITS_AS_LETTERS
from composer.audit.tokens import Kind, Token

_ELIDED = frozenset("l d qu un dell all nell sull dall".split())
"""Words that lose their vowel and their blank before another: "l'eau" is also read as "eau"."""


@dataclass(frozen=True, slots=True)
class ReadWord:
    """One word token with its readings; `index` is its token."""

    index: int
    readings: tuple[str, ...]
    spelt: tuple[int, str]  # of a word spelt letter by letter that begins here: its end, its text
    joined: bool  # only blanks, hyphens or a block border are between it and the word before


def readable(tokens: Sequence[Token]) -> list[ReadWord]:
    """The words of a prompt, in order, with all their readings."""
    words: list[ReadWord] = []
    for index, token in enumerate(tokens):
        if token.kind is Kind.WORD:
            spelt = _spelt_out(tokens, index) if len(token.text) == 1 else (index, "")
            joined = bool(words) and _adjoin(tokens, words[-1].index + 1, index)
            words.append(ReadWord(index, _readings(token.text), spelt, joined))
    return words


def _readings(text: str) -> tuple[str, ...]:
    if text.isalpha():
        return (text,)
    readings = [text]
    if text.endswith("'s"):
        readings.append(text[:-2])
    if text.partition("'")[0] in _ELIDED:
        readings.append(text.partition("'")[2])
    if any(char.isdigit() for char in text) and not text.isdigit():
        readings.append(text.translate(DIGITS_AS_LETTERS))
    return tuple(readings)


def _spelt_out(tokens: Sequence[Token], index: int) -> tuple[int, str]:
    """The end and the letters of a word spelt letter by letter: "l o g o", "l.o.g.o".

    No letters where no such word begins at `index`.
    """
    for back in (1, 2):  # only its first letter begins it, or the one after an article
        before = tokens[index - back] if index >= back else None
        if before is not None and before.kind is Kind.WORD and len(before.text) == 1:
            earlier = tokens[index - 2].text if index > 1 else ""
            if back == 1 and before.text == "a" and len(earlier) != 1:
                break
            return index, ""
        if before is None or before.text not in (".", "-", "*"):
            break
    letters: list[str] = []
    stop = index
    for at in range(index, min(index + 60, len(tokens))):
        token = tokens[at]
        if token.kind is Kind.WORD and len(token.text) == 1:
            letters.append(token.text)
            stop = at + 1
        elif token.text not in (".", "-", "*"):
            break
    return (stop, "".join(letters)) if len(letters) > 2 else (index, "")


def _adjoin(tokens: Sequence[Token], end: int, start: int) -> bool:
    """Whether only hyphens and block borders are between two words."""
    return start - end <= 2 and all(
        token.kind is Kind.HYPHEN or (token.kind is Kind.END and not token.text)
        for token in tokens[end:start]
    )
