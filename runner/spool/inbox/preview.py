"""A spec with `compose` that has not been dropped: its plan, and every problem it would have.

Judges as the intake does, with its own functions, and goes on where the intake would stop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.settings import Home
from runner.spool.inbox.assess import (
    MOST_WARNED,
    Catalogue,
    check_models,
    check_paths,
    planned,
    with_defaults,
    with_loras,
    with_model,
)
from specs.errors import Problem, SpecInvalid
from specs.read import read
from specs.validate import validate

if TYPE_CHECKING:
    from composer.plan import Plan


@dataclass(frozen=True)
class Preview:
    """A spec with `compose` as it would be judged: its plan, what the models cannot do, advice."""

    plan: Plan
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]


def preview(data: bytes, home: Home, catalogue: Catalogue) -> Preview:
    """The preview of a spec's bytes. Raises SpecInvalid where there is not even a plan."""
    document = read(data)
    realised = with_defaults(validate(document), home)
    plan = planned(realised, home, catalogue)
    variants = [{**fields, **plan.spec} for fields, _ in with_model(plan, catalogue)]
    problems: tuple[Problem, ...] = ()
    try:
        check_paths(document, realised, home)
        with_loras(document, realised, home, catalogue)
        check_models(document, variants, catalogue)
    except SpecInvalid as error:
        problems = error.problems
    own = [text for v in variants[:MOST_WARNED] for text in catalogue.warnings(v)]
    return Preview(plan, problems, tuple(dict.fromkeys([*plan.warnings, *own])))
