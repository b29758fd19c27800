"""Makes the forms of an English word: singular, plural, and past tense.

Used when terms are prepared, not while a prompt is read. Forms that are words with another meaning
("glass" for "glasses") must not be made.
"""

_IRREGULAR = {
    "person": ("people", "persons"),
    "man": ("men",),
    "woman": ("women",),
    "child": ("children",),
    "foot": ("feet",),
    "tooth": ("teeth",),
    "goose": ("geese",),
    "mouse": ("mice",),
    "ox": ("oxen",),
    "die": ("dice",),
    "penny": ("pennies", "pence"),
    "medium": ("media",),
    "criterion": ("criteria",),
    "cactus": ("cacti",),
    "fungus": ("fungi",),
    "vertex": ("vertices",),
    "matrix": ("matrices",),
    "index": ("indices",),
}
_FROM_PLURAL = {plural: one for one, many in _IRREGULAR.items() for plural in many}
_VES = ("kni", "wi", "li", "lea", "shel", "wol", "hal", "cal", "loa", "thie", "el", "sel", "scar")
# Plurals with another meaning than their singular, and words that end in s but are no plurals.
_NO_SINGULAR = frozenset(
    "glasses jeans news lens pants scissors shorts goods arms series species gas bus canvas iris "
    "chaos atlas christmas texas paris mars jesus cosmos bias yes this his us is was has plus "
    "always perhaps across less headquarters binoculars leggings tights pyjamas "
    "pajamas clothes thanks physics graphics athletics economics customs looks means".split()
)


def word_forms(word: str) -> tuple[str, ...]:
    """All forms by which a word of a term is found, the word itself first."""
    bases = dict.fromkeys((word, _singular(word)))
    forms = (form for base in bases for form in (*_plurals(base), *_past(base), base))
    return tuple(dict.fromkeys((word, *forms)))


def _singular(word: str) -> str:
    if word in _FROM_PLURAL:
        return _FROM_PLURAL[word]
    if len(word) < 4 or word in _NO_SINGULAR or not word.endswith("s"):
        return word
    if word.endswith(("ss", "us", "is", "ous")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith("ves") and word[:-3] in _VES:
        return word[:-3] + ("fe" if word[:-3] in ("kni", "wi", "li") else "f")
    if word.endswith(("ches", "shes", "xes", "sses", "zes")):
        return word[:-2]
    return word[:-1]


def _plurals(word: str) -> tuple[str, ...]:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if not word.isalpha():
        return (word + "s",)
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return (word[:-1] + "ies", word + "s")
    if word.endswith(("fe", "f")):
        stem = word.removesuffix("e").removesuffix("f")
        return (word + "s", stem + "ves") if stem in _VES else (word + "s",)
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return (word + "es",)
    if word.endswith("o"):
        return (word + "s", word + "es")
    return (word + "s",)


def _past(word: str) -> tuple[str, ...]:
    if not word.isalpha() or len(word) < 3:
        return ()
    if word.endswith("e"):
        return (word + "d",)
    if word.endswith("y") and word[-2] not in "aeiou":
        return (word[:-1] + "ied",)
    doubled = word[-1] not in "aeiouwxyhs" and word[-2] in "aeiou" and word[-3] not in "aeiou"
    return (word + "ed", word + word[-1] + "ed") if doubled else (word + "ed",)
