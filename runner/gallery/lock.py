"""The gallery's lock file: held during one write, released by the system if the process ends."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for the exclusive lock on a file, made if it is missing, and hold it."""
    # Closing the file releases the lock.
    with path.open("ab") as file:
        _take(file.fileno())
        yield


if sys.platform == "win32":
    import msvcrt

    def _take(handle: int) -> None:
        while True:
            try:
                msvcrt.locking(handle, msvcrt.LK_LOCK, 1)
                return
            except OSError:
                # LK_LOCK gives up after ten seconds; a rebuild in another process may take longer.
                continue

else:
    import fcntl

    def _take(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX)
