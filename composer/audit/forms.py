"""Makes the forms of a word: singular, plural, and past tense.

Used when terms are prepared, not while a prompt is read. Forms that are words with another meaning
("glass" for "glasses") must not be made. English endings are here; other plurals are tables.
"""

from collections.abc import Iterable

# Plurals with another meaning than their singular, and words that end in s but are no plurals.
_NO_SINGULAR = frozenset(
    "glasses jeans news lens pants scissors shorts goods arms series species gas bus canvas iris "
    "chaos atlas christmas texas paris mars jesus cosmos bias yes this his us is was has plus "
    "always perhaps across less headquarters binoculars leggings tights pyjamas "
    "pajamas clothes thanks physics graphics athletics economics customs looks means".split()
)


def word_forms(word: str, plurals: Iterable[str]) -> tuple[str, ...]:
    """All forms by which a word of a term is found, the word itself first.

    `plurals` are endings and what becomes of them: "man>men".
    """
    rules = [tuple(rule.split(">")) for rule in plurals]
    ones = [_ending(word, many, one) for one, many in rules]
    bases = dict.fromkeys((word, *(filter(None, ones) if any(ones) else (_singular(word),))))
    forms = dict.fromkeys((word,))
    for base in bases:
        several = filter(None, (_ending(base, one, many) for one, many in rules))
        forms |= dict.fromkeys((*several, *_plurals(base), *_past(base), base))
    return tuple(forms)


def _ending(word: str, ending: str, becomes: str) -> str:
    stem = word.removesuffix(ending)
    return stem + becomes if word.endswith(ending) and (stem or becomes and ending) else ""


def _singular(word: str) -> str:
    if len(word) < 4 or word in _NO_SINGULAR or not word.endswith("s"):
        return word
    if word.endswith(("ss", "us", "is", "ous")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "xes", "sses", "zes")):
        return word[:-2]
    return word[:-1]


def _plurals(word: str) -> tuple[str, ...]:
    if not word.isalpha():
        return (word + "s",)
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return (word[:-1] + "ies", word + "s")
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return (word + "es",)
    return (word + "s", word + "es") if word.endswith("o") else (word + "s",)


def _past(word: str) -> tuple[str, ...]:
    if not word.isalpha() or len(word) < 3:
        return ()
    if word.endswith("e"):
        return (word + "d",)
    if word.endswith("y") and word[-2] not in "aeiou":
        return (word[:-1] + "ied",)
    doubled = word[-1] not in "aeiouwxyhs" and word[-2] in "aeiou" and word[-3] not in "aeiou"
    return (word + "ed", word + word[-1] + "ed") if doubled else (word + "ed",)
