"""Keeps the embeddings of prompts, so that no prompt is encoded twice.

The newest stay in memory, on the device where they were made; all of them go to the disk where a
store is given. A key is a text that names everything that changes the numbers (see `key_of`).
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from runner.engine.families import Embeddings


@dataclass(frozen=True)
class Encoded:
    """A prompt's embeddings, and warnings of what encoding left out.

    They are for one picture; `Family.encode` sets the names, shapes and dtypes of the tensors.
    """

    embeddings: Embeddings
    warnings: tuple[str, ...] = ()


class Store(Protocol):
    """Where embeddings outlive the process; `EmbeddingStore` says what each method does."""

    def has(self, key: str) -> bool: ...

    def get(self, key: str, device: Any) -> Encoded | None: ...

    def put(self, key: str, encoded: Encoded) -> None: ...

    def capacity(self, encoded: Encoded) -> int: ...


def key_of(encoders: str, prompt: str, length: int, versions: Mapping[str, str]) -> str:
    """The key of a prompt, from all that changes its embeddings.

    `encoders` names weights, precision and device, `length` is the number of tokens that the model
    reads, and `versions` are those of the libraries that compute: another may round differently.
    """
    return json.dumps([encoders, length, sorted(versions.items()), prompt], ensure_ascii=False)


class PromptCache:
    """The newest `size` prompts in memory (4 MiB each for a FLUX.1), the others in the store."""

    def __init__(self, store: Store | None = None, size: int = 16) -> None:
        self._store = store
        self._size = size
        self._kept: OrderedDict[str, Encoded] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def has(self, key: str) -> bool:
        """Whether a prompt is kept; a damaged file on the disk counts until it is read."""
        return key in self._kept or (self._store is not None and self._store.has(key))

    def get(self, key: str, device: Any) -> Encoded | None:
        """A prompt's embeddings on the device, or None."""
        kept = self._kept.get(key)
        if kept is None and self._store is not None:
            kept = self._store.get(key, device)
        if kept is not None:
            self._remember(key, kept)
        return kept

    def put(self, key: str, encoded: Encoded) -> None:
        """Keep a prompt in memory, and on the disk where there is a store."""
        if self._store is not None:
            self._store.put(key, encoded)
        self._remember(key, encoded)

    def capacity(self, encoded: Encoded) -> int:
        """How many prompts with as many bytes as this one are kept before one is lost."""
        return self._size if self._store is None else self._store.capacity(encoded)

    def clear(self) -> None:
        """Release what is in memory; what is on the disk stays."""
        self._kept.clear()

    def _remember(self, key: str, encoded: Encoded) -> None:
        self._kept[key] = encoded
        self._kept.move_to_end(key)
        while len(self._kept) > self._size:
            self._kept.popitem(last=False)
