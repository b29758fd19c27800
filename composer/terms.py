"""The forbidden terms for one combination of a pack, and the exceptions that `allow` makes.

Overrides can only add terms; `allow` excepts phrases. An `allow` of exactly a forbidden term lifts
it only if its severity is `warn`, unless the pack sets `x_allow_lifts_errors`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from composer.audit import Term, audit, parse_terms
from composer.layers import Block
from composer.packs import Pack

MOST_FINDINGS = 100
"""At most this many findings are listed in an error or a plan."""


def terms_for(
    pack: Pack, subject: Block, variable: Block | None, forbidden: tuple[Term, ...]
) -> tuple[Term, ...]:
    """The terms of the settings, the pack, the subject and the variable, with their exceptions."""
    overrides = [pack.override("subject", subject.name)]
    if variable is not None:
        overrides.append(pack.override("variable", variable.name))
    added = (term for override in overrides for term in parse_terms(override.forbid))
    terms = dict.fromkeys((*forbidden, *pack.forbidden, *added))
    allow = (*pack.allow, *(phrase for override in overrides for phrase in override.allow))
    if not allow:
        return tuple(terms)
    return tuple(_with_exceptions(term, allow, pack.lifts_errors) for term in terms)


def _with_exceptions(term: Term, allow: tuple[str, ...], lifts_errors: bool) -> Term:
    forms = _plain_forms(term)
    effective = tuple(
        phrase
        for phrase in allow
        if lifts_errors or term.severity == "warn" or phrase.casefold().strip() not in forms
    )
    return replace(term, allow=(*term.allow, *effective))


def _plain_forms(term: Term) -> set[str]:
    return {form.casefold().strip() for form in (term.term, *term.aliases)}


def ineffective_allows(pack: Pack) -> tuple[str, ...]:
    """Warnings about `allow` entries that cannot lift the term they name."""
    if pack.lifts_errors:
        return ()
    strict: set[str] = set()
    for term in pack.forbidden:
        if term.severity == "error":
            strict |= _plain_forms(term)
    overrides = {"subjects": pack.subject_overrides, "variables": pack.variable_overrides}
    return tuple(
        f"{pack.id}/pack.json: {key}.{name} allows {phrase!r}, which is forbidden with severity "
        "error: allow a longer phrase, or set x_allow_lifts_errors"
        for key, by_name in overrides.items()
        for name, override in by_name.items()
        for phrase in override.allow
        if phrase.casefold().strip() in strict
    )


def describe(term: str, start: int, block: str, why: str, prompt: str) -> str:
    """One sentence about a mention of a forbidden term, with the text around it."""
    left, right = max(0, start - 24), min(len(prompt), start + len(term) + 24)
    around = ("…" if left else "") + prompt[left:right] + ("…" if right < len(prompt) else "")
    where = f" in the {block} block" if block else ""
    place = f"character {start + 1}{where}, {around!r}"
    return f"{term!r} is forbidden: {place} ({why}); describe something else"


def forbidden_in(
    prompt: str, forbidden: Iterable[str | Mapping[str, Any]], languages: Iterable[str] = ()
) -> list[str]:
    """A sentence for each forbidden term that a plain prompt asks for."""
    return [
        describe(f.term, f.start, f.block, f.why, prompt)
        for f in audit(prompt, forbidden, (), languages).findings
    ]
