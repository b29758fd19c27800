"""Rebuilds the ledger from the outbox when its file is gone or damaged.

Finished jobs keep their ids, so no id is used twice; unfinished ones are assessed again from the
specs in their folders and go on at the first missing image. What only the ledger knew is lost:
attempts, and cancels that were not published.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner.clock import timestamp
from runner.files import read_file
from runner.job import FINAL_STATES, State
from runner.spool.disk.disk import Disk
from runner.spool.inbox.assess import Assessment, Catalogue, assess
from runner.spool.inbox.entry import record_of
from runner.spool.inbox.inputs import copy_name, named_paths
from runner.spool.inbox.settle import Drop
from runner.spool.startup.recovery import reconcile_images
from runner.spool.store.database import is_damaged
from runner.spool.store.names import is_safe_id
from runner.spool.store.spool import Spool

log = logging.getLogger(__name__)


def set_damaged_aside(file: Path, disk: Disk) -> None:
    """Rename a ledger that is damaged.

    Raises LedgerNewer, and LedgerUnusable where it cannot be read now.
    """
    if file.exists() and is_damaged(file):
        aside = file.with_name(f"{file.name}.damaged-{timestamp().replace(':', '')}")
        log.error("the ledger is damaged: kept as %s and made again from the outbox", aside.name)
        disk.rename(file, aside)
        for log_file in (f"{file.name}-wal", f"{file.name}-shm"):
            disk.remove(file.with_name(log_file))


def rebuild(spool: Spool, catalogue: Catalogue) -> None:
    """Enter every job of the outbox into an empty ledger, in the order they were accepted.

    All in one transaction: a ledger with half of the jobs would be taken for complete.
    """
    ledger = spool.ledger
    statuses = {}
    unread = []
    for folder in spool.home.outbox.iterdir():
        if not is_safe_id(folder.name):
            continue
        status = spool.outbox.read_status(folder.name) if folder.is_dir() else None
        if status is not None and status["id"] == folder.name:
            statuses[folder.name] = status
        elif status is None and (folder / "status.json").exists():
            unread.append(folder.name)
    with ledger.transaction():
        for job_id in unread:
            ledger.quarantine(job_id, "the ledger was lost and its status.json cannot be read")
        for job_id in sorted(statuses, key=lambda name: str(statuses[name].get("accepted_at"))):
            try:
                _enter(statuses[job_id], spool, catalogue)
            except Exception as error:
                spool.faults.raise_common(error)
                log.exception("outbox/%s could not be entered again", job_id)
                record = ledger.newest(job_id)
                why = "the ledger was lost, and what its folder says is not what a runner writes"
                ledger.quarantine(job_id, why, record.seq if record else 0)


def _enter(status: dict[str, Any], spool: Spool, catalogue: Catalogue) -> None:
    folder = spool.outbox.folder(status["id"])
    source = status["source"]
    spec = next((f for f in (folder / "spec.yaml", folder / "spec.json") if f.is_file()), None)
    data = read_file(spec) if spec else b""
    drop = Drop(source["name"], data, (0, 0, source["bytes"], 0, 0))
    state = State(status["state"])
    if state == State.REJECTED:
        assessment = Assessment()
    else:
        assessment = assess(data, drop.name, spool.home, catalogue)
    record = replace(
        record_of(drop, assessment, status["id"]),
        source_sha256=source["sha256"],
        revision=status["revision"],
        accepted_at=status["accepted_at"],
        started_at=status["started_at"],
        inputs=_copies(assessment.realised, folder / "inputs"),
    )
    if state in FINAL_STATES:
        record = replace(
            record,
            state=state,
            end_reason=status["reason"],
            end_message=status["message"],
            inputs_missing=False,
            ready_at=0.0,
            shown=record.version,
            kind=status["kind"],
            model=status["model"],
            priority=status["priority"],
            attempt=status["attempt"],
            total=status["images"]["total"],
            # What would be rejected now cannot be run again.
            realised=assessment.realised if assessment.reason is None else {},
            kept=bool(status.get("kept")),
            finished_at=status["finished_at"],
            errors=list(status["errors"]),
            warnings=list(status["warnings"]),
        )
    if record.base_seed is not None and (sidecars := spool.outbox.sidecars(record.id)):
        # In a job without seeds, missing images continue the seeds of those that are there.
        number, sidecar = next(iter(sidecars.items()))
        record = replace(record, base_seed=sidecar["seed"] - (number - 1))
    record = spool.ledger.insert(record, assessment.composed)
    reconcile_images(record, spool, keep_all=True)


def _copies(spec: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """The copies of input images that a job has, by the paths that its spec names."""
    copies: dict[str, str] = {}
    for _, text in named_paths(spec):
        name = copy_name(text, copies)
        if (folder / name).is_file():
            copies[text] = name
    return copies
