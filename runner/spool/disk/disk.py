"""The one door through which the spool changes files: write aside, fsync, rename, fsync the folder.

Tests stop the process at the n-th effect, or record effects and replay a power loss, by handing in
a Disk of their own. Nothing in the spool, the worker or the daemon may write a file another way
(the ledger's commits pass through here too).
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from runner.errors import DiskFull, LedgerUnusable
from runner.spool.disk.platform import can_sync_file_system, sync_file_system

# A virus scanner or an indexer holds a new file for up to 0.8 s on Windows (measured tail on SMB);
# 10, 20, 40 … 500 ms sums to about five seconds before giving up.
_RETRY_SECONDS = tuple(min(0.01 * 2**n, 0.5) for n in range(15))
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT} if hasattr(errno, "EDQUOT") else {errno.ENOSPC}
_COMMON = _NO_ROOM | {
    getattr(errno, name, errno.ENOSPC)
    for name in ("EROFS", "EMFILE", "ENFILE", "ENOMEM", "ENOTCONN", "ESTALE")
}
TEMPORARY_SUFFIX = ".writing"
# Plain text where there are thousands of them: making a Path takes longer than a small write.
Place = str | Path
File = tuple[Place, bytes]
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
# Below this many files a sync of the whole file system costs more than one for each of them.
_MANY = 12


class Disk:
    """Every change to a file, one method each; `before` is called with its name first."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def before(self, effect: str, path: Place, **details: Any) -> None:
        """Called before each effect; does nothing here. Tests count, record or die in it."""

    def replace(self, path: Place, data: bytes, *, durable: bool = False) -> None:
        """Write a whole file so that readers see the old bytes or the new ones, never a mixture.

        The bytes are on the disk before the name points at them; with `durable` the name is, too.
        Raises DiskFull when there is no room, OSError otherwise.
        """
        self.replace_many([(path, data)], durable=durable)

    def replace_many(
        self,
        files: Sequence[File],
        *,
        then: Sequence[File] = (),
        also: Place | None = None,
        unseen: Collection[Place] = (),
        durable: bool = True,
    ) -> None:
        """Replace files in the order given and leave all of them, names included, on the disk.

        The names of `then` come when those of the first are on the disk. `also` is a folder above
        them, in which names are new too; without `durable` only the bytes are on the disk. What is
        `unseen`, in a folder that nobody looks into yet, is written under its own name. Many files
        are synced by a few calls, not one by one: at 256 jobs a batch that is the difference
        between a hundred and several thousand a second.
        """
        one_sync = len(files) + len(then) >= _MANY and can_sync_file_system()
        with _no_room_explained(os.path.dirname(files[0][0])):
            self._publish(files, then, one_sync=one_sync, unseen=unseen)
            if durable:
                self._sync_names(then or files, one_sync=one_sync, also=also)

    def _publish(
        self,
        files: Sequence[File],
        then: Sequence[File] = (),
        *,
        one_sync: bool,
        unseen: Collection[Place] = (),
    ) -> None:
        asides: list[str] = []
        process = os.getpid()
        try:
            for path, data in (*files, *then):
                if path in unseen:
                    asides.append(os.fspath(path))
                else:
                    folder, name = os.path.split(path)
                    number = next(self._numbers)
                    asides.append(f"{folder}/.{name}.{process}-{number}{TEMPORARY_SUFFIX}")
                self._write(asides[-1], data, sync=not one_sync)
            if one_sync:
                self.sync_file_system(os.path.dirname(asides[0]))
            for number, (path, _) in enumerate((*files, *then)):
                if number == len(files):
                    self._sync_names(files, one_sync=one_sync)
                if path not in unseen:
                    self.rename(asides[number], path)
        except OSError:
            for aside in asides:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(aside)
            raise

    def _sync_names(
        self, files: Sequence[File], *, one_sync: bool, also: Place | None = None
    ) -> None:
        folders = [os.path.dirname(path) for path, _ in files]
        if also is not None:
            folders.append(os.fspath(also))
        if one_sync:
            self.sync_file_system(folders[-1])
            return
        for folder in dict.fromkeys(folders):
            self.sync_folder(folder)

    def _write(self, aside: str, data: bytes, *, sync: bool) -> None:
        self.before("write", aside, data=data)
        handle = os.open(aside, _NEW_FILE, 0o666)
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(handle, left) :]
            if sync:
                self.before("sync", aside)
                os.fsync(handle)
        finally:
            os.close(handle)

    def sync_file_system(self, folder: Place) -> None:
        """Put everything written so far to the file system of a folder on the disk."""
        self.before("sync_file_system", folder)
        sync_file_system(folder)

    def rename(self, old: Place, new: Place) -> None:
        """Rename over whatever is there; waits out sharing violations on Windows."""
        self.before("rename", new, old=old)
        _patiently(lambda: os.replace(old, new))

    def give_back(self, old: Path, new: Path) -> bool:
        """Rename to a name that nobody has; False, and nothing done, where somebody has it."""
        self.before("give_back", new, old=old)
        try:
            if os.name == "nt":
                os.rename(old, new)
            else:
                os.link(old, new)
                old.unlink()
        except FileExistsError:
            return False
        return True

    def remove(self, path: Place) -> None:
        """Remove one file; a file that is already gone is fine."""
        self.before("remove", path)
        with contextlib.suppress(FileNotFoundError):
            _patiently(lambda: os.unlink(path))

    def remove_tree(self, folder: Path) -> None:
        """Remove a folder with all that is in it; one that is not there is fine."""
        self.before("remove_tree", folder)
        if folder.is_dir() and not folder.is_symlink():
            _patiently(lambda: shutil.rmtree(folder))

    def make_folder(self, folder: Place) -> bool:
        """Make a folder and its parents; one that is there is fine. Returns whether it is new.

        Raises DiskFull when there is no room, OSError otherwise.
        """
        if os.path.isdir(folder):
            return False
        with _no_room_explained(os.path.dirname(folder)):
            self.before("make_folder", folder)
            try:
                os.mkdir(folder)
            except FileExistsError:
                return False
            except FileNotFoundError:
                os.makedirs(folder, exist_ok=True)
        return True

    def sync_folder(self, folder: Place) -> None:
        """Put the names in a folder on the disk; Windows does that by itself."""
        if os.name == "nt":
            return
        self.before("sync_folder", folder)
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def commit(self, connection: sqlite3.Connection, path: Path, *, durable: bool) -> None:
        """Commit a transaction of the ledger: atomic, and on the disk if it is a durable one."""
        self.before("commit", path, durable=durable)
        connection.commit()


def concerns_all(error: Exception) -> bool:
    """Whether an error is one of the whole disk, process or ledger, not of the file it names."""
    common = (LedgerUnusable, DiskFull, MemoryError, sqlite3.OperationalError)
    return isinstance(error, common) or getattr(error, "errno", None) in _COMMON


@contextlib.contextmanager
def _no_room_explained(folder: Place) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        message = f"no room left on the disk of {folder}: free some, then retry the job"
        raise DiskFull(message) from error


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
