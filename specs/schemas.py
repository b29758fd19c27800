"""The schema files beside this one: which kinds there are, and each schema as a plain dict.

A kind is a file `<kind>.schema.json` whose property `kind` is a constant of that name: adding the
file is all that specs needs to learn a new kind. Imports nothing heavy and reads nothing from a
network: `bundle` follows references only into these files.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
_ENDING = ".schema.json"


@lru_cache(maxsize=64)
def load(name: str) -> dict[str, Any]:
    """The schema file `<name>.schema.json` as it is, references and all; not to be changed."""
    text = (FOLDER / f"{name}{_ENDING}").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


@lru_cache(maxsize=1)
def names() -> tuple[str, ...]:
    """The names of all schema files, sorted."""
    return tuple(sorted(path.name.removesuffix(_ENDING) for path in FOLDER.glob(f"*{_ENDING}")))


@lru_cache(maxsize=1)
def kinds() -> tuple[str, ...]:
    """The kinds of spec there are, sorted."""
    return tuple(
        name
        for name in names()
        if load(name).get("properties", {}).get("kind", {}).get("const") == name
    )


@lru_cache(maxsize=64)
def bundle(name: str) -> dict[str, Any]:
    """The same schema with every reference replaced by what it refers to; not to be changed.

    Words beside a reference (a better description) win over those of its target.
    """
    schema: dict[str, Any] = _inline(load(name), name)
    schema.pop("$defs", None)
    return schema


def _inline(part: Any, name: str) -> Any:
    if isinstance(part, list):
        return [_inline(item, name) for item in part]
    if not isinstance(part, dict):
        return part
    inlined = {key: _inline(value, name) for key, value in part.items() if key != "$ref"}
    reference = part.get("$ref")
    if not isinstance(reference, str):
        return inlined
    file, _, pointer = reference.partition("#")
    home = file.removesuffix(_ENDING) or name
    target: Any = load(home)
    for step in pointer.split("/")[1:]:
        target = target[step]
    found = {key: value for key, value in _inline(target, home).items() if key[:1] != "$"}
    return {**found, **inlined}


@lru_cache(maxsize=256)
def expression(pattern: str) -> re.Pattern[str]:
    """A `pattern` of a schema as Python has it: `$` is the very end, and digits are ASCII."""
    end = r"\Z" if pattern.endswith("$") and not pattern.endswith(r"\$") else ""
    return re.compile(pattern[:-1] + end if end else pattern, re.ASCII)


def job_schema() -> dict[str, Any]:
    """The schema for editors: it looks at `kind` and hands over to that kind's schema."""
    found = kinds()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"job{_ENDING}",
        "title": "fluxdrop spec",
        "description": "A spec: drop it into inbox/ and the pictures appear in outbox/.",
        "type": "object",
        "required": ["kind"],
        "properties": {
            "kind": {
                "description": "What to do. "
                + " ".join(f"`{kind}`: {load(kind)['description']}" for kind in found),
                "enum": list(found),
            }
        },
        "allOf": [
            {
                "if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]},
                "then": {"$ref": f"{kind}{_ENDING}"},
            }
            for kind in found
        ],
        "examples": [load(kind)["examples"][0] for kind in found],
    }


def write_job_schema() -> Path:
    """Write `job.schema.json` anew from the kinds in the folder and return its path."""
    path = FOLDER / f"job{_ENDING}"
    text = json.dumps(job_schema(), indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8", newline="\n")
    return path
