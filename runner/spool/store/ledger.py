"""The ledger: the durable record of every job, one SQLite file private to the runner.

A job exists from the commit that inserts it; what callers see in the outbox is written after that
and can be written again from here. Only the moves below change a job. Those that change its state
look at it first, under the lock, so a cancel and a finish can never both win. Nothing here touches
the inbox or the outbox.

Why SQLite: many jobs are accepted by one synced commit, a full disk or a kill leaves the last
commit intact, and the queue is ordered on disk, so memory does not grow with it.
"""

import contextlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner.clock import now, timestamp
from runner.errors import LedgerUnusable, PlaceAway
from runner.executor import OWN_SLOT
from runner.holds import Hold
from runner.job import Phase, State
from runner.spool.disk.disk import Disk
from runner.spool.store.migrations import remove_copies
from runner.spool.store.names import file_key, key_of
from runner.spool.store.queries import Queries
from runner.spool.store.record import COLUMNS, Record, column_of, counts_of, row_of, storable

MOST_LOSSES = 3
"""So many ends of the process fail the image that was in flight, or the job that was loading."""

CANCELLED = "cancelled by a file in the inbox"
_UNCOMPOSED = "cancelled before it was planned: drop the spec again to run it"
# In flight, and nothing heard of it yet: in a process that made images before, and in a new one.
_BEGUN, _STARTING = "begun", "starting"
_EVENTS_KEPT_SECONDS = 86_400.0
_COLUMNS = (*COLUMNS, "key", "source_key")
_INSERT = f"INSERT INTO job ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"


class Ledger(Queries):
    """Changes and queries the records of jobs; safe to use from any thread.

    `forgotten` counts by state those that this process forgot.
    """

    def __init__(self, file: Path, disk: Disk) -> None:
        super().__init__(file, disk)
        self.forgotten: Counter[str] = Counter()

    def close(self, *, clean: bool = True) -> None:
        """Close the file, and record that this run is over unless `clean` is False."""
        if clean:
            with contextlib.suppress(LedgerUnusable), self.transaction():
                self._mark_run("closed_at")
        with self._lock:
            self._connection.close()
        if clean:
            with contextlib.suppress(OSError, PlaceAway):
                remove_copies(self._file, self._disk)

    # -- from the inbox --------------------------------------------------------------------------

    def reserve(self) -> int:
        """The `seq` for a job that is inserted later; unused, it leaves a gap."""
        with self.transaction(durable=False):
            last = "SELECT seq FROM sqlite_sequence WHERE name = 'job'"
            if self._row(last) is None:
                self._run("INSERT INTO sqlite_sequence VALUES ('job', 0)")
            self._run("UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = 'job'")
            return int(self._rows(last)[0]["seq"])

    def insert(self, record: Record, composed: Iterable[tuple[Any, Any]] = ()) -> Record:
        """Add a job without an event, with its prompts; a `seq` of 0 becomes the next one.

        The prompts of a `compose` are kept, for the pack is not read again for this job. What has a
        `reason` is a row that was left out, and has a number below zero.
        """
        values = row_of(record)
        values[0] = record.seq or None
        with self.transaction():
            values += [key_of(record.id), file_key(storable(record.source_name))]
            seq = self._connection.execute(_INSERT, values).lastrowid
            assert seq is not None
            rows = (
                (seq, ~n if "reason" in origin else n, json.dumps(fields), json.dumps(origin))
                for n, (fields, origin) in enumerate(composed)
            )
            self._run_many("INSERT INTO composed VALUES (?, ?, ?, ?)", rows)
            return replace(record, seq=seq)

    def accept(
        self, record: Record, identity: str, composed: Iterable[tuple[Any, Any]] = ()
    ) -> Record:
        """Record the job of a file in the inbox, which is known until it is answered."""
        with self.transaction():
            record = self.insert(replace(record, foreseen=len(record.warnings)), composed)
            self._run("INSERT INTO unanswered VALUES (?, ?)", identity, record.seq)
            if record.is_final:
                self._announce(record)
            return record

    def answered(self, identities: Iterable[str], stuck: Mapping[str, str] | None = None) -> None:
        """Forget files that have left the inbox for good; recovery repeats what is not recorded.

        Of those that cannot leave it, though they are over, the names are kept: `stuck`.
        """
        over = [(identity,) for identity in identities]
        names = ((identity, storable(name)) for identity, name in (stuck or {}).items())
        with self.transaction(durable=False):
            for table in ("unanswered", "stuck"):
                self._run_many(f"DELETE FROM {table} WHERE identity = ?", over)
            self._run_many("INSERT INTO stuck VALUES (?, ?)", names)

    def forget_quarantined(self, job_id: str) -> None:
        """Forget a job that was taken out: its folder is gone."""
        with self.transaction(durable=False):
            self._run("DELETE FROM quarantine WHERE id = ?", job_id)

    def gathered(self, seq: int, inputs: Mapping[str, str], waits_for: str | None) -> None:
        """Record which inputs of a queued job are copied, and what it waits for, if it does."""
        waits = waits_for is not None
        columns = {"inputs": inputs, "inputs_missing": int(waits), "waits_for": waits_for}
        self._change(seq, State.QUEUED, durable=not waits, **columns)

    def cancel(self, seq: int) -> State | None:
        """End a queued job, or ask a running one to end; the state it had, None if a final one."""
        with self.transaction():
            record = self.get(seq)
            if record.is_final:
                return None
            if record.cancel_at is None:
                self._set(seq, cancel_at=timestamp())
            if record.state == State.QUEUED:
                self.end(seq)
            return record.state

    def keep(self, seq: int) -> None:
        """Mark a job, which must be final, so that `clean` never removes it."""
        if not self.get(seq).kept:
            self._change(seq, None, kept=1)

    def forget(self, *seqs: int, seen: bool = False) -> None:
        """Remove jobs, which must be final, with their images and prompts; events of them stay.

        Where they are `seen`, their files are known when they are delivered again.
        """
        known = "SELECT source_name, source_sha256, source_mtime_ns, id, state FROM job"
        with self.transaction():
            for seq in seqs:
                self.forgotten[self.get(seq).state] += 1
                if seen:
                    self._run(f"INSERT OR REPLACE INTO seen {known} WHERE seq = ?", seq)
                self._remove(seq)

    def forget_past(self) -> None:
        """Forget old events that all listeners have heard, and runs of which nothing is left.

        The newest of each type stays: it says what is known of the runner.
        """
        with self.transaction(durable=False):
            self._run(
                "DELETE FROM event WHERE n <= (SELECT min(n) FROM cursor) AND at < ?"
                " AND n NOT IN (SELECT max(n) FROM event GROUP BY type)",
                timestamp(now() - _EVENTS_KEPT_SECONDS),
            )
            others = "n < (SELECT max(n) FROM run) AND n NOT IN (SELECT run FROM in_flight)"
            self._run(f"DELETE FROM run WHERE {others}")

    # -- a job and the device --------------------------------------------------------------------

    def put_off(self, seq: int, ready_at: float, hold: Hold | None = None) -> None:
        """Record when a queued job may run: when its hours open, or else after this hold."""
        why: dict[str, Any] = (
            {"put_back": hold.reason, "put_back_message": hold.message} if hold else {}
        )
        self._change(seq, State.QUEUED, ready_at=ready_at, **why)

    def begin(self, seq: int) -> Record | None:
        """Let a ready job run; None, with nothing changed, where it is not ready any more."""
        with self.transaction():
            record = self.get(seq)
            if record.state != State.QUEUED or record.inputs_missing or not self.is_answered(seq):
                return None
            self._set(
                seq,
                state=State.RUNNING,
                attempt=record.attempt + 1,
                started_at=record.started_at or timestamp(),
                put_back=None,
                put_back_message=None,
            )
            return self.get(seq)

    def claim(self, seq: int, images: Mapping[int, str], slot: str, *, warm: bool = True) -> bool:
        """Record images, by number with their models, as given to a slot; False if cancelled.

        It comes before the device is asked, so that a kill is charged to the right image: in a
        `warm` process at once, else from the first that is heard of it.
        """
        with self.transaction(durable=False):
            if self._row("SELECT 1 FROM job WHERE seq = ? AND cancel_at IS NOT NULL", seq):
                return False
            phase = _BEGUN if warm else _STARTING
            rows = ((seq, number, model, slot, phase) for number, model in images.items())
            # One that a slot stopped by itself may not be taken out of flight yet.
            now_in_flight = "(?, ?, (SELECT max(n) FROM run), ?, ?, ?)"
            query = f"INSERT OR REPLACE INTO in_flight VALUES {now_in_flight}"
            self._run_many(query, rows)
            return True

    def reached(self, seq: int, numbers: Iterable[int], phase: Phase, model: str) -> None:
        """Record the phase of images in flight; the model of one that is painted is loaded."""
        with self.transaction(durable=False):
            query = "UPDATE in_flight SET phase = ? WHERE seq = ? AND number = ?"
            self._run_many(query, ((phase, seq, number) for number in numbers))
            if phase == Phase.DENOISING:
                self._run("DELETE FROM loss WHERE phase = 'loading' AND model = ?", model)

    def made(
        self, seq: int, number: int, output: Mapping[str, Any],
        state: tuple[int, int] | None = None, *, late: bool = False, reused: bool = False,
    ) -> None:  # fmt: skip
        """Count an image that was saved; of a job that is over only if its files are there: `late`.

        `state` is that of its picture, see `state_of` in outbox.py. Not durable by itself: recovery
        reads the sidecars.
        """
        text = json.dumps(output)
        self._image_over(seq, number, "done", None, None, text, state, late=late, reused=reused)

    def image_failed(self, seq: int, number: int, reason: str, message: str) -> None:
        """Count an image that cannot be made; a late answer changes nothing."""
        self._image_over(seq, number, "failed", reason, message)

    def unmade(self, seq: int, numbers: Iterable[int]) -> None:
        """Forget images whose files are missing: they are made again."""
        with self.transaction(durable=False):
            query = "DELETE FROM image WHERE seq = ? AND number = ?"
            self._run_many(query, ((seq, number) for number in numbers))

    def unclaim(self, seq: int, numbers: Iterable[int] | None = None) -> None:
        """Take images, by default all, out of flight uncharged: they are still to be made."""
        query = "DELETE FROM in_flight WHERE seq = ?1 AND number = coalesce(?2, number)"
        with self.transaction(durable=False):
            every: Iterable[int | None] = [None] if numbers is None else numbers
            self._run_many(query, ((seq, each) for each in every))

    def lost(self, seq: int, why: str, numbers: Iterable[int] | None = None) -> None:
        """Charge these images of a job with the end of their process.

        By default all that were in flight as the runner ended; then only those that it held itself
        are charged: on its own slot, or on their way to the disk. Nobody is charged if it was asked
        to stop. An image that was charged three times fails. A load is charged by itself, see
        `dead_load`, and one of which nothing was heard is only remembered: the frameworks are
        imported then.
        """
        with self.transaction():
            query = (
                "SELECT * FROM in_flight WHERE seq = ?"
                " AND run NOT IN (SELECT n FROM run WHERE coalesce(stop_at, closed_at) IS NOT NULL)"
            )
            moment = timestamp()
            own = numbers if numbers is None else list(numbers)
            for row in self._rows(query, seq):
                number, phase = row["number"], row["phase"]
                held = number in own if own is not None else row["slot"] == OWN_SLOT
                if not (held or (own is None and phase == Phase.SAVING)):
                    continue
                self._run(
                    "INSERT OR REPLACE INTO loss SELECT ?1, ?2,"
                    " CASE ?6 WHEN 'starting' THEN 0 ELSE coalesce(max(attempt), 0) + 1 END,"
                    " ?3, ?4, ?5, ?6, ?7, ?8 FROM loss WHERE seq = ?1 AND number = ?2",
                    seq, number, row["run"], row["model"], row["slot"], phase, why, moment,
                )  # fmt: skip
                query = (
                    "SELECT * FROM loss WHERE seq = ? AND number = ?"
                    " AND phase NOT IN ('starting', 'loading')"
                )
                losses = self._rows(query, seq, number)
                if len(losses) >= MOST_LOSSES:
                    message = (
                        f"its process ended {len(losses)} times during this image "
                        f"({_evidence(losses)}): change the spec, or see `fluxdrop doctor` and "
                        "the runner's log, then retry the job"
                    )
                    self.image_failed(seq, number, "CrashLoop", message)
            self.unclaim(seq, own)

    def dead_load(self, seq: int) -> Hold | None:
        """Why a job must fail whose model ended the process three times in a row while loading."""
        # Of one image: several slots may end at the same load, for lack of memory.
        rows = self._rows("SELECT * FROM loss WHERE seq = ? AND phase = 'loading'", seq)
        for model, number in dict.fromkeys((row["model"], row["number"]) for row in rows):
            losses = [row for row in rows if (row["model"], row["number"]) == (model, number)]
            if len(losses) >= MOST_LOSSES:
                return Hold(
                    "CrashLoop",
                    f"loading {model} ended its process {len(losses)} times ({_evidence(losses)}): "
                    "see `fluxdrop doctor` and the runner's log, then retry the job",
                )
        return None

    def put_back(self, seq: int, hold: Hold, *, after_death: bool = False) -> State:
        """Put a running job back into the queue, or end it if a cancel was asked for.

        Returns its state now. Only the death of a process counts as an attempt.
        """
        with self.transaction():
            record = self.get(seq)
            if record.state != State.RUNNING:
                return record.state
            if record.cancel_at is not None:
                self.end(seq)
                return State.CANCELLED
            self._check_none_in_flight(seq)
            self._set(
                seq,
                state=State.QUEUED,
                attempt=record.attempt - (0 if after_death else 1),
                put_back=hold.reason,
                put_back_message=hold.message,
            )
            return State.QUEUED

    def end(self, seq: int, failure: Hold | None = None) -> bool:
        """End a job: cancelled if that was asked, failed if `failure` or an image says so.

        Returns whether it is over: one whose images are not all over goes on. Every end of a job
        that was queued is recorded here, with its event.
        """
        with self.transaction():
            record = self.get(seq)
            if record.is_final:
                return True
            if record.cancel_at is not None:
                message = CANCELLED if record.total else _UNCOMPOSED
                state, reason = State.CANCELLED, Hold("Cancelled", message)
            elif failure is not None:
                state, reason = State.FAILED, failure
            elif record.images_left:
                return False
            elif record.failed:
                state, reason = State.FAILED, self._first_failure(record)
            else:
                state, reason = State.SUCCEEDED, Hold(None, "")
            self._check_none_in_flight(seq)
            self._set(
                seq,
                state=state,
                end_reason=reason.reason,
                end_message=reason.message or None,
                inputs_missing=0,
                finished_at=timestamp(),
            )
            self._run("DELETE FROM loss WHERE seq = ?", seq)
            self._announce(self.get(seq))
            return True

    def _first_failure(self, record: Record) -> Hold:
        query = "SELECT * FROM image WHERE seq = ? AND outcome = 'failed' ORDER BY number LIMIT 1"
        first = self._rows(query, record.seq)[0]
        of_all = f"{record.failed} of {record.total} images: " if record.total > 1 else ""
        return Hold(first["reason"], f"{of_all}{first['message']}")

    # -- what callers see ------------------------------------------------------------------------

    def published(
        self,
        records: Iterable[Record],
        phases: Mapping[int, tuple[int, str]] | None = None,
    ) -> None:
        """Record that statuses show these records; `phases` has the image and its phase, by `seq`.

        Not durable by itself: recovery repeats what is not recorded. The status of a job that has
        moved meanwhile stays due.
        """
        with self.transaction(durable=False):
            query = "UPDATE job SET revision = revision + 1, shown = max(shown, ?) WHERE seq = ?"
            self._run_many(query, ((r.version, r.seq) for r in records))
            # A load is recorded when it begins and ends, by `reached`.
            query = (
                "UPDATE in_flight SET phase = ?3 WHERE seq = ?1 AND number = ?2"
                " AND 'loading' NOT IN (phase, ?3)"
            )
            self._run_many(query, ((seq, *phase) for seq, phase in (phases or {}).items()))

    def warn(self, seq: int, warnings: Sequence[str]) -> None:
        """Add warnings to a job, each once."""
        with self.transaction(durable=False):
            known = self.get(seq).warnings
            self._change(
                seq, None, durable=False, warnings=list(dict.fromkeys([*known, *warnings]))
            )

    def lift_revision(self, seq: int, revision: int) -> None:
        """Let the next status of a job have a higher revision than this one."""
        with self.transaction(durable=False):
            self._run("UPDATE job SET revision = max(revision, ?) WHERE seq = ?", revision, seq)

    # -- listeners -------------------------------------------------------------------------------

    def heard(self, listener: str, n: int, *, forget: bool = True) -> None:
        """Record that a listener has heard every event up to `n`, and forget what is past."""
        with self.transaction(durable=False):
            known = "ON CONFLICT (listener) DO UPDATE SET n = max(n, excluded.n)"
            self._run(f"INSERT INTO cursor VALUES (?, ?) {known}", listener, n)
            if forget:
                self.forget_past()

    def listen(self, prefix: str, listeners: Iterable[str]) -> None:
        """Have these listeners and no others of the prefix; a new one hears what comes from now."""
        known = {row["listener"] for row in self._rows("SELECT listener FROM cursor")}
        wanted = set(listeners)
        for each in wanted - known:
            self.heard(each, self.newest_event(), forget=False)
        if gone := [(each,) for each in known - wanted if each.startswith(prefix)]:
            with self.transaction(durable=False):
                self._run_many("DELETE FROM cursor WHERE listener = ?", gone)

    def announce(self, event: str, body: Mapping[str, Any]) -> None:
        """Record an event that is about no job."""
        with self.transaction(durable=False):
            query = "INSERT INTO event (type, at, body) VALUES (?, ?, ?)"
            self._run(query, event, timestamp(), json.dumps(body))

    def announce_empty(self, event: str, listener: str) -> None:
        """Record that the queue is empty, where a job that was in it ended since that was said.

        `listener` has heard of those that ended before.
        """
        query = (
            "SELECT json_extract(body, '$.state') AS state, count(*) AS jobs FROM event"
            " WHERE type = 'ended' AND n > ? GROUP BY 1"
        )
        ended = {row["state"]: row["jobs"] for row in self._rows(query, self.heard_by(listener))}
        if ended.keys() - {State.REJECTED}:
            with self.transaction(durable=False):
                self.announce(event, {"jobs": ended})
                self.heard(listener, self.newest_event(), forget=False)

    def _announce(self, record: Record) -> None:
        names = record.realised.get("notify")
        body = {
            "state": record.state,
            "reason": record.end_reason,
            "message": record.end_message,
            "images": counts_of(record),
            **({"notify": names} if isinstance(names, list) else {}),
        }
        self._run(
            "INSERT INTO event (type, seq, id, version, at, body) VALUES ('ended', ?, ?, ?, ?, ?)",
            record.seq, record.id, record.version, timestamp(), json.dumps(body),
        )  # fmt: skip

    # -- the runner ------------------------------------------------------------------------------

    def begin_run(self) -> None:
        """Record that a process has the ledger open now."""
        with self.transaction(durable=False):
            self._run("INSERT INTO run (started_at) VALUES (?)", timestamp())

    def stopping(self) -> None:
        """Record that this process was asked to stop: nothing in flight is charged any more."""
        with self.transaction(durable=False):
            self._mark_run("stop_at")

    def _mark_run(self, column: str) -> None:
        query = f"UPDATE run SET {column} = ? WHERE n = (SELECT max(n) FROM run)"
        self._run(query, timestamp())

    def mark_suspects(self, hashes: Iterable[str]) -> None:
        """Record the hashes of specs about to be parsed, of which one may end the process."""
        with self.transaction(durable=False):
            query = "INSERT OR IGNORE INTO suspect VALUES (?, 1)"
            self._run_many(query, ((sha256,) for sha256 in hashes))

    def clear_suspects(self, hashes: Iterable[str]) -> None:
        """Remove the hashes of specs that were parsed without ending the process."""
        with self.transaction():
            query = "DELETE FROM suspect WHERE sha256 = ?"
            self._run_many(query, ((sha256,) for sha256 in hashes))

    # -- shared by the moves ---------------------------------------------------------------------

    def _image_over(
        self, seq: int, number: int, outcome: str, reason: str | None = None,
        message: str | None = None, output: str | None = None,
        state: tuple[int, int] | None = None, *, late: bool = False, reused: bool = False,
    ) -> None:  # fmt: skip
        query = "SELECT 1 FROM job WHERE seq = ? AND finished_at IS NOT NULL"
        with self.transaction(durable=False):
            if self._row(query, seq) and not late:
                return
            self._run(
                "INSERT OR IGNORE INTO image VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                seq, number, outcome, reason, message, output, *(state or (None, None)), reused,
            )  # fmt: skip
            for table in ("in_flight", "loss"):
                self._run(f"DELETE FROM {table} WHERE seq = ? AND number = ?", seq, number)

    def _check_none_in_flight(self, seq: int) -> None:
        if self._row("SELECT 1 FROM in_flight WHERE seq = ?", seq):
            raise AssertionError(f"job {seq} leaves the device with images in flight")

    def _change(
        self, seq: int, state: State | None, *, durable: bool = True, **values: object
    ) -> None:
        """Set columns of a job; nothing where it is not in this state."""
        with self.transaction(durable=durable):
            if state is None or self.get(seq).state == state:
                self._set(seq, **values)

    def _set(self, seq: int, **values: object) -> None:
        assignments = "".join(f"{name} = ?, " for name in values)
        columns = [column_of(name, value) for name, value in values.items()]
        query = f"UPDATE job SET {assignments}version = version + 1 WHERE seq = ?"
        self._run(query, *columns, seq)


def _evidence(losses: Sequence[sqlite3.Row]) -> str:
    return "; ".join(f"{row['slot']}, {row['phase']}: {row['why']}" for row in losses)
