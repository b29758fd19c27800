"""Opens files in folders that others may write to, and says what they are called.

Plain files only, and never waits. A link in the place of a file must not lead to what only this
user may read, a named pipe not hold this process for ever, nor a huge file fill its memory. Never
writes.
"""

import errno
import os
import stat
from pathlib import Path

MAX_FILE_BYTES = 256 << 20
"""Of a picture that is read; those that this program writes take less."""


def open_regular(path: Path) -> int:
    """Open a regular file for reading without following a final symlink and without ever blocking.

    Raises OSError when it cannot be opened, with ELOOP for a symlink, and without an errno for what
    is not a regular file, such as a folder, a FIFO or a device.
    """
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):
        flags |= getattr(os, name, 0)
    if os.name == "nt" and path.is_symlink():
        raise OSError(errno.ELOOP, "a link", os.fspath(path))
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
        if os.fstat(opened.fileno()).st_size > most:
            raise OSError(errno.EFBIG, f"larger than {most >> 20} MiB", os.fspath(file))
        return opened.read(most)


def text_of(name: str) -> str:
    """A file's name as JSON can hold it: bytes that are not UTF-8 are written as \\xNN."""
    return os.fsencode(name).decode(errors="backslashreplace")
