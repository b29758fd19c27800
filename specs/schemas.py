"""Loads the schema files of this folder: the names of the kinds, and each schema as a plain dict.

A kind is a file `<kind>.schema.json` whose property `kind` is a constant of that name; adding such
a file adds the kind to this package. The module imports neither yaml nor jsonschema and uses no
network: `bundle` follows references into the files of this folder only.
"""

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
_ENDING = ".schema.json"


@lru_cache(maxsize=64)
def load(name: str) -> dict[str, Any]:
    """The content of `<name>.schema.json`, references included; callers must not change it."""
    text = (FOLDER / f"{name}{_ENDING}").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


@lru_cache(maxsize=1)
def names() -> tuple[str, ...]:
    """The names of all schema files, sorted."""
    return tuple(sorted(path.name.removesuffix(_ENDING) for path in FOLDER.glob(f"*{_ENDING}")))


@lru_cache(maxsize=1)
def kinds() -> tuple[str, ...]:
    """The names of all kinds, sorted."""
    return tuple(
        name
        for name in names()
        if load(name).get("properties", {}).get("kind", {}).get("const") == name
    )


def other_name(name: str) -> str:
    """Our word for another program's field or kind, or what to do, as a sentence; "" for none."""
    return str(load("common")["otherNames"].get(name[:60].lower().replace("-", "_"), ""))


@lru_cache(maxsize=64)
def bundle(name: str) -> dict[str, Any]:
    """The schema with every reference replaced by its target; callers must not change it.

    Keywords beside a reference (such as a better description) win over those of the target.
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
    target_name = file.removesuffix(_ENDING) or name
    target: Any = load(target_name)
    for key in pointer.split("/")[1:]:
        target = target[key]
    resolved = _inline(target, target_name)
    return {key: value for key, value in resolved.items() if key[:1] != "$"} | inlined


@lru_cache(maxsize=256)
def expression(pattern: str) -> re.Pattern[str]:
    """A `pattern` of a schema, compiled: `$` is the very end, and character classes are ASCII."""
    end = r"\Z" if pattern.endswith("$") and not pattern.endswith(r"\$") else ""
    return re.compile(pattern[:-1] + end if end else pattern, re.ASCII)
