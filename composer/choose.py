"""Selects the subjects and variables of a pack that a spec names, and combines them.

Names must match exactly (in NFC) or be patterns such as `red*`; an unknown name is an error that
suggests the nearest one. A file that cannot be used is an error where it is named, else skipped.
The order is that of the pack, whatever order the spec has them in, so that a part of a bulk run
makes the same items as the whole run.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import product
from typing import Any

from composer.layers import Block, block_name
from composer.packs import Pack
from specs.errors import Problem, SpecInvalid
from specs.suggest import did_you_mean

ALL = "all"
EVERY = "*"
"""A pattern, where a subject or a variable may be named like `ALL`."""


@dataclass(frozen=True)
class Skipped:
    """A file or a combination of which no image is made, and the reason; also as JSON."""

    file: str
    reason: str
    subject: str = ""
    variable: str | None = None


@dataclass(frozen=True)
class Choice:
    """The blocks that a spec selects, and those it selects but that are empty or disabled."""

    subjects: tuple[Block, ...]
    variables: tuple[Block | None, ...]
    skipped: tuple[Skipped, ...]

    def count(self, pack: Pack) -> int:
        """The number of combinations that are not ruled out; of more than 50,000 that of all."""
        every = len(self.subjects) * len(self.variables)
        if every > 50_000:  # too many to be tested one by one
            return every
        return sum(isinstance(result, tuple) for result in self.combinations(pack))

    def combinations(self, pack: Pack) -> Iterator[tuple[Block, Block | None] | Skipped]:
        """Every combination in order, subjects varying slowest; a Skipped for each ruled out."""
        for subject, variable in product(self.subjects, self.variables):
            if variable is not None and (reason := _ruled_out(pack, subject, variable)):
                yield Skipped(subject.file, reason, subject.name, variable.name)
            else:
                yield subject, variable


def choose(pack: Pack, compose: Mapping[str, Any]) -> Choice:
    """The blocks of a pack that a spec's `compose` selects.

    Raises SpecInvalid (PackInvalid) for unknown names and for a selection that is missing.
    """
    problems: list[Problem] = []
    skipped: list[Skipped] = []
    if "subjects" not in compose:
        message = f"is required: `all`, or some of {_first_names(pack.subjects)}"
        problems.append(Problem(0, 0, "compose.subjects", message))
    subjects = _select(pack, "subject", compose.get("subjects", ()), problems, skipped)
    variables: Sequence[Block | None]
    if not _all_names(pack, "variable"):
        variables = (None,)
        if compose.get("variables", ALL) not in (ALL, EVERY, []):
            problems.append(Problem(0, 0, "compose.variables", "the pack has no variables"))
    elif "variables" in compose:
        variables = _select(pack, "variable", compose["variables"], problems, skipped)
    elif len(found := _all_names(pack, "variable")) == 1:
        variables = _select(pack, "variable", ALL, problems, skipped)
    else:
        variables = ()
        message = f"the pack has {len(found)}: name some of {_first_names(pack.variables)}"
        problems.append(Problem(0, 0, "compose.variables", f"{message}, or `all`"))
    if problems:
        raise SpecInvalid("PackInvalid", problems)
    return Choice(tuple(subjects), tuple(variables), tuple(skipped))


def _select(
    pack: Pack, part: str, value: Any, problems: list[Problem], skipped: list[Skipped]
) -> list[Block]:
    """The blocks that `value` names, in the pack's order, without the empty and the disabled.

    Adds to `problems` for unknown names and bad files that are named, and to `skipped` for empty
    and disabled blocks and all other bad files.
    """
    blocks = pack.subjects if part == "subject" else pack.variables
    known = _all_names(pack, part)
    every = value == ALL and ALL not in known
    named = set() if every else names_in(value)
    chosen = set(known) if every else named.intersection(known)
    for name in sorted(named - chosen):
        if matching := {each for each in known if fnmatchcase(each, name)}:
            chosen |= matching
            continue
        hint = did_you_mean(name, known, f"there are {_first_names(blocks)}")
        message = f"the pack {pack.id!r} has no {part} {name!r} ({hint})"
        problems.append(Problem(0, 0, f"compose.{part}s", message))
    for (of, name), problem in pack.bad.items():
        if of == part and name in named:
            problems.append(problem)
        elif of == part and name in chosen:
            skipped.append(Skipped(problem.path, problem.message, **{part: name}))
    selected: list[Block] = []
    for name, block in blocks.items():
        if name not in chosen:
            continue
        reason = "" if block.text else "is empty"
        if not pack.override(part, name).enabled:
            reason = "is switched off in pack.json"
        if reason:
            skipped.append(Skipped(block.file, reason, **{part: name}))
        else:
            selected.append(block)
    return selected


def names_in(value: Any) -> set[str]:
    """The names and patterns that `subjects` or `variables` of a spec has."""
    given = [value] if isinstance(value, str) else value
    return {block_name(str(name)) for name in given}


def _all_names(pack: Pack, part: str) -> list[str]:
    """The names of all subjects or variables, of those too that cannot be used."""
    blocks = pack.subjects if part == "subject" else pack.variables
    return [*blocks, *(name for of, name in pack.bad if of == part)]


def _first_names(blocks: Mapping[str, Block]) -> str:
    names = list(blocks)
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


def _ruled_out(pack: Pack, subject: Block, variable: Block) -> str:
    """Why `only_with` or `not_with` rules a combination out; empty if they do not."""
    pairs = (("subject", subject, variable), ("variable", variable, subject))
    for part, block, other in pairs:
        override = pack.override(part, block.name)
        only_with = set(map(block_name, override.only_with))
        if only_with and other.name not in only_with:
            return f"{part} {block.name!r} goes only with {', '.join(sorted(only_with))}"
        if other.name in map(block_name, override.not_with):
            return f"{part} {block.name!r} does not go with {other.name!r}"
    return ""
