"""Hashes that identify weights: of the whole content, and equal on every machine.

A file's hash is the SHA-256 of its content. A large file is read once: its hash is remembered, and
counts as long as path, size, inode and times (of writing and of the last change) stay. The names of
blobs in the hub's cache are not believed: a program that writes through a link changes what is in
them.
"""

import hashlib
import json
import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from runner.engine.hub.sources import components, loaded, read_index, read_json
from runner.engine.weights.loading import counted
from runner.files import stamp

KIND = "sha256:"
"""What a hash of a whole model begins with; in older sidecars, of samples, with nothing."""

_REMEMBERED_FROM = 2**20
_MOST = 2000


class Hashes:
    """The hashes of files, remembered in `memory`, a file that several processes may use at once.

    A damaged one, or one that cannot be written, only costs time. Where no large file may be read,
    one that is not remembered raises LookupError: not `reads`.
    """

    def __init__(self, memory: Path, *, reads: bool = True) -> None:
        self._memory = memory
        self._reads = reads
        self._known: dict[str, Any] = {}

    def parts(self, folder: Path, left_out: str = "") -> dict[str, str]:
        """The hash of each component of a pipeline's folder by name, of what is loaded of it."""
        parts = weights(folder, left_out)
        hashes = self._hashes([file for files in parts.values() for file in files])
        return {
            name: combined({file.name: hashes[file] for file in files})
            for name, files in parts.items()
        }

    def of(self, files: list[Path]) -> str:
        """One hash for several files of a folder."""
        hashes = self._hashes(files)
        return KIND + combined({file.name: hashes[file] for file in files})

    def file(self, file: Path) -> str:
        """The hash of one file, whatever its path."""
        return self._hashes([file])[file]

    def _hashes(self, files: list[Path]) -> dict[Path, str]:
        found = {file: self._without_reading(file) for file in files}
        if None in found.values():  # another process may have read it since
            self._known = {**self._stored(), **self._known}
            found = {file: known or self._without_reading(file) for file, known in found.items()}
        if unknown := [file for file, known in found.items() if known is None]:
            if not self._reads:
                raise LookupError(unknown[0])
            with ThreadPoolExecutor(4) as pool:  # hashlib lets other threads run meanwhile
                entries = counted(pool.map(_entry, unknown), len(unknown))
                for file, (path, entry) in zip(unknown, entries, strict=True):
                    self._known.pop(path, None)
                    self._known[path] = entry
                    found[file] = entry[-1]
            self._store()
        return {file: known for file, known in found.items() if known}

    def _without_reading(self, file: Path) -> str | None:
        """The hash of a file that is small, or known; else None."""
        real = file.resolve()
        now = stamp(real)
        if now[0] < _REMEMBERED_FROM:
            return hashlib.sha256(real.read_bytes()).hexdigest()
        match self._known.get(str(real)):
            case [*known, str(sha256)] if tuple(known) == now:
                return sha256
        return None

    def _stored(self) -> dict[str, Any]:
        stored = read_json(self._memory)
        return stored if isinstance(stored, dict) else {}

    def _store(self) -> None:
        """Write what is known here, and what others have written; the oldest go."""
        stored = {path: each for path, each in self._stored().items() if path not in self._known}
        entries = list({**stored, **self._known}.items())[-_MOST:]
        aside = self._memory.with_name(f".{self._memory.name}.{secrets.token_hex(8)}")
        with suppress(OSError):
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            aside.write_text(json.dumps(dict(entries)), encoding="utf-8")
            aside.replace(self._memory)


def weights(folder: Path, left_out: str = "") -> dict[str, list[Path]]:
    """The files of each component of a pipeline's folder by name, as far as they are loaded."""
    names = [name for name in components(read_index(folder)) if name != left_out]
    return {name: loaded(folder / name) for name in names if (folder / name).is_dir()}


def combined(hashes: Mapping[str, str]) -> str:
    """One hash for several named ones."""
    text = "".join(f"{name}\0{each}\n" for name, each in sorted(hashes.items()))
    return hashlib.sha256(text.encode()).hexdigest()


def are_unchanged(known: Mapping[Path, tuple[int, ...]]) -> bool:
    """Whether each file still has its stamp; asked for every image."""
    try:
        return all(stamp(file) == before for file, before in known.items())
    except OSError:
        return False


def _entry(file: Path) -> tuple[str, Any]:
    """A file's path and what is remembered of it: its stamp before it is read, and its hash."""
    real = file.resolve()
    before = stamp(real)
    with real.open("rb") as stream:
        return str(real), [*before, hashlib.file_digest(stream, "sha256").hexdigest()]
