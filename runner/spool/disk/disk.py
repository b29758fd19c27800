"""File operations that survive a kill: write aside, fsync, rename, fsync the folder.

All that the spool and the daemon write passes through a Disk, the ledger's commits included; only
lock files, probe files and the log do not. Tests pass a Disk of their own, which ends the process
at the n-th operation, refuses it, or records all of them to replay a power loss.
"""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from runner.clock import now
from runner.errors import DiskFull, LedgerUnusable, PlaceAway
from runner.files import is_absent, is_folder, is_link, read_file
from runner.places import Places
from runner.spool.disk import beneath
from runner.spool.disk.platform import (
    can_sync_file_system,
    clone_file,
    is_dead,
    pid_space,
    sync_file_system,
)

# A virus scanner or an indexer holds a new file for up to 0.8 s on Windows (measured tail on SMB);
# 10, 20, 40 … 500 ms sums to about five seconds before giving up.
_RETRY_SECONDS = tuple(min(0.01 * 2**n, 0.5) for n in range(15))
_NO_ROOM = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
# What a share answers whose server is gone; its folder may look as ever for another second.
_NO_ANSWER = {
    getattr(errno, name)
    for name in ("ENOTCONN", "ECONNABORTED", "EHOSTDOWN")
    if hasattr(errno, name)
}
_COMMON = {errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM, *_NO_ROOM, *_NO_ANSWER}
TEMPORARY_SUFFIX = ".writing"
_OF_A_PROCESS = re.compile(r"\.(\d{1,9})-([0-9a-f]{6})[0-9a-f]{8}\.")
_OLD_SECONDS = 3600.0
# Plain text where there are thousands of them: making a Path takes longer than a small write.
StrPath = str | Path
File = tuple[StrPath, bytes]
# Below this many files a sync of the whole file system costs more than one for each of them.
_MANY = 12


class Copied(bytes):
    """The bytes of a file that is copied: where the file system can, they are stored once."""

    source: Path

    @classmethod
    def of(cls, file: Path, sha256: str) -> Self:
        """The bytes of a file. Raises ValueError where they have another hash; OSError."""
        data = cls(read_file(file))
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ValueError(f"{file.name} was changed")
        data.source = file
        return data


class Disk:
    """File operations, one method each; every one calls `before` with its name first.

    Below the `shared` folders, to which others may write too, no link is followed.
    """

    def __init__(self, *shared: StrPath) -> None:
        self.shared = tuple(str(folder) for folder in shared)
        self.places: Places | None = None
        """Where they are given, no operation reaches a folder that is away: PlaceAway."""

    def before(self, operation: str, path: StrPath, **details: Any) -> None:
        """Look that the place is there; tests override this to count, record or refuse."""
        if self.places is not None:
            self.places.check(path)

    def replace(self, path: StrPath, data: bytes, *, durable: bool = False) -> None:
        """Write a whole file so that readers see the old bytes or the new ones, never a mixture.

        The bytes are on the disk before the name points at them; with `durable` the name is, too.
        Raises DiskFull when there is no room, PlaceAway, OSError otherwise.
        """
        self.replace_many([(path, data)], durable=durable)

    def replace_many(
        self,
        files: Sequence[File],
        *,
        then: Sequence[File] = (),
        also: StrPath | None = None,
        in_place: Collection[StrPath] = (),
        durable: bool = True,
    ) -> None:
        """Replace files in the order given and leave all of them, names included, on the disk.

        The names of `then` are made once those of `files` are on the disk. `also` is a folder above
        them whose names are new too. Paths of `in_place`, in new folders that no reader opens yet,
        are written without a rename. Without `durable` only the bytes are on the disk. Many files
        are synced by a few calls, not one by one: with 256 jobs a batch that is the difference
        between a hundred jobs a second and several thousand. Raises as `replace` does.
        """
        every = (*files, *then)
        one_sync = len(every) >= _MANY and can_sync_file_system()
        written: list[str] = []
        with _explained(os.path.dirname(files[0][0])):
            try:
                for path, data in every:
                    if path in in_place:
                        written.append(os.fspath(path))
                    else:
                        # As short as can be: a name that fits must not be refused for this one.
                        aside = f".{os.getpid()}-{pid_space()}{os.urandom(4).hex()}"
                        written.append(f"{os.path.dirname(path)}/{aside}{TEMPORARY_SUFFIX}")
                    self._write(written[-1], data, target=path, sync=not one_sync)
                if one_sync:
                    self.sync_file_system(os.path.dirname(written[0]))
                for number, (path, _) in enumerate(every):
                    if number == len(files):
                        self._sync_names(files, one_sync=one_sync)
                    if path not in in_place:
                        self.rename(written[number], path)
            except (OSError, DiskFull):
                # Not where the folder is another one now: there these names are another's.
                for file in written:
                    with contextlib.suppress(OSError):
                        beneath.remove(file, self.shared)
                raise
            if durable:
                self._sync_names(then or files, one_sync=one_sync, also=also)

    def _sync_names(
        self, files: Sequence[File], *, one_sync: bool, also: StrPath | None = None
    ) -> None:
        folders = [os.path.dirname(path) for path, _ in files]
        if also is not None:
            folders.append(os.fspath(also))
        if one_sync:
            self.sync_file_system(folders[-1])
            return
        for folder in dict.fromkeys(folders):
            self.sync_folder(folder)

    def _write(self, file: str, data: bytes, *, target: StrPath, sync: bool) -> None:
        self.before("write", file, data=data, target=target)
        handle = beneath.create(file, self.shared)
        try:
            left = memoryview(b"" if isinstance(data, Copied) and _cloned(data, handle) else data)
            while left:
                left = left[os.write(handle, left) :]
            if sync:
                self.before("sync", file, target=target)
                os.fsync(handle)
        finally:
            os.close(handle)

    def sync_file_system(self, folder: StrPath) -> None:
        """Put everything written so far to the file system of a folder on the disk."""
        self.before("sync_file_system", folder)
        sync_file_system(folder)

    def rename(self, old: StrPath, new: StrPath) -> None:
        """Rename, replacing an existing file; waits out sharing violations on Windows."""
        self.before("rename", new, old=old)
        _retry_if_locked(lambda: beneath.rename(old, new, self.shared))

    def rename_to_free(self, old: Path, new: Path) -> bool:
        """Rename to a free name; False, with nothing changed, where that name exists."""
        self.before("rename_to_free", new, old=old)
        return beneath.rename_to_free(old, new, self.shared)

    def remove(self, path: StrPath) -> None:
        """Remove one file if it exists."""
        self.before("remove", path)
        with contextlib.suppress(FileNotFoundError):
            _retry_if_locked(lambda: beneath.remove(path, self.shared))

    def remove_tree(self, folder: Path) -> None:
        """Remove a folder and its content if it exists; a link to a folder is left alone."""
        self.before("remove_tree", folder)
        if is_folder(folder) and not is_link(folder):
            _retry_if_locked(lambda: shutil.rmtree(folder))

    def make_folder(self, folder: StrPath) -> bool:
        """Make a folder and its parents unless it exists. Returns whether it is new.

        Raises DiskFull when there is no room, PlaceAway, OSError otherwise.
        """
        with _explained(os.path.dirname(folder)):
            if is_folder(folder):
                return False
            self.before("make_folder", folder)
            return beneath.make_folder(folder, self.shared)

    def sync_folder(self, folder: StrPath) -> None:
        """Put the names in a folder on the disk, which Windows does by itself.

        Raises DiskFull when there is no room, PlaceAway, OSError otherwise.
        """
        if os.name == "nt":
            return
        with _explained(folder):
            self.before("sync_folder", folder)
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def commit(self, connection: sqlite3.Connection, path: Path, *, durable: bool) -> None:
        """Commit a transaction of the ledger; `durable` says whether SQLite syncs it."""
        self.before("commit", path, durable=durable)
        connection.commit()

    def copy_database(self, connection: sqlite3.Connection, path: Path) -> None:
        """Replace a file by a copy of the database of a connection, durably.

        Raises DiskFull when there is no room, OSError or sqlite3.Error otherwise.
        """
        self.before("copy", path)
        aside = path.with_name(f".{path.name}{TEMPORARY_SUFFIX}")
        with _explained(path.parent):
            aside.unlink(missing_ok=True)
            connection.execute("VACUUM INTO ?", (str(aside),))
            with open(aside, "rb+") as copy:
                os.fsync(copy.fileno())
            self.rename(aside, path)


def is_left(file: Path) -> bool:
    """Whether nobody writes a temporary file any more: its process has ended.

    Of a process on another machine, or in another container, nothing is known: its file must be
    old. This process's own number may have been an earlier one's: ask before anything is written.
    """
    found = _OF_A_PROCESS.match(file.name)
    if found is None:
        return True
    try:
        written = os.lstat(file).st_mtime
    except FileNotFoundError:
        # It has just got its name.
        return False
    if found[2] != pid_space():
        return now() - written > _OLD_SECONDS
    pid = int(found[1])
    return pid == os.getpid() or is_dead(pid, written)


def concerns_all(error: Exception) -> bool:
    """Whether an error concerns the disk, the process or the ledger, not just the file it names."""
    common = (LedgerUnusable, DiskFull, MemoryError)
    return isinstance(error, common) or getattr(error, "errno", None) in _COMMON


@contextlib.contextmanager
def leaving_out(what: object, tell: Callable[[str], object]) -> Iterator[None]:
    """Tell what is left out where the system refuses it in the block; nothing where it is absent.

    Raises what concerns all.
    """
    try:
        yield
    except OSError as error:
        if concerns_all(error):
            raise
        if not is_absent(error):
            tell(f"{what} is left out: {error.strerror or error}")


def _cloned(data: Copied, handle: int) -> bool:
    """Whether an open new file shares these bytes with their source, which may change meanwhile."""
    if not clone_file(data.source, handle):
        return False
    os.lseek(handle, 0, os.SEEK_SET)
    with os.fdopen(handle, "rb", closefd=False) as file:
        same = file.read(len(data) + 1) == data
    if not same:
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
    return same


@contextlib.contextmanager
def _explained(folder: StrPath) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            message = f"no room left on the disk of {folder}: free some, then retry the job"
            raise DiskFull(message) from error
        if error.errno in _NO_ANSWER:
            raise PlaceAway(f"the share of {folder} does not answer: connect it again") from error
        raise


def _retry_if_locked(act: Callable[[], object]) -> None:
    """Call `act`, again and again while Windows says that another program has the file open."""
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
