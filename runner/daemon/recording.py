"""Changes to the ledger that must not be lost, and work on many items of which one may fail.

Nothing can be promised without the ledger, so its changes are retried until it can be written. Used
by the writer thread only.
"""

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from runner.errors import LedgerUnusable
from runner.log_once import LogOnce
from runner.spool.store.ledger import Ledger
from runner.spool.store.record import Record

_AGAIN_SECONDS = 1.0
Item = TypeVar("Item")


class Recorder:
    """Changes one ledger for the writer thread."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._recording = LogOnce("recording what was made")
        self._publishing = LogOnce("putting it into the outbox")
        self.closing = threading.Event()
        """Set when changes are retried no more; the next start recovers what is missing."""

    def persist(self, change: Callable[[], object]) -> None:
        """Call `change`, which writes the ledger, until it succeeds.

        Raises LedgerUnusable where it fails and the runner closes.
        """
        while True:
            try:
                change()
            except LedgerUnusable as error:
                self._recording.failed(error)
                if self.closing.wait(_AGAIN_SECONDS):
                    raise
            else:
                self._recording.recovered()
                return

    def all_or_each(self, act: Callable[[Sequence[Item]], None], items: Sequence[Item]) -> None:
        """Act on all items in one call, for the syncs of one; where that fails, on each alone."""
        if not items:
            return
        try:
            act(items)
        except Exception as error:  # noqa: BLE001 the writer's thread must live
            if len(items) == 1:
                # The status stays behind its record; the daemon publishes it again later.
                self._publishing.failed(error)
                return
            for item in items:
                self.all_or_each(act, [item])
        else:
            self._publishing.recovered()

    def warn(self, record: Record, warnings: Sequence[str]) -> None:
        """Add warnings to a job's record, each once."""
        if warnings:
            self.persist(lambda: self._ledger.warn(record.seq, warnings))
