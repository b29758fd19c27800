"""The ledger's queries, each a method with a name.

Every SELECT of whole jobs is in this file, so that it shows which columns and indexes are used.
"""

import itertools
import json
import os
import sqlite3
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runner.clock import timestamp
from runner.files import text_of
from runner.job import State
from runner.spool.store.database import Database
from runner.spool.store.names import Names, file_key, key_of, plain
from runner.spool.store.record import Record, record_of_row, storable

# Without INDEXED BY, SQLite takes the index of states and reads the whole queue, or every job.
_QUEUE = "job INDEXED BY job_turn"
_WAITING = "job INDEXED BY job_inputs"
_BEHIND = "job INDEXED BY job_behind"
_ANSWERED = "NOT EXISTS (SELECT 1 FROM unanswered u WHERE u.seq = job.seq)"
# A job whose file still lies in the inbox is being acknowledged: its status comes first.
_READY = f"state = 'queued' AND inputs_missing = 0 AND ready_at <= ? AND {_ANSWERED}"


@dataclass(frozen=True)
class Event:
    """Something that listeners hear of, in the order of `n`; of type `ended` a job that did.

    `body` is what its status said then. It `stands` once the job's status says so.
    """

    n: int
    type: str
    seq: int | None
    id: str
    at: str
    body: dict[str, Any]
    stands: bool


@dataclass(frozen=True)
class Run:
    """How the last process left the ledger: closed, stopping or at work."""

    closed: bool
    stopping: bool


class Queries(Database):
    """Reads one ledger, oldest jobs first by default; safe to use from any thread.

    A job whose row cannot be read is taken out, for it would be in the way of every query.
    """

    # -- one job ---------------------------------------------------------------------------------

    def get(self, seq: int) -> Record:
        """The record of one job."""
        return self._select("seq = ?", seq)[0]

    def find(self, seq: int) -> Record | None:
        """The record of one job, or None where it was forgotten."""
        return _first(self._select("seq = ?", seq))

    def newest(self, job_id: str) -> Record | None:
        """The newest record of this id, whatever the case it is written in."""
        return self._newest("key = ?", storable(key_of(job_id)))

    def newest_of_file(self, name: str) -> Record | None:
        """The newest job that was made of a file of this name, however it is spelled if it is one.

        See `Names`.
        """
        query = "SELECT source_name, max(seq) FROM job WHERE source_key = ? GROUP BY source_name"
        newest: dict[str, int] = {}
        for stored, seq in self._rows(query, file_key(storable(name))):
            own = os.fsdecode(stored)
            for each in (own, plain(own)):
                newest[each] = max(seq, newest.get(each, 0))
        meant = Names(newest).alike(name)
        return self.find(newest[meant[0]]) if len(meant) == 1 else None

    def unused_number(self, stem: str, first: int) -> int:
        """A number from this one on that no job has behind this stem, but for rejected ones.

        Found in a few steps: the next one, unless numbers between were forgotten.
        """
        query = "SELECT 1 FROM job WHERE key = ? AND state <> 'rejected'"

        def is_unused(number: int) -> bool:
            return self._row(query, f"{key_of(stem)}-{number}") is None

        steps = (first + 2**power - 1 for power in itertools.count())
        end = next(filter(is_unused, steps))
        return bisect_left(range(end), True, lo=first, key=is_unused)

    def newest_of_content(self, name: str, sha256: str, mtime_ns: int) -> Record | None:
        """The newest job that was made of a file of this name, content and time of change.

        Of a forgotten one, what its answer needs.
        """
        stored = storable(name)
        where = "source_key = ? AND source_name = ? AND source_sha256 = ? AND source_mtime_ns = ?"
        found = self._newest(where, file_key(stored), stored, sha256, mtime_ns)
        query = "SELECT id, state FROM seen WHERE name = ? AND sha256 = ? AND mtime_ns = ?"
        if found or not (row := self._row(query, stored, sha256, mtime_ns)):
            return found
        return Record(0, row["id"], State(row["state"]), name, sha256, 0, "", b"", "")

    def with_identities(self, identities: Sequence[str]) -> dict[str, Record]:
        """The jobs made of files with these identities that are not answered yet, by identity."""
        marks = ", ".join("?" * len(identities))
        query = f"SELECT identity, seq FROM unanswered WHERE identity IN ({marks})"
        return self._by_identity(self._rows(query, *identities))

    def is_answered(self, seq: int) -> bool:
        """Whether the file that a job was made of has left the inbox for good."""
        return self._row("SELECT 1 FROM unanswered WHERE seq = ?", seq) is None

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

    def closed(self, wall: float, limit: int = -1) -> list[Record]:
        """The queued jobs whose hours are closed at this time, the next to open first."""
        where = "state = 'queued' AND ready_at > ?"
        return self._select(where, wall, order="ready_at", limit=limit)

    def has_queued(self) -> bool:
        """Whether any job is queued, ready or not."""
        return bool(self._select("state = 'queued'", limit=1))

    def queued(self) -> list[Record]:
        """Every queued job."""
        return self._select("state = 'queued'")

    def queued_ids(self) -> dict[int, str]:
        """The ids of every queued job that is answered, by `seq`."""
        query = f"SELECT seq, id FROM job WHERE state = 'queued' AND {_ANSWERED}"
        return dict(map(tuple, self._rows(query)))

    def waiting_for_input(self, limit: int = -1) -> list[Record]:
        """The queued jobs whose input images are not all there."""
        return self._select("inputs_missing = 1", limit=limit, table=_WAITING)

    # -- jobs with work left to do ---------------------------------------------------------------

    def running(self) -> list[Record]:
        """Every running job."""
        return self._select("state = 'running'")

    def behind(self) -> list[Record]:
        """The jobs whose status is older than their record, but for running ones and the intake's.

        The intake publishes a job that it acknowledges; a running one gets statuses anyway.
        """
        where = f"shown < version AND state <> 'running' AND {_ANSWERED}"
        return self._select(where, table=_BEHIND)

    def unanswered(self) -> dict[str, Record]:
        """The jobs whose file may still lie in the inbox, by its identity, oldest first."""
        return self._by_identity(self._rows("SELECT identity, seq FROM unanswered ORDER BY seq"))

    def stuck(self) -> dict[str, str]:
        """The names of the files that cannot leave the inbox though they are over, by identity."""
        rows = self._rows("SELECT identity, name FROM stuck")
        return {row["identity"]: os.fsdecode(row["name"]) for row in rows}

    def cut_short(self) -> list[Record]:
        """The jobs whose files a process that died may have left half written."""
        return self._select(
            "state = 'running' OR shown < version OR inputs_missing = 1"
            " OR seq IN (SELECT seq FROM unanswered)"
        )

    # -- all jobs --------------------------------------------------------------------------------

    def latest(self, limit: int) -> list[Record]:
        """The jobs accepted last, newest first."""
        return self._select("1 = 1", order="seq DESC", limit=limit)

    def over(self, *, after: int, limit: int) -> list[Record]:
        """The next jobs behind one that are over, shown so and not kept."""
        where = "seq > ? AND state NOT IN ('queued', 'running') AND shown >= version AND kept = 0"
        return self._select(f"{where} AND {_ANSWERED}", after, limit=limit)

    def rejected(self, *, after: int, limit: int) -> list[Record]:
        """The newest rejected jobs, but for the `after` newest of all."""
        query = "SELECT seq FROM job WHERE state = 'rejected' ORDER BY seq DESC LIMIT ? OFFSET ?"
        return [self.get(row["seq"]) for row in self._rows(query, limit, after)]

    def counts(self) -> dict[str, int]:
        """How many jobs are in each state."""
        rows = self._rows("SELECT state, count(*) FROM job GROUP BY state")
        return dict.fromkeys(map(str, State), 0) | dict(map(tuple, rows))

    # -- images ----------------------------------------------------------------------------------

    def images(self, seq: int, start: int = 0) -> dict[int, sqlite3.Row]:
        """The images of a job that are over, by number and in its order, from `start` on."""
        query = "SELECT * FROM image WHERE seq = ? AND number >= ? ORDER BY number"
        return {row["number"]: row for row in self._rows(query, seq, start)}

    def suspect_images(self, seq: int) -> frozenset[int]:
        """The images of a job during which a process ended: each of them is made alone."""
        query = "SELECT number FROM loss WHERE seq = ? AND phase <> 'loading'"
        return frozenset(row["number"] for row in self._rows(query, seq))

    def outputs(self, seq: int, newest: int) -> list[dict[str, Any]]:
        """The `outputs` entries of the newest images, in order of their numbers."""
        query = (
            "SELECT output FROM image WHERE seq = ? AND outcome = 'done'"
            " ORDER BY number DESC LIMIT ?"
        )
        outputs = map(_object, (row["output"] for row in self._rows(query, seq, newest)))
        return [output for output in outputs if output][::-1]

    def composed(self, seq: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The prompts of a `compose`, and what the images of each keep of the pack, in order."""
        query = "SELECT fields, origin FROM composed WHERE seq = ? AND number >= 0 ORDER BY number"
        rows = self._rows(query, seq)
        fields, origins = ([json.loads(row[name]) for row in rows] for name in ("fields", "origin"))
        return fields, origins

    def rows_left_out(self, seq: int) -> list[dict[str, Any]]:
        """The rows of a table that are left out, in order: `row`, `reason` and `message`."""
        query = "SELECT origin FROM composed WHERE seq = ? AND number < 0 ORDER BY number DESC"
        return [json.loads(row["origin"]) for row in self._rows(query, seq)]

    # -- the runner ------------------------------------------------------------------------------

    def suspects(self) -> set[str]:
        """The hashes of the specs that were being parsed when a process ended."""
        return {row["sha256"] for row in self._rows("SELECT sha256 FROM suspect")}

    def last_run(self) -> Run:
        """How the last process ended; a new ledger was closed."""
        row = self._row("SELECT stop_at, closed_at FROM run ORDER BY n DESC LIMIT 1")
        if row is None:
            return Run(closed=True, stopping=True)
        return Run(closed=row["closed_at"] is not None, stopping=row["stop_at"] is not None)

    def events_for(self, listener: str, most: int) -> list[Event]:
        """The next events that a listener has not heard, up to the first not shown yet.

        Nobody hears of an end before the job's status says so; one that cannot be written holds up
        those after it.
        """
        events = self.events_after(self.heard_by(listener), most)
        return [*itertools.takewhile(lambda event: event.stands, events)]

    def events_after(self, n: int, most: int) -> list[Event]:
        """The next events after this number."""
        query = (
            "SELECT n, type, seq, event.id, at, body,"
            " coalesce(shown >= event.version, 1) AS stands"
            " FROM event LEFT JOIN job USING (seq) WHERE n > ? ORDER BY n LIMIT ?"
        )
        return [
            Event(**{**row, "body": _object(row["body"]), "stands": bool(row["stands"])})
            for row in map(dict, self._rows(query, n, most))
        ]

    def newest_event(self) -> int:
        """The number of the newest event there was."""
        row = self._row("SELECT seq FROM sqlite_sequence WHERE name = 'event'")
        return row["seq"] if row else 0

    def last_event(self, *types: str) -> Event | None:
        """The newest event of these types."""
        one_of = ", ".join("?" * len(types))
        query = f"SELECT n FROM event WHERE type IN ({one_of}) ORDER BY n DESC LIMIT 1"
        row = self._row(query, *types)
        return self.events_after(row["n"] - 1, 1)[0] if row else None

    def heard_by(self, listener: str) -> int:
        """The number of the newest event that a listener has heard; 0 where there is none."""
        row = self._row("SELECT n FROM cursor WHERE listener = ?", listener)
        return row["n"] if row else 0

    def has_heard(self, listener: str) -> bool:
        """Whether a listener has ever heard of events in this ledger."""
        return self._row("SELECT 1 FROM cursor WHERE listener = ?", listener) is not None

    def end_is_shown(self, seq: int) -> bool:
        """Whether the status of a job that is over has said so."""
        # The gallery hears of no end before that; those that it has heard may be many.
        query = (
            "SELECT 1 FROM event JOIN job USING (seq) WHERE seq = ? AND shown < event.version"
            " AND n > coalesce((SELECT n FROM cursor WHERE listener = 'gallery'), 0)"
        )
        return self._row(query, seq) is None

    def quarantined(self) -> list[sqlite3.Row]:
        """The jobs whose records cannot be read or were not made again: `id`, `why`, since `at`."""
        return self._rows("SELECT id, why, at FROM quarantine ORDER BY at")

    def _by_identity(self, rows: Sequence[sqlite3.Row]) -> dict[str, Record]:
        found = ((row["identity"], self.find(row["seq"])) for row in rows)
        return {identity: record for identity, record in found if record is not None}

    def _newest(self, where: str, *values: object) -> Record | None:
        return _first(self._select(where, *values, order="seq DESC", limit=1))

    def _queued(self, where: str, *values: object, limit: int) -> list[Record]:
        return self._select(where, *values, order="priority DESC, seq", limit=limit, table=_QUEUE)

    def _select(
        self, where: str, *values: object, order: str = "seq", limit: int = -1, table: str = "job"
    ) -> list[Record]:
        query = f"SELECT * FROM {table} WHERE {where} ORDER BY {order} LIMIT {limit}"
        while True:
            records = []
            for row in self._rows(query, *values):
                try:
                    records.append(record_of_row(row))
                except (ValueError, TypeError) as error:
                    why = f"its record in the ledger cannot be read ({error})"
                    job_id = text_of(os.fsdecode(row["id"]))
                    self.quarantine(job_id, why, row["seq"], repr(dict(row)))
                    # A query with a limit must find the one after it.
                    break
            else:
                return records

    def quarantine(self, job_id: str, why: str, seq: int = 0, record: str = "") -> None:
        """Take a job that cannot be read out of the ledger, but for what is known of it."""
        with self.transaction(durable=False):
            query = "INSERT OR REPLACE INTO quarantine VALUES (?, ?, ?, ?)"
            self._run(query, job_id, why, record, timestamp())
            self._remove(seq)

    def _remove(self, seq: int) -> None:
        for table in ("job", "image", "composed", "in_flight", "loss", "unanswered"):
            self._run(f"DELETE FROM {table} WHERE seq = ?", seq)


def _object(text: str) -> dict[str, Any]:
    """A JSON object; empty where it cannot be read."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _first(records: list[Record]) -> Record | None:
    return records[0] if records else None
