"""Reads words that are not cues in an open negation: they may end what it covers.

"No glare on the label" does not negate the label, and "not too many labels" not all labels. Where
both readings are possible, the word counts as not negated.
"""

from collections.abc import Sequence
from dataclasses import replace

from composer.audit.lexicon import Effect
from composer.audit.reading import Reading, Scope, affirmation, ended
from composer.audit.tokens import Kind

_NEUTRAL = {"determiner", "filler", "auxiliary", "title", "neutral", "join_and", "join_or"}


def after_word(reading: Reading, scope: Scope, index: int) -> Scope:
    """The open scope after one word."""
    if not scope.negated or scope.listed or scope.outside:
        return scope
    text, kinds = reading.word(index), reading.kinds(index)
    if scope.has_noun and _is_past_glued(reading, scope, index):
        return ended(scope, "list-end", text)
    if index in reading.mentioned:
        return scope if scope.has_noun else replace(scope, has_noun=True)
    following = reading.words_after(index, 3)
    after = reading.lexicon.kinds(following[0] if following else "")
    verb = "show" in kinds and (scope.verbal or "ing" in kinds or scope.has_noun)
    if not scope.has_noun and _some_remain(reading, index, scope):
        return affirmation(reading, index, "pseudo", f"{scope.cue} {text}")
    if text in ("for", "by") and "traded" in reading.lexicon.kinds(scope.cue.split()[0]):
        return affirmation(reading, index, "terminator", text)
    if scope.effect is Effect.INSTEAD and index > scope.start and _begins_clause(reading, index):
        return ended(scope, "list-end", text)
    if "preposition" in kinds or text == "to":
        presupposed = _is_presupposed(reading, text, following, scope)
        return replace(scope, outside=presupposed, shared=presupposed and "definite" in after)
    if verb and not scope.has_noun:
        return scope
    needless = scope.cue.endswith(" to") and index == scope.start
    unknown_verb = (needless or "definite" in after) and not kinds & {*_NEUTRAL, "show"}
    if unknown_verb and ("ing" in kinds or (scope.verbal and not scope.has_noun)):
        return replace(scope, outside=True)  # its object may exist: "without dominating the label"
    of_like = "of_like" in reading.kinds(index - 1)
    second = scope.has_noun and not of_like and not reading.begins_item(index)
    if second and "definite" in kinds and text != "all":
        return replace(scope, outside=True)  # "no text that covers the label"
    return scope if kinds & _NEUTRAL else _noun_or_modifier(scope, kinds, following)


def _is_past_glued(reading: Reading, scope: Scope, index: int) -> bool:
    """Whether a noun follows the one that a sign adjoins: "❌frame text"."""
    sign, one = reading.tokens[scope.start - 1], {index - 1, index} <= reading.mentioned
    adjoins = sign.kind is Kind.SYMBOL and sign.end == reading.tokens[scope.start].start
    goes_on = one or reading.joins(index) or reading.numbers[index] != scope.item
    return adjoins and not goes_on


def _begins_clause(reading: Reading, index: int) -> bool:
    """Whether a command or a pronoun begins the clause that says what is used instead."""
    pronoun = reading.word(index) in ("we", "you", "i", "they", "there")
    return pronoun or ("imperative" in reading.kinds(index) and bool(reading.word(index + 1)))


def _noun_or_modifier(scope: Scope, kinds: frozenset[str], following: Sequence[str]) -> Scope:
    joined = bool(following) and following[0] in ("and", "or")
    noun = "noun_too" in kinds and not following
    adjective = "adjective" in kinds and not noun
    listed = "list_adjective" in kinds and not noun and ("noun_too" not in kinds or joined)
    if adjective or listed:
        return replace(scope, adjectives=scope.adjectives + 1)
    return replace(
        scope, has_noun=True, flaw=scope.flaw or (not scope.has_noun and "flaw" in kinds)
    )


def _some_remain(reading: Reading, index: int, scope: Scope) -> bool:
    """Whether a word means that some remain: "not all", "without too many", "not a lot"."""
    text = reading.word(index)
    if text in ("all", "every"):
        return scope.verbal
    some = text == "a" and reading.word(index + 1) in ("lot", "ton", "bunch", "few")
    return some or "quantity" in reading.kinds(index)


def _is_presupposed(reading: Reading, text: str, following: Sequence[str], scope: Scope) -> bool:
    """Whether the object of a preposition exists in any case: "no glare on the label"."""
    if not following or following[0] == "any":
        return False
    locative = "locative" in reading.lexicon.kinds(text)
    if scope.flaw and (locative or text == "of"):
        return True
    if "of_like" in reading.lexicon.kinds(text):
        return False
    named = any(word.endswith("'s") for word in following) or following[0] == "either"
    if named or reading.lexicon.kinds(following[0]) & {"definite", "number"}:
        return True
    # A place may exist without an article: "no stains on shirts", "no boat on a lake".
    return locative and text != "to" and scope.has_noun
