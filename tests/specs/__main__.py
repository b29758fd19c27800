"""`python -m tests.specs` writes job.schema.json again from the kinds, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from specs.schemas import FOLDER, kinds, load

ENDING = ".schema.json"


def job_schema() -> dict[str, Any]:
    """The schema for editors, which applies the schema of the kind that `kind` names."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"job{ENDING}",
        "title": "fluxdrop spec",
        "description": "A spec: drop it into inbox/ and the pictures appear in outbox/.",
        "type": "object",
        "required": ["kind"],
        "properties": {
            "kind": {
                "description": "What to do. "
                + " ".join(f"`{kind}`: {load(kind)['description']}" for kind in kinds()),
                "enum": list(kinds()),
            }
        },
        "allOf": [
            {
                "if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]},
                "then": {"$ref": f"{kind}{ENDING}"},
            }
            for kind in kinds()
        ],
        "examples": [load(kind)["examples"][0] for kind in kinds()],
    }


def write_job_schema() -> Path:
    """Write `job.schema.json` from the kinds in the folder and return its path."""
    path = FOLDER / f"job{ENDING}"
    text = json.dumps(job_schema(), indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8", newline="\n")
    return path


if __name__ == "__main__":
    print(f"{write_job_schema().name}: {', '.join(kinds())}")
