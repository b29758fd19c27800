"""The one door through which the spool changes files: write aside, fsync, rename, fsync the folder.

Tests stop the process at the n-th effect, or record effects and replay a power loss, by handing in
a Disk of their own. Nothing in the spool, the worker or the daemon may write a file another way
(the ledger's commits pass through here too).
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from runner.errors import DiskFull

# A virus scanner or an indexer holds a new file for up to 0.8 s on Windows (measured tail on SMB);
# 10, 20, 40 … 500 ms sums to about five seconds before giving up.
_RETRY_SECONDS = tuple(min(0.01 * 2**n, 0.5) for n in range(15))
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT} if hasattr(errno, "EDQUOT") else {errno.ENOSPC}
TEMPORARY_SUFFIX = ".writing"


class Disk:
    """Every change to a file, one method each; `before` is called with its name first."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def before(self, effect: str, path: Path) -> None:
        """Called before each effect; does nothing here. Tests count, record or die in it."""

    def replace(self, path: Path, data: bytes, *, durable: bool = False) -> None:
        """Write a whole file so that readers see the old bytes or the new ones, never a mixture.

        The bytes are on the disk before the name points at them; with `durable` the name is, too.
        Raises DiskFull when there is no room, OSError otherwise.
        """
        aside = path.with_name(
            f".{path.name}.{os.getpid()}-{next(self._numbers)}{TEMPORARY_SUFFIX}"
        )
        try:
            self.before("write", aside)
            with aside.open("wb") as file:
                file.write(data)
                file.flush()
                self.before("sync", aside)
                os.fsync(file.fileno())
            self.rename(aside, path)
        except OSError as error:
            aside.unlink(missing_ok=True)
            if error.errno in _NO_ROOM:
                raise DiskFull(
                    f"no room left on the disk of {path.parent}: free some, then retry the job"
                ) from error
            raise
        if durable:
            self.sync_folder(path.parent)

    def rename(self, old: Path, new: Path) -> None:
        """Rename over whatever is there; waits out sharing violations on Windows."""
        self.before("rename", new)
        _patiently(lambda: os.replace(old, new))

    def remove(self, path: Path) -> None:
        """Remove one file; a file that is already gone is fine."""
        self.before("remove", path)
        _patiently(lambda: path.unlink(missing_ok=True))

    def remove_tree(self, folder: Path) -> None:
        """Remove a folder with all that is in it; one that is not there is fine."""
        self.before("remove_tree", folder)
        if folder.is_dir() and not folder.is_symlink():
            _patiently(lambda: shutil.rmtree(folder))

    def make_folder(self, folder: Path) -> None:
        """Make a folder and its parents; one that is there is fine."""
        if not folder.is_dir():
            self.before("make_folder", folder)
            folder.mkdir(parents=True, exist_ok=True)

    def sync_folder(self, folder: Path) -> None:
        """Put the names in a folder on the disk; Windows does that by itself."""
        if os.name == "nt":
            return
        self.before("sync_folder", folder)
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def commit(self, connection: sqlite3.Connection, path: Path) -> None:
        """Commit a transaction of the ledger: atomic and on the disk when this returns."""
        self.before("commit", path)
        try:
            connection.commit()
        except sqlite3.OperationalError as error:
            connection.rollback()
            if "full" in str(error):
                raise DiskFull(f"no room left on the disk of {path.parent}: free some") from error
            raise


def _patiently(act: Callable[[], object]) -> None:
    for seconds in _RETRY_SECONDS:
        try:
            act()
        except PermissionError:
            if os.name != "nt":
                raise
            time.sleep(seconds)
        else:
            return
    act()
