"""Files derived from images: contact sheets, the page of the outbox, the gallery's rows, previews.

All of them can be made again from the sidecars, so a failure here is a warning and never costs a
picture. Called by the writer thread only, but for `changed`; an index that is missing is made in a
thread of its own.
"""

import logging
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from runner.clock import monotonic
from runner.daemon.results import TABLES, Results, has_results
from runner.errors import Stopped
from runner.files import is_folder
from runner.gallery.page.layout import Shot, shots_of
from runner.gallery.page.overview import months_in, prompts_of
from runner.gallery.page.paging import Closed, pages_of
from runner.gallery.page.sheet import outbox_page
from runner.gallery.rebuild import entry_of, rebuild
from runner.gallery.store import FOLDER, Gallery
from runner.gallery.terms import facet
from runner.spool.disk.disk import leaving_out
from runner.spool.store.queries import Event
from runner.spool.store.record import Record
from runner.spool.store.spool import Spool
from runner.wire import PREVIEW, Status
from specs import expand

log = logging.getLogger(__name__)

NO_PAGE = "the contact sheet could not be written ({})"
NO_RESULTS = "the tables of results could not be written ({})"
_REFRESH_SECONDS = 5.0
# A page of 500 images takes 0.05 s: making it may cost one part in twenty of the writer's time.
_SHARE = 20.0
_JOBS_SHOWN = 200
# Another process that writes the gallery's index may be stopped.
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
        self._disk, self._faults = spool.disk, spool.faults
        self._results = Results(spool.ledger, spool.outbox)
        self._gallery = Gallery(self._folder, writing=True, patience=_PATIENCE)
        self._threads, self._places = spool.home.threads, spool.home.places
        self._making: threading.Thread | None = None
        self._closing = False
        self._due: dict[int, float] = {}
        # Which pages of a job are closed: of those that are written, and of those made last.
        self._pages_written: dict[int, Closed] = {}
        self._pages_made: dict[int, Closed] = {}
        self._added: Counter[str] = Counter()
        self._outbox_due = 0.0
        self._prompts: dict[int, str] = {}
        self.changed = True

    def close(self) -> None:
        """Bring everything up to date as far as it goes at once."""
        self._closing = True
        if self._making:
            self._making.join()
        self.changed = True
        self.tend(at_once=True)
        self._gallery.close()

    def _see_to_index(self) -> None:
        """Begin to make the gallery's index where there is none that has every picture.

        Events tell of all that was made since, but for those of a ledger that was lost.
        """
        if self._closing or (self._making and self._making.is_alive()):
            return
        lacking = self._gallery.missing or self._gallery.damaged
        if lacking or not self._ledger.has_heard(_LISTENER):
            self._making = self._threads.start("gallery", self._make_index)

    def _make_index(self) -> None:
        """Add what the index lacks of the sidecars: minutes, where there are a year's pictures."""

        def go_on(done: int, total: int) -> None:
            self._threads.moved("gallery")
            self._places.check(self._folder)
            if self._closing:
                raise Stopped("the runner stops")

        try:
            outbox = self._index.parent
            rebuild(self._gallery, outbox, go_on, anew=False, patience=_PATIENCE)
            self._ledger.heard(_LISTENER, 0)
        except (Stopped, TimeoutError):
            # By the next run, or by the process that makes it now.
            return
        except _FAULTS as error:
            log.warning("the gallery's index is not made: %s", error)

    def add(self, sidecars: Iterable[Mapping[str, Any]]) -> None:
        """Add the rows of saved images, from their sidecars; or else when the job ends."""
        rows: list[dict[str, Any]] = []
        try:
            rows.extend(map(entry_of, sidecars))
            self._places.check(self._folder)
            self._gallery.add(*rows)
            self._added.update(row["job"] for row in rows)
        except _FAULTS as error:
            log.warning("no gallery row for %s: %s", [row["id"] for row in rows], error)

    def of_job(self, record: Record, status: Status) -> tuple[Mapping[str, str], str | None]:
        """A job's contact sheet by file name, but for pages that stand, and its results.

        Or none, and a warning.
        """
        began = monotonic()
        closed = self._pages_written.get(record.seq, Closed())
        files: dict[str, str] = {}
        warning = None

        def shots(numbers: Sequence[int]) -> list[Shot]:
            failed = [
                dict(over[number]) for number in numbers if over[number]["outcome"] == "failed"
            ]
            sidecars = self._outbox.sidecars(record.id, numbers).values()
            return shots_of(sidecars, self._failures(record, failed))

        try:
            files |= self._results.of_job(record)
        except _FAULTS as error:
            log.warning("job %s has no results: %s", record.id, error)
            warning = NO_RESULTS.format(type(error).__name__)
        try:
            over = self._ledger.images(record.seq, closed.starts[-1])
            beside = [*sorted(files), *([PREVIEW] if record.realised.get("preview") else ())]
            made = pages_of(status, [*over], shots, closed, beside)
            pages, self._pages_made[record.seq] = made
            files |= pages
        except _FAULTS as error:
            log.warning("job %s has no contact sheet: %s", record.id, error)
            warning, self._pages_made[record.seq] = NO_PAGE.format(type(error).__name__), closed
        ended = monotonic()
        self._due[record.seq] = ended + max(_REFRESH_SECONDS, _SHARE * (ended - began))
        self.changed = True
        return files, warning

    def _failures(
        self, record: Record, rows: Sequence[Mapping[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        """Images that failed, with the settings by which they have their places."""
        prompts, origins = self._ledger.composed(record.seq) if rows else ([], [])
        for row in rows:
            index = row["number"] - 1
            spec = expand.image(record.realised, index, record.base_seed or 0, prompts or None)
            origin = origins[index * len(origins) // record.total] if origins else {}
            facts = {"index": row["number"], "reason": row["reason"], "message": row["message"]}
            yield {**spec, **origin, **facts}

    def refresh_job(self, record: Record, *, at_once: bool = False) -> None:
        """Write those pages of an unfinished job that have changed, if they are due."""
        due = self._due.setdefault(record.seq, monotonic())
        if (monotonic() < due and not at_once) or not (
            has_results(record) or record.realised.get("preview")
        ):
            return
        current, folder = self._ledger.get(record.seq), self._outbox.folder(record.id)
        files, _ = self.of_job(current, self._outbox.status(current))
        pages = [(folder / n, text.encode()) for n, text in files.items() if n not in TABLES]
        if pages:
            self._disk.replace_many(pages, durable=False)
            # Pages that were not written are made again.
            self._pages_written[record.seq] = self._pages_made[record.seq]
        for name in files.keys() & TABLES:
            # Another program may have it open.
            with leaving_out(f"{name} of {record.id}", log.warning):
                self._disk.replace(folder / name, files[name].encode())

    def preview(self, record: Record, picture: bytes) -> None:
        """Replace the preview in the folder of a running job, or remove it where this is empty."""
        file = self._outbox.folder(record.id) / PREVIEW
        if not picture:
            return self._disk.remove(file)
        self._disk.replace(file, picture)
        self.refresh_job(record)

    def forget(self, record: Record) -> None:
        """Drop what is kept for a job; it is over."""
        for kept in (self._due, self._pages_made, self._pages_written):
            kept.pop(record.seq, None)
        self._results.forget(record.seq)

    def tend(self, *, at_once: bool = False) -> None:
        """Complete the gallery; write the page of the newest jobs if it is due, or `at_once`."""
        if not self.changed or not (at_once or monotonic() >= self._outbox_due):
            return
        self.changed = False
        try:
            self._places.check(self._folder)
            self._see_to_index()
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
                if event.type == "ended":
                    self._complete(event)
            # What was heard is not told again: not even after a power cut.
            self._gallery.sync()
            self._ledger.heard(_LISTENER, events[-1].n)

    def _complete(self, event: Event) -> None:
        """Give a job that ended exactly the rows of its sidecars, unless it has as many already.

        Too many are an earlier job's of that id, whose folder was taken away by hand.
        """
        term, rows = f'"{facet("job", event.id)}"', None
        known, _ = self._gallery.page(term, None, None, 0, 0)
        with self._faults.isolated(self._outbox.folder(event.id)):
            done = event.body["images"]["done"]
            if self._added.pop(event.id, 0) != done or known > done:
                rows = [*map(entry_of, self._outbox.sidecars(event.id).values())]
        if rows is not None:
            own = {row["id"] for row in rows}
            _, before = self._gallery.page(term, None, None, known, 0)
            self._gallery.add(*rows)
            self._gallery.remove(*(row for row in before if row["id"] not in own))

    def _write_outbox_page(self) -> None:
        began = monotonic()
        try:
            newest = self._ledger.latest(_JOBS_SHOWN)
            # Callers may move and delete finished folders.
            newest = [record for record in newest if is_folder(self._outbox.folder(record.id))]
            composed = [record for record in newest if "compose" in record.realised]
            packs = {record.id: str(record.realised["compose"]["pack"]) for record in composed}
            statuses = [self._outbox.status(record) for record in newest]
            self._prompts = {
                record.seq: self._prompts.get(record.seq)
                or prompts_of(record.realised, *self._ledger.composed(record.seq)[0])
                for record in newest
            }
            prompts = {record.id: self._prompts[record.seq] for record in newest}
            page = outbox_page(statuses, packs, prompts, months=months_in(self._index.parent))
            self._disk.replace(self._index, page.encode())
        except _FAULTS as error:
            log.warning("no page of the outbox: %s", error)
        ended = monotonic()
        self._outbox_due = ended + max(_REFRESH_SECONDS, _SHARE * (ended - began))
