"""Differences between operating systems: probing for writers, opening safely, syncing.

Each function has a value for "cannot tell here", so that its callers are the same everywhere.
"""

import contextlib
import ctypes
import os
import platform
import signal
import stat
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

from runner.files import open_regular

if sys.platform != "win32":
    import fcntl

# By `f_type`, as in linux/magic.h. In these the kernel itself opens each file that is written.
_LOCAL = {
    0xEF53: "ext", 0x58465342: "xfs", 0x9123683E: "btrfs", 0xF2F52010: "f2fs", 0x2FC12FC1: "zfs",
    0x01021994: "tmpfs", 0x794C7630: "overlay",
}  # fmt: skip
_NOT_LOCAL = {
    0x65735546: "FUSE", 0x6969: "NFS", 0xFF534D42: "CIFS", 0xFE534D42: "SMB", 0x01021997: "9p",
}  # fmt: skip


_FICLONE = 0x40049409  # linux/fs.h
_NICENESS = 10
# The times of processes and of files come from different clocks.
_CLOCK_SECONDS = 2.0


def is_dead(pid: int, then: float) -> bool:
    """Whether no process in this one's `pid_space` has this number, was there at a time, and runs.

    The time is in seconds since the epoch: numbers are given again, at the latest when the machine
    is started again.
    """
    # Here, for it takes long, and hardly any start has to ask.
    import psutil

    try:
        process = psutil.Process(pid)
        is_other = process.create_time() > then + _CLOCK_SECONDS
        # A zombie has ended, though its parent has not asked for that.
        return bool(is_other or process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


@cache
def pid_space() -> str:
    """Six hex digits for where this process has its number: this machine, on Linux the container.

    Of a number from elsewhere nothing can be asked: it means another process here, or none.
    """
    where = platform.node()
    with contextlib.suppress(OSError):
        where += os.readlink("/proc/self/ns/pid")
    return f"{crc32(where.encode(errors='replace')) & 0xFFFFFF:06x}"


def let_others_go_first() -> None:
    """Lower the priority of this process."""
    if sys.platform == "win32":
        import psutil

        psutil.Process().nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
    else:
        os.nice(_NICENESS)


def allow_writer_probe() -> None:
    """Let this process probe for writers: call once, from the main thread.

    A writer that opens a file during the probe makes the kernel send SIGIO, whose default action
    would end the process.
    """
    if sys.platform == "linux":
        signal.signal(signal.SIGIO, signal.SIG_IGN)


def has_writer(handle: int) -> bool | None:
    """Whether any process has the file open for writing; None where the system cannot say.

    Linux refuses a read lease while a writer exists (8 µs; None for files of another user, and on
    file systems that are not known to be local: FUSE grants one beside a writer on its other side).
    """
    if sys.platform == "linux" and signal.getsignal(signal.SIGIO) is signal.SIG_IGN:
        if _magic(handle) not in _LOCAL:
            return None
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
                return _magic(handle) in _LOCAL
            finally:
                os.close(handle)
    return False


def file_system_of(folder: Path) -> str | None:
    """The name of the file system that a folder lies on; None where the system does not say."""
    if sys.platform == "linux":
        handle = os.open(folder, os.O_RDONLY)
        try:
            magic = _magic(handle)
        finally:
            os.close(handle)
        return (_LOCAL | _NOT_LOCAL).get(magic, f"a file system of type {magic:#x}")
    else:
        return None


def _magic(handle: int) -> int:
    """The number that Linux has for the file system of an open file; 0 where it does not say."""
    # `struct statfs` takes 120 bytes at most, and begins with the number, as a long.
    answer = (ctypes.c_long * 64)()
    return answer[0] & 0xFFFFFFFF if _library().fstatfs(handle, answer) == 0 else 0


@cache
def _library() -> Any:
    return ctypes.CDLL(None)


@contextlib.contextmanager
def own_file(folder: Path) -> Iterator[Path]:
    """An empty file in a folder that others write to, removed at the end. Raises OSError.

    Its name is random and must be new: another user could put a link under a name that can be
    guessed, and its target would be written.
    """
    handle, name = tempfile.mkstemp(prefix=".own-", suffix=".writing", dir=folder)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


@cache
def can_sync_file_system() -> bool:
    """Whether `sync_file_system` can be used (on Linux)."""
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


def clone_file(file: Path, handle: int) -> bool:
    """Let an open, empty file share the blocks of another; False where that cannot be done."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError), os.fdopen(open_regular(file), "rb") as source:
            fcntl.ioctl(handle, _FICLONE, source.fileno())
            return True
    return False


def may_be_private(status: os.stat_result) -> bool:
    """Whether a file may be another's secret, linked here: another name of a file of another user,
    or of one that is closed to others.

    Always False on Windows, where only who may change a file can give it a second name.
    """
    if sys.platform == "win32":
        return False
    else:
        is_ours_to_show = status.st_uid == os.geteuid() and status.st_mode & stat.S_IROTH
        return status.st_nlink > 1 and not is_ours_to_show


def signature_of(status: os.stat_result) -> tuple[int, ...]:
    """Device, inode, size, mtime and ctime: they change when a file is written or replaced."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def path_of(handle: int) -> Path | None:
    """The path of the file behind an open handle; None where the system cannot say.

    A path that was checked before may lead to another file by the time it is opened.
    """
    if sys.platform == "linux":
        return Path(os.readlink(f"/proc/self/fd/{handle}"))
    elif sys.platform == "darwin":
        path = fcntl.fcntl(handle, fcntl.F_GETPATH, b"\0" * 1024)
        return Path(os.fsdecode(path.rstrip(b"\0")))
    else:
        return None
