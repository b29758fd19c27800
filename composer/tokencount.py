"""How many tokens a prompt has for CLIP and T5, and whether they see its end.

Exact when a tokenizer is handed in, else an estimate that says it is one. Never loads a tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypedDict

CLIP_LIMIT = 77
T5_LIMIT = 512
Tokenizer = Callable[[str], Mapping[str, int]]
"""Counts the tokens of a text: {"clip": n, "t5": n}, special tokens included."""

_PIECE = re.compile(r"[A-Za-z]+|\d|[^\s\w]+|[^\W\dA-Za-z_]|_")
_LETTERS_A_TOKEN = 7.5
_WIDE = re.compile("[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]")


class TokenCount(TypedDict):
    """Tokens of one text for both encoders."""

    clip: int
    t5: int
    estimated: bool


def estimate_tokens(text: str) -> TokenCount:
    """About how many tokens a text has; fits English prose within a tenth or so."""
    clip, t5 = 2.0, 1.0  # what the tokenizers add at the ends
    for piece in _PIECE.findall(text):
        if piece.isascii():
            parts = 1 + int((len(piece) - 1) / _LETTERS_A_TOKEN) if piece.isalpha() else 1
            clip += parts
            t5 += parts * 1.15
        else:
            clip += 2.2 if _WIDE.match(piece) else 1.2
            t5 += 1.2
    return {"clip": round(clip), "t5": round(t5), "estimated": True}


def count_tokens(text: str, tokenizer: Tokenizer | None = None) -> TokenCount:
    """The tokens of a text: counted where there is a tokenizer, else estimated."""
    if tokenizer is None:
        return estimate_tokens(text)
    counted = tokenizer(text)
    return {"clip": int(counted["clip"]), "t5": int(counted["t5"]), "estimated": False}


def clip_warning(text: str, count: TokenCount) -> str:
    """One sentence on what CLIP will not see; empty when it sees all."""
    if count["clip"] <= CLIP_LIMIT:
        return ""
    about = "about " if count["estimated"] else ""
    seen = _ending(text, CLIP_LIMIT, count["clip"])
    return (
        f"{about}{count['clip']} CLIP tokens: CLIP sees the first {CLIP_LIMIT}, {about}up to {seen}"
    )


def t5_warning(text: str, count: TokenCount, limit: int = T5_LIMIT) -> str:
    """One sentence on what the model itself will not see; empty when it sees all."""
    if count["t5"] <= limit:
        return ""
    about = "about " if count["estimated"] else ""
    seen = _ending(text, limit, count["t5"])
    return (
        f"{about}{count['t5']} T5 tokens: the model sees the first {limit}, {about}up to {seen}; "
        "what comes after is lost"
    )


def _ending(text: str, limit: int, count: int) -> str:
    return f"'…{text[: max(1, len(text) * limit // count)][-30:].strip()}'"


def token_warnings(text: str, count: TokenCount, t5_limit: int = T5_LIMIT) -> tuple[str, ...]:
    """What the encoders will not see of a prompt, one sentence for each of them."""
    found = (clip_warning(text, count), t5_warning(text, count, t5_limit))
    return tuple(warning for warning in found if warning)
