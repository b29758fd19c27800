"""Makes the ledger and the outbox agree at a start, however the last process ended.

Runs once, before any thread starts, and is safe to repeat. It removes only temporary files,
previews and incomplete images. Ends of jobs that were not published yet are left to the writer.
What is at fault then is tried again by the daemon, `recover_running` where it has no other way.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from runner.exit_codes import LAST_END
from runner.files import is_there, paths_in
from runner.holds import RUNNER_ENDED, UNWRITABLE
from runner.spool.disk.disk import TEMPORARY_SUFFIX, is_left, leaving_out
from runner.spool.inbox.acknowledge import finish_acknowledgements
from runner.spool.store.names import numbered
from runner.spool.store.outbox import ORIGINAL, Outbox, output_of, state_of
from runner.spool.store.record import Record
from runner.spool.store.spool import Spool
from runner.wire import PREVIEW

log = logging.getLogger(__name__)

# After a power loss a published status may be gone; later ones must still have higher revisions.
_REVISIONS_MAYBE_LOST = 1000
_BATCH = 256


def recover(spool: Spool) -> None:
    """Requeue or end the jobs that were running, and publish statuses that may be out of date.

    A job that raises is left as it is and added to the faults, so that the others go on.
    """
    home, ledger, outbox, faults = spool.home, spool.ledger, spool.outbox, spool.faults
    last = spool.last
    if not last.closed:
        for record in ledger.cut_short():
            with faults.isolated(outbox.folder(record.id)):
                _lift_revision(record, spool)
                _remove_preview(record, spool)
                for below in ("", "thumbs", "inputs"):
                    _sweep(outbox.folder(record.id) / below, spool)
    recover_running(spool)
    # Only now: until here a start that is cut short too must know how the last run ended.
    ledger.begin_run()
    for folder in (home.data, home.inbox, home.outbox, home.drops):
        _sweep(folder, spool)
    stale = []
    for record in ledger.queued():
        with faults.isolated(outbox.folder(record.id)):
            if record.cancel_at is not None:
                # An earlier version left it: it was cancelled while it ran, and then put back.
                ledger.cancel(record.seq)
                continue
            if not last.closed:
                # A power loss may have left a status that was being written aside.
                _sweep(outbox.folder(record.id), spool)
                _remove_preview(record, spool)
            if record.put_back == UNWRITABLE.reason:
                # Nothing is known to be at fault yet.
                ledger.put_off(record.seq, 0.0)
            if not record.is_shown or not (last.closed or _is_published(record, outbox)):
                stale.append(record)
    for n in range(0, len(stale), _BATCH):
        faults.all_or_each(
            stale[n : n + _BATCH],
            lambda records: _publish_again(records, spool),
            lambda record, error: faults.add(outbox.folder(record.id), error),
        )
    finish_acknowledgements(spool)


def recover_running(spool: Spool) -> None:
    """Requeue or end the jobs that run in no slot; a job that raises is added to the faults."""
    for record in spool.ledger.running():
        folder = spool.outbox.folder(record.id)
        with spool.faults.isolated(folder):
            if not spool.faults.seconds_left(folder):
                _remove_preview(record, spool)
                reconcile_images(record, spool)
                _take_off_device(record, spool)
                spool.faults.forget(folder)


def reconcile_images(record: Record, spool: Spool, *, keep_all: bool = False) -> None:
    """Count exactly the images with a sidecar and an undamaged picture, read only if need be.

    The files of others that were counted, or of all (`keep_all`), are kept under names that begin
    with `kept-`; those of images that were being written are removed.
    """
    ledger, outbox = spool.ledger, spool.outbox
    folder = outbox.folder(record.id)
    known = ledger.images(record.seq)
    sidecars = outbox.sidecars(record.id)
    outputs = {
        number: output
        for number, sidecar in sidecars.items()
        if number <= record.total
        and (output := output_of(sidecar, folder, known.get(number))) is not None
    }
    lost = [n for n, row in known.items() if row["outcome"] == "done" and n not in outputs]
    ledger.unmade(record.seq, lost)
    for number in outputs.keys() - known.keys():
        state = state_of(folder / outputs[number]["file"])
        reused = "reused_from" in sidecars[number]["result"]
        ledger.made(record.seq, number, outputs[number], state, late=True, reused=reused)
    counted = {output[name] for output in outputs.values() for name in ("file", "sidecar")}
    counted |= {f"{record.id}-{number:04d}{ORIGINAL}" for number in outputs}
    kept = []
    for file in paths_in(folder, f"{record.id}-[0-9]*.*"):
        if file.suffix not in (".png", ".jpg", ".webp", ".json") or file.name in counted:
            continue
        stem = file.name.removesuffix(ORIGINAL).removesuffix(file.suffix)
        if keep_all or any(stem == f"{record.id}-{number:04d}" for number in lost):
            free = (folder / name for name in numbered(f"kept-{file.name}"))
            aside = next(each for each in free if not is_there(each))
            spool.disk.rename(file, aside)
            kept.append(aside.name)
        else:
            spool.disk.remove(file)
    if kept:
        message = f"images without a sidecar that fits, or the reverse, are kept: {', '.join(kept)}"
        log.warning("job %s: %s", record.id, message)
        ledger.warn(record.seq, [message])


def _take_off_device(record: Record, spool: Spool) -> None:
    """Charge what was in flight, unless the process was asked to stop, and requeue or end a job."""
    ledger = spool.ledger
    with ledger.transaction():
        ledger.lost(record.seq, os.environ.get(LAST_END, "the process ended"))
        dead_load = ledger.dead_load(record.seq)
        if dead_load is not None:
            ledger.end(record.seq, dead_load)
        else:
            ledger.put_back(record.seq, RUNNER_ENDED, after_death=not spool.last.stopping)


def _remove_preview(record: Record, spool: Spool) -> None:
    if record.realised.get("preview"):
        spool.disk.remove(spool.outbox.folder(record.id) / PREVIEW)


def _is_published(record: Record, outbox: Outbox) -> bool:
    """Whether its status is the one recorded: a power loss leaves an older one, a kill a newer."""
    status = outbox.read_status(record.id)
    return status is not None and status["revision"] == record.revision


def _lift_revision(record: Record, spool: Spool) -> None:
    published = spool.outbox.read_status(record.id)
    revision = max(record.revision, published["revision"] if published else 0)
    spool.ledger.lift_revision(record.seq, revision + _REVISIONS_MAYBE_LOST)


def _publish_again(records: Sequence[Record], spool: Spool) -> None:
    for record in records:
        _lift_revision(record, spool)
    spool.outbox.write_jobs([spool.ledger.get(record.seq) for record in records], [])
    spool.ledger.published(records)


def _sweep(folder: Path, spool: Spool) -> None:
    """Remove temporary files that a dead process was writing."""
    files: list[Path] = []
    with leaving_out(f"what was left half written in {folder}", log.warning):
        files = paths_in(folder, f".*{TEMPORARY_SUFFIX}")
    for file in files:
        with spool.faults.isolated(file):
            if is_left(file):
                spool.disk.remove(file)
