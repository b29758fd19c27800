"""Rebuilds the ledger from the outbox when its file is gone or damaged.

Finished jobs keep their ids, so no id is used twice, and are what their statuses say: nothing else
of them is read. Unfinished ones are assessed again from the specs in their folders and go on at the
first missing image. What only the ledger knew is lost: attempts, and cancels that were not
published.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner.clock import monotonic, timestamp
from runner.files import is_there, names_in
from runner.job import State
from runner.spool.disk.disk import Disk
from runner.spool.inbox.assess import Catalogue
from runner.spool.inbox.entry import assessed_again
from runner.spool.startup.recovery import reconcile_images
from runner.spool.store.database import is_damaged
from runner.spool.store.names import is_safe_id
from runner.spool.store.record import COLUMNS, Record
from runner.spool.store.spool import Spool
from runner.wire import Counts, Status, read_json

log = logging.getLogger(__name__)

_TELLING_SECONDS = 5.0
# What a record and a status call by one name.
_ALIKE = Status.__annotations__.keys() & set(COLUMNS) - {"state"}


def set_damaged_aside(file: Path, disk: Disk) -> None:
    """Rename a ledger that is damaged.

    Raises LedgerNewer, and LedgerUnusable where it cannot be read now.
    """
    if is_there(file) and is_damaged(file):
        aside = file.with_name(f"{file.name}.damaged-{timestamp().replace(':', '')}")
        log.error("the ledger is damaged: kept as %s and made again from the outbox", aside.name)
        disk.rename(file, aside)
        for log_file in (f"{file.name}-wal", f"{file.name}-shm"):
            disk.remove(file.with_name(log_file))


def rebuild(spool: Spool, catalogue: Catalogue) -> None:
    """Enter every job of the outbox into an empty ledger, in the order they were accepted.

    All in one transaction: a ledger with half of the jobs would be taken for complete. The statuses
    are read twice, for there may be more than the memory holds.
    """
    ledger = spool.ledger
    found = []
    for job_id in filter(is_safe_id, names_in(spool.home.outbox)):
        file, status = spool.outbox.folder(job_id) / "status.json", None
        try:
            if not is_there(file):
                continue
            status = read_json(file)
        except OSError as error:
            spool.faults.raise_common(error)
        found.append((str((status or {}).get("accepted_at")), job_id))
    log.info("making the ledger again from %d jobs", len(found))
    told = monotonic()
    with ledger.transaction():
        for number, (_, job_id) in enumerate(sorted(found), start=1):
            try:
                _enter(job_id, spool, catalogue)
            except Exception as error:
                spool.faults.raise_common(error)
                log.exception("job %s could not be entered again", job_id)
                record = ledger.newest(job_id)
                what = str(error) if isinstance(error, OSError) else "not what a runner writes"
                why = f"the ledger was lost, and what its folder says cannot be taken over ({what})"
                ledger.quarantine(job_id, why, record.seq if record else 0)
            if monotonic() - told >= _TELLING_SECONDS:
                log.info("%d of %d jobs are in the ledger again", number, len(found))
                told = monotonic()


def _enter(job_id: str, spool: Spool, catalogue: Catalogue) -> None:
    """Enter one job: a finished one as its status says, any other as its folder does."""
    status = spool.outbox.read_status(job_id)
    if status is None:
        raise ValueError("its status.json cannot be read")
    if status["id"] != job_id:
        return
    record = _record_of(status)
    if not record.is_final:
        again, composed = assessed_again(record, spool, catalogue)
        reconcile_images(spool.ledger.insert(again, composed), spool, keep_all=True)
        return
    outputs = {Path(output["file"]).stem: output for output in status["outputs"]}
    # These are counted as they are entered; earlier ones are listed nowhere.
    record = spool.ledger.insert(replace(record, done=record.done - len(outputs)))
    for stem, output in outputs.items():
        number = int(stem.removeprefix(f"{job_id}-"))
        spool.ledger.made(record.seq, number, output, late=True)


def _record_of(status: Mapping[str, Any]) -> Record:
    """A job as its status shows it; what only a run of it needs is missing, its spec above all."""
    return Record(
        seq=0,
        state=State(status["state"]),
        suffix="",
        spec=b"",
        shown=1,
        source_name=status["source"]["name"],
        source_sha256=status["source"]["sha256"],
        source_bytes=status["source"]["bytes"],
        end_reason=status["reason"],
        end_message=status["message"],
        realised={key: status[key] for key in status if key == "tags" or key.startswith("x_")},
        **{key: status[key] for key in _ALIKE},
        **{key: status["images"][key] for key in Counts.__annotations__},
    )
