"""One folder of a pack as it lies on disk, and how a pack is laid over the pack it extends.

Blocks and settings of the extending pack win; defaults merge key by key; what is forbidden only
ever grows. Nothing here decides what a prompt looks like.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from composer.audit import Term, parse_terms
from composer.files import (
    FileProblem,
    PackFile,
    block_name,
    clean,
    decode,
    is_ignored,
    read_file,
)
from composer.sizes import size_problem
from specs.errors import Problem, SpecInvalid
from specs.read import read
from specs.validate import validate

_VARIABLE = "variable_"
_KNOWN = frozenset({"pack.json", "fixed_block.txt"})
_NOTES = frozenset({"readme.txt", "license.txt", "licence.txt", "notice.txt", "changelog.txt"})
_Text = tuple[str, str]  # file, text


@dataclass(frozen=True)
class Override:
    """What `pack.json` says about one subject or one variable."""

    enabled: bool = True
    title: str = ""
    tags: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    allow: tuple[str, ...] = ()
    forbid: tuple[str, ...] = ()
    only_with: tuple[str, ...] = ()
    not_with: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layer:
    """One pack folder: its `pack.json`, its blocks by name, and the bytes of both."""

    id: str
    facts: Mapping[str, Any]
    fixed: _Text | None
    subjects: Mapping[str, _Text]
    variables: Mapping[str, _Text]
    files: tuple[PackFile, ...]
    warnings: tuple[str, ...]

    @property
    def extends(self) -> str | None:
        """The id of the pack below, if there is one."""
        given = self.facts.get("extends")
        return None if given is None else str(given)


@dataclass(frozen=True)
class Whole:
    """A pack laid over all that it extends."""

    fixed: _Text | None
    subjects: dict[str, _Text]
    variables: dict[str, _Text]
    defaults: dict[str, Any]
    forbidden: tuple[Term, ...]
    allow: tuple[str, ...]
    lifts_errors: bool
    subject_overrides: dict[str, Override]
    variable_overrides: dict[str, Override]
    separator: str
    order: tuple[str, ...]
    max_chars: int
    samples: tuple[Mapping[str, Any], ...]


class _Folder:
    """Collects what one folder holds, and everything wrong with it."""

    def __init__(self, prompts: Path, pack_id: str) -> None:
        self.root = prompts / pack_id
        self.id = pack_id
        self.files: list[PackFile] = []
        self.problems: list[Problem] = []
        self.warnings: list[str] = []

    def read(self, *parts: str) -> PackFile | None:
        name = "/".join((self.id, *map(block_name, parts)))
        try:
            file = read_file(self.root, self.root.joinpath(*parts), name)
        except FileProblem as problem:
            self.problem(problem.name, problem.message)
            return None
        self.files.append(file)
        return file

    def text(self, *parts: str) -> _Text | None:
        file = self.read(*parts)
        if file is None:
            return None
        try:
            return file.name, clean(decode(file))
        except FileProblem as problem:
            self.problem(problem.name, problem.message)
            return None

    def problem(self, path: str, message: str, line: int = 0, column: int = 0) -> None:
        self.problems.append(Problem(line, column, path, message))

    def names(self, *parts: str) -> list[str]:
        folder = self.root.joinpath(*parts)
        name = "/".join((self.id, *parts))
        if parts and not folder.exists() and not folder.is_symlink():
            return []
        if not folder.resolve().is_relative_to(self.root.resolve()):
            self.problem(name, "is a link that leaves the pack")
            return []
        if not folder.is_dir():
            self.problem(name, "is not a folder")
            return []
        return sorted(entry.name for entry in folder.iterdir() if not is_ignored(entry.name))


def read_layer(prompts: Path, pack_id: str) -> tuple[Layer, list[Problem]]:
    """Read one pack folder; its problems come with it, so that all are known at once."""
    folder = _Folder(prompts, pack_id)
    facts = _facts(folder)
    fixed: _Text | None = None
    variables: dict[str, _Text] = {}
    for name in folder.names():
        if name == "fixed_block.txt":
            fixed = folder.text(name)
        elif name.startswith(_VARIABLE) and name.endswith(".txt"):
            _keep(folder, variables, name[len(_VARIABLE) : -len(".txt")], name)
        elif name.endswith(".txt") and name not in _KNOWN and name.lower() not in _NOTES:
            folder.warnings.append(
                f"{pack_id}/{name} is not read: a block is fixed_block.txt, variable_<name>.txt "
                "or subjects/<name>.txt"
            )
    subjects: dict[str, _Text] = {}
    for name in folder.names("subjects"):
        if name.endswith(".txt"):
            _keep(folder, subjects, name[: -len(".txt")], "subjects", name)
        elif (folder.root / "subjects" / name).is_dir():
            folder.warnings.append(f"{pack_id}/subjects/{name}/ is not read: subjects are files")
    layer = Layer(
        pack_id,
        MappingProxyType(facts),
        fixed,
        subjects,
        variables,
        tuple(folder.files),
        tuple(folder.warnings),
    )
    return layer, folder.problems


def _keep(folder: _Folder, blocks: dict[str, _Text], stem: str, *parts: str) -> None:
    """Add one block under its name; two names that differ only in case are refused."""
    name = block_name(stem)
    path = "/".join((folder.id, *parts))
    twin = next((known for known in blocks if _alike(known) == _alike(name)), None)
    if not name.strip():
        folder.problem(path, "has no name before .txt")
    elif twin is not None:
        folder.problem(path, f"has the same name as {twin!r} on systems that ignore case")
    else:
        text = folder.text(*parts)
        if text is not None:
            blocks[name] = text


def _alike(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _facts(folder: _Folder) -> dict[str, Any]:
    file = folder.read("pack.json")
    if file is None:
        return {}
    try:
        document = read(file.data, json=True)
        facts = validate(document, schema="pack")
    except SpecInvalid as error:
        for found in error.problems:
            path = f"{file.name}: {found.path}" if found.path else file.name
            folder.problem(path, found.message, found.line, found.column)
        return {}
    if facts["id"] != folder.id:
        line, column = document.locate(["id"])
        message = f"is {facts['id']!r}, but its folder is {folder.id!r}: they must be equal"
        folder.problem(f"{file.name}: id", message, line, column)
    places = [("defaults",), *(
        (key, name, "defaults") for key in ("subjects", "variables") for name in facts.get(key, {})
    )]  # fmt: skip
    for place in places:
        given: Any = facts
        for part in place:
            given = given.get(part, {})
        message = size_problem(given)
        if message:
            path = f"{file.name}: {'.'.join(place)}"
            folder.problem(path, message, *document.locate([*place, "aspect_ratio"]))
    try:
        parse_terms(facts.get("forbidden", ()))
    except ValueError as error:
        folder.problem(f"{file.name}: forbidden", str(error), *document.locate(["forbidden"]))
    return facts


def merge(layers: Sequence[Layer]) -> Whole:
    """Lay the first layer over the second, that over the third, and so on."""
    below_first = list(reversed(layers))
    fixed: _Text | None = None
    subjects: dict[str, _Text] = {}
    variables: dict[str, _Text] = {}
    facts: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    forbidden: dict[Term, None] = {}
    allow: dict[str, None] = {}
    overrides: dict[str, dict[str, Override]] = {"subjects": {}, "variables": {}}
    for layer in below_first:
        fixed = layer.fixed or fixed
        subjects.update(layer.subjects)
        variables.update(layer.variables)
        facts.update(layer.facts)
        defaults.update(layer.facts.get("defaults", {}))
        forbidden.update(dict.fromkeys(parse_terms(layer.facts.get("forbidden", ()))))
        allow.update(dict.fromkeys(map(str, layer.facts.get("x_allow", ()))))
        for key, known in overrides.items():
            for name, given in layer.facts.get(key, {}).items():
                name = block_name(name)
                known[name] = _lay_over(known.get(name, Override()), given)
    return Whole(
        fixed,
        subjects,
        variables,
        defaults,
        tuple(forbidden),
        tuple(allow),
        bool(facts.get("x_allow_lifts_errors", False)),
        overrides["subjects"],
        overrides["variables"],
        str(facts.get("separator", ", ")),
        tuple(facts.get("order", ())),
        int(facts.get("max_chars", 2000)),
        tuple(layers[0].facts.get("samples", ())),
    )


def _lay_over(below: Override, given: Mapping[str, Any]) -> Override:
    def joined(key: str, known: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*known, *given.get(key, ()))))

    return Override(
        enabled=bool(given.get("enabled", below.enabled)),
        title=str(given.get("title", below.title)),
        tags=joined("tags", below.tags),
        defaults=MappingProxyType({**below.defaults, **given.get("defaults", {})}),
        allow=joined("allow", below.allow),
        forbid=joined("forbid", below.forbid),
        only_with=tuple(given.get("only_with", below.only_with)),
        not_with=tuple(given.get("not_with", below.not_with)),
    )


def hash_files(layers: Sequence[Layer]) -> str:
    """One hash over the exact files read: their names and their bytes."""
    digest = hashlib.sha256()
    for file in sorted((f for layer in layers for f in layer.files), key=lambda f: f.name):
        name = file.name.encode()
        digest.update(b"%d:%b%d:" % (len(name), name, len(file.data)))
        digest.update(file.data)
    return digest.hexdigest()
