"""The five tools that make pictures: look at everything, then write one spec, or say what is wrong.

A spec carries its id, so the caller knows the job before the runner has seen it, and a repeated
call finds the first job instead of making a second one. Specs are serialised, never formatted: no
prompt can say anything but a prompt.
"""

from __future__ import annotations

import re
import secrets
import unicodedata
from collections.abc import Mapping
from typing import Any

from runner import client
from runner.mcp_server.arguments import given, refusal
from runner.mcp_server.inputs import Inputs, is_needed, sweep
from runner.mcp_server.runner_presence import Attendance
from runner.settings import Home
from runner.spool.store.names import is_conflict_copy, is_safe_id, key_of
from runner.wire import read_json
from specs import schemas
from specs.errors import SpecInvalid

_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"
_MOST_PROMPTS = 20
_LONGEST_STEM = 32


def submit(
    home: Home, attendance: Attendance, kind: str, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Answer one call of a tool that makes pictures. Raises ToolError with every problem."""
    from runner.catalogue import RegistryCatalogue
    from runner.spool.inbox.assess import assess
    from runner.spool.inbox.settle import Drop
    from specs.write import to_yaml

    values = given(arguments)
    dry_run = values.pop("dry_run", False)
    job_id = values.pop("id", None) or _free_id(home, kind, values)
    if not isinstance(dry_run, bool):
        raise refusal(["dry_run: true or false is meant"], "Nothing was submitted")
    inputs = Inputs(home, job_id if isinstance(job_id, str) and is_safe_id(job_id) else "unnamed")
    spec = inputs.settle({"kind": kind, "id": job_id, **values}, schemas.bundle(kind)["properties"])
    problems = [f"{path}: {text}" for path, text in inputs.problems]
    problems += _of_server([*values], job_id)
    try:
        data = to_yaml(spec)
    except SpecInvalid as error:
        problems += [_line(problem) for problem in error.problems]
        raise refusal(problems, "Nothing was submitted") from None
    name = f"{job_id}.yaml"
    catalogue = RegistryCatalogue(home.settings, home.data)
    verdict = assess(Drop(name, data, (0, 0, len(data), 0, 0)), home, catalogue)
    problems += [_line(problem) for problem in verdict.problems]
    if verdict.reason and not verdict.problems:
        problems.append(verdict.message or verdict.reason)
    if problems:
        raise refusal(problems, "Nothing was submitted")
    answer = {
        "job_id": None,
        "state": "dry_run",
        "image_count": verdict.total,
        "status_file": None,
        "runner": attendance.peek() if dry_run else {},
        "warnings": list(verdict.warnings),
    }
    if dry_run:
        if "id" not in given(arguments):
            spec.pop("id")  # chosen anew when it is submitted
        said = _rehearsed(home, catalogue, spec, verdict.realised)
        done = "nothing was submitted; call again without dry_run to submit it"
        return {**answer, "dry_run": said, "next": done}
    if not _is_there_already(home, job_id, data):
        sweep(home, lambda job: job == job_id or is_needed(home, job))
        _write(home, inputs, data, name)
    status = client.status(home, job_id)
    runner = attendance.look()
    first = (
        "" if runner["running"] else "say that no runner is running, and how to start one; then "
    )
    return {
        **answer,
        "job_id": job_id,
        "state": "submitted" if status["state"] == "unknown" else status["state"],
        "status_file": str(home.job(job_id) / "status.json"),
        "runner": runner,
        "next": f"{first}call flux_get_job with job_id {job_id!r} and wait_seconds 50 until it"
        " is over",
    }


def _line(problem: Any) -> str:
    return f"{problem.path}: {problem.message}" if problem.path else str(problem.message)


def _of_server(names: list[str], job_id: Any) -> list[str]:
    """What the schema of specs lets through and a tool does not take."""
    files = [name for name in ("kind", "schema", "$schema", "result") if name in names]
    found = [f"{name}: this belongs to spec files: leave it out" for name in files]
    if isinstance(job_id, str) and is_conflict_copy(f"{job_id}.yaml"):
        found.append(f"id: {job_id!r} looks like a sync tool's conflict copy: choose another")
    return found


def _write(home: Home, inputs: Inputs, data: bytes, name: str) -> None:
    """Images first, then the spec: whoever sees the spec finds its images."""
    try:
        inputs.write()
        drop = client.submit_as(home, data, name)
    except BaseException:
        inputs.undo()
        raise
    if drop is None and not _waits(home, name, data):
        inputs.undo()
        raise _in_use(name.removesuffix(".yaml"))


def _is_there_already(home: Home, job_id: str, data: bytes) -> bool:
    """Whether this very call was made before. Raises ToolError where the id is another job's."""
    holder = _holder(home, job_id)
    if holder is None:
        return False
    folder = home.job(holder)
    stored = (folder / f"spec{suffix}" for suffix in (".yaml", ".json"))
    if any(file.is_file() and file.read_bytes() == data for file in stored):
        return True
    if _waits(home, f"{holder}.yaml", data):
        return True
    raise _in_use(holder)


def _waits(home: Home, name: str, data: bytes) -> bool:
    """Whether the inbox, or the job made of it a moment ago, has exactly these bytes."""
    for file in (home.inbox / name, home.job(name.removesuffix(".yaml")) / "spec.yaml"):
        try:
            if file.read_bytes() == data:
                return True
        except OSError:
            continue
    return False


def _in_use(job_id: str) -> Exception:
    line = f"id: {job_id!r} is another job's: choose another, or leave it out"
    return refusal([line], "Nothing was submitted")


def _holder(home: Home, job_id: str) -> str | None:
    """The name, as it is written there, of the job or drop that holds an id; else None."""
    wanted = key_of(job_id)
    for folder, suffixes in ((home.outbox, ("",)), (home.inbox, (".yaml", ".yml", ".json"))):
        for entry in folder.iterdir() if folder.is_dir() else ():
            for suffix in suffixes:
                if not entry.name.lower().endswith(suffix):
                    continue
                name = entry.name[: len(entry.name) - len(suffix)]
                if key_of(name) == wanted and not _is_free(home, name, suffix):
                    return name
    return None


def _is_free(home: Home, job_id: str, suffix: str) -> bool:
    """A rejected job holds nothing: the next drop of its id replaces its folder."""
    found = read_json(home.job(job_id) / "status.json") if not suffix else None
    return found is not None and found.get("state") == "rejected"


def _free_id(home: Home, kind: str, values: Mapping[str, Any]) -> str:
    """A readable id that nobody has: the prompt's first words, then what cannot be guessed."""
    compose = values.get("compose")
    text = values.get("prompt") or (compose.get("pack") if isinstance(compose, dict) else "")
    plain = unicodedata.normalize("NFKD", text if isinstance(text, str) else "")[:400]
    words = re.findall(r"[a-z0-9]+", plain.encode("ascii", "ignore").decode().lower())
    stem = ""
    for word in words or [kind]:
        if len(stem) + len(word) >= _LONGEST_STEM:
            break
        stem = f"{stem}-{word}" if stem else word
    while True:
        made = f"{stem or kind}-{''.join(secrets.choice(_LETTERS) for _ in range(8))}"
        if not home.job(made).exists() and not (home.inbox / f"{made}.yaml").exists():
            return made


def _rehearsed(
    home: Home, catalogue: Any, spec: Mapping[str, Any], realised: Mapping[str, Any]
) -> dict[str, Any]:
    """What a dry run says beyond the count: the spec, the final prompts and their audit."""
    from composer.audit import audit, parse_terms
    from specs.write import to_yaml

    left_out: list[dict[str, Any]] = []
    if "compose" in spec:
        from composer.plan import make_plan

        plan = make_plan(
            spec,
            home.prompts,
            forbidden=home.settings.forbidden,
            settings={"model": catalogue.default_model(spec)},
            model_defaults=lambda model: catalogue.parameters(model, str(spec["kind"])),
        )
        left_out = [skipped.to_json() for skipped in plan.skipped]
        rows = [
            {**entry.named(), "prompt": entry.prompt, "audit": entry.report.to_json()}
            for entry in plan.entries
        ]
    else:
        terms = parse_terms(home.settings.forbidden)
        texts = spec.get("matrix", {}).get("prompt") or [spec.get("prompt")]
        rows = [{"prompt": t, "audit": audit(t, terms).to_json()} for t in texts if t]
    bad = any(row["audit"]["verdict"] != "ok" for row in rows)
    return {
        "spec": {**spec, "model": realised.get("model", spec.get("model"))},
        "spec_yaml": to_yaml(spec).decode(),
        "prompts": [{**row, "length": len(row["prompt"])} for row in rows[:_MOST_PROMPTS]],
        "prompt_count": len(rows),
        "audit": "violation" if bad else "ok",
        "left_out": left_out[:_MOST_PROMPTS],
    }
