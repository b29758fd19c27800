"""The five tools that make pictures: check everything, then write one spec or name every problem.

A spec carries its id, so the caller knows the job before a runner has taken it, and a repeated call
finds the first job instead of making a second one. Specs are serialised, never formatted from text,
so that no prompt can be read as another field.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp.server.mcpserver.exceptions import ToolError

from runner import client, reading
from runner.files import is_absent, names_in, read_file
from runner.mcp_server.arguments import FILE_ONLY_FIELDS, refusal, without_nulls
from runner.mcp_server.inputs import Inputs, sweep
from runner.mcp_server.runner_presence import Attendance
from runner.settings import Home
from runner.spool.store.names import PICTURE_SUFFIXES, is_conflict_copy, is_safe_id, key_of
from specs import schemas
from specs.errors import SpecInvalid

if TYPE_CHECKING:
    from runner.catalogue import RegistryCatalogue
    from runner.spool.inbox.assess import Assessment

_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"
_MOST_PROMPTS = 20
_LONGEST_STEM = 32


def submit(
    home: Home, attendance: Attendance, kind: str, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """The result of a tool that makes pictures of `kind`. Raises ToolError with every problem.

    Writes the input images and the spec into the inbox, unless it is a dry run.
    """
    from runner.catalogue import RegistryCatalogue
    from runner.spool.inbox.assess import assess
    from specs.write import to_yaml

    values = without_nulls(arguments)
    has_id = "id" in values
    dry_run = values.pop("dry_run", False)
    job_id = values.pop("id", None) or _readable_id(kind, values)
    if not isinstance(dry_run, bool):
        raise refusal(["dry_run: true or false is meant"], "Nothing was submitted")
    inputs = Inputs(home, job_id if isinstance(job_id, str) and is_safe_id(job_id) else "unnamed")
    spec = inputs.settle({"kind": kind, "id": job_id, **values}, schemas.bundle(kind)["properties"])
    problems = [f"{path}: {text}" for path, text in inputs.problems]
    problems += [
        f"{field}: this belongs to spec files: leave it out"
        for field in FILE_ONLY_FIELDS
        if field in values
    ]
    if isinstance(job_id, str) and is_conflict_copy(f"{job_id}.yaml"):
        problems.append(f"id: {job_id!r} looks like a sync tool's conflict copy: choose another")
    try:
        data = to_yaml(spec)
    except SpecInvalid as error:
        problems += map(str, error.problems)
        raise refusal(problems, "Nothing was submitted") from None
    catalogue = RegistryCatalogue(home.settings, home.data)
    assessment = assess(data, f"{job_id}.yaml", home, catalogue, weights=True)
    problems += map(str, assessment.problems)
    if problems:
        outcome = "Nothing was submitted"
        if any(problem.path == "model" for problem in assessment.problems):
            outcome += f" (on this machine are: {_here(catalogue, kind)})"
        raise refusal(problems, outcome)
    answer = {
        "model": assessment.realised.get("model"),
        "image_count": assessment.total,
        "warnings": [*assessment.warnings, *assessment.absent],
    }
    lacks = _lacks(catalogue, kind, assessment)
    if dry_run:
        if not has_id:
            spec.pop("id")  # the call that submits the spec gets another one
        return {
            "job_id": None,
            "state": "dry_run",
            **answer,
            "status_file": None,
            "dry_run": _dry_run(home, spec, assessment),
            "next": f"{lacks}nothing was submitted; call again without dry_run to submit it",
        }
    if assessment.base_seed is not None and not assessment.composed and "matrix" not in spec:
        # By its id, so that a call that is repeated writes the same spec. Elsewhere a seed would
        # be that of each prompt and combination.
        seed = int.from_bytes(hashlib.sha256(job_id.encode()).digest()[:4]) // 2
        data = to_yaml({**spec, "seed": seed})
        answer["seed"] = seed
    if not _was_submitted(home, job_id, data):
        sweep(home, job_id)
        # Before the spec: a runner that takes it finds its images.
        inputs.write()
        # A runner may have made a job of an equal call's spec since it was looked for.
        put = client.put(
            home, data, f"{job_id}.yaml", still=lambda: not _was_submitted(home, job_id, data)
        )
        if not put and not _has_spec(home, job_id, data):
            raise _in_use(job_id)
    status = client.status(home, job_id)
    suffix = PICTURE_SUFFIXES[assessment.realised.get("format", "png")]
    runner = attendance.look()
    advice = f"call flux_get_job with job_id {job_id!r} and wait_seconds 50 until it is over"
    if not runner["running"]:
        advice = f"say that no runner is running, and how to start one; then {advice}"
    return {
        "job_id": job_id,
        "state": "submitted" if status["state"] == "unknown" else status["state"],
        **answer,
        "first_picture": f"{job_id}/{job_id}-0001{suffix}",
        "status_file": str(home.job(job_id) / "status.json"),
        "runner": runner,
        "next": lacks + advice,
    }


def _lacks(catalogue: RegistryCatalogue, kind: str, assessment: Assessment) -> str:
    """What to do first where weights are not on this machine; empty where all are."""
    if not assessment.absent:
        return ""
    return (
        "ask the user to fetch what `warnings` names, or cancel the job and take a model that is"
        f" on this machine ({_here(catalogue, kind)}); "
    )


def _here(catalogue: RegistryCatalogue, kind: str) -> str:
    return ", ".join(catalogue.here(kind)) or f"none for {kind}"


def _was_submitted(home: Home, job_id: str, data: bytes) -> bool:
    """Whether this spec was submitted before. Raises ToolError where the id is another spec's."""
    holders = _holders(home, job_id)
    if any(_has_spec(home, holder, data) for holder in holders):
        return True
    if holders:
        raise _in_use(holders[0])
    return False


def _has_spec(home: Home, job_id: str, data: bytes) -> bool:
    """Whether the drop of this id, or the job that a runner has made of it, is this spec."""
    folder = home.job(job_id)
    for file in (home.inbox / f"{job_id}.yaml", folder / "spec.yaml", folder / "spec.json"):
        try:
            if read_file(file) == data:
                return True
        except OSError as error:
            if not is_absent(error):
                raise
    return False


def _in_use(job_id: str) -> ToolError:
    problem = f"id: {job_id!r} is another job's: choose another, or leave it out"
    return refusal([problem], "Nothing was submitted")


def _holders(home: Home, job_id: str) -> list[str]:
    """The ids, in their own spelling, of the drops and jobs that hold an id already.

    A drop leaves the inbox once its job is in the outbox: in this order none is missed.
    """
    key = key_of(job_id)
    drops = (Path(name) for name in names_in(home.inbox))
    holders = [
        drop.stem
        for drop in drops
        if drop.suffix.lower() in (".yaml", ".yml", ".json") and key_of(drop.stem) == key
    ]
    for name in names_in(home.outbox):
        if key_of(name) == key:
            status = reading.status(home.job(name) / "status.json")
            # A rejected job does not hold its id: the next drop of that id replaces its folder.
            if status is None or status["state"] != "rejected":
                holders.append(name)
    return holders


def _readable_id(kind: str, values: Mapping[str, Any]) -> str:
    """An id that no other job has: the first words of the prompt, then eight random letters."""
    compose = values.get("compose")
    text = values.get("prompt") or (compose.get("pack") if isinstance(compose, dict) else "")
    plain = unicodedata.normalize("NFKD", text if isinstance(text, str) else "")[:400]
    words = re.findall(r"[a-z0-9]+", plain.encode("ascii", "ignore").decode().lower())
    stem = ""
    for word in words or [kind]:
        if len(stem) + len(word) >= _LONGEST_STEM:
            break
        stem = f"{stem}-{word}" if stem else word
    return f"{stem or kind}-{''.join(secrets.choice(_LETTERS) for _ in range(8))}"


def _dry_run(home: Home, spec: Mapping[str, Any], assessment: Assessment) -> dict[str, Any]:
    """The spec of a dry run, its final prompts and their audit."""
    from composer.audit import audit, parse_terms
    from runner.daemon.tasks import reuse_counts
    from specs.write import to_yaml

    plan = assessment.plan
    skipped = plan.skipped if plan else ()
    if plan:
        reports = [entry.report for entry in plan.entries]
        rows = [{**e.named(), "prompt": e.prompt} for e in plan.entries[:_MOST_PROMPTS]]
    else:
        terms, languages = parse_terms(home.settings.forbidden), home.settings.audit_languages
        texts = [*filter(None, spec.get("matrix", {}).get("prompt") or [spec.get("prompt")])]
        reports = [audit(text, terms, (), languages) for text in texts]
        rows = [{"prompt": text} for text in texts[:_MOST_PROMPTS]]
    counts = reuse_counts(assessment, home)
    return {
        "spec": {**spec, "model": assessment.realised.get("model", spec.get("model"))},
        "spec_yaml": to_yaml(spec).decode(),
        "prompts": [
            {**row, "audit": report.to_json(), "length": len(row["prompt"])}
            for row, report in zip(rows, reports, strict=False)
        ],
        "prompt_count": len(reports),
        "audit": "ok" if all(report.ok for report in reports) else "violation",
        "left_out": [asdict(each) for each in skipped[:_MOST_PROMPTS]],
        "left_out_count": len(skipped),
        **({"reuse": counts} if counts else {}),
    }
