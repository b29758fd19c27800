"""Which subjects and variables of a pack a spec means, and which of them go together.

Names are exact (in NFC): nothing is guessed, and what is not there is an error with the nearest
name. The order is the pack's, whatever order the spec names them in, so that a part of a bulk
run makes the same items as the whole.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from composer.packs import Block, Pack
from specs.errors import Problem, SpecInvalid
from specs.suggest import did_you_mean

ALL = "all"


@dataclass(frozen=True)
class Skipped:
    """A file or a combination that makes no image, and why."""

    file: str
    reason: str
    subject: str = ""
    variable: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The entry as other programs read it."""
        return {
            "file": self.file,
            "reason": self.reason,
            "subject": self.subject,
            "variable": self.variable,
        }


@dataclass(frozen=True)
class Choice:
    """The blocks that a spec asks for; the combinations are made one at a time."""

    subjects: tuple[Block, ...]
    variables: tuple[Block | None, ...]
    skipped: tuple[Skipped, ...]

    @property
    def most(self) -> int:
        """How many combinations there can be at most."""
        return len(self.subjects) * len(self.variables)

    def fitting(self, pack: Pack) -> int:
        """How many combinations there are of blocks that go together."""
        return sum(isinstance(each, tuple) for each in self.combinations(pack))

    def combinations(self, pack: Pack) -> Iterator[tuple[Block, Block | None] | Skipped]:
        """Every combination in order, subjects slowest; a Skipped for those ruled out."""
        for subject in self.subjects:
            for variable in self.variables:
                reason = _ruled_out(pack, subject, variable)
                if variable is not None and reason:
                    yield Skipped(subject.file, reason, subject.name, variable.name)
                else:
                    yield subject, variable


def choose(pack: Pack, compose: Mapping[str, Any]) -> Choice:
    """The choice that a spec's `compose` makes in a pack.

    Raises SpecInvalid (PackInvalid) for names that are not there and for choices left open.
    """
    problems: list[Problem] = []
    skipped: list[Skipped] = []
    if "subjects" not in compose:
        known = _some(pack.subjects)
        problems.append(
            Problem(0, 0, "compose.subjects", f"is required: `all`, or some of {known}")
        )
    subjects = _named(pack, "subject", compose.get("subjects", ()), problems, skipped)
    variables: Sequence[Block | None]
    if not pack.variables:
        variables = (None,)
        _refuse_variables(compose, problems)
    elif "variables" in compose:
        variables = _named(pack, "variable", compose["variables"], problems, skipped)
    elif len(pack.variables) == 1:
        variables = _named(pack, "variable", ALL, problems, skipped)
    else:
        variables = ()
        message = f"the pack has {len(pack.variables)}: name some of {_some(pack.variables)}"
        problems.append(Problem(0, 0, "compose.variables", f"{message}, or `all`"))
    if problems:
        raise SpecInvalid("PackInvalid", problems)
    return Choice(tuple(subjects), tuple(variables), tuple(skipped))


def _refuse_variables(compose: Mapping[str, Any], problems: list[Problem]) -> None:
    if compose.get("variables", ALL) not in (ALL, []):
        problems.append(Problem(0, 0, "compose.variables", "the pack has no variables"))


def _named(
    pack: Pack, part: str, given: Any, problems: list[Problem], skipped: list[Skipped]
) -> list[Block]:
    """The blocks named, in the pack's order; the empty and the disabled are listed as skipped."""
    blocks = pack.subjects if part == "subject" else pack.variables
    every = given == ALL and ALL not in blocks
    names = [given] if isinstance(given, str) else list(given)
    wanted = {unicodedata.normalize("NFC", str(name)) for name in names}
    for name in sorted(wanted - set(blocks)) if not every else ():
        hint = did_you_mean(name, blocks, f"there are {_some(blocks)}")
        message = f"the pack {pack.id!r} has no {part} {name!r} ({hint})"
        problems.append(Problem(0, 0, f"compose.{part}s", message))
    chosen: list[Block] = []
    for name, block in blocks.items():
        if not every and name not in wanted:
            continue
        reason = "" if pack.override(part, name).enabled else "is switched off in pack.json"
        reason = reason or ("" if block.text else "is empty")
        if reason:
            skipped.append(
                Skipped(
                    block.file,
                    reason,
                    name if part == "subject" else "",
                    name if part == "variable" else None,
                )
            )
        else:
            chosen.append(block)
    return chosen


def _some(blocks: Mapping[str, Block], most: int = 8) -> str:
    names = list(blocks)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _ruled_out(pack: Pack, subject: Block, variable: Block | None) -> str:
    """Why `only_with` or `not_with` keeps two blocks apart; empty if they go together."""
    if variable is None:
        return ""
    pairs = (("subject", subject, variable), ("variable", variable, subject))
    for part, block, other in pairs:
        override = pack.override(part, block.name)
        names = {unicodedata.normalize("NFC", name) for name in override.only_with}
        if names and other.name not in names:
            return f"{part} {block.name!r} goes only with {', '.join(sorted(names))}"
        if other.name in {unicodedata.normalize("NFC", name) for name in override.not_with}:
            return f"{part} {block.name!r} does not go with {other.name!r}"
    return ""
