"""Reads a pack, which is a folder of prompt blocks, into a frozen value.

    prompts/<id>/pack.json             name and version, forbidden terms, defaults
                 fixed_block.txt       the block in every prompt
                 subjects/<name>.txt   one file for each subject
                 variable_<name>.txt   one file for each variable

One file is one block, and blocks are data: percent signs and dollars have no meaning, braces and
`__names__` only with `choices`. `extends` names one other pack by its id and is never a path. All
problems of a pack are reported together, each with the name of its file; a subject or variable that
cannot be used is no problem of the pack until a spec names it.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from composer.audit import Term, parse_terms
from composer.layers import (
    MOST_WARNED,
    Block,
    Layer,
    block_name,
    hash_files,
    is_ignored,
    natural_key,
    read_layer,
)
from specs.errors import Problem, SpecInvalid
from specs.suggest import did_you_mean

MAX_LAYERS = 4
"""The longest chain of `extends`."""
BLOCKS = ("fixed", "subject", "variable", "extra")
_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Override:
    """The settings of one subject or one variable in `pack.json`."""

    enabled: bool = True
    defaults: Mapping[str, Any] = field(default_factory=dict)
    allow: tuple[str, ...] = ()
    forbid: tuple[str, ...] = ()
    only_with: tuple[str, ...] = ()
    not_with: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pack:
    """A pack with all that it extends; subjects and variables in natural order of their names.

    `wildcards` are its folders of wildcard files, the first of which wins. `bad` has, by part and
    name, what is wrong with each subject and variable that cannot be used.
    """

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
    order: tuple[str, ...] = BLOCKS
    max_chars: int = 2000
    description: str = ""
    choices: bool | str = False
    wildcards: tuple[Path, ...] = ()
    bad: Mapping[tuple[str, str], Problem] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def override(self, part: str, name: str) -> Override:
        """The override of one subject or variable; the default one where `pack.json` has none."""
        overrides = self.subject_overrides if part == "subject" else self.variable_overrides
        return overrides.get(name, Override())


def list_packs(prompts: Path) -> tuple[str, ...]:
    """The ids of all packs in a `prompts/` folder, including those that cannot be read."""
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
    next_id: str | None = pack_id
    while next_id is not None:
        if next_id in (layer.id for layer in layers):
            chain = " → ".join([*(layer.id for layer in layers), next_id])
            _refuse(f"{layers[-1].id}/pack.json", f"extends runs in a circle: {chain}")
        if len(layers) > MAX_LAYERS:
            _refuse(f"{pack_id}/pack.json", f"extends goes deeper than {MAX_LAYERS}")
        _check_exists(prompts, next_id, layers[-1].id if layers else None)
        layer = read_layer(prompts / next_id)
        problems += layer.problems
        layers.append(layer)
        next_id = layer.manifest.get("extends")
    if problems:
        raise SpecInvalid("PackInvalid", problems)
    return _build(layers, prompts)


def _check_exists(prompts: Path, pack_id: str, child: str | None) -> None:
    """Raise SpecInvalid unless the pack's folder exists; `child` is the pack that extends it."""
    path = f"{child}/pack.json: extends" if child else "compose.pack"
    if not _ID.fullmatch(pack_id):
        _refuse(path, f"{pack_id!r} is not a pack's id: lower-case letters, digits, '-' and '_'")
    # Names are compared here, because a file system that ignores case would also accept `Shapes`
    # for `shapes`, and other machines would not.
    folders = {entry.name for entry in prompts.iterdir()} if prompts.is_dir() else set()
    if pack_id not in folders or not (prompts / pack_id).is_dir():
        packs = list_packs(prompts)
        known = f"there is: {', '.join(packs) or 'none'}"
        near = did_you_mean(pack_id, packs, known)
        _refuse(path, f"there is no pack {pack_id!r} in {prompts} ({near})", "PackMissing")
    if not os.path.lexists(prompts / pack_id / "pack.json"):
        _refuse(f"{pack_id}/pack.json", "is not there: copy one from prompts/shapes")
    if not (prompts / pack_id).resolve().is_relative_to(prompts.resolve()):
        _refuse(path, f"the pack {pack_id!r} is a link that leaves {prompts}")


def _refuse(path: str, message: str, reason: str = "PackInvalid") -> NoReturn:
    raise SpecInvalid(reason, [Problem(0, 0, path, message)])


def _build(layers: list[Layer], prompts: Path) -> Pack:
    """Merge a pack's layer, the first, with those of the packs that it extends, in order.

    Blocks and settings of the extending pack win; defaults merge key by key; forbidden terms are
    only ever added. Raises SpecInvalid for problems of the merged pack.
    """
    fixed: Block | None = None
    blocks: dict[tuple[str, str], Block | Problem] = {}
    manifest: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    forbidden: dict[Term, None] = {}
    allow: dict[str, None] = {}
    overrides: dict[str, dict[str, Override]] = {"subjects": {}, "variables": {}}
    for layer in reversed(layers):
        fixed = layer.fixed or fixed
        blocks.update(layer.blocks)
        manifest.update(layer.manifest)
        defaults.update(layer.manifest.get("defaults", {}))
        forbidden.update(dict.fromkeys(parse_terms(layer.manifest.get("forbidden", ()))))
        allow.update(dict.fromkeys(map(str, layer.manifest.get("x_allow", ()))))
        for key, merged in overrides.items():
            for name, settings in layer.manifest.get(key, {}).items():
                name = block_name(name)
                merged[name] = _override(merged.get(name, Override()), settings)
    own = layers[0]
    bad = {key: block for key, block in blocks.items() if isinstance(block, Problem)}
    order = tuple(manifest.get("order", ()))
    pack = Pack(
        id=own.id,
        name=str(own.manifest["name"]),
        version=str(own.manifest["version"]),
        sha256=hash_files(layers),
        fixed=fixed or Block("", "", ""),
        subjects=_in_order("subject", blocks),
        variables=_in_order("variable", blocks),
        defaults=MappingProxyType(defaults),
        forbidden=tuple(forbidden),
        allow=tuple(allow),
        lifts_errors=bool(manifest.get("x_allow_lifts_errors", False)),
        subject_overrides=MappingProxyType(overrides["subjects"]),
        variable_overrides=MappingProxyType(overrides["variables"]),
        separator=str(manifest.get("separator", ", ")),
        order=(*order, *(part for part in BLOCKS if part not in order)),
        max_chars=int(manifest.get("max_chars", 2000)),
        description=str(own.manifest.get("description", "")),
        choices=manifest.get("choices", False),
        wildcards=(*(layer.root / "wildcards" for layer in layers), prompts / "wildcards"),
        bad=MappingProxyType(bad),
        warnings=tuple(_warnings(layers, bad)),
    )
    problems = list(_problems(pack, own.manifest.get("samples", ())))
    if fixed is None:
        problems.append(Problem(0, 0, f"{own.id}/fixed_block.txt", "is missing"))
    if problems:
        raise SpecInvalid("PackInvalid", problems)
    return pack


def _problems(pack: Pack, samples: Sequence[Mapping[str, Any]]) -> Iterator[Problem]:
    """What a merged pack lacks: subjects, and blocks that its settings and samples name."""
    manifest = f"{pack.id}/pack.json"
    if not pack.subjects:
        none = Problem(0, 0, f"{pack.id}/subjects", "holds no subject: add <name>.txt")
        yield from [bad for (part, _), bad in pack.bad.items() if part == "subject"] or [none]
    there = {("subject", name) for name in pack.subjects}
    there |= {("variable", name) for name in pack.variables} | pack.bad.keys()
    for part, other_part, overrides in (
        ("subject", "variable", pack.subject_overrides),
        ("variable", "subject", pack.variable_overrides),
    ):
        for name, override in overrides.items():
            path = f"{manifest}: {part}s.{name}"
            if (part, name) not in there:
                yield Problem(0, 0, path, f"there is no {part} {name!r}")
            for other in (*override.only_with, *override.not_with):
                if (other_part, block_name(other)) not in there:
                    yield Problem(0, 0, path, f"names {other!r}, which is not there")
        for index, sample in enumerate(samples):
            if (part, block_name(str(sample[part]))) not in there:
                path = f"{manifest}: samples[{index}].{part}"
                yield Problem(0, 0, path, f"there is no {part} {sample[part]!r}")


def _override(below: Override, settings: Mapping[str, Any]) -> Override:
    """The override of the extended pack, with the settings of the extending pack applied to it."""

    def joined(key: str, known: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*known, *settings.get(key, ()))))

    return Override(
        enabled=bool(settings.get("enabled", below.enabled)),
        defaults=MappingProxyType({**below.defaults, **settings.get("defaults", {})}),
        allow=joined("allow", below.allow),
        forbid=joined("forbid", below.forbid),
        only_with=tuple(settings.get("only_with", below.only_with)),
        not_with=tuple(settings.get("not_with", below.not_with)),
    )


def _in_order(part: str, blocks: Mapping[tuple[str, str], Block | Problem]) -> Mapping[str, Block]:
    found = [b for (of, _), b in blocks.items() if of == part and isinstance(b, Block)]
    return MappingProxyType({b.name: b for b in sorted(found, key=lambda b: natural_key(b.name))})


def _warnings(layers: Sequence[Layer], bad: Mapping[Any, Problem]) -> Iterator[str]:
    """The files of a pack that are not read, and those that cannot be used."""
    yield from (text for layer in layers for text in layer.warnings)
    yield from (f"{problem} (left out)" for problem in islice(bad.values(), MOST_WARNED))
    if len(bad) > MOST_WARNED:
        yield f"{len(bad) - MOST_WARNED:,} more files cannot be used (left out)"
