"""Audits prompts for forbidden terms, and tells affirmed mentions from negated ones.

    normalise ─► tokens ─► terms (mentions) ─► scope + after (negated?) ─► verdict

    spelling   digits for letters, words spelt out    forms   plurals and inflections
    cues       words that begin and end negations     turns   how cues change the scope
    items      phrases between commas, conjunctions   plain   how other words change it
    reading    the state of a pass: the open scope    words   adjectives, verbs, "removed"

Every pass is linear in the length of the prompt. The prompt itself is never changed.
"""

from composer.audit.terms import Term, parse_terms
from composer.audit.verdict import Finding, Report, Span, audit

__all__ = ["Finding", "Report", "Span", "Term", "audit", "parse_terms"]
