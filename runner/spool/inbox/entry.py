"""Makes the record of a drop, as the ledger keeps it, from its assessment."""

from dataclasses import asdict

from runner.clock import now, ready_at, timestamp
from runner.job import State
from runner.spool.inbox.assess import Assessment
from runner.spool.inbox.inputs import named_paths
from runner.spool.inbox.settle import Drop
from runner.spool.store.record import Record


def record_of(drop: Drop, assessment: Assessment, job_id: str, seq: int = 0) -> Record:
    """The record of an assessed drop; the ledger numbers one with a `seq` of 0."""
    rejected = assessment.reason is not None
    spec = assessment.realised
    # Set from the start, so that no image starts before its inputs are copied.
    waits = not rejected and any(named_paths(spec))
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
