"""Applies cues to the open scope: a cue begins, inverts or ends a negation.

Two negations affirm ("do not hide X"), and one that is repeated is emphasis ("no, no X"). Uncertain
cases affirm, because an undetected double negation would be a missed violation.
"""

from composer.audit.cues import ALMOST, COMMANDS_WITH_ARTICLE, Cue, Effect
from composer.audit.reading import Reading, Scope
from composer.audit.tokens import DASHES, Kind
from composer.audit.words import DETERMINERS

_SIGNS = frozenset("sign signs symbol poster sticker notice plate placard zone board label".split())
_PROHIBITIONS = frozenset("entry trespass vacancy exit access photo photos dogs pets".split())
_POLITE = frozenset(
    "please then also just simply always kindly now must should will can but and or may".split()
)
_INTENDING = frozenset("sure remember try need want have careful forget".split())
_COMMANDS = frozenset("avoid omit exclude excludes eliminate".split())
_TITLES = frozenset("elements items words keywords content objects terms things prompt".split())


def apply(reading: Reading, cue: Cue, index: int, end: int) -> bool:
    """Apply the cue [index, end); False if its words are ordinary words here."""
    effect, text = cue.effect, " ".join(cue.words)
    quoted = bool(reading.quotes) and reading.quotes[-1][1]
    if quoted and effect not in (Effect.STOP, Effect.INCLUDE):
        return False
    if effect is Effect.AFFIRM:
        reading.affirm("pseudo", text)
        return True
    if _glued(reading, index, end):
        return False
    if effect in (Effect.NOT, Effect.WITHOUT) and _weakened(reading, cue, index, end):
        return True
    if effect is Effect.STOP:
        return _stop(reading, text, index)
    if effect is Effect.EXCEPT:
        return _except(reading, text, index, end)
    if effect is Effect.INSTEAD:
        reading.open(effect, text, end, rule="replacement")
        return True
    if effect is Effect.LIST:
        return _announce(reading, text, end)
    if effect is Effect.INCLUDE:
        return _include(reading)
    if effect is Effect.NOT:
        return _negate(reading, text, end)
    if effect is Effect.HANDLE:
        return _handle(reading, text, index, end)
    return _invert(reading, cue, text, index, end)


def _same_item(reading: Reading) -> Scope | None:
    scope = reading.scope
    return scope if scope is not None and scope.item == reading.number else None


def _doubled(scope: Scope | None) -> bool:
    return scope is not None and not scope.negated and scope.rule == "double-negation"


def _glued(reading: Reading, index: int, end: int) -> bool:
    """Whether a cue is part of a compound ("never-ending", "just-baked") and so has no effect."""
    tokens = reading.tokens
    before = index > 0 and tokens[index - 1].kind is Kind.HYPHEN
    return before or (end < len(tokens) and tokens[end].kind is Kind.HYPHEN)


def _weakened(reading: Reading, cue: Cue, index: int, end: int) -> bool:
    """Whether a cue does not negate: almost no X, No. 3, no bigger than X, no smoking sign."""
    first, second = (*reading.words_after(end - 1, 2), "", "")[:2]
    weak = reading.word(index - 1) in ALMOST
    weak = weak or (reading.word(index - 2), reading.word(index - 1)) == ("far", "from")
    if cue.words in (("no",), ("minus",)):
        weak = weak or first.isdigit()
    if cue.words == ("no",):
        forbids = first.endswith("ing") or first in _PROHIBITIONS
        weak = weak or second == "than" or (second in _SIGNS and forbids)
    if weak:
        reading.affirm("pseudo", f"{' '.join(cue.words)} {first}".strip())
    return weak


def _negate(reading: Reading, text: str, end: int) -> bool:
    if text == "no" and end < len(reading.tokens) and reading.tokens[end].kind is Kind.COMMA:
        return True  # "no, ..." is an answer and negates no noun
    scope = reading.scope
    if scope is not None and scope.negated and scope.listed:
        return True  # in "Negative prompt: no text" the text is still negated
    same = _same_item(reading)
    if same is not None and same.negated and not same.has_noun:
        if same.effect is Effect.NOT:
            return True  # "no no X" is emphasis
        if same.effect in (Effect.WITHOUT, Effect.ORDER):
            reading.affirm("double-negation", f"{same.cue} {text}")
            return True
    reading.open(Effect.NOT, text, end)
    return True


def _handle(reading: Reading, text: str, index: int, end: int) -> bool:
    """Apply a verb whose object must exist: under a negation the object is affirmed."""
    same = _same_item(reading)
    scope = reading.scope
    if _doubled(scope) and scope is not None and index == reading.items[reading.number].start:
        reading.affirm("double-negation", f"{scope.cue} {text}", handled=True)
        return True
    if same is None or same.listed:
        return False
    if _doubled(same):
        same.handled = True
        return True
    if not same.negated or same.has_noun or reading.word(index - 1) in DETERMINERS | {"any"}:
        return False
    if not same.verbal and not (text.endswith("ing") and reading.word(end)):
        return False
    reading.affirm("double-negation", f"{same.cue} {text}", handled=True)
    return True


def _invert(reading: Reading, cue: Cue, text: str, index: int, end: int) -> bool:
    """Apply a cue that negates alone and affirms under another negation."""
    scope, same = reading.scope, _same_item(reading)
    command = cue.effect is Effect.ORDER or cue.words[0] in _COMMANDS
    listed = scope is not None and scope.negated and scope.listed
    if scope is not None and not listed:
        both = f"{scope.cue} {text}"
        joined_verb = scope.verbal and command and reading.items[reading.number].joined == "or"
        if scope.negated and (same or joined_verb) and not (command and scope.has_noun and same):
            reading.affirm("double-negation", both)
            return True
        if _doubled(same):
            reading.open(cue.effect, both, end, rule="double-negation")
            return True
        if _doubled(scope) and command and index == reading.items[reading.number].start:
            return True  # "do not crop, hide or remove X" continues
    if cue.effect is Effect.INVERT or listed:
        return False
    if cue.effect is Effect.ORDER and not _is_order(reading, text, index, end):
        return False
    reading.open(cue.effect, text, end)
    return True


def _is_order(reading: Reading, text: str, index: int, end: int) -> bool:
    """Whether a verb is a command ("remove the text") and not "a man removing posters"."""
    after = reading.word(end)
    if text in COMMANDS_WITH_ARTICLE and after not in ("the", "any", "all", "every", "a", "an"):
        return False
    if index == 0:
        return True
    before = reading.tokens[index - 1]
    if before.kind in (Kind.END, Kind.LINE, Kind.COLON, Kind.OPEN, Kind.QUOTE):
        return True
    if text.split()[0].endswith("ing"):
        return before.text == "by" or after in ("all", "any", "every")
    if before.kind is not Kind.WORD:
        return before.kind in (Kind.COMMA, Kind.SLASH, Kind.AND)
    if before.text == "to":
        return reading.word(index - 2) in _INTENDING
    return before.text in _POLITE or before.text.endswith("ly")


def _stop(reading: Reading, text: str, index: int) -> bool:
    scope = reading.scope
    if text == "but" and (scope is None or not scope.negated):
        universal = reading.word(reading.universal)
        reach = 1 if universal in ("all", "every", "each") else 4
        if universal and index - reading.universal <= reach:
            reading.open(Effect.EXCEPT, f"{universal} but", index + 1, "exception")
            return True
    if scope is None:
        return False
    if not scope.negated:
        if scope.handled and text == "with":
            reading.open(Effect.WITHOUT, scope.cue, index + 1)
        return False
    if scope.listed and text in ("with", "as", "so", "when", "where", "if"):
        return False
    if text == "with" and not scope.has_noun:
        return False  # "not covered with X"
    reading.affirm("terminator", text)
    return True


def _except(reading: Reading, text: str, index: int, end: int) -> bool:
    if reading.scope is not None and reading.scope.negated:
        reading.affirm("exception", text)
        return True
    universal = reading.word(reading.universal)
    if universal and index - reading.universal <= 8:
        reading.open(Effect.EXCEPT, f"{universal} {text}", end, "exception")
        return True
    return False


def _announce(reading: Reading, text: str, end: int) -> bool:
    """Apply a title such as "Negative prompt:"; without a colon or a dash it is ordinary words."""
    while reading.word(end) in _TITLES:
        end += 1
    if end < len(reading.tokens):
        mark = reading.tokens[end]
        if mark.kind is Kind.COLON or (mark.kind is Kind.END and mark.text in DASHES):
            reading.open(Effect.LIST, text, end, rule="negative-list")
            return True
    return False


def _include(reading: Reading) -> bool:
    scope = reading.scope
    if scope is None or not scope.negated or scope.listed:
        return False
    scope.all_bare, scope.outside, scope.rule = True, False, "list"
    return True
