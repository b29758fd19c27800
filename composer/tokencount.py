"""Measures prompts in the tokens of a model's text encoders, and warns where a prompt is cut.

Callers pass `Encoder`s that count with a model's own tokenizers. Where those are not available the
number is estimated, and every result says that it is an estimate. Never loads a tokenizer.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

CLIP_LIMIT = 77
"""Tokens that CLIP's text encoder reads, special tokens included."""


class Reading(NamedTuple):
    """How an encoder reads a text.

    `tokens` counts the text's tokens, special ones included; `read` is the number of characters
    that the encoder reads before its limit; `unknown` is text that it has no tokens for.
    """

    tokens: int
    read: int
    unknown: str = ""


@dataclass(frozen=True)
class Encoder:
    """One text encoder of a model; it reads the first `limit` tokens of a prompt.

    `counted` is true for the model's own tokenizer and false for an estimate. A `pooled` encoder
    only summarises the prompt, which another encoder reads in full, so its limit matters little.
    """

    name: str
    limit: int
    measure: Callable[[str], Reading]
    counted: bool = False
    pooled: bool = False

    def warnings(self, text: str, reading: Reading) -> Iterator[str]:
        """One sentence for each part of a text that this encoder does not read or know."""
        about = "" if self.counted else "about "
        if reading.tokens > self.limit:
            end = f"{about}up to '…{text[: reading.read][-30:].strip()}'"
            count = f"{about}{reading.tokens} {self.name} tokens"
            if self.pooled:
                summary = f"{self.name}, which only sums the prompt up, sees the first {self.limit}"
                yield f"{count}: {summary}, {end}"
            else:
                first = f"the model sees the first {self.limit}"
                yield f"{count}: {first}, {end}; what comes after is lost"
        if reading.unknown:
            does_not = "does not" if self.counted else "may not"
            yield f"{self.name} {does_not} know {reading.unknown!r}: say it in plain English"


@dataclass(frozen=True)
class _Averages:
    """A tokenizer's average number of tokens: those it adds, and those for each kind of piece.

    `word` is for a word, digit or mark in ASCII, and `letters` the word length after which one more
    token is counted; `wide` is for a Chinese, Japanese or Korean character, `other` for any other
    letter beyond ASCII.
    """

    added: float
    word: float
    letters: float
    wide: float
    other: float


_AVERAGES = {
    "CLIP": _Averages(2, 1.0, 7.5, 2.2, 1.2),
    "T5": _Averages(1, 1.15, 7.5, 1.2, 1.2),
    "Qwen3": _Averages(12, 1.0, 9.0, 0.9, 0.6),  # added: the chat template around a message
}
_PIECE = re.compile(r"[A-Za-z]+|\d|[^\s\w]+|[^\W\dA-Za-z_]|_")
_WIDE = re.compile("[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]")


def estimate(name: str, text: str) -> int:
    """The estimated number of tokens of a text; within about a tenth for English prose."""
    average = _AVERAGES.get(name, _AVERAGES["T5"])
    tokens = average.added
    for piece in _PIECE.findall(text):
        if not piece.isascii():
            tokens += average.wide if _WIDE.match(piece) else average.other
        elif piece.isalpha():
            tokens += average.word * (1 + int((len(piece) - 1) / average.letters))
        else:
            tokens += average.word
    return round(tokens)


def estimating(name: str, limit: int, *, pooled: bool = False) -> Encoder:
    """An encoder that estimates, for a tokenizer that is not available."""
    return Encoder(name, limit, partial(_estimated, name, limit), pooled=pooled)


def _estimated(name: str, limit: int, text: str) -> Reading:
    tokens = estimate(name, text)
    read = len(text) if tokens <= limit else max(1, len(text) * limit // tokens)
    # T5 was trained on English, French, German and Romanian.
    letters = filter(str.isalpha, dict.fromkeys(text)) if name == "T5" else ()
    unknown = (char for char in letters if not unicodedata.name(char, "").startswith("LATIN"))
    return Reading(tokens, read, "".join(unknown)[:12])


def flux1_like() -> tuple[Encoder, ...]:
    """The encoders of FLUX.1, assumed for a model whose encoders are not known."""
    return estimating("CLIP", CLIP_LIMIT, pooled=True), estimating("T5", 512)


def tokens_json(text: str, encoders: Sequence[Encoder]) -> dict[str, Any]:
    """The tokens of one text for each encoder, and whether any of them is an estimate."""
    counts = {encoder.name.lower(): encoder.measure(text).tokens for encoder in encoders}
    return {**counts, "estimated": not all(encoder.counted for encoder in encoders)}


def token_warnings(text: str, encoders: Sequence[Encoder]) -> tuple[str, ...]:
    """The warnings of all encoders about one prompt."""
    return tuple(
        warning for encoder in encoders for warning in encoder.warnings(text, encoder.measure(text))
    )
