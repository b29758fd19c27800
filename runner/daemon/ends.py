"""Ends of jobs, and jobs that go back into the queue.

A final state is decided here under the ledger's lock, where no cancel can come between, and is
published last of all. Called by the writer thread only; never touches a job that goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from runner.clock import timestamp
from runner.daemon.pages import NO_PAGE, Pages
from runner.daemon.recording import Recorder
from runner.errors import JobFailed
from runner.holds import FOUND_NO_ROOM, Hold, disk_hold
from runner.job import State
from runner.spool.store.record import CANCELLED, Record
from runner.spool.store.spool import Spool
from runner.wire import Status


class JobEnds:
    """Ends jobs; where many end at once, one that fails costs no other."""

    def __init__(self, spool: Spool, pages: Pages, recorder: Recorder) -> None:
        self._home = spool.home
        self._ledger = spool.ledger
        self._outbox = spool.outbox
        self._pages = pages
        self._recorder = recorder

    def requeue(self, record: Record, hold: Hold) -> None:
        """Put a running job back at an image's end, without charging an attempt."""
        values = {"reason": hold.reason, "message": hold.message, "attempt": record.attempt - 1}
        self._recorder.surely(lambda: self._ledger.move(record.seq, State.QUEUED, **values))
        self._outbox.write_status(record.seq)

    def end(self, records: Sequence[Record]) -> None:
        """End jobs whose images are all over, or which were cancelled."""
        short = [record for record in records if self._lacks_images(record)]
        self._recorder.all_or_each(self._end, [record for record in records if record not in short])
        for record in short:
            self._put_back(record)

    def publish(self, records: Sequence[Record]) -> None:
        """Publish ends that the ledger has and readers may lack: the page, then the status."""
        self._recorder.all_or_each(self._publish, records)

    def _lacks_images(self, record: Record) -> bool:
        over = self._ledger.images(record.seq)
        return len(over) < record.total and not self._ledger.get(record.seq).cancelled

    def _put_back(self, record: Record) -> None:
        hold = disk_hold(self._home) or FOUND_NO_ROOM
        self._recorder.all_or_each(lambda _: self.requeue(record, hold), [record])

    def _end(self, records: Sequence[Record]) -> None:
        self._recorder.surely(lambda: self._decide(records))
        self._publish(records)

    def _decide(self, records: Iterable[Record]) -> None:
        with self._ledger.transaction():
            for record in records:
                state, values = self._ending(record)
                self._ledger.move(record.seq, state, finished_at=timestamp(), **values)

    def _ending(self, record: Record) -> tuple[State, Mapping[str, object]]:
        if self._ledger.get(record.seq).cancelled:
            return State.CANCELLED, CANCELLED
        images = self._ledger.images(record.seq)
        failed = [row for row in images.values() if row["outcome"] == "failed"]
        if failed:
            message = _failure(failed, record.total)
            return State.FAILED, {"reason": failed[0]["reason"], "message": message}
        return State.SUCCEEDED, {"reason": None, "message": None}

    def _publish(self, records: Sequence[Record]) -> None:
        ends = []
        for record in records:
            now, status = self._now(record)
            page, missing = self._pages.of_job(now, status)
            if missing:
                self._recorder.warn(record, [missing])
                now, status = self._now(record)
            ends.append((now, status, page))
        try:
            self._outbox.publish_ends(ends)
        except (JobFailed, OSError) as error:
            if len(records) > 1:
                raise
            # The page can be made again; the end of a job must not wait for it.
            self._recorder.warn(records[0], [NO_PAGE.format(type(error).__name__)])
            self._outbox.publish_ends([(*self._now(records[0]), None)])
        for record in records:
            self._pages.forget(record)

    def _now(self, record: Record) -> tuple[Record, Status]:
        now = self._ledger.get(record.seq)
        return now, self._outbox.status(now)


def _failure(failed: list[Any], total: int) -> str:
    first = failed[0]["message"]
    return first if len(failed) == total == 1 else f"{len(failed)} of {total} images: {first}"
