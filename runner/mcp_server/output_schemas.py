"""The schemas of the tools' results: what a caller may count on, in few words.

A result has more than its schema says; a job's has all of its status, as `flux://schema/status` has
it.
"""

from typing import Any

from specs import schemas

_TEXT, _COUNT, _ANY = {"type": "string"}, {"type": "integer"}, {"type": "object"}
_TEXTS = {"type": "array", "items": _TEXT}


def _object(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": properties}


def _said(description: str, part: dict[str, Any] = _TEXT) -> dict[str, Any]:
    return {**part, "description": description}


_OR_NULL = {"type": ["string", "null"]}
_OFFSET = {"type": ["integer", "null"]}
SUBMITTED = _object(
    {
        "job_id": _OR_NULL,
        "state": _TEXT,
        "image_count": _COUNT,
        "first_picture": _said("The image of a next call."),
        "seed": _COUNT,
        "warnings": _TEXTS,
        "dry_run": _ANY,
        "next": _said("What to do now."),
    },
    *("job_id", "state", "image_count", "warnings", "next"),
)
CANCELLED = _object(
    {
        "job_id": _TEXT,
        "outcome": {"enum": ["cancelled", "was_over", "asked", "unknown"]},
        "state": _TEXT,
        "message": _TEXT,
    },
    *("job_id", "outcome", "state", "message"),
)
FOUND = _object(
    {
        "total": _COUNT,
        "rows": {
            "type": "array",
            "items": _object(dict.fromkeys(("id", "job", "file", "prompt", "uri"), _TEXT)),
        },
        "next_offset": _OFFSET,
        "message": _TEXT,
    },
    *("total", "rows", "next_offset"),
)


def job() -> dict[str, Any]:
    """The schema of flux_get_job's result: a job's status, or less, and some of its pictures."""
    # Clients report the last two for a job without a status: in the inbox, or not known.
    states = [*schemas.bundle("status")["properties"]["state"]["enum"], "submitted", "unknown"]
    output = _object(dict.fromkeys(("file", "path", "uri"), _TEXT), "file", "path", "uri")
    return _object(
        {
            "id": _TEXT,
            "state": {"enum": states},
            "message": _OR_NULL,
            "images": _ANY,
            "outputs": _said(
                "`path` can be an image of other tools.", {"type": "array", "items": output}
            ),
            "next_offset": _OFFSET,
            "next": _said("What to do now."),
        },
        *("id", "state", "outputs", "next_offset", "next"),
    )
