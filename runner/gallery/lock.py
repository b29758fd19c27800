"""The gallery's lock file: held during one write, released by the system if the process ends."""

import errno
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path

from runner.clock import monotonic

_POLL_SECONDS = 0.01


@contextmanager
def locked(path: Path, patience: float = inf) -> Iterator[None]:
    """Hold the exclusive lock on a file, made if it is missing.

    Raises TimeoutError where another process has it for longer than `patience` seconds.
    """
    until = monotonic() + patience
    # Closing the file releases the lock.
    with path.open("ab") as file:
        while not _take(file.fileno()):
            if monotonic() >= until:
                raise TimeoutError(errno.ETIMEDOUT, "another process has it locked", str(path))
            time.sleep(_POLL_SECONDS)
        yield


if sys.platform == "win32":
    import msvcrt

    def _take(handle: int) -> bool:
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _take(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
