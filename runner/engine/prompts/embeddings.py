"""Keeps the embeddings of prompts, so that no prompt is encoded twice.

The newest stay in memory, on the device where they were made; all of them go to the disk where a
store is given, so that a second run over the same pack loads no text encoder. A key is a text that
names everything that changes the numbers (see `key_of`).
"""

import hashlib
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.clock import now
from runner.engine.families.base import Embeddings

log = logging.getLogger(__name__)

_IN_MEMORY = 128 * 2**20
"""The most bytes in memory: on a GPU they are missing for the picture."""
_WARNINGS, _DIGEST = "warnings", "sha256"
_WRITING_SECONDS = 60.0
"""How long a process may take to write a file."""


@dataclass(frozen=True)
class Encoded:
    """A prompt's embeddings, and warnings of what encoding left out.

    They are for one picture; `Family.encode` sets the names, shapes and dtypes of the tensors.
    """

    embeddings: Embeddings
    warnings: tuple[str, ...] = ()

    def against(self, negative: "Encoded") -> "Encoded":
        """With the embeddings of a negative prompt, named as the pipelines name them."""
        added = {f"negative_{name}": tensors for name, tensors in negative.embeddings.items()}
        of_both = (text.replace("the prompt", "the negative prompt") for text in negative.warnings)
        warnings = dict.fromkeys((*self.warnings, *of_both))
        return Encoded({**self.embeddings, **added}, tuple(warnings))


def key_of(encoders: str, prompt: str, length: int, versions: Mapping[str, str]) -> str:
    """The key of a prompt, from all that changes its embeddings.

    `encoders` names weights, precision and device, `length` is the number of tokens that the model
    reads, and `versions` are those of the libraries that compute: another may round differently.
    """
    return json.dumps([encoders, length, sorted(versions.items()), prompt], ensure_ascii=False)


class PromptCache:
    """The newest `size` prompts in memory, more in a folder, if given.

    In memory they are fewer where they are large: 4 MiB for a FLUX.1, up to 41 MiB for a FLUX.3.

    Used by one thread; processes may share a folder. That holds at most `limit` bytes, one
    safetensors file a prompt, named by the hash of its key. The files used longest ago are removed
    first, and one that is torn or damaged is removed and made again. Nothing here may fail a job:
    on a full disk nothing is kept.
    """

    def __init__(self, folder: Path | None = None, limit: int = 0, *, size: int = 16) -> None:
        self._folder = folder
        self._limit = limit
        self._size = size
        self._kept: OrderedDict[str, Encoded] = OrderedDict()

    def has(self, key: str) -> bool:
        """Whether a prompt is kept; a damaged file on the disk counts until it is read."""
        file = self._file(key)
        return key in self._kept or (file is not None and file.is_file())

    def get(self, key: str, device: Any) -> Encoded | None:
        """A prompt's embeddings on the device, in the shapes and dtypes that were put, or None."""
        kept, file = self._kept.get(key), self._file(key)
        if kept is None and file is not None:
            kept = self._read(file, device)
        if kept is not None:
            self._remember(key, kept)
        return kept

    def put(self, key: str, encoded: Encoded) -> None:
        """Keep a prompt in memory, and on the disk where there is a folder."""
        if (file := self._file(key)) is not None:
            self._write(file, encoded)
        self._remember(key, encoded)

    def capacity(self, encoded: Encoded) -> int:
        """How many prompts with as many bytes as this one are kept before one is lost."""
        size = max(_bytes(encoded), 1)
        in_memory = min(self._size, max(1, _IN_MEMORY // size))
        return in_memory if self._folder is None else self._limit // size

    def clear(self) -> None:
        """Release what is in memory; what is on the disk stays."""
        self._kept.clear()

    def _remember(self, key: str, encoded: Encoded) -> None:
        self._kept[key] = encoded
        self._kept.move_to_end(key)
        bytes_kept = sum(map(_bytes, self._kept.values()))
        while len(self._kept) > self._size or (len(self._kept) > 1 and bytes_kept > _IN_MEMORY):
            bytes_kept -= _bytes(self._kept.popitem(last=False)[1])

    def _file(self, key: str) -> Path | None:
        name = f"{hashlib.sha256(key.encode()).hexdigest()}.safetensors"
        return self._folder and self._folder / name

    def _read(self, file: Path, device: Any) -> Encoded | None:
        """The embeddings of a file; None where there is none, or a damaged one."""
        from safetensors import SafetensorError, safe_open

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

    def _write(self, file: Path, encoded: Encoded) -> None:
        """Write a prompt's embeddings; a disk that cannot be written is only logged."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        flat = {n: t.detach().cpu().contiguous() for n, t in _flat(encoded.embeddings).items()}
        size = sum(tensor.nbytes for tensor in flat.values())
        if size > self._limit:
            return
        metadata = {_WARNINGS: json.dumps(list(encoded.warnings)), _DIGEST: _digest(flat)}
        aside = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._make_room(file.parent, size)
            save_file(flat, aside, metadata=metadata)
            os.replace(aside, file)
        except (OSError, SafetensorError) as error:
            log.warning("the prompt cache cannot be written: %s", error)
            self._remove(aside)

    def _remove(self, file: Path) -> None:
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            log.warning("the prompt cache cannot be cleaned: %s", error)

    def _make_room(self, folder: Path, size: int) -> None:
        """Remove the files used longest ago until `size` more bytes are within the limit."""
        files = []
        for entry in os.scandir(folder):
            with suppress(FileNotFoundError):  # another process may remove it
                stat = entry.stat()
                # A half-written file has a hidden name; of a process that died it goes first.
                is_left = entry.name.startswith(".") and stat.st_mtime < now() - _WRITING_SECONDS
                files.append((0.0 if is_left else stat.st_mtime, stat.st_size, Path(entry.path)))
        total = sum(length for _, length, _ in files)
        for used, length, file in sorted(files):
            if total + size <= self._limit and used:
                break
            self._remove(file)
            total -= length


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


def _bytes(encoded: Encoded) -> int:
    return sum(tensor.nbytes for tensor in _flat(encoded.embeddings).values())


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
