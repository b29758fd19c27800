"""Control files: cancel a job, run one again, keep one, pause, lend, forget what is gone.

Only their names count, and they need no settling; only `runner.lend` is read. A cancel is
removed only once it is recorded, so a restart in between obeys it again, which changes nothing. A
`runner.clean` takes many scans, and goes after the last. One that cannot be removed is obeyed once.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from runner.clock import now, timestamp
from runner.errors import DiskFull, InputBad
from runner.files import text_of
from runner.job import State
from runner.log_once import LogOnce
from runner.spool.inbox.acknowledge import Acknowledger
from runner.spool.inbox.assess import Catalogue
from runner.spool.inbox.entry import assessed_again
from runner.spool.inbox.forgetting import forget_gone
from runner.spool.inbox.ids import Ids, has_left, is_away
from runner.spool.inbox.inputs import paths_of, reading_copies
from runner.spool.inbox.settle import Drop, drop_at
from runner.spool.inbox.waiting import InputWait
from runner.spool.store import lending
from runner.spool.store.names import (
    CANCEL_SUFFIX,
    CLEAN_NAME,
    KEEP_SUFFIX,
    LEND_NAME,
    PAUSE_NAME,
    Names,
    id_from_file,
    is_control,
    is_spec,
    key_of,
    natural_order,
    not_unique,
    plain,
)
from runner.spool.store.outbox import receipt
from runner.spool.store.record import Record
from runner.spool.store.spool import Spool
from runner.wire import Lent

# Sync tools deliver out of order: a cancel may come before its spec.
_UNKNOWN_SECONDS = 60.0
_FORGET_AGAIN_SECONDS = 0.02
_RETRIED = {State.SUCCEEDED, State.FAILED, State.CANCELLED}


class Controls:
    """Obeys the control files of one inbox."""

    def __init__(
        self, spool: Spool, catalogue: Catalogue, waiting: InputWait, ids: Ids,
        acknowledger: Acknowledger, *, on_cancel: Callable[[int], None],
    ) -> None:  # fmt: skip
        self._spool = spool
        self._catalogue = catalogue
        self._home = spool.home
        self._ledger = spool.ledger
        self._outbox = spool.outbox
        self._faults = spool.faults
        self._acknowledger = acknowledger
        self._waiting = waiting
        self._ids = ids
        self._on_cancel = on_cancel
        self._log_once = LogOnce("obeying a control file")
        # By control file: since when its job is unknown, the `seq` of one that had left its id, and
        # the name that a cancel waits for, as names are compared.
        self._unknown: dict[str, tuple[float, int, str]] = {}
        self._awaited: set[str] = set()
        self._specs: list[str] = []
        # Those of their files, and as their owners gave them.
        self._spec_names = Names(())
        self.paused = False
        self.lent: Lent | None = None
        # The file that asks for what is gone to be forgotten, and what is left of that.
        self.forgetting: tuple[tuple[int, ...], Iterator[bool]] | None = None
        self.seconds_to_next_check = _UNKNOWN_SECONDS

    def obey(self, names: Iterable[str], moment: float, *, composing: bool = False) -> bool:
        """Obey the control files among `names`, all files of the inbox; whether anything changed.

        While specs are `composing`, a cancel of an unknown job is kept: it may be for one of them.
        """
        present = {name for name in names if not name.startswith(".")}
        before = self.paused, self.lent
        self.paused = PAUSE_NAME in present
        self.lent = self._lent() if LEND_NAME in present else None
        changed = (self.paused, self.lent) != before
        controls = sorted(n for n in present - {PAUSE_NAME, LEND_NAME} if is_control(n))
        # One that cannot leave is a job long since.
        stuck = self._ledger.stuck() if controls else {}
        self._specs = list(filter(is_spec, present.difference(stuck.values())) if controls else ())
        self._spec_names = Names({*self._specs, *map(plain, self._specs)})
        for name in self._unknown.keys() - set(controls):
            del self._unknown[name]
        if CLEAN_NAME not in present:
            self.forgetting = None
        unobeyed = False
        for name in controls:
            file, obeyed = self._home.inbox / name, False
            if self._faults.seconds_left(file):
                continue
            try:
                with self._faults.isolated(file):
                    obeyed = self._obey_one(name, moment, composing, stuck)
                self._log_once.recovered()
            except (OSError, DiskFull) as error:
                # One file must not hold up the others, or the specs.
                self._log_once.failed(error)
            changed |= obeyed
            unobeyed |= not obeyed
        self._awaited = {awaited for _, _, awaited in self._unknown.values()}
        again = _FORGET_AGAIN_SECONDS if self.forgetting else 1.0
        self.seconds_to_next_check = again if unobeyed or self.lent else _UNKNOWN_SECONDS
        return changed

    def _lent(self) -> Lent | None:
        """What `runner.lend` says; None where that is over, and then the file is removed."""
        file = self._home.inbox / LEND_NAME
        try:
            # First: of one that takes its place now, no more than the content may be known.
            drop = drop_at(file, LEND_NAME, read=False)
            lent = lending.read(file)
        except FileNotFoundError:
            return None
        except (OSError, InputBad) as error:
            # An image that begins too early may cost its owner more than one that begins late.
            self._faults.add(file, error)
            return lending.ENDLESS
        if not lending.is_over(lent, now()):
            self._faults.forget(file)
            return lent
        if not self._faults.seconds_left(file):
            self._remove(drop)
        return None

    def _obey_one(
        self, name: str, moment: float, composing: bool, stuck: Mapping[str, str]
    ) -> bool:
        target = not_unique(name[: name.rindex(".")])
        try:
            drop = drop_at(self._home.inbox / name, name, read=False)
        except FileNotFoundError:
            return False
        if drop.identity in stuck:
            self._remove(drop)
            return False
        if name == CLEAN_NAME:
            return self._forget_more(drop)
        is_cancel = name.lower().endswith(CANCEL_SUFFIX)
        record = self._find(target)
        since, over, _ = self._unknown.get(name, (moment, record.seq if record else 0, ""))
        # A job that came after its control file was meant, whatever has become of it.
        if record and record.seq == over and (is_cancel or self._is_any_to_come()):
            answered = self._ledger.is_answered(over)
            record = None if answered and has_left(record, self._outbox) else record
        if record is None:
            self._unknown[name] = since, over, key_of(target) if is_cancel else ""
            waits = composing or self._spec_names.alike(target) or self._is_any_to_come()
            if moment - since >= _UNKNOWN_SECONDS and not waits:
                if not is_cancel:
                    self._refuse(name, "", text_of(target))
                self._remove(drop)
            return False
        if is_cancel:
            self._cancel(record)
        elif not record.is_final:
            # It came early, and is obeyed when the job has ended.
            return False
        elif name.lower().endswith(KEEP_SUFFIX):
            self._keep(name, record)
        else:
            self._retry(name, record, drop.identity)
        self._remove(drop)
        return True

    def _forget_more(self, drop: Drop) -> bool:
        """Forget a batch of what is gone; whether that was the last, and the file has left."""
        asked, batches = self.forgetting or (drop.signature, forget_gone(self._spool))
        # What raises begins anew; so does another file, for which more has gone meanwhile.
        self.forgetting = None
        if next(batches, False):
            self.forgetting = asked, batches
        elif asked == drop.signature:
            self._remove(drop)
            return True
        return False

    def _is_any_to_come(self) -> bool:
        """Whether a spec lies there that is yet to be read: it may bring any id."""
        return any(self._home.inbox / name not in self._faults for name in self._specs)

    def awaits(self, *names: str) -> bool:
        """Whether a cancel came before the spec with one of these names, its id or its file's."""
        every = (*names, *map(plain, names)) if self._awaited else ()
        return any(key_of(name) in self._awaited for name in every)

    def awaited(self) -> list[str]:
        """The specs in the inbox that a cancel waits for, by the names of their files."""
        awaited = (name for name in self._specs if self.awaits(name, id_from_file(name)))
        return sorted(awaited, key=natural_order) if self._awaited else []

    def _find(self, target: str) -> Record | None:
        record = self._ledger.newest(target)
        if record is None:
            record = self._ledger.newest_of_file(target)
        if record is not None and self._ledger.is_answered(record.seq):
            # A newer file of this name in the inbox comes first.
            same = key_of(plain(record.source_name)) == key_of(target)
            if same and self._spec_names.alike(target):
                return None
        return record

    def _cancel(self, record: Record) -> None:
        state = self._ledger.cancel(record.seq)
        if state == State.QUEUED and record.started_at is None:
            self._outbox.write_status(record.seq, durable=True)
        elif state is not None:
            # It may have pictures: the writer ends it, with its contact sheet.
            self._on_cancel(record.seq)

    def _keep(self, name: str, record: Record) -> None:
        if is_away(record, self._outbox):
            # Nothing is left of it, and a status would make its folder again.
            self._refuse(name, record.source_sha256, record.id)
            return
        self._ledger.keep(record.seq)
        self._outbox.write_status(record.seq, durable=True)

    def _retry(self, name: str, record: Record, identity: str) -> None:
        """Queue a finished job again with its spec, its seeds and its own copies of the inputs."""
        again = self._ledger.with_identities([identity]).get(identity)
        again = again or self._insert_again(name, record, identity)
        if again is None:
            self._refuse(name, record.source_sha256, record.id)
            return
        self._outbox.make_folder(again)
        self._waiting.gather(again)
        answer = receipt(name, again.source_sha256, again.id, "accepted")
        again = self._ledger.get(again.seq)
        self._outbox.write_jobs([again], [answer])
        self._ledger.published([again])

    def _refuse(self, name: str, sha256: str, job_id: str) -> None:
        """Answer a control file that cannot be obeyed."""
        self._outbox.write_jobs([], [receipt(name, sha256, job_id, "rejected")])

    def _insert_again(self, name: str, record: Record, identity: str) -> Record | None:
        if record.state not in _RETRIED:
            return None
        composed: Iterable[tuple[Any, Any]] = [
            *zip(*self._ledger.composed(record.seq), strict=True),
            *(({}, row) for row in self._ledger.rows_left_out(record.seq)),
        ]
        if not record.spec:
            # Of one that was entered after the ledger was lost, only what its status says is known.
            record, composed = assessed_again(record, self._spool, self._catalogue)
        if not (record.total and record.realised):
            return None
        copied = partial(reading_copies, job_id=record.id, inputs=record.inputs)
        realised = copied(record.realised)
        composed = [(copied(fields), origin) for fields, origin in composed]
        again = Record(
            seq=0,
            id=self._ids.free(record.id, first=2),
            state=State.QUEUED,
            source_name=name,
            source_sha256=record.source_sha256,
            source_bytes=record.source_bytes,
            source_mtime_ns=record.source_mtime_ns,
            suffix=record.suffix,
            spec=record.spec,
            accepted_at=timestamp(),
            inputs_missing=any(paths_of(realised, composed)),
            kind=record.kind,
            model=record.model,
            priority=record.priority,
            base_seed=record.base_seed,
            total=record.total,
            realised=realised,
            warnings=record.warnings[: record.foreseen],
        )
        return self._ledger.accept(again, identity, composed)

    def _remove(self, drop: Drop) -> None:
        """Remove a control file that was obeyed.

        One that another took the place of meanwhile stays: it asks again.
        """
        self._unknown.pop(drop.name, None)
        self._acknowledger.take_out([drop])
