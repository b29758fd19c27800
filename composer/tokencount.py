"""What the text encoders of a model see of a prompt: how many tokens it has, and where they end.

Counting with a model's own tokenizers is handed in as `Encoder`s; where they are not at hand the
number is estimated, and everything made of it says so. Never loads a tokenizer.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

CLIP_LIMIT = 77
PROMPT_LIMIT = 512


class Reading(NamedTuple):
    """What an encoder makes of a text: its tokens, special ones included, how many of its
    characters are seen, and the parts that the encoder has no tokens for.
    """

    tokens: int
    seen: int
    unknown: str = ""


@dataclass(frozen=True)
class Encoder:
    """One text encoder as a prompt meets it: it reads the first `limit` tokens.

    `counted` tells the model's own tokenizer from an estimate. What a `pooled` encoder does not
    see is no great loss: it only sums the prompt up, and another one reads it whole.
    """

    name: str
    limit: int
    measure: Callable[[str], Reading]
    counted: bool = False
    pooled: bool = False

    def warnings(self, text: str, reading: Reading) -> Iterator[str]:
        """One sentence on each thing that this encoder does not see of a text."""
        about = "" if self.counted else "about "
        if reading.tokens > self.limit:
            end = f"{about}up to '…{text[: reading.seen][-30:].strip()}'"
            many = f"{about}{reading.tokens} {self.name} tokens: "
            if self.pooled:
                summary = f"{self.name}, which only sums the prompt up, sees the first {self.limit}"
                yield f"{many}{summary}, {end}"
            else:
                yield (
                    f"{many}the model sees the first {self.limit}, {end}; what comes after is lost"
                )
        if reading.unknown:
            yield f"{self.name} {_may_not(self)} know {reading.unknown!r}: say it in plain English"


def _may_not(encoder: Encoder) -> str:
    return "does not" if encoder.counted else "may not"


@dataclass(frozen=True)
class _Habit:
    """What a tokenizer makes of text, on average: tokens added, and tokens of each kind of piece.

    `letters` is the length from which a word costs a token more, `wide` a Chinese, Japanese or
    Korean character, `other` any other letter beyond ASCII.
    """

    added: float
    word: float
    letters: float
    wide: float
    other: float


_HABITS = {
    "CLIP": _Habit(2, 1.0, 7.5, 2.2, 1.2),
    "T5": _Habit(1, 1.15, 7.5, 1.2, 1.2),
    "Qwen3": _Habit(12, 1.0, 9.0, 0.9, 0.6),  # added: what stands around a message
}
_PIECE = re.compile(r"[A-Za-z]+|\d|[^\s\w]+|[^\W\dA-Za-z_]|_")
_WIDE = re.compile("[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]")


def estimate(name: str, text: str) -> int:
    """About how many tokens a text has; fits English prose within a tenth or so."""
    habit = _HABITS.get(name, _HABITS["T5"])
    tokens = habit.added
    for piece in _PIECE.findall(text):
        if not piece.isascii():
            tokens += habit.wide if _WIDE.match(piece) else habit.other
        elif piece.isalpha():
            tokens += habit.word * (1 + int((len(piece) - 1) / habit.letters))
        else:
            tokens += habit.word
    return round(tokens)


def estimating(name: str, limit: int, *, pooled: bool = False) -> Encoder:
    """An encoder whose tokenizer is not at hand."""
    return Encoder(name, limit, partial(_estimated, name, limit), pooled=pooled)


def _estimated(name: str, limit: int, text: str) -> Reading:
    tokens = estimate(name, text)
    seen = len(text) if tokens <= limit else max(1, len(text) * limit // tokens)
    # T5 was taught English, French, German and Romanian.
    return Reading(tokens, seen, _not_latin(text) if name == "T5" else "")


def _not_latin(text: str, most: int = 12) -> str:
    letters = (char for char in dict.fromkeys(text) if not char.isascii() and char.isalpha())
    return "".join(c for c in letters if not unicodedata.name(c, "").startswith("LATIN"))[:most]


def flux1_like(limit: int = PROMPT_LIMIT) -> tuple[Encoder, ...]:
    """What reads the prompts of a model of which nothing else is known."""
    return estimating("CLIP", CLIP_LIMIT, pooled=True), estimating("T5", limit)


def tokens_json(text: str, encoders: Sequence[Encoder]) -> dict[str, Any]:
    """The tokens of one text for each encoder, and whether any of them is an estimate."""
    counts = {each.name.lower(): each.measure(text).tokens for each in encoders}
    return {**counts, "estimated": not all(each.counted for each in encoders)}


def token_warnings(text: str, encoders: Sequence[Encoder]) -> tuple[str, ...]:
    """What the encoders do not see of a prompt, one sentence for each thing."""
    return tuple(told for each in encoders for told in each.warnings(text, each.measure(text)))
