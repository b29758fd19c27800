"""Prompts as the text encoders left them, kept so that the next image need not ask again.

The key is everything that changes the numbers: the encoders' weights, number format and device
(together `encoders`), the prompt and the length. The tensors stay where they were made.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from runner.engine.families import Embeddings, Family

Key = tuple[str, str, int]


@dataclass(frozen=True)
class Encoded:
    """A prompt's embeddings, and what was lost on the way to them."""

    embeddings: Embeddings
    warnings: tuple[str, ...] = ()


class PromptCache:
    """The newest prompts, few enough to be no burden (4 MiB each for a FLUX.1)."""

    def __init__(self, size: int = 16) -> None:
        self._size = size
        self._kept: OrderedDict[Key, Encoded] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, encoders: str, prompt: str, length: int) -> Encoded | None:
        key = (encoders, prompt, length)
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def encode(self, family: Family, pipe: Any, encoders: str, prompt: str, length: int) -> Encoded:
        """Encode and keep; the oldest makes room."""
        count = family.tokens(pipe, prompt)
        cut = (
            (f"the prompt has {count} tokens and the model reads {length}: its end was not read",)
            if count > length
            else ()
        )
        encoded = Encoded(family.encode(pipe, prompt, length), cut)
        self._kept[encoders, prompt, length] = encoded
        while len(self._kept) > self._size:
            self._kept.popitem(last=False)
        return encoded

    def clear(self) -> None:
        self._kept.clear()
