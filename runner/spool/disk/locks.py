"""Operating-system locks, which end with their process: one runner a home and one a GPU."""

import contextlib
import os
import stat
import sys
import time
from pathlib import Path
from typing import Protocol

from runner.errors import RunnerBusy, UsageProblem
from runner.settings import LOCK_FILE, Home
from runner.spool.disk.platform import is_dead

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


_TRY_AGAIN_SECONDS = 0.01
_MOST_TRIES = 500
# A client that asks whether the lock is held has it itself for an instant.
_TRIES_AT_LEAST = 4


class Lock(Protocol):
    """What a runner has to hold."""

    def acquire(self) -> None:
        """Take it. Raises RunnerBusy where another process has it."""

    def release(self) -> None:
        """Let others have it."""


class RunnerLock:
    """An operating-system lock on a file whose text names the holder, for people only.

    The file is never removed: removing it would let a second holder lock a new file of that name.
    `resource` is its name in errors.
    """

    def __init__(self, file: Path, resource: str) -> None:
        self._file = file
        self._resource = resource
        self._handle: int | None = None

    def acquire(self) -> None:
        """Take the lock. Raises RunnerBusy, naming the holder, when another process has it.

        Raises UsageProblem where its file cannot be opened, or is something else.
        """
        handle = self._open()
        tries = 0
        while not _lock(handle):
            tries += 1
            holder = _holder(handle)
            if tries >= (_MOST_TRIES if _is_dead(holder) else _TRIES_AT_LEAST):
                os.close(handle)
                raise RunnerBusy(f"{self._resource} is in use by another runner ({holder})")
            # A child that the dead holder was just starting still shares its handles.
            time.sleep(_TRY_AGAIN_SECONDS)
        with contextlib.suppress(OSError):  # another user's file is only read, and names who had it
            # Byte 0 is the locked one on Windows, where it could not be read by others.
            os.ftruncate(handle, 0)
            os.lseek(handle, 1, os.SEEK_SET)
            os.write(handle, f"pid {os.getpid()}".encode())
        self._handle = handle

    def _open(self) -> int:
        # All users may write to the folder of temporary files, and the lock writes to its file.
        safely = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        try:
            try:
                handle = os.open(self._file, os.O_RDWR | os.O_CREAT | safely, 0o644)
            except PermissionError:
                # Of another user, who had a runner before: it can be locked all the same.
                handle = os.open(self._file, os.O_RDONLY | safely)
        except PermissionError as error:
            raise RunnerBusy(f"{self._resource} is another user's, see {self._file}") from error
        except OSError as error:
            problem = f"cannot open the lock {self._file}: {error.strerror}; see whose it is"
            raise UsageProblem(problem) from error
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            os.close(handle)
            raise UsageProblem(f"{self._file} is no lock of fluxdrop's: remove it")
        return handle

    def release(self) -> None:
        """Release the lock, as the end of the process does too."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _holder(handle: int) -> str:
    try:
        # From byte 1 on: Windows refuses a read that touches the locked byte.
        os.lseek(handle, 1, os.SEEK_SET)
        return os.read(handle, 100).decode(errors="replace").strip() or "unknown"
    except OSError:
        return "unknown"


def _lock(handle: int) -> bool:
    try:
        if sys.platform == "win32":
            os.lseek(handle, 0, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_dead(holder: str) -> bool:
    """Whether the holder is known to have ended; Windows releases a lock with its process."""
    number = holder.removeprefix("pid ")
    return sys.platform != "win32" and number.isdecimal() and is_dead(int(number), time.time())


def is_held(home: Home) -> bool | None:
    """Whether a process of this machine holds the lock of a home.

    None where that cannot be asked: `data/` is private to the runner's user.
    """
    try:
        handle = os.open(_file_of(home), os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        if sys.platform == "win32":
            os.read(handle, 1)
        else:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    except OSError:
        return None
    finally:
        os.close(handle)
    return False


def holder_of(home: Home) -> int | None:
    """The process of this machine that holds the lock of a home; None where that is not known."""
    with contextlib.suppress(OSError):
        handle = os.open(_file_of(home), os.O_RDONLY)
        try:
            holder = _holder(handle)
        finally:
            os.close(handle)
        number = holder.removeprefix("pid ")
        # The file of another user still names who had it before.
        if number.isdecimal() and is_held(home) and not _is_dead(holder):
            return int(number)
    return None


def home_lock(home: Home) -> RunnerLock:
    """The lock that a process has to hold while it changes a home."""
    return RunnerLock(_file_of(home), f"the home {home.root}")


def gpu_lock(gpu: str) -> RunnerLock:
    """The lock that a process has to hold while it uses a GPU."""
    import tempfile

    # In a folder that all homes share: they share the GPU too.
    return RunnerLock(Path(tempfile.gettempdir()) / f"fluxdrop-{gpu}.lock", f"the GPU {gpu}")


def _file_of(home: Home) -> Path:
    return home.data / LOCK_FILE
