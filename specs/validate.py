"""Check a Document against the schema of its kind: every problem at once, each with its place.

The spec's `kind` chooses one schema, so that a mistake in a fill job is told in the words of fill
jobs. Never fills in a default (what a value comes from is decided later, by precedence) and never
raises anything but SpecInvalid.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from itertools import islice
from typing import Any

from specs import quick, rules, schemas
from specs.document import MAX_COLLECTED, MAX_REPORTED, Document, dotted, short
from specs.errors import Problem, SpecInvalid
from specs.suggest import did_you_mean, nearest

__all__ = ["kinds", "validate"]

kinds = schemas.kinds

# Accepted and ignored, so that every sidecar is a spec.
_IGNORED = ("$schema", "schema", "result")
_Found = tuple[int, int, str, Callable[[], str]]


def validate(document: Document, schema: str | None = None) -> dict[str, Any]:
    """The document's value, checked by the schema of its `kind`, or by `schema` if one is named.

    Integral floats are ints where an integer is meant. Raises SpecInvalid with at most 20 problems
    in the order of the file, and their number where there are more.
    """
    value = document.value
    found: list[_Found] = []
    name = schema
    if value is None and schema == "settings":
        return {}
    if not isinstance(value, dict):
        message = "the file is empty" if value is None else f"{short(value)} stands alone"
        _reject([(*document.mark[:2], "", lambda: f"{message}: write it as `key: value` lines")])
    if name is None:
        name, misspelt = _kind(document)
        found.extend(misspelt)
        value = {**value, "kind": name} if misspelt else value
    if name is not None:
        found.extend(_problems(document, name, value))
    if found:
        _reject(found)
    assert name is not None
    checked: dict[str, Any] = _integral(value, _integers(name))
    if schema is None:
        checked = {key: part for key, part in checked.items() if key not in _IGNORED}
    return checked


def _kind(document: Document) -> tuple[str | None, list[_Found]]:
    """The schema to use, and what is wrong with `kind`; a near miss is still checked as meant."""
    known = kinds()
    value = document.value
    offered = ", ".join(known)
    if "kind" not in value:
        keys = [key for key in value if len(key) <= 20]
        near = nearest("kind", keys)
        guess = value[near] if near else None
        at = document.locate([])
        return (guess if isinstance(guess, str) and guess in known else None), [
            (*at, "kind", lambda: f"'kind' is required: one of {offered}")
        ]
    given = value["kind"]
    if isinstance(given, str) and given in known:
        return given, []
    hint = did_you_mean(given, known, f"there are {offered}")
    at = document.locate(["kind"])
    return nearest(given, known), [(*at, "kind", lambda: f"{short(given)} is not a kind ({hint})")]


def _problems(document: Document, name: str, value: dict[str, Any]) -> list[_Found]:
    found: list[_Found] = []
    if not _surely_valid(name)(value):
        for error in islice(_validator(name).iter_errors(value), MAX_COLLECTED):
            for path, key, message in _messages().explain(error, name):
                found.append((*document.locate(path, key=key), dotted(path), message))
    for path, text in rules.check(name, value):
        found.append((*document.locate(path), dotted(path), partial(str, text)))
    return found


def _reject(found: list[_Found]) -> Any:
    """Raise SpecInvalid; messages are only put into words for the problems that are shown."""
    found.sort(key=lambda problem: problem[:3])
    shown = [
        Problem(line, column, path, message())
        for line, column, path, message in found[:MAX_REPORTED]
    ]
    if len(found) > MAX_REPORTED:
        line, column, path, _ = found[MAX_REPORTED]
        more = len(found) - MAX_REPORTED
        least = "at least " if len(found) >= MAX_COLLECTED else ""
        shown.append(Problem(line, column, path, f"and {least}{more} more problems from here on"))
    raise SpecInvalid("SchemaInvalid", shown)


def _messages() -> Any:
    # jsonschema costs a tenth of a second: nobody who only asks for help should pay it.
    from specs import messages

    return messages


@lru_cache(maxsize=64)
def _validator(name: str) -> Any:
    return _messages().validator(schemas.bundle(name))


@lru_cache(maxsize=64)
def _surely_valid(name: str) -> quick.Question:
    # A twentieth of jsonschema's time, for the great majority of specs.
    return quick.question(schemas.bundle(name))


@lru_cache(maxsize=64)
def _integers(name: str) -> Any:
    return _find_integers(schemas.bundle(name))


def _find_integers(schema: Any) -> Any:
    """Where a schema means integers: True here, or {key or "*": the same for that child}."""
    if not isinstance(schema, dict):
        return None
    if schema.get("type") == "integer":
        return True
    inside: dict[str, Any] = {}
    branches = [*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())]
    children = [*schema.get("properties", {}).items()]
    children += [("*", schema.get(word)) for word in ("items", "additionalProperties")]
    for key, child in children:
        marks = _find_integers(child)
        if marks:
            inside[key] = marks
    for branch in branches:
        marks = _find_integers(branch)
        if marks is True:
            return True
        inside.update(marks or {})
    return inside or None


def _integral(value: Any, marks: Any) -> Any:
    if marks is True:
        return int(value) if isinstance(value, float) and value.is_integer() else value
    if not isinstance(marks, dict):
        return value
    if isinstance(value, dict):
        return {key: _integral(part, marks.get(key, marks.get("*"))) for key, part in value.items()}
    if isinstance(value, list):
        return [_integral(part, marks.get("*")) for part in value]
    return value
