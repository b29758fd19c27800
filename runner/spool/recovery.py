"""Starting again: make the ledger and the outbox agree after whatever ended the last process.

Runs once, before any thread starts, and doing it twice changes nothing. It never renders and never
removes a picture.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

from runner.job import FINAL, State
from runner.settings import Home
from runner.spool.clock import timestamp
from runner.spool.effects import TEMPORARY_SUFFIX, Disk
from runner.spool.ledger import Ledger, Record
from runner.spool.outbox import Outbox, outcome_of

log = logging.getLogger(__name__)

MOST_ATTEMPTS = 3
# After a power loss a status that readers saw may be gone; its successors must still be higher.
_REVISIONS_MAYBE_LOST = 1000


def recover(home: Home, ledger: Ledger, outbox: Outbox, disk: Disk) -> None:
    """Requeue, adopt, or end what was running, and write again what fell behind."""
    for record in ledger.select("state = 'running'"):
        adopt_images(record, ledger, outbox)
        _requeue(record, ledger)
    for record in ledger.select("state IN ('queued', 'running') AND cancelled = 1"):
        ledger.move(record.seq, State.CANCELLED, reason="Cancelled", finished_at=timestamp())
    for record in ledger.select("behind = 1"):
        _write_again(record, ledger, outbox, disk)
    for record in ledger.select("identity IS NOT NULL"):
        if not (home.inbox / record.source_name).exists():
            outbox.write_receipt(record, outcome_of(record))
            ledger.note(record.seq, identity=None)
    _sweep(home.inbox, disk)
    _sweep(home.outbox, disk)
    _sweep(home.drops, disk)


def adopt_images(record: Record, ledger: Ledger, outbox: Outbox) -> None:
    """Count the images whose sidecar and picture are whole but which the ledger does not know."""
    known = ledger.images(record.seq)
    for number, sidecar in outbox.sidecars(record.id).items():
        if number not in known and number <= record.total:
            output = output_of(sidecar, outbox.folder(record.id))
            if output is not None:
                ledger.add_image(record.seq, number, "done", output=output)


def output_of(sidecar: dict[str, Any], folder: Path) -> dict[str, Any] | None:
    """The `outputs` entry of a sidecar whose picture is there and whole, else None."""
    try:
        result = sidecar["result"]
        picture = folder / result["file"]
        if hashlib.sha256(picture.read_bytes()).hexdigest() != result["sha256"]:
            return None
        stem = picture.stem
        thumbnail = f"thumbs/{stem}.webp"
        return {
            "file": result["file"],
            "sidecar": f"{stem}.json",
            "thumbnail": thumbnail if (folder / thumbnail).is_file() else None,
            "seed": sidecar["seed"],
            "sha256": result["sha256"],
            "width": result["width"],
            "height": result["height"],
        }
    except (KeyError, TypeError, OSError):
        return None


def _requeue(record: Record, ledger: Ledger) -> None:
    if record.attempt >= MOST_ATTEMPTS:
        ledger.move(
            record.seq,
            State.FAILED,
            reason="CrashLoop",
            message=f"this job ended the runner {record.attempt} times: change the spec, or see "
            "`fluxdrop doctor` and the runner's log, then retry it",
            finished_at=timestamp(),
        )
        return
    ledger.move(record.seq, State.QUEUED, reason=None, message="continues after the runner ended")


def _write_again(record: Record, ledger: Ledger, outbox: Outbox, disk: Disk) -> None:
    record = ledger.get(record.seq)
    if record.state in FINAL and record.identity is None and record.revision > 1:
        folder = outbox.folder(record.id)
        if not folder.is_dir():
            # The caller has moved a finished job away: that is theirs to do.
            ledger.note(record.seq, behind=0)
            return
    outbox.open_job(record)
    _sweep(outbox.folder(record.id), disk)
    published = outbox.read_status(record.id) or {}
    revision = max(record.revision, int(published.get("revision", 0)))
    ledger.note(record.seq, revision=revision + _REVISIONS_MAYBE_LOST)
    outbox.write_status(record.seq, durable=True)


def _sweep(folder: Path, disk: Disk) -> None:
    """Remove files that a dead process was writing aside."""
    if folder.is_dir():
        for file in folder.glob(f".*{TEMPORARY_SUFFIX}"):
            disk.remove(file)
