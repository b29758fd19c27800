"""The schemas of the tools' results; that of a job's status is derived from the outbox's own."""

from typing import Any

from specs import schemas


def _object(
    properties: dict[str, Any], *optional: str, description: str | None = None
) -> dict[str, Any]:
    """The schema of an object that has all of the properties but the `optional` ones."""
    required = [name for name in properties if name not in optional]
    schema = {"type": "object", "required": required, "properties": properties}
    return schema if description is None else {**schema, "description": description}


RUNNER = _object(
    {
        "running": {"type": "boolean"},
        "message": {"type": "string", "description": "What it is doing, or how to start one."},
    },
    description="Whether a runner is working in this home.",
)
_PROMPT = _object(
    {
        "prompt": {"type": "string", "description": "The final text, as the model gets it."},
        "length": {"type": "integer", "description": "In characters."},
        "subject": {"type": "string"},
        "variable": {"type": ["string", "null"]},
        "audit": _object(
            {"verdict": {"type": "string"}, "findings": {"type": "array"}},
            description="The verdict on forbidden words, and every finding.",
        ),
    },
    *("subject", "variable"),
)
_DRY_RUN = _object(
    {
        "spec": {"type": "object", "description": "The spec."},
        "spec_yaml": {"type": "string", "description": "The same, as the file would say it."},
        "prompts": {"type": "array", "items": _PROMPT, "description": "The first 20."},
        "prompt_count": {"type": "integer"},
        "audit": {"type": "string", "description": "ok: no prompt asks for anything forbidden."},
        "left_out": {"type": "array", "description": "Combinations that would not run, and why."},
        "reuse": {"type": "object", "description": "How many images would be copied."},
    },
    *("left_out", "reuse"),
    description="Only after dry_run: what would have run. Nothing was submitted.",
)
SUBMITTED = _object(
    {
        "job_id": {
            "type": ["string", "null"],
            "description": "For flux_get_job and flux_cancel_job; valid from now on. null after a"
            " dry run.",
        },
        "state": {
            "type": "string",
            "description": "Where the job stands at this moment, as flux_get_job says it;"
            " `dry_run` after a dry run.",
        },
        "image_count": {"type": "integer", "description": "How many pictures it makes."},
        "status_file": {
            "type": ["string", "null"],
            "description": "Where the status is written. null after a dry run.",
        },
        "runner": RUNNER,
        "warnings": {"type": "array", "items": {"type": "string"}},
        "dry_run": _DRY_RUN,
        "next": {"type": "string", "description": "What to do now."},
    },
    "dry_run",
)
CANCELLED = _object(
    {
        "job_id": {"type": "string"},
        "outcome": {
            "enum": ["cancelled", "was_over", "asked", "unknown"],
            "description": "cancelled: it has stopped. was_over: it had ended before, nothing"
            " changed. asked: it stops as soon as it can. unknown: there is no such job.",
        },
        "state": {"type": "string", "description": "The job's state now."},
        "message": {"type": "string"},
        "runner": RUNNER,
    },
    "runner",
)
_TEXTS = {name: {"type": "string"} for name in ("id", "job", "file", "prompt")}
_URI = {"type": "string", "description": "The picture as a resource."}
FOUND = _object(
    {
        "total": {"type": "integer", "description": "How many pictures fit in all."},
        "rows": {
            "type": "array",
            "description": "Newest first. `file` can be given as an image to the other tools.",
            "items": _object({**_TEXTS, "uri": _URI}),
        },
        "next_offset": {"type": ["integer", "null"], "description": "For the next page."},
        "message": {"type": "string"},
    },
    "message",
)


def job() -> dict[str, Any]:
    """The schema of flux_get_job's result: a status, or less for a job without, and a page."""
    status = schemas.bundle("status")
    properties = {**status["properties"]}
    # Clients report the last two for a job without a status: in the inbox, or not known.
    states = [*status["properties"]["state"]["enum"], "submitted", "unknown"]
    properties["state"] = {
        "description": "submitted: its file waits in the inbox. queued, running: accepted."
        " succeeded, failed, cancelled, rejected: over for good. unknown: never seen here, or its"
        " folder was moved away; it does not mean done.",
        "enum": states,
    }
    properties["outputs"] = {
        "type": "array",
        "description": "At most 4 finished pictures, from `offset` on. `path` can be given as an"
        " image to the other tools.",
        "items": _object({name: {"type": "string"} for name in ("file", "path", "uri")}),
    }
    properties["next_offset"] = {
        "type": ["integer", "null"],
        "description": "Give it as `offset` for the pictures after these; null where none are.",
    }
    properties["status_file"] = {"type": ["string", "null"]}
    properties["runner"] = RUNNER
    properties["next"] = {"type": "string", "description": "What to do now."}
    required = ["id", "state", "outputs", "next_offset", "next"]
    return {"type": "object", "required": required, "properties": _without_examples(properties)}


def _without_examples(part: Any) -> Any:
    if isinstance(part, dict):
        return {key: _without_examples(value) for key, value in part.items() if key != "examples"}
    return [_without_examples(item) for item in part] if isinstance(part, list) else part
