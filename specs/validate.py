"""Checks a Document against the schema of its kind and reports every problem with its position.

The spec's `kind` selects one schema, so that the messages about a fill job mention only the fields
of fill jobs. No default is filled in: where a value comes from is decided later, by precedence.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from itertools import islice
from typing import Any, NoReturn

from specs import quick, rules, schemas
from specs.document import MAX_COLLECTED, MAX_REPORTED, Document, dotted, short
from specs.errors import Problem, SpecInvalid
from specs.suggest import nearest

__all__ = ["kinds", "validate"]

kinds = schemas.kinds

# Accepted and ignored, so that every sidecar is a spec.
_IGNORED = ("$schema", "schema", "result")

# Line, column, path, and a function that returns the message.
_Found = tuple[int, int, str, Callable[[], str]]


def validate(document: Document, schema: str | None = None) -> dict[str, Any]:
    """The document's value, checked by the schema of its `kind`, or by `schema` if one is named.

    Floats such as 20.0 become ints where the schema has an integer. Raises SpecInvalid and no other
    error, with the first 20 problems in the order of the file and the number of further ones.
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
        name, found = _kind(document)
        value = {**value, "kind": name} if found else value
    if name is not None:
        found += _problems(document, name, value)
    if found:
        _reject(found)
    assert name is not None
    checked: dict[str, Any] = _integral(value, _integers(name))
    if schema is None:
        checked = {key: part for key, part in checked.items() if key not in _IGNORED}
    return checked


def _kind(document: Document) -> tuple[str | None, list[_Found]]:
    """The schema to check by (the nearest one if `kind` is misspelt), and the problem of `kind`."""
    known = kinds()
    value = document.value
    if "kind" not in value:
        misspelt = nearest("kind", [key for key in value if len(key) <= 20])
        guess = value[misspelt] if misspelt else None
        at = document.locate([])
        return (guess if isinstance(guess, str) and guess in known else None), [
            (*at, "kind", lambda: f"'kind' is required: one of {', '.join(known)}")
        ]
    kind = value["kind"]
    if isinstance(kind, str) and kind in known:
        return kind, []
    at = document.locate(["kind"])
    return nearest(kind, known), [(*at, "kind", partial(rules.unknown_kind, kind))]


def _problems(document: Document, name: str, value: dict[str, Any]) -> list[_Found]:
    found: list[_Found] = []
    if not _surely_valid(name)(value):
        for error in islice(_validator(name).iter_errors(value), MAX_COLLECTED):
            for path, key, message in _messages().explain(error, name):
                found.append((*document.locate(path, key=key), dotted(path), message))
    for path, text in rules.check(name, value):
        found.append((*document.locate(path), dotted(path), partial(str, text)))
    return found


def _reject(found: list[_Found]) -> NoReturn:
    """Raise SpecInvalid; only the messages of the problems that are reported are computed."""
    found.sort(key=lambda problem: problem[:3])
    reported = [
        Problem(line, column, path, message())
        for line, column, path, message in found[:MAX_REPORTED]
    ]
    if len(found) > MAX_REPORTED:
        line, column, path, _ = found[MAX_REPORTED]
        more = len(found) - MAX_REPORTED
        least = "at least " if len(found) >= MAX_COLLECTED else ""
        message = f"and {least}{more} more problems from here on"
        reported.append(Problem(line, column, path, message))
    raise SpecInvalid("SchemaInvalid", reported)


def _messages() -> Any:
    # jsonschema takes a tenth of a second to import, and valid specs do without it.
    from specs import messages

    return messages


@lru_cache(maxsize=64)
def _validator(name: str) -> Any:
    return _messages().validator(schemas.bundle(name))


@lru_cache(maxsize=64)
def _surely_valid(name: str) -> quick.Check:
    # Takes a twentieth of jsonschema's time and accepts most valid specs.
    return quick.compile_check(schemas.bundle(name))


@lru_cache(maxsize=64)
def _integers(name: str) -> Any:
    return _find_integers(schemas.bundle(name))


def _find_integers(schema: Any) -> Any:
    """Where a schema has integers: True for here, else {key or "*": the same for that child}."""
    if not isinstance(schema, dict):
        return None
    if schema.get("type") == "integer":
        return True
    inside: dict[str, Any] = {}
    branches = [*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())]
    children = [*schema.get("properties", {}).items()]
    children += [("*", schema.get(keyword)) for keyword in ("items", "additionalProperties")]
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
    """The value with integral floats as ints at the places that `_find_integers` has marked."""
    if marks is True:
        return int(value) if isinstance(value, float) and value.is_integer() else value
    if not isinstance(marks, dict):
        return value
    if isinstance(value, dict):
        return {key: _integral(part, marks.get(key, marks.get("*"))) for key, part in value.items()}
    if isinstance(value, list):
        return [_integral(part, marks.get("*")) for part in value]
    return value
