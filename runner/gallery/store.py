"""The gallery's index: one SQLite file with a row for each finished picture, searched by FTS5.

Any number of processes may read while one writes. A row that was added survives the end of the
process, and a power cut after `sync`. The index is derived from the sidecars, so a damaged one is
made anew (`rebuild`); those of other versions have other names. What the system refuses (a full
disk, too many open files) is raised as OSError: it never passes for an index that is empty.
"""

import errno
import json
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from runner.gallery.terms import moment, terms_of

_VERSION = 2
FOLDER, FILE = "gallery", f"index-{_VERSION}.sqlite"
"""The names of the index's folder in a home's private `data/`, and of its file there."""

Row = dict[str, Any]
T = TypeVar("T")
_SCHEMA = f"""
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA journal_mode = WAL;
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS picture (n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, row TEXT,
  asked TEXT, setup TEXT, made TEXT, sha256 TEXT);  -- see keys.py
CREATE INDEX IF NOT EXISTS picture_asked ON picture (asked);
CREATE INDEX IF NOT EXISTS picture_setup ON picture (setup);
-- Only which rows have a term: `terms_of` makes its text of a row, again to remove it.
CREATE VIRTUAL TABLE IF NOT EXISTS term
  USING fts5 (text, content = '', columnsize = 0, detail = none, tokenize = 'ascii');
CREATE TABLE IF NOT EXISTS mark (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
PRAGMA user_version = {_VERSION};
COMMIT;
"""
# A picture's number is the millisecond that it was made in, times this: they sort by time.
_SAME_MILLISECOND = 1 << 20
_LATEST = 1 << 42
_KEYS = ("asked", "setup", "made", "sha256")
_MOST_ALIKE = 16
_REBUILD = "the gallery's index is damaged: run `fluxdrop gallery rebuild`"
_ERRNO = {
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_BUSY: errno.ETIMEDOUT,
    sqlite3.SQLITE_LOCKED: errno.ETIMEDOUT,
}


class _Damaged(OSError):
    """The file is no index that can be read."""


class Gallery:
    """The index in a folder; safe to use from any thread.

    With `writing` the index is made where there is none. A write raises TimeoutError where another
    process writes for longer than `patience` seconds. `damaged` is whether the file was found to be
    so; questions to it are answered as if it were empty.
    """

    def __init__(self, folder: Path, *, writing: bool = False, patience: float = 30.0) -> None:
        self.folder = folder
        self.damaged = False
        self._file = folder / FILE
        self._writing = writing
        self._patience = patience
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._let_go: Callable[[], object] = lambda: None
        # The file that it is of: somebody may remove it, or make it anew.
        self._identity: tuple[int, int] | None = None

    @property
    def missing(self) -> bool:
        """Whether there is no complete index: never made, not finished, or deleted."""
        complete = "SELECT coalesce(max(value), 0) FROM mark WHERE name = 'complete'"
        return not self._ask(lambda base: int(base.execute(complete).fetchone()[0]), 0)

    def mark(self, *, complete: bool) -> None:
        """Record whether the index has a row for every sidecar."""
        with self._changing() as base:
            base.execute("INSERT OR REPLACE INTO mark VALUES ('complete', ?)", (complete,))
        self.damaged &= not complete

    def add(self, *rows: Mapping[str, Any]) -> None:
        """Add rows; a row with a known id replaces the old one, unless they are equal."""
        with self._changing() as base:
            for row_id, row in {str(row["id"]): dict(row) for row in rows}.items():
                known, keys = _find(base, row_id), row.pop("keys", {})
                if known is None or known[1] != row:
                    if known is not None:
                        _drop(base, *known)
                    _put(base, row_id, row, keys)

    def remove(self, *rows: str | Row) -> int:
        """Remove rows by id, or those still equal to the rows given; how many the index had."""
        gone = 0
        with self._changing() as base:
            for row in rows:
                known = _find(base, row if isinstance(row, str) else row["id"])
                if known is not None and row in (known[1]["id"], known[1]):
                    _drop(base, *known)
                    gone += 1
            # One for each call: Python's module makes a single step of it.
            for _ in range(base.execute("PRAGMA freelist_count").fetchone()[0] if gone else 0):
                base.execute("PRAGMA incremental_vacuum(1)")
        return gone

    def sync(self) -> None:
        """Return once a power cut would lose no row that was added before."""
        with self._changing(durable=True) as base:
            base.execute("INSERT OR REPLACE INTO mark VALUES ('synced', random())")
        with self._lock, self._explained():
            # Into the one file, as far as no reader is in the way: who copies it may leave the log.
            if self._connection:
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def close(self) -> None:
        """Let go of the file; the next question opens it again."""
        with self._lock:
            self._close()

    def get(self, row_id: str) -> Row | None:
        """The row of one picture, or None."""
        return self._ask(lambda base: (_find(base, row_id) or (0, None))[1], None)

    def alike(self, asked: str) -> list[tuple[str, str, str]]:
        """The id, `made` and SHA-256 of the newest pictures that were asked for by this key."""
        query = "SELECT id, made, sha256 FROM picture WHERE asked = ? ORDER BY n DESC LIMIT ?"
        nothing: list[tuple[str, str, str]] = []
        return self._ask(lambda base: base.execute(query, (asked, _MOST_ALIKE)).fetchall(), nothing)

    def last_made(self, setup: str) -> str | None:
        """How the newest picture of a setup was made; None where there is none."""
        query = "SELECT made FROM picture WHERE setup = ? ORDER BY n DESC LIMIT 1"
        found = self._ask(lambda base: base.execute(query, (setup,)).fetchone(), None)
        return found[0] if found else None

    def after(self, row_id: str, limit: int) -> list[Row]:
        """The next rows after this id, in the order of ids."""
        query = "SELECT row FROM picture WHERE id > ? ORDER BY id LIMIT ?"
        nothing: list[Row] = []
        return self._ask(
            lambda base: [_row(row) for (row,) in base.execute(query, (row_id, limit))],
            nothing,
        )

    def page(
        self, match: str, since: int | None, until: int | None, limit: int, offset: int
    ) -> tuple[int, list[Row]]:
        """The number of rows that match, and one page of them, newest first.

        `match` is an FTS5 query; empty, it matches every row. The pictures were made from `since`
        to before `until`, in milliseconds since 1970; None is open.
        """
        asked = {
            "term MATCH ?": match or None,
            "rowid >= ?": None if since is None else _number(since),
            "rowid < ?": None if until is None else _number(until),
        }
        wanted = {condition: value for condition, value in asked.items() if value is not None}
        values = tuple(wanted.values())
        where = f"FROM {'term' if match else 'picture'}"
        if wanted:
            where += f" WHERE {' AND '.join(wanted)}"
        page = f"SELECT rowid AS n {where} ORDER BY rowid DESC LIMIT ? OFFSET ?"
        query = f"SELECT row FROM ({page}) JOIN picture USING (n) ORDER BY n DESC"

        def read(base: sqlite3.Connection) -> tuple[int, list[Row]]:
            (total,) = base.execute(f"SELECT count(*) {where}", values).fetchone()
            rows = base.execute(query, (*values, limit, offset)) if limit else ()
            return total, [_row(row) for (row,) in rows]

        nothing: tuple[int, list[Row]] = (0, [])
        return self._ask(read, nothing)

    def __len__(self) -> int:
        return self.page("", None, None, 0, 0)[0]

    def empty(self) -> None:
        """Remove all rows; where the file is damaged, the file."""
        with suppress(_Damaged):
            if not self.damaged:
                with self._changing() as base:
                    for table in ("picture", "mark"):
                        base.execute(f"DELETE FROM {table}")
                    base.execute("INSERT INTO term (term) VALUES ('delete-all')")
        if self.damaged:
            with self._lock:
                self._close()
                for suffix in ("-wal", "-shm", ""):
                    self._file.with_name(f"{self._file.name}{suffix}").unlink(missing_ok=True)

    # -- the file --------------------------------------------------------------------------------

    def _ask(self, question: Callable[[sqlite3.Connection], T], nothing: T) -> T:
        """The answer of the index as it is now; `nothing` where there is none, or a damaged one."""
        with self._lock:
            try:
                with self._explained():
                    base = self._opened()
                    if base is None:
                        return nothing
                    base.execute("BEGIN")
                    try:
                        answer = question(base)
                    finally:
                        base.rollback()
                    # Who writes is to make it anew; another has done so for a reader.
                    self.damaged &= self._writing
                    return answer
            except _Damaged:
                return nothing

    @contextmanager
    def _changing(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """The index for one change, which comes about as a whole or not at all."""
        if not self._writing:
            raise PermissionError(f"{self.folder} was opened for reading")
        with self._lock, self._explained():
            base = self._opened()
            assert base is not None
            base.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            base.execute("BEGIN IMMEDIATE")
            try:
                yield base
                base.execute("COMMIT")
            except BaseException:
                base.rollback()
                raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Raise SQLite's errors as OSError, and note a damaged file."""
        try:
            yield
        except (sqlite3.ProgrammingError, sqlite3.InterfaceError):
            raise
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
            # Rows that are none and tables that are not there, too.
            if code not in (*_ERRNO, sqlite3.SQLITE_CANTOPEN) and "fts5" not in str(error):
                self.damaged = True
                # So that the file can be removed, on Windows too.
                self._let_go()
                self._connection = None
                raise _Damaged(errno.EIO, f"{_REBUILD} ({error})", str(self._file)) from error
            if code == sqlite3.SQLITE_CANTOPEN:
                # The system says why.
                os.close(os.open(self._file, os.O_RDONLY))
            raise OSError(_ERRNO.get(code, errno.EIO), str(error), str(self._file)) from error

    def _opened(self) -> sqlite3.Connection | None:
        """The connection to the file that is there now; None where there is no index to read."""
        try:
            found = self._file.stat()
            identity = found.st_dev, found.st_ino
        except FileNotFoundError:
            identity = None
        if self._identity and identity != self._identity:
            self._close()
        if self._connection is None and (identity or self._writing):
            self._open()
        return self._connection

    def _open(self) -> None:
        if self._writing:
            self.folder.mkdir(exist_ok=True)
        uri = f"{self._file.absolute().as_uri()}?mode={'rwc' if self._writing else 'rw'}"
        connection = sqlite3.connect(
            uri, timeout=self._patience, isolation_level=None, check_same_thread=False, uri=True
        )
        # Python warns of one that is only forgotten.
        let_go = weakref.finalize(self, connection.close)
        try:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version != _VERSION and self._writing:
                connection.executescript(_SCHEMA)
            elif version != _VERSION:
                let_go()
                return
            found = self._file.stat()
        except BaseException:
            let_go()
            raise
        self._connection, self._let_go = connection, let_go
        self._identity = found.st_dev, found.st_ino

    def _close(self) -> None:
        self._let_go()
        self._connection = self._identity = None
        self.damaged = False


def _find(base: sqlite3.Connection, row_id: str) -> tuple[int, Row] | None:
    """The number and the row of one picture."""
    found = base.execute("SELECT n, row FROM picture WHERE id = ?", (row_id,)).fetchone()
    return (found[0], _row(found[1])) if found else None


def _row(text: Any) -> Row:
    try:
        row = json.loads(text)
    except (ValueError, TypeError):
        row = None
    if isinstance(row, dict):
        return row
    raise sqlite3.DatabaseError("a row is none")


def _put(
    base: sqlite3.Connection, row_id: str, row: Mapping[str, Any], keys: Mapping[str, str]
) -> None:
    first = _number(moment(row.get("created_at")))
    query = "SELECT coalesce(max(n) + 1, ?1) FROM picture WHERE n >= ?1 AND n < ?2"
    (number,) = base.execute(query, (first, first + _SAME_MILLISECOND)).fetchone()
    text = json.dumps(row, ensure_ascii=False, separators=(",", ":"))
    values = (number, row_id, text, *map(keys.get, _KEYS))
    base.execute("INSERT INTO picture VALUES (?, ?, ?, ?, ?, ?, ?)", values)
    base.execute("INSERT INTO term (rowid, text) VALUES (?, ?)", (number, terms_of(row)))


def _drop(base: sqlite3.Connection, number: int, row: Row) -> None:
    base.execute("DELETE FROM picture WHERE n = ?", (number,))
    query = "INSERT INTO term (term, rowid, text) VALUES ('delete', ?, ?)"
    base.execute(query, (number, terms_of(row)))


def _number(made: int) -> int:
    """The lowest number of a picture of this millisecond since 1970."""
    return min(max(made, 0), _LATEST) * _SAME_MILLISECOND
