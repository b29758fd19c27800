"""Opens files in folders that others may write to, and says what they are called and hold.

Plain files only, and never waits. A link in the place of a file must not lead to what only this
user may read, a named pipe not hold this process for ever, nor a huge file fill its memory. What
the system refuses (too many open files, a disk that fails, no right to look) is raised: it never
means that nothing is there, as it does to os.path and glob. Never writes.
"""

import errno
import json
import math
import os
import stat
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from specs.read import left_in_place_of

MAX_FILE_BYTES = 256 << 20
"""Of a picture that is read; those that this program writes take less."""
_LONGEST_HEADER = 100_000_000

# There is nothing, or nothing that this program would take for what it looks for.
_ABSENT = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EFBIG,
    errno.ENXIO, errno.EINVAL, None,
}  # fmt: skip


def is_absent(error: OSError) -> bool:
    """Whether an error says that nothing is there, or nothing that can be a file of ours."""
    # On Windows all that is unknown, such as a share that is gone, is EINVAL; these are bad names.
    is_known = error.errno != errno.EINVAL or getattr(error, "winerror", 123) in (87, 123, 161)
    return is_known and error.errno in _ABSENT


def kind_of(path: str | os.PathLike[str], *, follow: bool = True) -> int:
    """What is at a path: the format bits of its mode (`stat.S_IFREG`, …), 0 where nothing is."""
    try:
        return stat.S_IFMT(os.stat(path, follow_symlinks=follow).st_mode)
    except ValueError:  # no path can have a NUL
        return 0
    except OSError as error:
        if is_absent(error):
            return 0
        raise


def is_there(path: str | os.PathLike[str]) -> bool:
    """Whether a name is taken, by a file, a folder, or a link to whatever."""
    return bool(kind_of(path, follow=False))


def is_file(path: str | os.PathLike[str]) -> bool:
    """Whether there is a plain file, or a link to one."""
    return kind_of(path) == stat.S_IFREG


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether there is a folder, or a link to one."""
    return kind_of(path) == stat.S_IFDIR


def is_link(path: str | os.PathLike[str]) -> bool:
    """Whether there is a symbolic link."""
    return kind_of(path, follow=False) == stat.S_IFLNK


def names_in(folder: str | os.PathLike[str]) -> list[str]:
    """The names in a folder in their order; none where there is no folder."""
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        if is_absent(error):
            return []
        raise


def paths_in(folder: Path, pattern: str) -> list[Path]:
    """What is in a folder and has a name of this pattern (`fnmatch`), in the order of names."""
    return [folder / name for name in names_in(folder) if fnmatchcase(name, pattern)]


def files_below(folder: Path) -> list[str]:
    """The files in a folder and its folders, links to files included, by names with `/`."""
    found = []
    for name in names_in(folder):
        if is_folder(folder / name) and not is_link(folder / name):
            found += [f"{name}/{below}" for below in files_below(folder / name)]
        elif is_file(folder / name):
            found.append(name)
    return found


def open_regular(path: Path) -> int:
    """Open a regular file for reading without following a final symlink and without ever blocking.

    Raises OSError when it cannot be opened, with ELOOP for a symlink, and without an errno for what
    is not a regular file, such as a folder, a FIFO or a device.
    """
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):
        flags |= getattr(os, name, 0)
    if os.name == "nt" and (is_link(path) or is_folder(path)):
        raise OSError(errno.ELOOP, "a link or a folder", os.fspath(path))
    handle = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError("not a regular file")
    return handle


def read_file(file: Path, most: int = MAX_FILE_BYTES, *, follow: bool = False) -> bytes:
    """The bytes of a regular file. Raises OSError, with EFBIG where it has more than `most`.

    `follow` is for a file that the user of this process names: it may be a link.
    """
    if follow:
        file = Path(os.path.realpath(file))
    with os.fdopen(open_regular(file), "rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"larger than {most >> 20} MiB", os.fspath(file))
        try:
            return opened.read(size)
        except OSError as error:  # which names no file
            raise OSError(error.errno, error.strerror, os.fspath(file)) from error


def text_of(name: str) -> str:
    """A file's name as JSON can hold it: bytes that are not UTF-8 are written as \\xNN."""
    return os.fsencode(name).decode(errors="backslashreplace")


def tensors_in(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """The header's entry for each tensor of a safetensors file, and the bytes missing at its end.

    Each has a `dtype`, a `shape` and `data_offsets` that go together.

    Raises ValueError where it has no such header. Reads no weights.
    """
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= _LONGEST_HEADER:
        raise ValueError("no safetensors file")
    text = file.read(length)
    if len(text) < length:
        return {}, length - len(text)
    try:
        tensors = {name: e for name, e in json.loads(text).items() if name != "__metadata__"}
        for each in tensors.values():
            (begin, end), shape = each["data_offsets"], each["shape"]
            whole = all(type(n) is int and 0 <= n < 2**40 for n in (begin, end, *shape))
            # Some dtypes put two numbers into a byte.
            if not (whole and type(each["dtype"]) is str and math.prod(shape) <= 2 * (end - begin)):
                raise ValueError("the header is damaged")
        end = max((each["data_offsets"][1] for each in tensors.values()), default=0)
    except (LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError("the header is damaged") from error
    return tensors, 8 + length + end - os.fstat(file.fileno()).st_size


def instead_of_weights(file: BinaryIO) -> str:
    """What a file without a header of weights is, to follow "is"; empty where that is not known."""
    file.seek(0)
    data = file.read(1000)
    if data.startswith((b"PK\3\4", b"\x80\2")):
        return "a pickle, which may run code, and no .safetensors file"
    if (left := left_in_place_of(data)) == "LFS":
        return "what Git LFS left in place of the weights, which `git lfs pull` fetches"
    return "a web page and holds no weights" if left else "" if data else "empty"


def stamp(file: str | Path) -> tuple[int, ...]:
    """Size, times and inode of a file: others mean another content.

    A program may put the time of writing back, but not that of the last change.
    """
    status = os.stat(file)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file's content."""
    real = Path(os.path.realpath(file))
    return _hashed(real, stamp(real))


@lru_cache(maxsize=256)
def _hashed(real: Path, state: tuple[int, ...]) -> str:
    import hashlib  # most commands hash nothing

    # Cached for each state of a file: a gigabyte takes a second or so.
    with real.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
