"""Ends of jobs, and jobs that go back into the queue.

The final state of a job that has begun is decided here under the ledger's lock, so that no cancel
can come between, and is published after the job's page. Called by the writer thread only; never
touches a job that goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runner.clock import timestamp
from runner.daemon.pages import NO_PAGE, Pages
from runner.daemon.recording import Recorder
from runner.errors import JobFailed
from runner.holds import FOUND_NO_ROOM, Hold, disk_hold
from runner.job import State
from runner.spool.store.record import CANCELLED, Record
from runner.spool.store.spool import Spool
from runner.wire import Status


@dataclass(frozen=True)
class JobEnds:
    """Ends jobs; where many end at once, one that fails costs no other."""

    spool: Spool
    pages: Pages
    recorder: Recorder

    def requeue(self, record: Record, hold: Hold) -> None:
        """Put a running job back into the queue at an image's end, without charging an attempt."""
        values = {"reason": hold.reason, "message": hold.message, "attempt": record.attempt - 1}
        self.recorder.persist(lambda: self.spool.ledger.move(record.seq, State.QUEUED, **values))
        self.spool.outbox.write_status(record.seq)

    def end(self, records: Sequence[Record]) -> None:
        """End jobs whose images are all over, or which were cancelled; requeue the others."""
        ledger = self.spool.ledger
        incomplete = [
            record
            for record in records
            if len(ledger.images(record.seq)) < record.total
            and not ledger.get(record.seq).cancelled
        ]
        self.recorder.all_or_each(self._end, [r for r in records if r not in incomplete])
        for record in incomplete:
            self._put_back(record)

    def publish(self, records: Sequence[Record]) -> None:
        """Publish the ends of jobs as the ledger has them: the page, then the status."""
        self.recorder.all_or_each(self._publish, records)

    def _put_back(self, record: Record) -> None:
        hold = disk_hold(self.spool.home) or FOUND_NO_ROOM
        self.recorder.all_or_each(lambda _: self.requeue(record, hold), [record])

    def _end(self, records: Sequence[Record]) -> None:
        self.recorder.persist(lambda: self._decide(records))
        self._publish(records)

    def _decide(self, records: Sequence[Record]) -> None:
        with self.spool.ledger.transaction():
            for record in records:
                state, values = self._final_state(record)
                self.spool.ledger.move(record.seq, state, finished_at=timestamp(), **values)

    def _final_state(self, record: Record) -> tuple[State, Mapping[str, object]]:
        if self.spool.ledger.get(record.seq).cancelled:
            return State.CANCELLED, CANCELLED
        images = self.spool.ledger.images(record.seq)
        failed = [row for row in images.values() if row["outcome"] == "failed"]
        if not failed:
            return State.SUCCEEDED, {"reason": None, "message": None}
        message = failed[0]["message"]
        if record.total > 1:
            message = f"{len(failed)} of {record.total} images: {message}"
        return State.FAILED, {"reason": failed[0]["reason"], "message": message}

    def _publish(self, records: Sequence[Record]) -> None:
        ends = []
        for record in records:
            current, status = self._current(record)
            page, warning = self.pages.of_job(current, status)
            if warning:
                self.recorder.warn(record, [warning])
                current, status = self._current(record)
            ends.append((current, status, page))
        try:
            self.spool.outbox.publish_ends(ends)
        except (JobFailed, OSError) as error:
            if len(records) > 1:
                raise
            # The page can be made again; the end of a job must not wait for it.
            self.recorder.warn(records[0], [NO_PAGE.format(type(error).__name__)])
            self.spool.outbox.publish_ends([(*self._current(records[0]), None)])
        for record in records:
            self.pages.forget(record)

    def _current(self, record: Record) -> tuple[Record, Status]:
        current = self.spool.ledger.get(record.seq)
        return current, self.spool.outbox.status(current)
