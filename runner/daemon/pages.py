"""Files derived from saved images: contact sheets, the page of the outbox, the gallery's rows.

All of them can be made again from the sidecars, so a failure here is a warning and never costs a
picture. Called by the writer thread only, but for `changed`.
"""

import contextlib
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from runner.clock import monotonic
from runner.gallery.page.sheet import job_page, outbox_page
from runner.gallery.rebuild import ensure, row_of
from runner.gallery.store import FOLDER, Gallery
from runner.spool.disk.disk import TEMPORARY_SUFFIX, is_left
from runner.spool.store.record import Record
from runner.spool.store.spool import Spool
from runner.wire import Status

log = logging.getLogger(__name__)

NO_PAGE = "the contact sheet could not be written ({})"
_REFRESH_SECONDS = 5.0
# A page of 10,000 images takes 0.6 s: making it may cost one part in twenty of the writer's time.
_SHARE = 20.0
_JOBS_SHOWN = 200
# Another process that rebuilds the gallery may be slow, or stopped.
_PATIENCE = 0.5
_LISTENER = "gallery"
_MOST_EVENTS = 256
# Whatever it is: sidecars and folders are their callers', and the writer's thread must live.
_FAULTS = (Exception,)


class Pages:
    """Keeps the derived files of one outbox up to date."""

    def __init__(self, spool: Spool) -> None:
        self._index = spool.home.outbox / "index.html"
        self._folder = spool.home.data / FOLDER
        self._ledger = spool.ledger
        self._outbox = spool.outbox
        self._disk = spool.disk
        self._gallery = Gallery(self._folder, spool.disk.replace, patience=_PATIENCE)
        self._is_made_elsewhere = False
        self._due: dict[int, float] = {}
        self._added: Counter[str] = Counter()
        self._outbox_due = 0.0
        self.changed = True

    def open(self) -> None:
        """Add what the gallery lacks of the sidecars: after a kill, or when its index is gone."""
        try:
            # Another process may just be removing a folder that is looked into.
            with contextlib.suppress(FileNotFoundError):
                for temporary in self._folder.rglob(f".*{TEMPORARY_SUFFIX}"):
                    if is_left(temporary):
                        self._disk.remove(temporary)
            self._ensure()
        except _FAULTS:
            log.exception("the gallery could not be opened; `fluxdrop gallery rebuild` makes it")

    def _ensure(self) -> None:
        """Add what the gallery lacks, or try again later where another process makes its index."""
        try:
            ensure(self._folder, self._index.parent, self._disk.replace, patience=_PATIENCE)
            self._is_made_elsewhere = False
        except TimeoutError:
            # It brings along what is added here, and may be killed before it does.
            self._is_made_elsewhere = self.changed = True

    def add(self, sidecars: Iterable[Mapping[str, Any]]) -> None:
        """Add the rows of saved images, from their sidecars; or else when the job ends."""
        rows: list[dict[str, Any]] = []
        try:
            rows.extend(map(row_of, sidecars))
            self._gallery.add(*rows)
            self._added.update(row["job"] for row in rows)
        except _FAULTS as error:
            log.warning("no gallery row for %s: %s", [row["id"] for row in rows], error)

    def of_job(self, record: Record, status: Status) -> tuple[str | None, str | None]:
        """A job's contact sheet, or None and a warning."""
        began = monotonic()
        try:
            sidecars = self._outbox.sidecars(record.id)
            failures = [
                {"index": number, "reason": row["reason"], "message": row["message"]}
                for number, row in self._ledger.images(record.seq).items()
                if row["outcome"] == "failed"
            ]
            page = job_page(status, [sidecars[n] for n in sorted(sidecars)], failures=failures)
            return page, None
        except _FAULTS as error:
            log.warning("no contact sheet for %s: %s", record.id, error)
            return None, NO_PAGE.format(type(error).__name__)
        finally:
            ended = monotonic()
            self._due[record.seq] = ended + max(_REFRESH_SECONDS, _SHARE * (ended - began))
            self.changed = True

    def refresh_job(self, record: Record) -> None:
        """Write a running job's contact sheet if it is due."""
        if record.total < 2 or monotonic() < self._due.setdefault(record.seq, monotonic()):
            return
        current = self._ledger.get(record.seq)
        page, _ = self.of_job(current, self._outbox.status(current))
        if page is not None:
            self._disk.replace(self._outbox.folder(record.id) / "index.html", page.encode())

    def forget(self, record: Record) -> None:
        """Drop what is kept for a job; it is over."""
        self._due.pop(record.seq, None)

    def tend(self, *, at_once: bool = False) -> None:
        """Complete the gallery; write the page of the newest jobs if it is due, or `at_once`."""
        if not self.changed or not (at_once or monotonic() >= self._outbox_due):
            return
        self.changed = False
        try:
            if self._is_made_elsewhere:
                self._ensure()
            self._complete_gallery()
        except _FAULTS as error:
            # The events stay unheard, and their jobs are tried again.
            log.warning("the gallery lacks images: %s", error)
            self.changed = True
        self._write_outbox_page()

    def _complete_gallery(self) -> None:
        """Add the rows that ended jobs lack: made by a process that was killed, or not written."""
        while events := self._ledger.events_for(_LISTENER, _MOST_EVENTS):
            for event in events:
                if self._added.pop(event.id, 0) != event.body["images"]["done"]:
                    self._gallery.add(*map(row_of, self._outbox.sidecars(event.id).values()))
            self._ledger.heard(_LISTENER, events[-1].n)

    def _write_outbox_page(self) -> None:
        began = monotonic()
        try:
            newest = self._ledger.latest(_JOBS_SHOWN)
            # Callers may move and delete finished folders.
            newest = [record for record in newest if self._outbox.folder(record.id).is_dir()]
            composed = [record for record in newest if "compose" in record.realised]
            packs = {record.id: str(record.realised["compose"]["pack"]) for record in composed}
            page = outbox_page([self._outbox.status(record) for record in newest], packs)
            self._disk.replace(self._index, page.encode())
        except _FAULTS as error:
            log.warning("no page of the outbox: %s", error)
        ended = monotonic()
        self._outbox_due = ended + max(_REFRESH_SECONDS, _SHARE * (ended - began))
