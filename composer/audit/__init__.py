"""Audits prompts for forbidden terms, and tells affirmed mentions from negated ones.

    normalise ─► tokens ─► terms (mentions) ─► scope + after (negated?) ─► verdict

    lookalikes  letters that look like others          forms       plurals and inflections
    spelling    digits for letters, words spelt out    words       adjectives, verbs, places
    cues        words that begin and end negations     turns       how cues change the scope
    items       phrases between commas, conjunctions   plain       how other words change it
    reading     the state of a pass: the open scope    predicates  words such as "removed"

Every pass is linear in the length of the prompt. The prompt itself is never changed.
"""

from __future__ import annotations

from composer.audit.terms import Term, parse_terms
from composer.audit.verdict import Finding, Report, audit

__all__ = ["Finding", "Report", "Term", "audit", "parse_terms"]
