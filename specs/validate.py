"""Checks a Document against the schema of its kind and reports every problem with its position.

The spec's `kind` selects one schema, so that the messages about a fill job mention only the fields
of fill jobs. No default is filled in: where a value comes from is decided later, by precedence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from specs import quick, rules, schemas
from specs.document import MAX_COLLECTED, MAX_REPORTED, ODD_SIGN, Document, dotted, odd_sign, short
from specs.errors import Problem, SpecInvalid

if TYPE_CHECKING:
    from specs.messages import Explained

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
        odd = ODD_SIGN.match(value) if isinstance(value, str) else None
        message += f": {odd_sign(odd['sign'])}" if odd else ": write it as `key: value` lines"
        return Checked({}, document, (Problem(*document.mark[:2], "", message),))
    found: list[Problem] = []
    names: tuple[str, ...] = (schema or "",)
    if schema is None:
        document, names, found = _kind(document)
    results = [_explained(_of_kind(document, name) if found else document, name) for name in names]
    at_fault, document, unsound = results[0]
    for others, _, also_unsound in results[1:]:
        # Of a spec whose kind cannot be guessed: what is wrong whatever the kind.
        same = {(one.path, one.at_key) for one in others}
        at_fault = [one for one in at_fault if (one.path, one.at_key) in same]
        unsound &= also_unsound
    problems = _reported(document, at_fault, found)
    unsound |= {("kind",) for _ in found}
    sound = document.value
    if unsound:
        sound = {} if () in unsound else _without(sound, unsound)
    if schema is None and sound:
        sound = {key: part for key, part in sound.items() if key not in _IGNORED}
        sound |= {"kind": names[0]} if len(names) == 1 else {}
    value = _integral(sound, [schemas.bundle(names[0])])
    return Checked(value, document, problems, frozenset(unsound))


def _of_kind(document: Document, kind: str) -> Document:
    return Document({**document.value, "kind": kind}, document.mark)


def _kind(document: Document) -> tuple[Document, tuple[str, ...], list[Problem]]:
    """The document with `kind` in its place, the kinds it may be of, and the problem of `kind`.

    The kinds are the one that is named, or the nearest if it is misspelt, or all of them.
    """
    known = schemas.kinds()
    value, at = document.value, document.locate(["kind"])
    if "kind" in value:
        if isinstance(value["kind"], str) and value["kind"] in known:
            return document, (value["kind"],), []
        problem = Problem(*at, "kind", rules.unknown_kind(value["kind"]))
    else:
        fields = schemas.load(known[0])["properties"]
        keys = islice(value, MAX_REPORTED)
        misspelt = next((key for key in keys if _messages().meant(key, fields) == "kind"), None)
        if misspelt is None:
            required = f"'kind' is required: one of {', '.join(known)}"
            return document, known, [Problem(*at, "kind", required)]
        at = document.locate([misspelt], key=True)
        problem = Problem(
            *at, dotted([misspelt]), f"unknown key {short(misspelt)} (did you mean 'kind'?)"
        )
        document = document.renamed({(misspelt,): "kind"})
    near = rules.meant_kind(document.value["kind"])
    return document, (near,) if near else known, [problem]


def _explained(document: Document, name: str) -> tuple[list[Explained], Document, set[Path]]:
    """The problems by one schema, the document with its misspelt keys mended, what is unsound."""
    found: list[Explained] = []
    silent: list[Explained] = []
    if not _surely_valid(name)(document.value):
        found = _found(document, name)
        misspelt: dict[Path, Path] = {}
        for fault in found[:MAX_REPORTED]:
            mended = (*fault.path[:-1], fault.meant() or "")
            taken = _at(document.value, mended[:-1])
            if mended[-1] and mended[-1] not in taken and mended not in misspelt.values():
                misspelt[fault.path] = mended
        if misspelt:
            document = document.renamed({path: str(new[-1]) for path, new in misspelt.items()})
            again = _found(document, name)
            # Where the value does not fit, the suggestion may be wrong: no more is said of it.
            silent = [f for f in again if any(f.path[: len(p)] == p for p in misspelt.values())]
            found = [f for f in found if f.path in misspelt] + [f for f in again if f not in silent]
    unsound = {fault.path for fault in (*found, *silent)} - {()}
    for path, text in rules.check(name, document.value):
        if not any(tuple(path[:end]) in unsound for end in range(1, len(path) + 1)):
            found.append(_messages().Explained(tuple(path), partial(str, text)))
    unsound |= {fault.path for fault in found} - {()}
    # Beyond the most that are looked for, nothing is known to be sound.
    return found, document, unsound | ({()} if len(found + silent) >= MAX_COLLECTED else set())


def _found(document: Document, name: str) -> list[Explained]:
    errors = islice(_validator(name).iter_errors(document.value), MAX_COLLECTED)
    return [fault for error in errors for fault in _messages().explain(error, name)]


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
    for *parents, last in paths:
        place = _at(kept, parents)
        if isinstance(place, dict):
            place.pop(last, None)
        elif isinstance(place, list) and isinstance(last, int):
            place[last] = None
    return kept


def _reported(
    document: Document, found: list[Explained], others: list[Problem]
) -> tuple[Problem, ...]:
    """The problems in the order of the file; only the messages of those are computed."""
    placed = [(*document.locate(f.path, key=f.at_key), dotted(f.path), f.message) for f in found]
    placed += [(p.line, p.column, p.path, partial(str, p.message)) for p in others]
    placed.sort(key=lambda fault: fault[:3])
    reported = [
        Problem(line, column, path, message())
        for line, column, path, message in placed[:MAX_REPORTED]
    ]
    if len(placed) > MAX_REPORTED:
        more = len(placed) - MAX_REPORTED
        least = "at least " if len(placed) >= MAX_COLLECTED else ""
        message = f"and {least}{more} more problems from here on"
        reported.append(Problem(*placed[MAX_REPORTED][:3], message))
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


def _integral(value: Any, parts: Iterable[Any]) -> Any:
    """The value with integral floats as ints where one of these schemas has an integer."""
    known = [schema for part in parts for schema in _alternatives(part)]
    if isinstance(value, float) and value.is_integer():
        whole = any(each.get("type") == "integer" or "enum" in each for each in known)
        return int(value) if whole else value
    if isinstance(value, dict):
        return {
            key: _integral(
                part,
                [e.get("properties", {}).get(key, e.get("additionalProperties")) for e in known],
            )
            for key, part in value.items()
        }
    if isinstance(value, list):
        return [_integral(item, [each.get("items") for each in known]) for item in value]
    return value


def _alternatives(schema: Any) -> Iterator[dict[str, Any]]:
    """A schema, and those of which a value that it accepts must fit one or all."""
    if isinstance(schema, dict):
        yield schema
        for keyword in ("anyOf", "oneOf", "allOf"):
            for branch in schema.get(keyword, ()):
                yield from _alternatives(branch)
