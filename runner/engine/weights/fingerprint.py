"""Hashes that identify weights, of a folder or one file: cheap, and equal on every machine.

The hash covers each file's name, its size and a mark of its content. The mark of a file in the
hub's cache is the name of its blob, which is the hub's own hash of the content; of a file up to
64 MiB it is the SHA-256 of all of it; of a larger one the SHA-256 of its first and last MiB, which
hold the header with every tensor's name, shape and offsets, and the end of the weights.
"""

import hashlib
from functools import lru_cache
from pathlib import Path

_SAMPLE = 2**20


def of(source: Path) -> str:
    """The hash of a file's content, whatever its path, or of all files below a folder.

    64 hexadecimal digits; hidden files are left out of a folder.
    """
    if source.is_file():
        return hashlib.sha256(_size_and_mark(source).encode()).hexdigest()
    total = hashlib.sha256()
    files = sorted(
        (path.relative_to(source).as_posix(), path)
        for path in source.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    )
    for name, path in files:
        total.update(f"{name}\0{_size_and_mark(path)}".encode())
    return total.hexdigest()


def _size_and_mark(file: Path) -> str:
    stat = file.stat()
    return f"{stat.st_size}\0{_mark(file, stat.st_size, stat.st_mtime_ns)}\n"


@lru_cache(maxsize=4096)
def _mark(path: Path, size: int, changed: int) -> str:
    """The mark of a file's content; a new size or time of change makes the cache read it again."""
    real = path.resolve()
    if real.parent.name == "blobs":
        return real.name
    content = hashlib.sha256()
    with path.open("rb") as stream:
        if size <= 64 * 2**20:
            content.update(stream.read())
        else:
            content.update(stream.read(_SAMPLE))
            stream.seek(-_SAMPLE, 2)
            content.update(stream.read(_SAMPLE))
    return content.hexdigest()
