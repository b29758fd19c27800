"""Packs: a folder of prompt blocks, read once into a frozen value.

    prompts/<id>/pack.json             what the pack is, what it forbids, its defaults
                 fixed_block.txt       in every prompt
                 subjects/<name>.txt   one subject each
                 variable_<name>.txt   one variable each

One file is one block, and blocks are data: braces, percent signs and dollars mean nothing here.
`extends` names one other pack by its id; a path is never followed. A bad file is an error that
names it. Every problem of a pack is reported at once.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from composer.audit import Term
from composer.files import is_ignored, natural_key
from composer.layers import Layer, Override, hash_files, merge, read_layer
from specs.errors import Problem, SpecInvalid

MAX_DEPTH = 4
PARTS = ("fixed", "subject", "variable", "extra")
_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Block:
    """One block of text: which part it is, its name, its file inside `prompts/`, its text."""

    part: str
    name: str
    file: str
    text: str


@dataclass(frozen=True)
class Pack:
    """A pack as read from disk; subjects and variables are in natural order of their names."""

    id: str
    name: str
    version: str
    sha256: str
    fixed: Block
    subjects: Mapping[str, Block]
    variables: Mapping[str, Block]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    forbidden: tuple[Term, ...] = ()
    allow: tuple[str, ...] = ()
    lifts_errors: bool = False
    subject_overrides: Mapping[str, Override] = field(default_factory=dict)
    variable_overrides: Mapping[str, Override] = field(default_factory=dict)
    separator: str = ", "
    order: tuple[str, ...] = PARTS
    max_chars: int = 2000
    description: str = ""
    lineage: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def override(self, part: str, name: str) -> Override:
        """What `pack.json` says about one subject or variable."""
        overrides = self.subject_overrides if part == "subject" else self.variable_overrides
        return overrides.get(name, Override())


def list_packs(prompts: Path) -> tuple[str, ...]:
    """The ids of the packs in a `prompts/` folder, whether they can be read or not."""
    if not prompts.is_dir():
        return ()
    names = (entry.name for entry in prompts.iterdir() if (entry / "pack.json").is_file())
    return tuple(sorted(name for name in names if not is_ignored(name)))


def read_pack(prompts: Path, pack_id: str) -> Pack:
    """Read the pack `pack_id` of a `prompts/` folder, and the packs that it extends.

    Raises SpecInvalid (PackMissing or PackInvalid) with every problem of its files.
    """
    layers: list[Layer] = []
    problems: list[Problem] = []
    wanted: str | None = pack_id
    while wanted is not None:
        if wanted in (layer.id for layer in layers):
            chain = " → ".join([*(layer.id for layer in layers), wanted])
            _refuse(f"{layers[-1].id}/pack.json", f"extends runs in a circle: {chain}")
        if len(layers) > MAX_DEPTH:
            _refuse(f"{pack_id}/pack.json", f"extends goes deeper than {MAX_DEPTH}")
        _must_exist(prompts, wanted, layers[-1].id if layers else None)
        layer, found = read_layer(prompts, wanted)
        problems += found
        layers.append(layer)
        wanted = layer.extends
    if problems:
        raise SpecInvalid("PackInvalid", problems)
    return _build(layers)


def _must_exist(prompts: Path, pack_id: str, child: str | None) -> None:
    path = f"{child}/pack.json: extends" if child else "compose.pack"
    if not _ID.fullmatch(pack_id):
        _refuse(path, f"{pack_id!r} is not a pack's id: lower-case letters, digits, '-' and '_'")
    # A file system that ignores case would find `Shapes` under `shapes`: other machines would not.
    there = {entry.name for entry in prompts.iterdir()} if prompts.is_dir() else set()
    if pack_id not in there or not (prompts / pack_id).is_dir():
        known = ", ".join(list_packs(prompts)) or "none"
        message = f"there is no pack {pack_id!r} in {prompts} (there is: {known})"
        raise SpecInvalid("PackMissing", [Problem(0, 0, path, message)])
    if not (prompts / pack_id).resolve().is_relative_to(prompts.resolve()):
        _refuse(path, f"the pack {pack_id!r} is a link that leaves {prompts}")


def _refuse(path: str, message: str) -> None:
    raise SpecInvalid("PackInvalid", [Problem(0, 0, path, message)])


def _build(layers: list[Layer]) -> Pack:
    """Lay the pack over what it extends, and check what only the whole can tell."""
    whole = merge(layers)
    problems: list[Problem] = []
    own = layers[0]
    here = f"{own.id}/pack.json"
    subjects = _blocks("subject", whole.subjects)
    variables = _blocks("variable", whole.variables)
    if whole.fixed is None:
        problems.append(Problem(0, 0, f"{own.id}/fixed_block.txt", "is missing"))
    if not subjects:
        problems.append(Problem(0, 0, f"{own.id}/subjects", "holds no subject: add <name>.txt"))
    names = {"subjects": (subjects, variables), "variables": (variables, subjects)}
    for key, overrides in (
        ("subjects", whole.subject_overrides),
        ("variables", whole.variable_overrides),
    ):
        mine, others = names[key]
        problems += [
            Problem(0, 0, f"{here}: {key}.{name}", f"there is no {key[:-1]} {name!r}")
            for name in overrides
            if name not in mine
        ]
        problems += [
            Problem(0, 0, f"{here}: {key}.{name}", f"names {other!r}, which is not there")
            for name, override in overrides.items()
            for other in (*override.only_with, *override.not_with)
            if unicodedata.normalize("NFC", other) not in others
        ]
    for index, sample in enumerate(whole.samples):
        problems += [
            Problem(
                0, 0, f"{here}: samples[{index}].{part}", f"there is no {part} {sample[part]!r}"
            )
            for part, blocks in (("subject", subjects), ("variable", variables))
            if unicodedata.normalize("NFC", str(sample[part])) not in blocks
        ]
    if problems or whole.fixed is None:
        raise SpecInvalid("PackInvalid", problems)
    return Pack(
        id=own.id,
        name=str(own.facts["name"]),
        version=str(own.facts["version"]),
        sha256=hash_files(layers),
        fixed=Block("fixed", "", *whole.fixed),
        subjects=MappingProxyType(subjects),
        variables=MappingProxyType(variables),
        defaults=MappingProxyType(whole.defaults),
        forbidden=whole.forbidden,
        allow=whole.allow,
        lifts_errors=whole.lifts_errors,
        subject_overrides=MappingProxyType(whole.subject_overrides),
        variable_overrides=MappingProxyType(whole.variable_overrides),
        separator=whole.separator,
        order=(*whole.order, *(part for part in PARTS if part not in whole.order)),
        max_chars=whole.max_chars,
        description=str(own.facts.get("description", "")),
        lineage=tuple(layer.id for layer in layers),
        files=tuple(file.name for layer in layers for file in layer.files),
        warnings=tuple(text for layer in layers for text in layer.warnings),
    )


def _blocks(part: str, texts: Mapping[str, tuple[str, str]]) -> dict[str, Block]:
    ordered = sorted(texts, key=natural_key)
    return {name: Block(part, name, *texts[name]) for name in ordered}
