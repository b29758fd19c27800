"""Gathers the input images of jobs: copies those that are there and waits for the others.

A picture that an unfinished job will make is waited for until that job ends; anything else for the
setting `input_wait_seconds`. A job waits no longer once it has private copies of all its inputs, or
has failed.
"""

import hashlib
import logging
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from runner.clock import monotonic
from runner.errors import DiskFull, InputBad, InputMissing, JobFailed
from runner.files import is_file
from runner.holds import Hold
from runner.spool.disk.disk import File, concerns_all
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
    named_paths,
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
_MOST_HELD = 64 << 20


@dataclass
class _Job:
    """Of a waiting job: since when it waits, what it lacks in turn, and its copies by SHA-256.

    The copies that are `held` are not written yet.
    """

    since: float
    lacks: list[str] | None = None
    copies: dict[bytes, str] | None = None
    names: set[str] = field(default_factory=set)
    size: int = 0
    held: list[File] = field(default_factory=list)
    held_bytes: int = 0

    def hold(self, folder: Path, text: str, data: bytes) -> str:
        """Hold a copy; its name."""
        name = copy_name(text, self.names)
        self.names.add(name.casefold())
        self.held.append((folder / name, data))
        self.held_bytes += len(data)
        return name


class InputWait:
    """Gathers the inputs of queued jobs."""

    def __init__(self, spool: Spool) -> None:
        self._home = spool.home
        self._ledger = spool.ledger
        self._outbox = spool.outbox
        self._disk = spool.disk
        self._faults = spool.faults
        self._jobs: dict[int, _Job] = {}
        # The hashes of the last pictures that were decoded: many jobs may name the same one.
        self._pictures: set[bytes] = set()
        self._unchanged: dict[Path, tuple[tuple[int, ...], float]] = {}
        self._folders = Folders(spool.home)
        self._next_seq = 0
        # By the ids of waiting jobs, as they are compared, those of the jobs they wait for.
        self._makers: dict[str, set[str]] = {}
        self.seconds_to_next_check = spool.home.settings.rescan_seconds
        self.any_waiting = False

    def gather_all(self) -> bool:
        """Gather for the waiting jobs; whether any of them is ready now or has failed.

        After a second the others are left to the next call.
        """
        waiting = self._ledger.waiting_for_input()
        self._folders.renew()
        changed = cut_short = False
        until = monotonic() + GATHER_SECONDS
        for record in sorted(waiting, key=lambda record: record.seq < self._next_seq):
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
        # Of what is waited for nothing is forgotten, however much it is: it would never settle.
        if not waiting and len(self._unchanged) > _MOST_REMEMBERED:
            self._unchanged.clear()
        for key in self._makers.keys() - {key_of(record.id) for record in waiting}:
            del self._makers[key]
        for seq in self._jobs.keys() - {record.seq for record in waiting}:
            del self._jobs[seq]
        return changed

    def gather(self, record: Record) -> bool:
        """Copy the inputs that are there; whether the job is ready now, or has failed."""
        if not record.inputs_missing:
            return True
        job = self._jobs.setdefault(record.seq, _Job(monotonic()))
        inputs = dict(record.inputs)
        if job.copies is None or job.held:
            # The last pass, if there was one, broke off before it wrote what it held.
            there = copies_in(self._outbox.folder(record.id) / "inputs", inputs.values())
            job.copies = {digest: name for digest, (name, _) in there.items()}
            job.names = {name.casefold() for name in inputs.values()}
            job.held, job.held_bytes = [], 0
            job.size = sum(size for _, size in there.values())
        missing: dict[str, Record | None] = {}
        message = None
        lacks = job.lacks
        until = monotonic() + GATHER_SECONDS
        try:
            if lacks is None:
                composed = zip(*self._ledger.composed(record.seq), strict=True)
                named = dict.fromkeys(text for _, text in paths_of(record.realised, composed))
                lacks = [text for text in named if text not in inputs]
            left, copied = deque(lacks), dict[str, str]()
            while left and (len(left) == len(lacks) or monotonic() <= until):
                text = left.popleft()
                if text == record.realised.get(TABLE):
                    copied[text] = self._copy_table(record, job, text)
                    continue
                # Before the file: a job that has ended by now has already written its pictures.
                maker = self._ledger.newest(maker_of(relative(text, self._home)) or "")
                with self._going_without(record, text, inputs):
                    picture = self._checked(text)
                    if picture is None:
                        # The next drop of an id that is free again makes it, as the first one did.
                        missing[text] = None if maker and is_away(maker, self._outbox) else maker
                        continue
                if text not in inputs:
                    copied[text] = self._copy(record, job, job.copies, text, *picture)
                    if job.held_bytes > _MOST_HELD:
                        self._write_held(job, copied, inputs)
            self._write_held(job, copied, inputs)
            missing = {
                text: maker
                for text, maker in missing.items()
                if self._still_waits(record, job, text, maker, inputs)
            }
            lacks = [*left, *missing]
            if left and len(inputs) > len(record.inputs):
                message = f"copying its images, of which {len(inputs):,} are there"
            elif missing:
                message = self._message(record, job, *next(iter(missing.items())))
            self._refuse_circle(record, lacks)
        except DiskFull as error:
            # It is tried again when there is room; the copies made so far are kept.
            message = str(error)
        except JobFailed as error:
            self._ledger.end(record.seq, Hold(error.reason, str(error)))
            return True
        except Exception as error:
            if isinstance(error, OSError) or concerns_all(error):
                raise
            log.exception("job %s: its inputs cannot be gathered", record.id)
            message = "its inputs cannot be looked for (a bug): see the runner's log"
            self._ledger.end(record.seq, Hold("Internal", message))
            return True
        if message is None:
            self._ledger.gathered(record.seq, inputs, None)
            return True
        job.lacks = lacks and [text for text in lacks if text not in inputs]
        if inputs != record.inputs or message != record.waits_for:
            self._ledger.gathered(record.seq, inputs, message)
            if record.waits_for is not None:
                self._outbox.write_status(record.seq)
        return False

    @contextmanager
    def _going_without(self, record: Record, text: str, inputs: dict[str, str]) -> Iterator[None]:
        """Note what only some images of a job cannot have: those fail, when their turn comes."""
        try:
            yield
        except JobFailed as error:
            named = named_paths(record.realised)
            of_all = {each for path, each in named if not path.startswith("matrix")}
            if record.total < 2 or text in of_all:
                raise
            self._ledger.warn(record.seq, [f"{text}: {error}"])
            inputs[text] = ""

    def _still_waits(
        self, record: Record, job: _Job, text: str, maker: Record | None, inputs: dict[str, str]
    ) -> bool:
        """Whether an image is to come. Raises InputMissing where no image can do without it."""
        settings = self._home.settings
        if maker is not None or monotonic() - job.since >= settings.input_wait_seconds:
            with self._going_without(record, text, inputs):
                self._message(record, job, text, maker)
        return text not in inputs

    def is_settled(self, text: str) -> bool:
        """Whether a file that a spec names is whole, or will never be read."""
        try:
            return self._settled(text) is not None
        except JobFailed:
            return True

    def _settled(self, text: str) -> Snapshot | None:
        place, _ = self._folders.find(place_of(text, self._home))
        settings, moment = self._home.settings, monotonic()
        signature, since = self._unchanged.get(place, ((), moment))
        snapshot = take(place, self._home)
        if snapshot is None or is_from_outbox(relative(text, self._home)):
            return snapshot
        if signature != snapshot.signature:
            self._unchanged[place] = (snapshot.signature, moment)
            since = moment
        quiet = settings.settle_seconds if snapshot.closed else settings.settle_seconds_unknown
        return snapshot if moment - since >= quiet else None

    def _checked(self, text: str) -> tuple[bytes, bytes] | None:
        """The bytes of an image that is whole, and their SHA-256; None while it is to come.

        Raises InputBad before anything is copied: what is no picture must not get into the outbox.
        """
        snapshot = self._settled(text)
        if snapshot is None:
            return None
        digest = hashlib.sha256(snapshot.data).digest()
        if snapshot.private or digest not in self._pictures:
            snapshot.checked(text)
            if len(self._pictures) >= _MOST_REMEMBERED:
                self._pictures.clear()
            self._pictures.add(digest)
        return snapshot.data, digest

    def _copy_table(self, record: Record, job: _Job, text: str) -> str:
        """The name of the copy of a job's table, whose rows are in the ledger; none of another."""
        place, _ = self._folders.find(place_of(text, self._home))
        snapshot, origin = take(place, self._home), self._ledger.composed(record.seq)[1][0]
        if not snapshot or hashlib.sha256(snapshot.data).hexdigest() != origin["table_sha256"]:
            self._ledger.warn(record.seq, [f"{text} was changed after its rows were read"])
            return ""
        return job.hold(self._outbox.folder(record.id) / "inputs", text, snapshot.public(text))

    def _copy(
        self, record: Record, job: _Job, copies: dict[bytes, str], text: str, data: bytes,
        digest: bytes,
    ) -> str:  # fmt: skip
        """The name of the copy of an image, which is held where there is none yet."""
        if digest not in copies:
            job.size += len(data)
            most = self._home.settings.job_inputs_mb
            if job.size > most * 1e6:
                raise InputBad(
                    f"the images of this job are larger than {most:g} MB together: scale them "
                    "down, or raise `job_inputs_mb` in fluxdrop.yaml"
                )
            folder = self._outbox.folder(record.id) / "inputs"
            copies[digest] = job.hold(folder, text, data)
        return copies[digest]

    def _write_held(self, job: _Job, copied: dict[str, str], inputs: dict[str, str]) -> None:
        """Write the copies that are held, after which a job has them."""
        if job.held:
            self._disk.make_folder(Path(job.held[0][0]).parent)
            self._disk.replace_many(job.held)
            job.held.clear()
            job.held_bytes = 0
        inputs |= copied
        copied.clear()

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

    def _message(self, record: Record, job: _Job, missing: str, maker: Record | None) -> str:
        """What a job waits for. Raises InputMissing where it waits no longer."""
        if maker is None:
            waited = monotonic() - job.since
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
        keeps = maker.realised.get("keep_original") or TABLE in maker.realised
        if missing.endswith(ORIGINAL) and not keeps:
            raise InputMissing(f"{missing} will not be made: {maker.id} has no `keep_original`")
        if maker.is_final:
            raise InputMissing(
                f"{missing} was to come from job {maker.id}, which ended {maker.state} without "
                f"it: mend that job, then put a file {record.id}.retry into the inbox"
            )
        return f"waiting for job {maker.id}, which makes {missing}"
