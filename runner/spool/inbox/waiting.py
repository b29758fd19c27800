"""Gathers the input images of jobs: copies those that are there and waits for the others.

A picture that an unfinished job will make is waited for until that job ends; anything else for the
setting `input_wait_seconds`. A job waits no longer once it has private copies of all its inputs, or
has failed.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from runner.clock import monotonic
from runner.errors import DiskFull, InputBad, InputMissing, JobFailed
from runner.files import is_file
from runner.holds import Hold
from runner.spool.disk.disk import concerns_all
from runner.spool.inbox.ids import is_away
from runner.spool.inbox.inputs import (
    TABLE,
    Folders,
    Snapshot,
    copies_in,
    copy_name,
    hint_of,
    is_from_outbox,
    maker_of,
    paths_of,
    place_of,
    relative,
    take,
)
from runner.spool.store.names import key_of
from runner.spool.store.outbox import ORIGINAL
from runner.spool.store.record import Record
from runner.spool.store.spool import Spool

log = logging.getLogger(__name__)

_CHECK_AGAIN_SECONDS = 0.5
GATHER_SECONDS = 1.0
"""Of decoding and copying pictures, before the intake looks at control files and drops again."""
_MOST_REMEMBERED = 1000
_MOST_JOBS = 8


class InputWait:
    """Gathers the inputs of queued jobs."""

    def __init__(self, spool: Spool) -> None:
        self._home = spool.home
        self._ledger = spool.ledger
        self._outbox = spool.outbox
        self._disk = spool.disk
        self._faults = spool.faults
        self._since: dict[int, float] = {}
        # The hashes of the last pictures that were decoded: many jobs may name the same one.
        self._pictures: set[bytes] = set()
        # Of the last jobs, by `seq`, what is copied.
        self._copies: dict[int, dict[bytes, tuple[str, int]]] = {}
        self._unchanged: dict[Path, tuple[tuple[int, ...], float]] = {}
        self._folders = Folders(spool.home)
        self._next_seq = 0
        # By the ids of waiting jobs, as they are compared, those of the jobs they wait for.
        self._makers: dict[str, set[str]] = {}
        self.seconds_to_next_check = spool.home.settings.rescan_seconds
        self.any_waiting = False

    def gather_all(self, moment: float) -> bool:
        """Gather for the waiting jobs; whether any of them is ready now or has failed.

        After a second the others are left to the next call.
        """
        waiting = self._ledger.waiting_for_input()
        self._folders.renew()
        changed = cut_short = False
        until = monotonic() + GATHER_SECONDS
        for record in sorted(waiting, key=lambda record: record.seq < self._next_seq):
            self._since.setdefault(record.seq, moment)
            inputs = self._outbox.folder(record.id) / "inputs"
            if self._faults.seconds_left(inputs):
                continue
            with self._faults.isolated(inputs):
                if self.gather(record):
                    self._outbox.write_status(record.seq)
                    changed = True
                self._faults.forget(inputs)
            if cut_short := monotonic() > until:
                self._next_seq = record.seq + 1
                break
        self.any_waiting = bool(waiting)
        rescan = self._home.settings.rescan_seconds
        again = min(_CHECK_AGAIN_SECONDS, rescan)
        self.seconds_to_next_check = 0.0 if cut_short else again if waiting else rescan
        if len(self._unchanged) > _MOST_REMEMBERED:
            self._unchanged.clear()
        for key in self._makers.keys() - {key_of(record.id) for record in waiting}:
            del self._makers[key]
        for seq in self._since.keys() - {record.seq for record in waiting}:
            del self._since[seq]
        return changed

    def gather(self, record: Record) -> bool:
        """Copy the inputs that are there; whether the job is ready now, or has failed."""
        if not record.inputs_missing:
            return True
        inputs = dict(record.inputs)
        missing: dict[str, Record | None] = {}
        message = None
        until = monotonic() + GATHER_SECONDS
        composed: list[tuple[Any, Any]] = []
        if TABLE in record.realised:
            composed += zip(*self._ledger.composed(record.seq), strict=True)
        try:
            for field, text in paths_of(record.realised, composed):
                if text in inputs or text in missing:
                    continue
                if field == TABLE:
                    inputs[text] = self._copied_table(record, text, composed[0][1])
                    continue
                if monotonic() > until and len(inputs) > len(record.inputs):
                    message = f"copying its images, of which {len(inputs):,} are there"
                    break
                # Before the file: a job that has ended by now has already written its pictures.
                maker = self._ledger.newest(maker_of(relative(text, self._home)) or "")
                snapshot = self._settled(text)
                if snapshot is None:
                    # The next drop of an id that is free again makes it, as the first one did.
                    missing[text] = None if maker and is_away(maker, self._outbox) else maker
                else:
                    inputs[text] = self._copy(record, text, snapshot, inputs)
            if message is None and missing:
                message = self._message(record, *next(iter(missing.items())))
            self._refuse_circle(record, missing)
        except DiskFull as error:
            # It is tried again when there is room; the copies made so far are kept.
            message = str(error)
        except JobFailed as error:
            self._ledger.end(record.seq, Hold(error.reason, str(error)))
            return True
        except Exception as error:
            if isinstance(error, OSError) or concerns_all(error):
                raise
            log.exception("the inputs of %s cannot be gathered", record.id)
            message = "its inputs cannot be looked for (a bug): see the runner's log"
            self._ledger.end(record.seq, Hold("Internal", message))
            return True
        if message is None:
            self._ledger.gathered(record.seq, inputs, None)
            return True
        if inputs != record.inputs or message != record.waits_for:
            self._ledger.gathered(record.seq, inputs, message)
            if record.waits_for is not None:
                self._outbox.write_status(record.seq)
        return False

    def is_settled(self, text: str) -> bool:
        """Whether a file that a spec names is whole, or will never be read."""
        try:
            return self._settled(text) is not None
        except JobFailed:
            return True

    def _settled(self, text: str) -> Snapshot | None:
        place, _ = self._folders.find(place_of(text, self._home))
        snapshot = take(place, self._home)
        if snapshot is None or is_from_outbox(relative(text, self._home)):
            return snapshot
        moment = monotonic()
        signature, since = self._unchanged.get(place, ((), moment))
        if signature != snapshot.signature:
            self._unchanged[place] = (snapshot.signature, moment)
            since = moment
        settings = self._home.settings
        quiet = settings.settle_seconds if snapshot.closed else settings.settle_seconds_unknown
        return snapshot if moment - since >= quiet else None

    def _copied_table(self, record: Record, text: str, origin: Mapping[str, Any]) -> str:
        """The name of the copy of a job's table, whose rows are in the ledger; none of another."""
        place, _ = self._folders.find(place_of(text, self._home))
        snapshot = take(place, self._home)
        if not snapshot or hashlib.sha256(snapshot.data).hexdigest() != origin["table_sha256"]:
            self._ledger.warn(record.seq, [f"{text} was changed after its rows were read"])
            return ""
        return self._write(record, text, snapshot.public(text), {})

    def _copy(self, record: Record, text: str, snapshot: Snapshot, taken: dict[str, str]) -> str:
        folder = self._outbox.folder(record.id) / "inputs"
        digest = hashlib.sha256(snapshot.data).digest()
        if snapshot.private or digest not in self._pictures:
            # Before anything is copied: what is no picture must not appear in the outbox.
            snapshot.checked(text)
            if len(self._pictures) >= _MOST_REMEMBERED:
                self._pictures.clear()
            self._pictures.add(digest)
        if record.seq not in self._copies:
            if len(self._copies) >= _MOST_JOBS:
                self._copies.clear()
            self._copies[record.seq] = copies_in(folder, taken.values())
        copies, size = self._copies[record.seq], len(snapshot.data)
        if digest in copies:
            return copies[digest][0]
        most = self._home.settings.job_inputs_mb
        if sum(size for _, size in copies.values()) + size > most * 1e6:
            raise InputBad(
                f"the images of this job are larger than {most:g} MB together: scale them down, "
                "or raise `job_inputs_mb` in fluxdrop.yaml"
            )
        name = self._write(record, text, snapshot.data, taken)
        copies[digest] = name, size
        return name

    def _write(self, record: Record, text: str, data: bytes, taken: Mapping[str, str]) -> str:
        folder, name = self._outbox.folder(record.id) / "inputs", copy_name(text, taken)
        self._disk.make_folder(folder)
        self._disk.replace(folder / name, data, durable=True)
        return name

    def _refuse_circle(self, record: Record, missing: Iterable[str]) -> None:
        """Raise InputMissing where jobs wait for each other, seen from the last of them to come."""
        key = key_of(record.id)
        texts = (relative(text, self._home) for text in missing)
        makers = {key_of(maker) for text in texts if (maker := maker_of(text))}
        if self._makers.get(key, set()) == makers:
            return
        self._makers[key] = makers
        seen: set[str] = set()
        left = set(makers)
        while left:
            maker = left.pop()
            if maker == key:
                raise InputMissing(
                    f"{record.id} waits for a picture that waits for its own: name another image"
                )
            seen.add(maker)
            left |= self._makers.get(maker, set()) - seen

    def _message(self, record: Record, missing: str, maker: Record | None) -> str:
        """What a job waits for. Raises InputMissing where it waits no longer."""
        if maker is None:
            waited = monotonic() - self._since.setdefault(record.seq, monotonic())
            place, near = self._folders.find(place_of(missing, self._home))
            hint = hint_of(near)
            if waited < self._home.settings.input_wait_seconds:
                return f"waiting for {missing}{hint}"
            made = maker_of(relative(missing, self._home)) is not None
            bring = "drop the job that makes it" if made else "put it into the inbox"
            what = "is empty or still open after" if is_file(place) else "did not arrive within"
            raise InputMissing(
                f"{missing} {what} {waited:.0f} seconds{hint}: {bring}, then retry the job"
            )
        if missing.endswith(ORIGINAL) and not maker.realised.get("keep_original"):
            raise InputMissing(f"{missing} will not be made: {maker.id} has no `keep_original`")
        if maker.is_final:
            raise InputMissing(
                f"{missing} was to come from job {maker.id}, which ended {maker.state} without "
                f"it: mend that job, then put a file {record.id}.retry into the inbox"
            )
        return f"waiting for job {maker.id}, which makes {missing}"
