"""What differs from one operating system to the next: writer probe, safe opening, syncing.

Every difference is answered here once, with a word for "cannot tell", so that the rest of the
spool is the same everywhere. Nothing here decides what happens to a file.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import stat
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

if sys.platform != "win32":
    import fcntl


def allow_writer_probe() -> None:
    """Let this process probe for writers: call once, from the main thread.

    A writer that opens a file during the probe makes the kernel send SIGIO, whose default action
    would end the process.
    """
    if sys.platform == "linux":
        signal.signal(signal.SIGIO, signal.SIG_IGN)


def has_writer(handle: int) -> bool | None:
    """Whether anybody has the file open for writing; None where the system cannot say.

    Linux answers exactly: a read lease is refused while a writer exists (8 µs; not on network
    file systems, nor for files of another user).
    """
    if sys.platform == "linux" and signal.getsignal(signal.SIGIO) is signal.SIG_IGN:
        try:
            fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except BlockingIOError:
            return True
        except OSError:
            return None
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        return False
    return None


def can_probe_writers(folder: Path) -> bool:
    """Whether the writer probe works for files in this folder, tried with a file of our own."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError), own_file(folder) as file:
            handle = open_regular(file)
            try:
                fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_RDLCK)
                fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            finally:
                os.close(handle)
            return True
    return False


def length_of(name: str) -> int:
    """How much of the 255 units that a file's name may have this one takes.

    Raises UnicodeError for a name that is not UTF-8.
    """
    encoded = name.encode()
    # Linux counts bytes, others count as UTF-16 does.
    return len(encoded) if sys.platform == "linux" else len(name.encode("utf-16-le")) // 2


@contextlib.contextmanager
def own_file(folder: Path) -> Iterator[Path]:
    """An empty file of this process in a folder where others write too; gone at the end.

    Its name is random and must be new: where a name can be guessed, somebody may have put a link
    there, and its target would be written. Raises OSError.
    """
    handle, name = tempfile.mkstemp(prefix=".own-", suffix=".writing", dir=folder)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


@cache
def can_sync_file_system() -> bool:
    """Whether one call can put all that was written to a file system on the disk (Linux)."""
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "syncfs")


def sync_file_system(folder: str | Path) -> None:
    """Put all that was written to the file system of a folder on the disk. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if library.syncfs(handle) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(handle)


def open_regular(path: Path) -> int:
    """Open a regular file for reading without following a final symlink and without ever blocking.

    Raises OSError when it cannot be opened, and IsADirectoryError or OSError(ELOOP) for what is
    not a regular file; a FIFO or a device is refused too.
    """
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):
        flags |= getattr(os, name, 0)
    handle = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError("not a regular file")
    return handle


def signature_of(status: os.stat_result) -> tuple[int, ...]:
    """What must stay the same while a file is read, and between looks at it."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def path_of(handle: int) -> Path | None:
    """Where the file behind an open handle really lies; None where the system cannot say.

    What was checked by name may have been swapped before it was opened; this cannot be.
    """
    if sys.platform == "linux":
        return Path(os.readlink(f"/proc/self/fd/{handle}"))
    elif sys.platform == "darwin":
        path = fcntl.fcntl(handle, fcntl.F_GETPATH, b"\0" * 1024)
        return Path(os.fsdecode(path.rstrip(b"\0")))
    else:
        return None
