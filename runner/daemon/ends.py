"""Ends of jobs, and jobs that go back into the queue.

The ledger decides how a job ends; its status is published here, after the job's page. Called by the
writer thread only; never touches a job that goes on.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from runner.daemon.metrics import Metrics
from runner.daemon.pages import NO_PAGE, NO_RESULTS, Pages
from runner.daemon.recording import Recorder
from runner.daemon.results import TABLES
from runner.errors import JobFailed
from runner.files import names_in
from runner.holds import NOT_SAVED, UNWRITABLE, Hold, disk_hold
from runner.spool.disk.disk import leaving_out
from runner.spool.store.record import Record
from runner.spool.store.spool import Spool

log = logging.getLogger(__name__)

GONE = "{} of {} pictures were no longer in the folder when the job ended"


@dataclass(frozen=True)
class JobEnds:
    """Ends jobs; where many end at once, one that fails costs no other."""

    spool: Spool
    pages: Pages
    recorder: Recorder
    metrics: Metrics

    def requeue(self, record: Record, hold: Hold) -> None:
        """Put a job back into the queue at an image's end, or end it if it was cancelled."""
        self.recorder.persist(lambda: self.spool.ledger.put_back(record.seq, hold))
        log.info("job %s goes back into the queue: %s", record.id, hold.reason)
        self.spool.outbox.write_status(record.seq)
        # It may wait until the night; for room on the disk it waits anyway.
        with suppress(OSError):
            self.pages.refresh_job(record, at_once=True)
        # It was cancelled, before or after.
        self.publish([record])

    def end(self, records: Sequence[Record]) -> None:
        """End jobs whose images are all over, or which were cancelled; requeue the others."""
        self.recorder.all_or_each(self._end, records)

    def publish(self, records: Sequence[Record]) -> None:
        """Publish those of these jobs that are over and not shown: the page, then the status."""
        found = [self.spool.ledger.find(record.seq) for record in records]
        due = [each for each in found if each is not None and each.is_final and not each.is_shown]
        self.recorder.all_or_each(self._publish, due)

    def _end(self, records: Sequence[Record]) -> None:
        over: set[int] = set()
        self.recorder.persist(lambda: over.update(self._record_ends(records)))
        for record in records:
            if record.seq not in over:
                aside = self.spool.faults.below(self.spool.outbox.folder(record.id))
                hold = UNWRITABLE if aside else NOT_SAVED
                self.requeue(record, disk_hold(self.spool.home) or hold)
        if ended := [record for record in records if record.seq in over]:
            self._publish(ended)

    def _count_gone(self, record: Record) -> None:
        """Say how many of a job's pictures were moved or deleted before its end was shown."""
        made = self.spool.ledger.outputs(record.seq, record.total)
        if not made or self.spool.ledger.end_is_shown(record.seq):
            return
        folder = self.spool.outbox.folder(record.id)
        with leaving_out(f"the number of pictures that are gone from {folder}", log.warning):
            there = {*names_in(folder)}
            if gone := sum(output["file"] not in there for output in made):
                self.recorder.warn(record, [GONE.format(gone, len(made))])

    def _record_ends(self, records: Sequence[Record]) -> list[int]:
        with self.spool.ledger.transaction():
            return [record.seq for record in records if self.spool.ledger.end(record.seq)]

    def _publish(self, records: Sequence[Record]) -> None:
        pages: dict[int, Mapping[str, str]] = {}
        ended = []
        for record in records:
            self._count_gone(record)
            ended.append(current := self.spool.ledger.get(record.seq))
            status = self.spool.outbox.status(current)
            pages[record.seq], warning = self.pages.of_job(current, status)
            if warning:
                self.recorder.warn(record, [warning])
        try:
            self.spool.outbox.publish_ends(pages)
        except (JobFailed, OSError) as error:
            if len(records) > 1:
                raise
            # Both can be made again, and the end of a job must not wait for them.
            ((seq, files),) = pages.items()
            page = {name: text for name, text in files.items() if name not in TABLES}
            try:
                if page == files:
                    raise
                # Another program may have a table open.
                self.recorder.warn(records[0], [NO_RESULTS.format(type(error).__name__)])
                self.spool.outbox.publish_ends({seq: page})
            except (JobFailed, OSError):
                self.recorder.warn(records[0], [NO_PAGE.format(type(error).__name__)])
                self.spool.outbox.publish_ends({seq: {}})
        for record in ended:
            self.pages.forget(record)
            self.metrics.over(record, "unmade", record.images_left)
            log.info("job %s %s, %d of %d made", record.id, record.state, record.done, record.total)
