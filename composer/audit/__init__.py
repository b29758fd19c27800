"""Audits prompts for forbidden terms, and tells affirmed mentions from negated ones.

Each stage takes the values of those before it and changes none of them:

    normalise   the prompt in plain small letters         languages/*.txt   the tables of cues,
    tokens      its words and marks                       lexicon           classes and endings
    terms       the forms of the terms
    mentions    where they occur
    reading     the cues, and the phrases between commas and borders
    scope       what each negation covers; `turns` has what a cue and another word do to it
    after       negations in or after a mention
    verdict     a finding for each mention, with reasons

Every pass is linear in the length of the prompt. The prompt itself is never changed.
"""

from composer.audit.terms import Term, parse_terms
from composer.audit.verdict import Finding, Report, Span, audit

__all__ = ["Finding", "Report", "Span", "Term", "audit", "parse_terms"]
