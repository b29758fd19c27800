"""The ledger's queries, each a method with a name.

Every SELECT of whole jobs is in this file, so that it shows which columns and indexes are used.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Sequence
from typing import Any

from runner.holds import WAITING_FOR_INPUT
from runner.job import State
from runner.spool.store.names import key_of
from runner.spool.store.record import Record, record_of_row

# Without INDEXED BY, SQLite takes the index of states and reads the whole queue, or every job.
_QUEUE = "job INDEXED BY job_turn"
_WAITING = "job INDEXED BY job_waiting"
_UNACKNOWLEDGED = "job INDEXED BY job_identity"
# A job with an identity is still being acknowledged: its status comes before its first image.
_READY = (
    f"state = 'queued' AND identity IS NULL AND reason IS NOT '{WAITING_FOR_INPUT}'"
    " AND ready_at <= ?"
)


class Queries:
    """Reads one ledger, oldest jobs first by default; safe to use from any thread."""

    _connection: sqlite3.Connection
    _lock: threading.RLock

    # -- one job ---------------------------------------------------------------------------------

    def get(self, seq: int) -> Record:
        """The record of one job."""
        return self._select("seq = ?", seq)[0]

    def newest(self, job_id: str) -> Record | None:
        """The newest record of this id, whatever the case it is written in."""
        return self._newest("key = ?", key_of(job_id))

    def newest_of_file(self, name: str) -> Record | None:
        """The newest job that was made of a file of this name."""
        return self._newest("source_name = ?", name)

    def newest_of_content(self, name: str, sha256: str, mtime_ns: int) -> Record | None:
        """The newest job that was made of a file of this name, content and time of change."""
        where = "source_name = ? AND source_sha256 = ? AND source_mtime_ns = ?"
        return self._newest(where, name, sha256, mtime_ns)

    def with_identities(self, identities: Sequence[str]) -> dict[str, Record]:
        """The jobs made of files with these identities, by identity."""
        marks = ", ".join("?" * len(identities))
        records = self._select(f"identity IN ({marks})", *identities)
        return {str(record.identity): record for record in records}

    # -- the queue -------------------------------------------------------------------------------

    def ready(self, wall: float, limit: int) -> list[Record]:
        """The jobs that may run at this time, by priority and age."""
        return self._queued(_READY, wall, limit=limit)

    def ready_with_model(self, wall: float, priority: int, model: str | None) -> Record | None:
        """The oldest ready job of this priority and model."""
        where = f"{_READY} AND priority = ? AND model = ?"
        return _first(self._queued(where, wall, priority, model, limit=1))

    def ready_before(self, wall: float, than: Record, model: str | None) -> Record | None:
        """The oldest ready job that is older than one of its priority and needs another model."""
        where = f"{_READY} AND priority = ? AND seq < ? AND model IS NOT ?"
        return _first(self._queued(where, wall, than.priority, than.seq, model, limit=1))

    def highest_ready_priority(self, wall: float) -> int | None:
        """The highest priority among the ready jobs; None without any."""
        query = f"SELECT priority FROM {_QUEUE} WHERE {_READY} ORDER BY priority DESC, seq LIMIT 1"
        with self._lock:
            row = self._connection.execute(query, (wall,)).fetchone()
        return None if row is None else int(row[0])

    def next_to_open(self, wall: float) -> Record | None:
        """The queued job whose hours open next."""
        where = "state = 'queued' AND ready_at > ?"
        return _first(self._select(where, wall, order="ready_at", limit=1))

    def has_queued(self) -> bool:
        """Whether any job is queued, ready or not."""
        return bool(self._select("state = 'queued'", limit=1))

    def queued(self) -> list[Record]:
        """Every queued job."""
        return self._select("state = 'queued'")

    def waiting_for_input(self, limit: int = -1) -> list[Record]:
        """The queued jobs whose input images are not all there."""
        # The reason as a literal: SQLite uses a partial index only where it can see that it covers.
        where = f"state = 'queued' AND reason = '{WAITING_FOR_INPUT}'"
        return self._select(where, limit=limit, table=_WAITING)

    # -- jobs with work left to do ---------------------------------------------------------------

    def running(self) -> list[Record]:
        """Every running job."""
        return self._select("state = 'running'")

    def cancelled_in_queue(self) -> list[Record]:
        """The queued jobs that were cancelled while they ran."""
        return self._select("state = 'queued' AND cancelled = 1")

    def unpublished(self) -> list[Record]:
        """The jobs whose status is older than their record, but for running ones and the intake's.

        The intake publishes a job that it acknowledges; a running one gets statuses anyway.
        """
        return self._select("behind = 1 AND identity IS NULL AND state <> 'running'")

    def unpublished_cancel(self, seq: int) -> Record | None:
        """This job, if it was cancelled and its status does not say so yet."""
        return _first(self._select("seq = ? AND behind = 1 AND state = 'cancelled'", seq))

    def unacknowledged(self) -> list[Record]:
        """The jobs whose file may still lie in the inbox."""
        return self._select("identity IS NOT NULL", table=_UNACKNOWLEDGED)

    def cut_short(self) -> list[Record]:
        """The jobs whose files a process that died may have left half written."""
        return self._select(
            "state = 'running' OR behind = 1 OR identity IS NOT NULL OR reason = ?",
            WAITING_FOR_INPUT,
        )

    # -- all jobs --------------------------------------------------------------------------------

    def is_empty(self) -> bool:
        """Whether no job is recorded."""
        return not self._select("1 = 1", limit=1)

    def latest(self, limit: int) -> list[Record]:
        """The jobs accepted last, newest first."""
        return self._select("1 = 1", order="seq DESC", limit=limit)

    def counts(self) -> dict[str, int]:
        """How many jobs are in each state."""
        with self._lock:
            rows = self._connection.execute("SELECT state, count(*) FROM job GROUP BY state")
            return dict.fromkeys(map(str, State), 0) | dict(map(tuple, rows))

    # -- images ----------------------------------------------------------------------------------

    def images(self, seq: int) -> dict[int, sqlite3.Row]:
        """The images of a job that have ended, by number."""
        with self._lock:
            rows = self._connection.execute("SELECT * FROM image WHERE seq = ?", (seq,))
            return {row["number"]: row for row in rows}

    def tally(self, seq: int) -> dict[str, int]:
        """How many images of a job ended each way (`done`, `failed`, `skipped`)."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT outcome, count(*) FROM image WHERE seq = ? GROUP BY outcome", (seq,)
            )
            return {"done": 0, "failed": 0, "skipped": 0} | dict(list(map(tuple, rows)))

    def outputs(self, seq: int, newest: int) -> list[dict[str, Any]]:
        """The `outputs` entries of the newest images, in order of their numbers."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT output FROM image WHERE seq = ? AND outcome = 'done'"
                " ORDER BY number DESC LIMIT ?",
                (seq, newest),
            )
            return [json.loads(row["output"]) for row in rows][::-1]

    def composed(self, seq: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """The prompts of a `compose` and what its images keep of the pack, in order."""
        with self._lock:
            query = "SELECT fields, origin FROM composed WHERE seq = ? ORDER BY number"
            rows = self._connection.execute(query, (seq,))
            return [(json.loads(fields), json.loads(origin)) for fields, origin in rows]

    def suspects(self) -> set[str]:
        """The hashes of the specs that were being parsed when a process ended."""
        with self._lock:
            return {row[0] for row in self._connection.execute("SELECT sha256 FROM judging")}

    def _newest(self, where: str, *values: object) -> Record | None:
        return _first(self._select(where, *values, order="seq DESC", limit=1))

    def _queued(self, where: str, *values: object, limit: int) -> list[Record]:
        return self._select(where, *values, order="priority DESC, seq", limit=limit, table=_QUEUE)

    def _select(
        self, where: str, *values: object, order: str = "seq", limit: int = -1, table: str = "job"
    ) -> list[Record]:
        query = f"SELECT * FROM {table} WHERE {where} ORDER BY {order} LIMIT {limit}"
        with self._lock:
            return [record_of_row(row) for row in self._connection.execute(query, values)]


def _first(records: list[Record]) -> Record | None:
    return records[0] if records else None
