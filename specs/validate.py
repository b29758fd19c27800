"""Checks a Document against the schema of its kind and reports every problem with its position.

The spec's `kind` selects one schema, so that the messages about a fill job mention only the fields
of fill jobs. No default is filled in: where a value comes from is decided later, by precedence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from typing import Any, NamedTuple

from specs import quick, rules, schemas
from specs.document import MAX_COLLECTED, MAX_REPORTED, Document, dotted, short
from specs.errors import Problem, SpecInvalid
from specs.suggest import nearest

__all__ = ["Checked", "check", "kinds", "validate"]

kinds = schemas.kinds

# Accepted and ignored, so that every sidecar is a spec.
_IGNORED = ("$schema", "schema", "result")

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Checked:
    """What is wrong with a document, and what of it can be relied upon all the same.

    `value` is without what the problems are about, so that other checks say nothing of it again;
    in a list, None is in its place. `unsound` has the paths of what was taken out or is missing.
    A misspelt key is taken for the one that it suggests: `document` has that one in its place.
    """

    value: dict[str, Any]
    document: Document
    problems: tuple[Problem, ...] = ()
    unsound: frozenset[Path] = frozenset()

    def is_unsound(self, *path: str | int) -> bool:
        """Whether a problem was found with the value at this path or with what it is in."""
        return any(path[:end] in self.unsound for end in range(1, len(path) + 1))


class _Found(NamedTuple):
    line: int
    column: int
    path: Path
    at_key: bool
    message: Callable[[], str]


def validate(document: Document, schema: str | None = None) -> dict[str, Any]:
    """The document's value, checked by the schema of its `kind`, or by `schema` if one is named.

    Floats such as 20.0 become ints where the schema has an integer. Raises SpecInvalid and no other
    error, with the first 20 problems in the order of the file and the number of further ones.
    """
    checked = check(document, schema)
    if checked.problems:
        raise SpecInvalid("SchemaInvalid", checked.problems)
    return checked.value


def check(document: Document, schema: str | None = None) -> Checked:
    """Check as `validate` does, and keep what is sound; raises nothing."""
    value = document.value
    if value is None and schema == "settings":
        return Checked({}, document)
    if not isinstance(value, dict):
        message = "the file is empty" if value is None else f"{short(value)} stands alone"
        message = f"{message}: write it as `key: value` lines"
        return Checked({}, document, (Problem(*document.mark[:2], "", message),))
    found: list[_Found] = []
    names: tuple[str, ...] = (schema or "",)
    if schema is None:
        document, names, found = _kind(document)
    results = [_problems(document, name, has_kind=not found) for name in names]
    document, of_schema, unsound = results[0]
    for _, others, also_unsound in results[1:]:
        # Of a spec whose kind cannot be guessed: what is wrong whatever the kind.
        same = {(fault.path, fault.at_key) for fault in others}
        of_schema = [fault for fault in of_schema if (fault.path, fault.at_key) in same]
        unsound &= also_unsound
    found += of_schema
    unsound |= {fault.path for fault in found}
    sound = document.value
    if unsound:
        # Beyond the most that are looked for, nothing is known to be sound.
        sound = _without(sound, unsound) if len(unsound) < MAX_COLLECTED else {}
    if schema is None and sound:
        sound = {key: part for key, part in sound.items() if key not in _IGNORED}
        sound |= {"kind": names[0]} if len(names) == 1 else {}
    value = _integral(sound, _integers(names[0]))
    return Checked(value, document, _reported(found), frozenset(unsound - {()}))


def _kind(document: Document) -> tuple[Document, tuple[str, ...], list[_Found]]:
    """The document with its `kind` in its place, the kinds it may be of, and the problem of `kind`.

    These are the kind, or the nearest one if it is misspelt, or all of them.
    """
    known = kinds()
    value, at = document.value, document.locate(["kind"])
    if "kind" in value:
        kind = value["kind"]
        if isinstance(kind, str) and kind in known:
            return document, (kind,), []
        problem = _Found(*at, ("kind",), False, partial(rules.unknown_kind, kind))
    else:
        fields = schemas.load(known[0])["properties"]
        keys = islice(value, MAX_REPORTED)
        misspelt = next((key for key in keys if _messages().meant(key, fields) == "kind"), None)
        if misspelt is None:
            required = f"'kind' is required: one of {', '.join(known)}"
            return document, known, [_Found(*at, ("kind",), False, lambda: required)]
        at = document.locate([misspelt], key=True)
        message = f"unknown key {short(misspelt)} (did you mean 'kind'?)"
        problem = _Found(*at, (misspelt,), True, lambda: message)
        document = document.renamed({(misspelt,): "kind"})
    near = nearest(document.value["kind"], known)
    return document, (near,) if near else known, [problem]


def _problems(
    document: Document, name: str, *, has_kind: bool
) -> tuple[Document, list[_Found], set[Path]]:
    """The document with misspelt keys mended, its problems by one schema, and what is unsound."""
    if not has_kind:
        document = Document({**document.value, "kind": name}, document.mark)
    found: list[_Found] = []
    unsound: set[Path] = set()
    if not _surely_valid(name)(document.value):
        found, misspelt = _explained(document, name)
        if misspelt:
            mended = {(*path[:-1], meant) for path, meant in misspelt.items()}
            document = document.renamed(misspelt)
            found = [fault for fault in found if fault.path in misspelt]
            for fault in _explained(document, name)[0]:
                # Where the value does not fit, the suggestion may be wrong: no more is said of it.
                if any(fault.path[: len(path)] == path for path in mended):
                    unsound.add(fault.path)
                else:
                    found.append(fault)
        unsound |= {fault.path for fault in found}
    for path, text in rules.check(name, document.value):
        if not any(tuple(path[:end]) in unsound for end in range(1, len(path) + 1)):
            at = document.locate(path)
            found.append(_Found(*at, tuple(path), False, partial(str, text)))
    return document, found, unsound


def _explained(document: Document, name: str) -> tuple[list[_Found], dict[Path, str]]:
    """The problems by a schema, and of the misspelt keys among the first those that are meant."""
    found: list[_Found] = []
    misspelt: dict[Path, str] = {}
    for error in islice(_validator(name).iter_errors(document.value), MAX_COLLECTED):
        for path, at_key, message, meant in _messages().explain(error, name):
            at = document.locate(path, key=at_key)
            found.append(_Found(*at, tuple(path), at_key, message))
            if len(found) <= MAX_REPORTED and (field := meant()):
                siblings = _at(document.value, path[:-1])
                if field not in siblings and (*path[:-1], field) not in {
                    (*other[:-1], taken) for other, taken in misspelt.items()
                }:
                    misspelt[tuple(path)] = field
    return found, misspelt


def _at(value: Any, path: Iterable[str | int]) -> Any:
    """The part of a value at a path; None where there is none."""
    for step in path:
        try:
            value = value[step]
        except (LookupError, TypeError):
            return None
    return value


def _without(value: dict[str, Any], paths: Iterable[Path]) -> dict[str, Any]:
    """A copy of a value without the parts at these paths; items of lists become None."""
    kept = deepcopy(value)
    for path in paths:
        place = _at(kept, path[:-1])
        if isinstance(place, dict) and path:
            place.pop(path[-1], None)
        elif isinstance(place, list) and isinstance(path[-1], int):
            place[path[-1]] = None
    return kept


def _reported(found: list[_Found]) -> tuple[Problem, ...]:
    """The problems in the order of the file; only the messages of those are computed."""
    found.sort(key=lambda fault: (fault.line, fault.column, dotted(fault.path)))
    reported = [
        Problem(fault.line, fault.column, dotted(fault.path), fault.message())
        for fault in found[:MAX_REPORTED]
    ]
    if len(found) > MAX_REPORTED:
        line, column, path, *_ = found[MAX_REPORTED]
        more = len(found) - MAX_REPORTED
        least = "at least " if len(found) >= MAX_COLLECTED else ""
        message = f"and {least}{more} more problems from here on"
        reported.append(Problem(line, column, dotted(path), message))
    return tuple(reported)


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
