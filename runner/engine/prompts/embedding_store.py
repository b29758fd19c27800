"""Encoded prompts on disk, so that a second run over the same pack loads no text encoder.

One safetensors file a prompt, named by the hash of everything that changes its numbers. The folder
is a cache: it is bounded, the files used longest ago are removed first, and a file that is torn or
damaged is removed and made again. Nothing here may fail a job: on a full disk nothing is kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.engine.prompts.embeddings import Encoded

log = logging.getLogger(__name__)

_SUFFIX = ".safetensors"
_WARNINGS, _DIGEST = "warnings", "sha256"


class EmbeddingStore:
    """Embeddings in one folder, at most `limit` bytes of them; used by one thread."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._limit = limit
        self._total: int | None = None
        """Bytes in the folder; None until it has been read."""

    def has(self, key: str) -> bool:
        """Whether there is a file for a prompt; does not read it."""
        return self._file(key).is_file()

    def get(self, key: str, device: Any) -> Encoded | None:
        """A prompt's embeddings on a device, with the shapes and dtypes that were put.

        None where there is no file, or a damaged one.
        """
        from safetensors import SafetensorError, safe_open

        file = self._file(key)
        try:
            with safe_open(file, framework="pt") as opened:
                metadata = opened.metadata() or {}
                flat = {name: opened.get_tensor(name) for name in opened.keys()}
            if metadata.get(_DIGEST) != _digest(flat):
                raise ValueError("the content is not what was written")
            os.utime(file)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, SafetensorError):
            log.warning("an entry of the prompt cache was damaged; it is made again")
            self._remove(file)
            return None
        embeddings = _nested({name: tensor.to(device) for name, tensor in flat.items()})
        return Encoded(embeddings, tuple(json.loads(metadata.get(_WARNINGS, "[]"))))

    def put(self, key: str, encoded: Encoded) -> None:
        """Write a prompt's embeddings; a disk that cannot be written is only logged."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        flat = {n: t.detach().cpu().contiguous() for n, t in _flat(encoded.embeddings).items()}
        size = sum(tensor.nbytes for tensor in flat.values())
        if size > self._limit:
            return
        metadata = {_WARNINGS: json.dumps(list(encoded.warnings)), _DIGEST: _digest(flat)}
        file = self._file(key)
        aside = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._make_room(size)
            save_file(flat, aside, metadata=metadata)
            os.replace(aside, file)
        except (OSError, SafetensorError) as error:
            log.warning("the prompt cache cannot be written: %s", error)
            self._remove(aside)
            return
        self._total = (self._total or 0) + file.stat().st_size

    def capacity(self, encoded: Encoded) -> int:
        """How many prompts with as many bytes as this one fit in the folder."""
        size = sum(tensor.nbytes for tensor in _flat(encoded.embeddings).values())
        return self._limit // max(size, 1)

    def _file(self, key: str) -> Path:
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()}{_SUFFIX}"

    def _remove(self, file: Path) -> None:
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            log.warning("the prompt cache cannot be cleaned: %s", error)

    def _make_room(self, size: int) -> None:
        """Remove the files used longest ago until `size` more bytes are within the limit."""
        if self._total is not None and self._total + size <= self._limit:
            return
        files = []
        for entry in os.scandir(self._folder):
            # A half-written file of a process that died has a hidden name and is removed first.
            stat = entry.stat()
            hidden = entry.name.startswith(".")
            files.append((0.0 if hidden else stat.st_mtime, stat.st_size, Path(entry.path)))
        self._total = sum(length for _, length, _ in files)
        for used, length, file in sorted(files):
            if self._total + size <= self._limit and used:
                break
            self._remove(file)
            self._total -= length


def _digest(flat: Mapping[str, Any]) -> str:
    """The SHA-256 of the names and bytes of tensors on the CPU.

    Needed because a power cut may leave a file with a good header and zeros behind it.
    """
    import torch

    total = hashlib.sha256()
    for name in sorted(flat):
        total.update(name.encode())
        total.update(flat[name].flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def _flat(embeddings: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors by name; those of a list by `name.number`."""
    flat = {}
    for name, value in embeddings.items():
        if isinstance(value, list | tuple):
            flat.update({f"{name}.{number}": tensor for number, tensor in enumerate(value)})
        else:
            flat[name] = value
    return flat


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `_flat`, with a list for each sequence."""
    nested: dict[str, Any] = {}
    for name in sorted(flat, key=lambda name: (name.partition(".")[0], len(name), name)):
        field, dot, _ = name.partition(".")
        if dot:
            nested.setdefault(field, []).append(flat[name])
        else:
            nested[field] = flat[name]
    return nested
