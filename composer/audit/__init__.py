"""A negation-aware audit of prompts: which forbidden things does a prompt ask for, and why.

    normalise ─► tokens ─► terms (mentions) ─► scope + after (negated?) ─► verdict

    lookalikes  the letters that disguise others       forms       plurals and inflections
    spelling    digits for letters, words spelt out    words       adjectives, verbs, places
    cues        the words that open and end negations  turns       what each cue does
    items       commas, conjunctions, and lists        plain       what all other words do
    reading     the scope that is open now             predicates  said of a thing afterwards

Every pass is linear in the prompt. The prompt itself is never changed.
"""

from __future__ import annotations

from composer.audit.terms import Term, parse_terms
from composer.audit.verdict import RULES_VERSION, Finding, Report, audit

__all__ = ["RULES_VERSION", "Finding", "Report", "Term", "audit", "parse_terms"]
