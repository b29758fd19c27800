"""Reads the folder of one pack, without the packs that it extends."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from composer.audit import parse_terms
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
_NOTES = frozenset({"readme.txt", "license.txt", "licence.txt", "notice.txt", "changelog.txt"})
_Text = tuple[str, str]  # the name of a file inside `prompts/`, and its text


@dataclass(frozen=True)
class Layer:
    """One pack folder: the content of `pack.json`, the blocks by name, and all files read."""

    id: str
    manifest: Mapping[str, Any]
    fixed: _Text | None
    subjects: Mapping[str, _Text]
    variables: Mapping[str, _Text]
    files: tuple[PackFile, ...]
    warnings: tuple[str, ...]


class _Folder:
    """Reads the files of one pack folder and collects its problems and warnings."""

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
    """Read one pack folder; its problems are returned, so that all can be reported together."""
    folder = _Folder(prompts, pack_id)
    manifest = _read_manifest(folder)
    fixed: _Text | None = None
    variables: dict[str, _Text] = {}
    for name in folder.names():
        if name == "fixed_block.txt":
            fixed = folder.text(name)
        elif name.startswith(_VARIABLE) and name.endswith(".txt"):
            _add_block(folder, variables, name[len(_VARIABLE) : -len(".txt")], name)
        elif name.endswith(".txt") and name.lower() not in _NOTES:
            folder.warnings.append(
                f"{pack_id}/{name} is not read: a block is fixed_block.txt, variable_<name>.txt "
                "or subjects/<name>.txt"
            )
    subjects: dict[str, _Text] = {}
    for name in folder.names("subjects"):
        if name.endswith(".txt"):
            _add_block(folder, subjects, name[: -len(".txt")], "subjects", name)
        elif (folder.root / "subjects" / name).is_dir():
            folder.warnings.append(f"{pack_id}/subjects/{name}/ is not read: subjects are files")
    layer = Layer(
        pack_id,
        MappingProxyType(manifest),
        fixed,
        subjects,
        variables,
        tuple(folder.files),
        tuple(folder.warnings),
    )
    return layer, folder.problems


def _add_block(folder: _Folder, blocks: dict[str, _Text], stem: str, *parts: str) -> None:
    """Add one block under its name; two names that differ only in case are refused."""
    name = block_name(stem)
    path = "/".join((folder.id, *parts))
    same = next((known for known in blocks if _folded(known) == _folded(name)), None)
    if not name.strip():
        folder.problem(path, "has no name before .txt")
    elif same is not None:
        folder.problem(path, f"has the same name as {same!r} on systems that ignore case")
    else:
        text = folder.text(*parts)
        if text is not None:
            blocks[name] = text


def _folded(name: str) -> str:
    return block_name(name.casefold())


def _read_manifest(folder: _Folder) -> dict[str, Any]:
    """The content of `pack.json`, or an empty dict where its schema refuses it."""
    file = folder.read("pack.json")
    if file is None:
        return {}
    try:
        document = read(file.data, json=True)
        manifest = validate(document, schema="pack")
    except SpecInvalid as error:
        for problem in error.problems:
            path = f"{file.name}: {problem.path}" if problem.path else file.name
            folder.problem(path, problem.message, problem.line, problem.column)
        return {}
    if manifest["id"] != folder.id:
        line, column = document.locate(["id"])
        message = f"is {manifest['id']!r}, but its folder is {folder.id!r}: they must be equal"
        folder.problem(f"{file.name}: id", message, line, column)
    defaults: list[tuple[tuple[str, ...], Any]] = [(("defaults",), manifest.get("defaults", {}))]
    for key in ("subjects", "variables"):
        for name, override in manifest.get(key, {}).items():
            defaults.append(((key, name, "defaults"), override.get("defaults", {})))
    for keys, values in defaults:
        message = size_problem(values)
        if message:
            path = f"{file.name}: {'.'.join(keys)}"
            folder.problem(path, message, *document.locate([*keys, "aspect_ratio"]))
    try:
        parse_terms(manifest.get("forbidden", ()))
    except ValueError as error:
        folder.problem(f"{file.name}: forbidden", str(error), *document.locate(["forbidden"]))
    return manifest


def hash_files(layers: Sequence[Layer]) -> str:
    """The SHA-256 of the names and bytes of all files read, in hexadecimal."""
    digest = hashlib.sha256()
    for file in sorted((f for layer in layers for f in layer.files), key=lambda f: f.name):
        name = file.name.encode()
        digest.update(b"%d:%b%d:" % (len(name), name, len(file.data)))
        digest.update(file.data)
    return digest.hexdigest()
