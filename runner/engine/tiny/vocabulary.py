"""The words that the built-in model knows, as its tokenizer lists them.

Checking a spec asks here for unknown words, so this file must not import torch, numpy or diffusers.
"""

import json
import re
from functools import cache

from runner.engine.tiny.folders import WEIGHTS

_WORD = re.compile(r"[^\W_]+")


def unknown_words(prompt: str) -> tuple[str, ...]:
    """The words of a prompt that are not in the vocabulary, each once, in order."""
    words = dict.fromkeys(_WORD.findall(prompt.lower()))
    return tuple(word for word in words if word not in _known())


@cache
def _known() -> frozenset[str]:
    text = (WEIGHTS / "tokenizer_2" / "tokenizer.json").read_text(encoding="utf-8")
    pieces = (piece for piece, _ in json.loads(text)["model"]["vocab"])
    return frozenset(piece[1:].lower() for piece in pieces if piece.startswith("▁"))
