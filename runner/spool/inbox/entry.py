"""Makes the record of a drop, as the ledger keeps it, from its assessment."""

from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from runner.clock import now, ready_at, timestamp
from runner.errors import InputMissing
from runner.files import is_file, read_file
from runner.job import State
from runner.spool.inbox.assess import Assessment, Catalogue, assess
from runner.spool.inbox.inputs import copy_name, paths_of
from runner.spool.inbox.settle import Drop
from runner.spool.store.record import Record
from runner.spool.store.spool import Spool


def record_of(drop: Drop, assessment: Assessment, job_id: str, seq: int = 0) -> Record:
    """The record of an assessed drop; the ledger numbers one with a `seq` of 0."""
    rejected = assessment.reason is not None
    spec = assessment.realised
    # Set from the start, so that no image starts before its inputs are copied.
    waits = not rejected and any(paths_of(spec, assessment.composed))
    accepted_at = timestamp()
    # The scheduler computes the hours of a job that waits for inputs, once they are there.
    opening = 0.0 if rejected or waits else ready_at(spec, now())
    return Record(
        seq=seq,
        id=job_id,
        state=State.REJECTED if rejected else State.QUEUED,
        end_reason=assessment.reason,
        end_message=assessment.message,
        inputs_missing=waits,
        source_name=drop.name,
        source_sha256=drop.sha256,
        source_bytes=drop.size,
        source_mtime_ns=drop.mtime_ns,
        suffix=".json" if drop.name.lower().endswith(".json") else ".yaml",
        spec=drop.data,
        accepted_at=accepted_at,
        finished_at=accepted_at if rejected else None,
        kind=spec.get("kind"),
        model=spec.get("model"),
        priority=spec.get("priority", 0),
        total=assessment.total,
        base_seed=assessment.base_seed,
        realised=spec,
        errors=[asdict(problem) for problem in assessment.problems],
        warnings=list(assessment.warnings),
        ready_at=opening,
    )


def assessed_again(
    record: Record, spool: Spool, catalogue: Catalogue
) -> tuple[Record, Iterable[tuple[Any, Any]]]:
    """A job that is known by its status only, queued as the spec in its folder says now.

    Rejected where that would be rejected now. Comes with its prompts, and the rows left out.
    """
    folder = spool.outbox.folder(record.id)
    spec = next((f for f in (folder / "spec.yaml", folder / "spec.json") if is_file(f)), None)
    data = read_file(spec) if spec else b""
    drop = Drop(record.source_name, data, (0, 0, record.source_bytes, 0, 0))
    copies = folder / "inputs"
    assessment = assess(
        data, drop.name, spool.home, catalogue, beside=lambda name: copies / copy_name(name, ())
    )
    if assessment.awaits:
        assessment = Assessment(reason=InputMissing.reason, message=assessment.awaits)
    again = replace(
        record_of(drop, assessment, record.id),
        source_sha256=record.source_sha256,
        revision=record.revision,
        accepted_at=record.accepted_at,
        started_at=record.started_at,
        inputs=_copies(paths_of(assessment.realised, assessment.composed), copies),
    )
    if again.base_seed is not None and (sidecars := spool.outbox.sidecars(record.id)):
        # In a job without seeds, missing images continue the seeds of those that are there.
        number, sidecar = next(iter(sidecars.items()))
        again = replace(again, base_seed=sidecar["seed"] - (number - 1))
    return again, (*assessment.composed, *assessment.left_out)


def _copies(named: Iterable[tuple[str, str]], folder: Path) -> dict[str, str]:
    """The copies of inputs that a job has, by the paths that its spec and its rows name."""
    copies: dict[str, str] = {}
    used: set[str] = set()
    for _, text in named:
        if text not in copies and is_file(folder / (name := copy_name(text, used))):
            copies[text] = name
            used.add(name.casefold())
    return copies
