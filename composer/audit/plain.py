"""Applies words that are not cues to the open scope: they may end what a negation covers.

"No glare on the label" does not negate the label, and "not too many labels" not all labels. Where
both readings are possible, the word counts as not negated.
"""

from collections.abc import Sequence

from composer.audit import words as w
from composer.audit.reading import Reading, Scope

_UNIVERSAL = frozenset("everything anything all everyone anyone anywhere every each".split())
_ANNOUNCED = frozenset(
    "following these elements things items list below this include keywords words content".split()
)
_AUXILIARY = frozenset(
    "be been being is are was were do does did to it you we they there have has had get i "
    "should must shall will would can could may that which who".split()
)
_OTHERS = frozenset("any no and or nor plus circumstances circumstance way account event".split())
_NEUTRAL = w.DETERMINERS | w.FILLERS | _AUXILIARY | _ANNOUNCED | _OTHERS
_PLACES = frozenset(
    "front top back side sides middle edge edges corner centre center surface face rim bottom "
    "left right rest inside outside tip base foot head ahead part".split()
)
_TRADED = frozenset("swap swapping exchange exchanging trade trading replace replacing".split())


def at_word(reading: Reading, index: int, text: str) -> None:
    """Update the open scope for one word."""
    if text in _UNIVERSAL:
        reading.universal = index
    scope = reading.scope
    if scope is None or not scope.negated or scope.listed or scope.outside:
        return
    if index in reading.mentioned:
        scope.has_noun = True
        return
    following = reading.words_after(index, 3)
    after = following[0] if following else ""
    verb = text in w.SHOW_VERBS and (scope.verbal or w.is_ing(text) or scope.has_noun)
    if not scope.has_noun and _some_remain(text, after, scope):
        reading.affirm("pseudo", f"{scope.cue} {text}")
    elif text in ("for", "by") and scope.cue.split()[0] in _TRADED:
        reading.affirm("terminator", text)
    elif text in w.PREPOSITIONS or text == "to":
        place = text == "of" and reading.word(index - 1) in _PLACES
        presupposed = _is_presupposed("on" if place else text, following, scope)
        scope.outside, scope.shared = presupposed, presupposed and after in w.DEFINITE
    elif verb and not scope.has_noun:
        return
    elif not scope.has_noun and text in w.CHANGES and not scope.verbal:
        scope.has_noun, scope.flaw = True, "change"
    elif _unknown_verb(text, after, scope) or _new_phrase(text, scope, reading.word(index - 1)):
        scope.outside = True
    elif text not in _NEUTRAL:
        _noun_or_modifier(text, scope, after)


def _noun_or_modifier(text: str, scope: Scope, after: str) -> None:
    if not scope.has_noun and (w.is_ing(text) or w.is_ed(text)):
        scope.acted = True
        if scope.verbal:
            return
    modifies = text in w.LIST_ADJECTIVES and not (text in w.NOUNS_TOO and not after)
    if w.is_adjective(text) or modifies and (text not in w.NOUNS_TOO or after in ("and", "or")):
        scope.adjectives += 1
        return
    if not scope.has_noun and text in w.PRESUPPOSING:
        scope.flaw = "flaw"
    scope.has_noun = True


def _some_remain(text: str, after: str, scope: Scope) -> bool:
    """Whether a word means that some remain: "not all", "without too many", "not a lot"."""
    if text in ("all", "every"):
        return scope.verbal
    return text in w.QUANTITY or (text == "a" and after in ("lot", "ton", "bunch", "few"))


def _is_presupposed(text: str, following: Sequence[str], scope: Scope) -> bool:
    """Whether the object of a preposition exists in any case: "no glare on the label"."""
    if not following or following[0] == "any":
        return False
    if scope.flaw == "change" or (scope.flaw and text in w.LOCATIVE):
        return True
    if text in w.OF_LIKE:
        return False
    named = any(word.endswith("'s") for word in following)
    if named or following[0] in w.DEFINITE | w.NUMBERS | {"either"}:
        return True
    # A place may exist without an article: "no stains on shirts", "no boat on a lake".
    return text in w.LOCATIVE and text != "to" and scope.has_noun


def _unknown_verb(text: str, after: str, scope: Scope) -> bool:
    """Whether a word is a verb whose object may exist: "without dominating the label"."""
    if after not in w.DEFINITE or text in _NEUTRAL or text in w.SHOW_VERBS:
        return False
    return w.is_ing(text) or (scope.verbal and not scope.has_noun)


def _new_phrase(text: str, scope: Scope, before: str) -> bool:
    """Whether a definite second noun phrase begins: "no text that covers the label"."""
    return scope.has_noun and text in w.DEFINITE and before not in w.OF_LIKE and text != "all"
