"""Says in words why a mention counts as asked for or as excluded."""

import unicodedata

from composer.audit.normalise import LOOKALIKES, normalise
from composer.audit.scope import Mark
from composer.audit.terms import Term

_THERE = {
    "affirmed": "nothing negates it",
    "list-end": "{cue} before it ends at {ended}",
    "terminator": "{cue} ends the negation before it",
    "exception": "{cue} makes it the one thing left",
    "double-negation": "{cue} negates twice, which asks for it",
    "pseudo": "{cue} negates nothing",
    "presupposed": "{cue} negates something else, and speaks of this as there",
}
_ABSENT = {
    "negated": "{cue} negates it",
    "list": "{cue} negates the list that it is in",
    "negative-list": "it is in the list after {cue}",
    "exception": "{cue} leaves it out",
    "double-negation": "{cue} leaves it out",
    "affix": "{cue} at the word negates it",
    "after": "{cue} after it says that it is absent",
    "replacement": "{cue} puts something else in its place",
}
_MARKS = ("comma", "semicolon", "bracket")


def why(term: Term, text: str, mark: Mark) -> str:
    """Why the mention `text` of a term has its mark, and how it was disguised."""
    reasons = _ABSENT if mark.negated else _THERE
    ended = f"the {mark.ended}" if mark.ended in _MARKS else repr(mark.ended)
    reason = reasons[mark.rule].format(cue=repr(mark.cue), ended=ended)
    disguise = _disguise(term, text)
    return f"{disguise}; {reason}" if disguise else reason


def _disguise(term: Term, text: str) -> str:
    known = " ".join((term.term, *term.aliases)).casefold()
    for char in text:
        if char.isascii() or char.casefold() in known:
            continue
        if not normalise(char).text:
            name = unicodedata.name(char, f"U+{ord(char):04X}").lower()
            return f"{normalise(text).text!r} is written with a hidden {name}"
        if char.casefold() in LOOKALIKES or char in LOOKALIKES:
            script = unicodedata.name(char).split()[0].title()
            return f"{text!r} contains a {script} {char}"
    if any(char.isdigit() for char in text) and not any(char.isdigit() for char in known):
        return f"{text!r} has digits for letters"
    letters = text.replace(".", " ").replace("-", " ").replace("*", " ").split()
    spelt = len(letters) > 2 and all(len(letter) == 1 for letter in letters)
    return f"{text!r} is spelt letter by letter" if spelt else ""
