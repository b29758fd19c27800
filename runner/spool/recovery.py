"""Starting again: make the ledger and the outbox agree after whatever ended the last process.

Runs once, before any thread starts, and doing it twice changes nothing. It never renders, and it
removes only images that never counted. Ends of jobs that were not published yet are left to the
writer, which knows how.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.job import State
from runner.settings import Home
from runner.spool.answers import finish_answers
from runner.spool.clock import timestamp
from runner.spool.effects import TEMPORARY_SUFFIX, Disk
from runner.spool.faults import Faults
from runner.spool.ledger import Ledger
from runner.spool.outbox import Outbox
from runner.spool.record import CANCELLED, Record
from runner.spool.waiting import WAITING

log = logging.getLogger(__name__)

MOST_ATTEMPTS = 3
# After a power loss a status that readers saw may be gone; its successors must still be higher.
_REVISIONS_MAYBE_LOST = 1000
_BATCH = 256
_CUT_SHORT = "state = 'running' OR behind = 1 OR identity IS NOT NULL OR reason = ?"


def recover(home: Home, ledger: Ledger, outbox: Outbox, disk: Disk, faults: Faults) -> None:
    """Requeue, adopt, or end what was running, and publish again what readers may lack.

    A job that raises is left as it is and told to `faults`: the others must not wait for it.
    """
    clean = ledger.was_closed_cleanly()
    if not clean:
        for record in ledger.select(_CUT_SHORT, WAITING):
            with faults.apart(outbox.folder(record.id)):
                _lift_revision(record, ledger, outbox)
                for below in ("", "thumbs", "inputs"):
                    _sweep(outbox.folder(record.id) / below, disk, faults)
    for record in ledger.select("state = 'running'"):
        with faults.apart(outbox.folder(record.id)):
            reconcile_images(record, ledger, outbox, disk)
            _requeue(record, ledger)
    for record in ledger.select("state = 'queued' AND cancelled = 1"):
        ledger.move(record.seq, State.CANCELLED, **CANCELLED, finished_at=timestamp())
    for folder in (home.inbox, home.outbox, home.drops):
        _sweep(folder, disk, faults)
    stale = []
    for record in ledger.select("state = 'queued'"):
        with faults.apart(outbox.folder(record.id)):
            if not clean:
                # A status on its way is what a power loss may have left here.
                _sweep(outbox.folder(record.id), disk, faults)
            if record.behind or not (clean or _is_published(record, outbox)):
                stale.append(record)
    for n in range(0, len(stale), _BATCH):
        faults.all_or_each(
            stale[n : n + _BATCH],
            lambda records: _publish_again(records, ledger, outbox),
            lambda record, error: faults.add(outbox.folder(record.id), error),
        )
    finish_answers(home, ledger, outbox, disk, faults)


def reconcile_images(record: Record, ledger: Ledger, outbox: Outbox, disk: Disk) -> None:
    """Count exactly the images whose sidecar and picture are there and whole; remove the rest."""
    folder = outbox.folder(record.id)
    known = ledger.images(record.seq)
    found = {
        number: output
        for number, sidecar in outbox.sidecars(record.id).items()
        if number <= record.total and (output := output_of(sidecar, folder)) is not None
    }
    lost = [n for n, row in known.items() if row["outcome"] == "done" and n not in found]
    ledger.forget_images(record.seq, lost)
    for number in found.keys() - known.keys():
        ledger.add_image(record.seq, number, "done", output=found[number])
    counted = {output[name] for output in found.values() for name in ("file", "sidecar")}
    for file in folder.glob(f"{record.id}-[0-9]*.*"):
        if file.suffix in (".png", ".jpg", ".webp", ".json") and file.name not in counted:
            disk.remove(file)


def output_of(sidecar: dict[str, Any], folder: Path) -> dict[str, Any] | None:
    """The `outputs` entry of a sidecar whose picture is there and whole, else None."""
    try:
        result = sidecar["result"]
        picture = folder / result["file"]
        if hashlib.sha256(picture.read_bytes()).hexdigest() != result["sha256"]:
            return None
        thumbnail = f"thumbs/{picture.stem}.webp"
        return output_entry(sidecar, thumbnail if (folder / thumbnail).is_file() else None)
    except (KeyError, TypeError, OSError):
        return None


def output_entry(sidecar: Mapping[str, Any], thumbnail: str | None) -> dict[str, Any]:
    """The `outputs` entry of an image, from its sidecar."""
    result = sidecar["result"]
    return {
        "file": result["file"],
        "sidecar": f"{Path(result['file']).stem}.json",
        "thumbnail": thumbnail,
        "seed": sidecar["seed"],
        "sha256": result["sha256"],
        "width": result["width"],
        "height": result["height"],
    }


def _requeue(record: Record, ledger: Ledger) -> None:
    if record.cancelled:
        ledger.move(record.seq, State.CANCELLED, **CANCELLED, finished_at=timestamp())
    elif record.attempt >= MOST_ATTEMPTS:
        ledger.move(
            record.seq,
            State.FAILED,
            reason="CrashLoop",
            message=f"this job ended the runner {record.attempt} times: change the spec, or see "
            "`fluxdrop doctor` and the runner's log, then retry it",
            finished_at=timestamp(),
        )
    else:
        ledger.move(
            record.seq, State.QUEUED, reason=None, message="continues after the runner ended"
        )


def _is_published(record: Record, outbox: Outbox) -> bool:
    """Whether readers have this record's status; one of a power loss may be older, or gone."""
    status = outbox.read_status(record.id)
    return status is not None and status.get("revision", 0) >= record.revision


def _lift_revision(record: Record, ledger: Ledger, outbox: Outbox) -> None:
    published = outbox.read_status(record.id) or {}
    revision = max(record.revision, int(published.get("revision", 0)))
    ledger.note(record.seq, revision=revision + _REVISIONS_MAYBE_LOST)


def _publish_again(records: Sequence[Record], ledger: Ledger, outbox: Outbox) -> None:
    for record in records:
        _lift_revision(record, ledger, outbox)
    outbox.write_jobs([ledger.get(record.seq) for record in records], [])
    ledger.published(records)


def _sweep(folder: Path, disk: Disk, faults: Faults) -> None:
    """Remove files that a dead process was writing aside."""
    if folder.is_dir():
        for file in folder.glob(f".*{TEMPORARY_SUFFIX}"):
            with faults.apart(file):
                disk.remove(file)
