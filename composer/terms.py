"""Which terms one combination of a pack is audited against, and what its overrides let pass.

What is forbidden only grows; `allow` makes exceptions for phrases. A bare `allow` of a forbidden
word itself lifts only a warning, unless the pack says `x_allow_lifts_errors`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from composer.audit import Report, Term, audit, parse_terms
from composer.packs import Block, Pack
from specs.errors import Problem, SpecInvalid

MOST_FINDINGS = 100


def terms_for(
    pack: Pack, subject: Block, variable: Block | None, forbidden: tuple[Term, ...]
) -> tuple[Term, ...]:
    """The terms of the settings, the pack, the subject and the variable, with their exceptions."""
    overrides = [pack.override("subject", subject.name)]
    if variable is not None:
        overrides.append(pack.override("variable", variable.name))
    grown = (*forbidden, *pack.forbidden, *(t for o in overrides for t in parse_terms(o.forbid)))
    allow = (*pack.allow, *(phrase for override in overrides for phrase in override.allow))
    terms = dict.fromkeys(grown)
    if not allow:
        return tuple(terms)
    return tuple(_with_exceptions(term, allow, pack.lifts_errors) for term in terms)


def _with_exceptions(term: Term, allow: tuple[str, ...], lifts_errors: bool) -> Term:
    itself = {form.casefold().strip() for form in (term.term, *term.aliases)}
    kept = tuple(
        phrase
        for phrase in allow
        if lifts_errors or term.severity == "warn" or phrase.casefold().strip() not in itself
    )
    return replace(term, allow=(*term.allow, *kept))


def powerless(pack: Pack) -> tuple[str, ...]:
    """Warnings about `allow` entries that cannot lift what they name."""
    if pack.lifts_errors:
        return ()
    strict = {
        form.casefold().strip()
        for term in pack.forbidden
        if term.severity == "error"
        for form in (term.term, *term.aliases)
    }
    overrides = {"subjects": pack.subject_overrides, "variables": pack.variable_overrides}
    return tuple(
        f"{pack.id}/pack.json: {key}.{name} allows {phrase!r}, which is forbidden with severity "
        "error: allow a longer phrase, or set x_allow_lifts_errors"
        for key, given in overrides.items()
        for name, override in given.items()
        for phrase in override.allow
        if phrase.casefold().strip() in strict
    )


def audit_prompt_for_spec(prompt: str, forbidden: Iterable[str | Mapping[str, Any]]) -> Report:
    """Audit a plain prompt against the settings' `forbidden`."""
    return audit(prompt, forbidden)


def forbidden_problems(
    report: Report, prompt: str, path: str = "prompt", most: int = MOST_FINDINGS
) -> list[Problem]:
    """The findings of a report as problems of a spec, each naming term, place and block."""
    return [
        Problem(
            0, 0, path, describe(finding.term, finding.start, finding.block, finding.cue, prompt)
        )
        for finding in report.findings[:most]
    ]


def describe(term: str, start: int, block: str, cue: str, prompt: str) -> str:
    """One sentence on a forbidden mention, with the words around it."""
    left, right = max(0, start - 24), min(len(prompt), start + len(term) + 24)
    around = ("…" if left else "") + prompt[left:right] + ("…" if right < len(prompt) else "")
    where = f" in the {block} block" if block else ""
    why = f" (after {cue!r} it still counts as asked for)" if cue else ""
    place = f"character {start + 1}{where}, {around!r}"
    return f"{term!r} is forbidden: {place}{why}; describe something else"


def reject_forbidden(prompt: str, forbidden: Iterable[str | Mapping[str, Any]]) -> Report:
    """The report on a plain prompt that passes.

    Raises SpecInvalid (PromptForbidden) with the findings of one that does not.
    """
    report = audit_prompt_for_spec(prompt, forbidden)
    if not report.ok:
        raise SpecInvalid("PromptForbidden", forbidden_problems(report, prompt))
    return report
