"""The ledger: the durable record of every job, one SQLite file private to the runner.

A job exists from the commit that inserts it; what callers see in the outbox is written after that
and can be written again from here. One connection, one lock: a job is moved under the lock, so a
cancel and a finish can never both win. Nothing here touches the inbox or the outbox.

Why SQLite: many jobs are accepted by one synced commit, a full disk or a kill leaves the last
commit intact, and the queue is ordered on disk, so memory does not grow with it.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner.errors import LedgerUnusable
from runner.job import FINAL_STATES, MOVES, State
from runner.spool.disk.disk import Disk
from runner.spool.store.names import key_of
from runner.spool.store.queries import Queries
from runner.spool.store.record import COLUMNS, Record, column_of, row_of

_SCHEMA = Path(__file__).with_name("ledger.sql")
_INSERT = f"INSERT INTO job ({', '.join(COLUMNS)}, key) VALUES ({', '.join('?' * len(COLUMNS))}, ?)"


class Ledger(Queries):
    """Changes and queries the records of jobs; safe to use from any thread."""

    def __init__(self, file: Path, disk: Disk) -> None:
        self._file = file
        self._disk = disk
        self._lock = threading.RLock()
        self._open = False
        self._durable = True
        with _translated_errors(file):
            self._connection = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
            self._connection.row_factory = sqlite3.Row
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.executescript(_SCHEMA.read_text(encoding="utf-8"))

    def close(self, *, clean: bool = True) -> None:
        """Close the file, after marking it as closed cleanly unless `clean` is False."""
        if clean:
            with contextlib.suppress(LedgerUnusable), self.transaction():
                self._connection.execute("DELETE FROM mark WHERE name = 'open'")
        with self._lock:
            self._connection.close()

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
            with _translated_errors(self._file):
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

    # -- writing ---------------------------------------------------------------------------------

    def reserve(self) -> int:
        """The `seq` for a job that is inserted later; unused, it leaves a gap."""
        with self.transaction(durable=False):
            last = "SELECT seq FROM sqlite_sequence WHERE name = 'job'"
            if self._connection.execute(last).fetchone() is None:
                self._connection.execute("INSERT INTO sqlite_sequence VALUES ('job', 0)")
            self._connection.execute("UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = 'job'")
            return int(self._connection.execute(last).fetchone()[0])

    def insert(self, record: Record) -> Record:
        """Add a job and return its record; a `seq` of 0 becomes the next free one."""
        values = row_of(record)
        values[0] = record.seq or None
        with self.transaction():
            cursor = self._connection.execute(_INSERT, [*values, key_of(record.id)])
            assert cursor.lastrowid is not None
            return record if record.seq else replace(record, seq=cursor.lastrowid)

    def add_composed(self, seq: int, prompts: Iterable[tuple[Any, Any]]) -> None:
        """Keep the prompts of a `compose`: the pack is not read again for this job."""
        rows = (
            (seq, number, json.dumps(fields), json.dumps(origin))
            for number, (fields, origin) in enumerate(prompts)
        )
        with self.transaction():
            self._connection.executemany("INSERT INTO composed VALUES (?, ?, ?, ?)", rows)

    def update(self, seq: int, **values: object) -> None:
        """Change fields other than the state, durably."""
        assert "state" not in values, "states are changed by move()"
        with self.transaction():
            self._set(seq, values)

    def note(self, seq: int, **values: object) -> None:
        """Like `update`, but not durable by itself: for what recovery can find out again."""
        assert "state" not in values, "states are changed by move()"
        with self.transaction(durable=False):
            self._set(seq, values)

    def published(self, records: Iterable[Record], *, acknowledged: bool = False) -> None:
        """Record that statuses were published; with `acknowledged`, that files left the inbox too.

        Not durable by itself: recovery repeats what is not recorded. The status of a job that has
        moved meanwhile stays due.
        """
        values = "revision = revision + 1, behind = behind AND state <> ?"
        query = f"UPDATE job SET {values}{', identity = NULL' * acknowledged} WHERE seq = ?"
        with self.transaction(durable=False):
            self._connection.executemany(query, ((str(r.state), r.seq) for r in records))

    def move(self, seq: int, state: State, **values: object) -> bool:
        """Move a job to another state; False, with nothing changed, where its state is final.

        Each move is a revision, published or not. Raises ValueError for one that MOVES lacks.
        """
        with self.transaction():
            before = self.get(seq)
            if before.state in FINAL_STATES:
                return False
            if state not in MOVES[before.state]:
                raise ValueError(f"no job moves from {before.state} to {state}")
            values["revision"] = before.revision + 1
            self._set(seq, {"behind": True, **values, "state": state})
            return True

    def add_image(
        self,
        seq: int,
        number: int,
        outcome: str,
        *,
        output: Mapping[str, Any] | None = None,
        reason: str | None = None,
        message: str | None = None,
    ) -> None:
        """Record how one image ended; safe to repeat.

        Not durable by itself: recovery reads the sidecars of done images; a failed one fails again.
        """
        with self.transaction(durable=False):
            self._connection.execute(
                "INSERT OR REPLACE INTO image (seq, number, outcome, reason, message, output)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (seq, number, outcome, reason, message, json.dumps(output) if output else None),
            )

    def forget_images(self, seq: int, numbers: Iterable[int]) -> None:
        """Remove images whose files are missing: they are made again."""
        query = "DELETE FROM image WHERE seq = ? AND number = ?"
        with self.transaction(durable=False):
            self._connection.executemany(query, ((seq, number) for number in numbers))

    def forget(self, seq: int) -> None:
        """Remove a job with its images and prompts."""
        with self.transaction():
            for table in ("image", "composed", "job"):
                self._connection.execute(f"DELETE FROM {table} WHERE seq = ?", (seq,))

    # -- marks that outlive the process ----------------------------------------------------------

    def mark_suspects(self, hashes: Iterable[str]) -> None:
        """Record the hashes of specs about to be parsed, of which one may end the process."""
        query = "INSERT OR IGNORE INTO judging VALUES (?, 1)"
        with self.transaction(durable=False):
            self._connection.executemany(query, ((sha256,) for sha256 in hashes))

    def clear_suspects(self, hashes: Iterable[str]) -> None:
        """Remove the hashes of specs that were parsed without ending the process."""
        query = "DELETE FROM judging WHERE sha256 = ?"
        with self.transaction():
            self._connection.executemany(query, ((sha256,) for sha256 in hashes))

    def was_closed_cleanly(self) -> bool:
        """Whether the last process closed the ledger; True for a new one. Marks it as open."""
        with self.transaction(durable=False):
            mark = self._connection.execute("SELECT 1 FROM mark WHERE name = 'open'").fetchone()
            self._connection.execute("INSERT OR IGNORE INTO mark VALUES ('open')")
        return mark is None

    def _set(self, seq: int, values: Mapping[str, object]) -> None:
        assignments = ", ".join(f"{name} = ?" for name in values)
        columns = [column_of(name, value) for name, value in values.items()]
        self._connection.execute(f"UPDATE job SET {assignments} WHERE seq = ?", [*columns, seq])


@contextlib.contextmanager
def _translated_errors(file: Path) -> Iterator[None]:
    """Raise SQLite's OperationalError, as on a full disk, as LedgerUnusable."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise LedgerUnusable(
            f"the ledger {file} cannot be written now ({error}): make room on its disk, or see "
            "that this user may write there"
        ) from error


def is_database(file: Path) -> bool:
    """Whether a file is an undamaged database.

    Raises LedgerUnusable where it cannot be read: a full disk is no damage.
    """
    try:
        with _translated_errors(file), contextlib.closing(sqlite3.connect(file)) as connection:
            return bool(connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
    except sqlite3.DatabaseError:
        return False
