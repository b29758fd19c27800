"""What weights are, in one short word: the hash of a model's folder, cheap and the same everywhere.

The hash covers each file's name, its size and a mark of its content. The mark of a file in the
hub's cache is the name of its blob, which is the hub's own hash of the content; of a file up to
64 MiB it is the SHA-256 of all of it; of a larger one the SHA-256 of its first and last MiB, which
hold the header with every tensor's name, shape and place, and the end of the weights.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

_WHOLE = 64 * 2**20
_SAMPLE = 2**20


def of_folder(folder: Path) -> str:
    """The hash of all files below a folder, hidden ones left out."""
    total = hashlib.sha256()
    files = sorted(
        (path.relative_to(folder).as_posix(), path)
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    )
    for name, path in files:
        facts = path.stat()
        mark = _mark(path, facts.st_size, facts.st_mtime_ns)
        total.update(f"{name}\0{facts.st_size}\0{mark}\n".encode())
    return total.hexdigest()


def of_file(file: Path) -> str:
    """The hash of one file's content, wherever it lies."""
    facts = file.stat()
    mark = _mark(file, facts.st_size, facts.st_mtime_ns)
    return hashlib.sha256(f"{facts.st_size}\0{mark}\n".encode()).hexdigest()


@lru_cache(maxsize=4096)
def _mark(path: Path, size: int, changed: int) -> str:
    """The mark of a file's content; size and time of change are what the cache goes by."""
    real = path.resolve()
    if real.parent.name == "blobs":
        return real.name
    content = hashlib.sha256()
    with path.open("rb") as stream:
        if size <= _WHOLE:
            content.update(stream.read())
        else:
            content.update(stream.read(_SAMPLE))
            stream.seek(-_SAMPLE, 2)
            content.update(stream.read(_SAMPLE))
    return content.hexdigest()
