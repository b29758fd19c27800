"""The ledger's file: one SQLite connection, one lock, and transactions.

Errors are told apart by SQLite's code: what may pass (a full disk, a file that another program has
open) is raised as LedgerUnusable and waited out; a wrong statement is a bug and raised as it is.
"""

import contextlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from runner.errors import LedgerUnusable
from runner.spool.disk.disk import Disk
from runner.spool.store.migrations import migrate, version_of

_MAY_PASS = {
    sqlite3.SQLITE_FULL: "make room on its disk",
    sqlite3.SQLITE_IOERR: "see that its disk works and has room",
    sqlite3.SQLITE_READONLY: "see that this user may write there",
    sqlite3.SQLITE_CANTOPEN: "see that this user may write there",
    sqlite3.SQLITE_BUSY: "another program has it open",
    sqlite3.SQLITE_LOCKED: "another program has it open",
}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
# Free pages that stay, for the next jobs; and so many more are given back at a time: 1 MiB each.
_SPARE_PAGES = 256
_STEP_PAGES = 256


class Database:
    """An open file with this version's schema; safe to use from any thread.

    Raises LedgerUnusable, LedgerNewer.
    """

    def __init__(self, file: Path, disk: Disk) -> None:
        self._file = file
        self._disk = disk
        self._lock = threading.RLock()
        self._open = False
        self._durable = True
        with explained(file):
            self._connection = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
            try:
                self._connection.row_factory = sqlite3.Row
                self._connection.text_factory = _text_or_bytes
                # Of a new file, and of an earlier version's once it is shrunk as a whole.
                self._connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = FULL")
                migrate(self._connection, file, disk)
            except BaseException:
                self._connection.close()
                raise

    @contextlib.contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[None]:
        """Hold the lock and commit once at the end; nested ones join the outermost.

        A durable commit is on the disk when this returns, with all earlier ones. One that is not
        survives a kill but not a power loss: it is for what recovery can find out again. Raises
        LedgerUnusable, with nothing changed, where the file cannot be written now.
        """
        with self._lock:
            if self._open:
                assert self._durable or not durable, "a durable change inside one that is not"
                yield
                return
            with explained(self._file):
                self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._connection.execute("BEGIN IMMEDIATE")
                self._open, self._durable = True, durable
                try:
                    yield
                    self._disk.commit(self._connection, self._file, durable=durable)
                except BaseException:
                    self._connection.rollback()
                    raise
                finally:
                    self._open = False

    def shrink(self, *, whole: bool = False) -> None:
        """Give some free pages back to the disk where there are many; all of them as a `whole`.

        Of a file that an earlier version made none are given back but as a whole, which takes time
        and room for a copy. Raises LedgerUnusable, with nothing lost.
        """
        with self._lock, explained(self._file):
            if whole:
                self._disk.before("statement", self._file)
                self._connection.execute("PRAGMA synchronous = FULL")
                self._connection.execute("VACUUM")
                self._disk.commit(self._connection, self._file, durable=True)
            elif (
                self._rows("PRAGMA auto_vacuum")[0][0]
                and self._rows("PRAGMA freelist_count")[0][0] > _SPARE_PAGES
            ):
                with self.transaction(durable=False):
                    for _ in range(_STEP_PAGES):
                        # One page, however many are asked for: Python takes one step of it.
                        self._rows("PRAGMA incremental_vacuum(1)")

    def _rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        with self._lock, explained(self._file):
            return self._connection.execute(query, values).fetchall()

    def _row(self, query: str, *values: object) -> sqlite3.Row | None:
        return next(iter(self._rows(query, *values)), None)

    def _run(self, statement: str, *values: object) -> int:
        """Run one statement of a transaction; the number of rows it changed."""
        return self._connection.execute(statement, values).rowcount

    def _run_many(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        self._connection.executemany(statement, rows)


def _text_or_bytes(raw: bytes) -> str | bytes:
    """A text of the file; what is not UTF-8 is damaged, and must not hide the rows around it."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


@contextlib.contextmanager
def explained(file: Path) -> Iterator[None]:
    """Raise an error of SQLite that may pass as LedgerUnusable, saying what to do."""
    try:
        yield
    except sqlite3.Error as error:
        advice = _MAY_PASS.get(_code(error))
        if advice is None:
            raise
        message = f"the ledger {file} cannot be used now ({error}): {advice}"
        raise LedgerUnusable(message) from error


def is_damaged(file: Path) -> bool:
    """Whether a file is no database, or a damaged one.

    Raises LedgerNewer where another version made it, and LedgerUnusable where it cannot be read
    now: a full disk is no damage.
    """
    # What another version made is only read.
    uri = f"{file.absolute().as_uri()}?mode=ro"
    try:
        with explained(file), contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
            version_of(connection, file)
            return bool(connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",))
    except sqlite3.DatabaseError as error:
        if _code(error) in _DAMAGED:
            return True
        raise


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 for errors of the Python module's own."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
