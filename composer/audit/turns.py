"""Applies cues: a cue begins, inverts or ends the open negation.

Two negations affirm ("do not hide X"), and one that is repeated is emphasis ("no, no X"). Uncertain
cases affirm, because an undetected double negation would be a missed violation.
"""

from dataclasses import replace

from composer.audit.lexicon import NEGATES, Cue, Effect
from composer.audit.reading import Reading, Scope, affirmation, negation
from composer.audit.tokens import DASHES, Kind


def after_cue(
    reading: Reading, scope: Scope | None, index: int, universal: int, quoted: bool
) -> Scope | None:
    """The open scope after the cue at a token; None if its words are ordinary words here.

    `universal` is the last token such as "everything"; `quoted` words are drawn and mean nothing.
    """
    cue, end = reading.cues[index]
    effect, text = cue.effect, " ".join(cue.words)
    if quoted and effect not in (Effect.STOP, Effect.INCLUDE):
        return None
    if effect in (Effect.AFFIRM, Effect.SELDOM):
        return affirmation(reading, index, "pseudo", text, effect)
    if _glued(reading, index, end):
        return None
    if effect in (*NEGATES, Effect.WITHOUT):
        weak = _weakened(reading, cue, index, end)
        if weak:
            return weak
    match effect:
        case Effect.STOP:
            return _stop(reading, scope, text, index, universal)
        case Effect.EXCEPT:
            return _except(reading, scope, text, index, end, universal)
        case Effect.INSTEAD:
            return negation(reading, index, effect, text, end, "replacement")
        case Effect.LIST:
            return _announce(reading, text, index, end)
        case Effect.INCLUDE:
            if scope is None or not scope.negated or scope.listed:
                return None
            return replace(scope, all_bare=True, outside=False, rule="list")
        case Effect.NO | Effect.NOT:
            return _negate(reading, scope, cue, index, end)
        case Effect.HANDLE:
            return _handle(reading, scope, text, index, end)
    return _invert(reading, scope, cue, index, end)


def _here(reading: Reading, scope: Scope | None, index: int) -> Scope | None:
    """The scope if it began in the item of a token."""
    return scope if scope is not None and scope.item == reading.numbers[index] else None


def _doubled(scope: Scope | None) -> bool:
    return scope is not None and not scope.negated and scope.rule == "double-negation"


def _glued(reading: Reading, index: int, end: int) -> bool:
    """Whether a cue is part of a compound ("never-ending", "just-baked") and so has no effect."""
    tokens = reading.tokens
    before = index > 0 and tokens[index - 1].kind is Kind.HYPHEN
    return before or (end < len(tokens) and tokens[end].kind is Kind.HYPHEN)


def _weakened(reading: Reading, cue: Cue, index: int, end: int) -> Scope | None:
    """An affirmation if a cue does not negate: almost no X, No. 3, no bigger than X."""
    first, second = (*reading.words_after(end - 1, 2), "", "")[:2]
    kinds = reading.lexicon.kinds(second)
    weak = "almost" in reading.kinds(index - 1)
    weak = weak or (reading.word(index - 2), reading.word(index - 1)) == ("far", "from")
    if cue.words in (("no",), ("minus",)):
        weak = weak or first.isdigit()
    if cue.words == ("no",):
        forbids = first.endswith("ing") or "prohibition" in reading.lexicon.kinds(first)
        weak = weak or second == "than" or ("sign" in kinds and forbids)
    if "ambiguous" in reading.kinds(index) and not reading.begins_item(index):
        weak = weak or "before_ambiguous" not in reading.kinds(index - 1)
    if reading.tokens[index].kind is Kind.SYMBOL:
        weak = weak or "determiner" in reading.kinds(index - 1) or "sign" in reading.kinds(end)
    if not weak:
        return None
    return affirmation(
        reading, index, "pseudo", f"{' '.join(cue.words)} {first}".strip(), Effect.SELDOM
    )


def _negate(reading: Reading, scope: Scope | None, cue: Cue, index: int, end: int) -> Scope | None:
    text = " ".join(cue.words)
    if text == "no" and end < len(reading.tokens) and reading.tokens[end].kind is Kind.COMMA:
        return scope  # "no, ..." is an answer and negates no noun
    named = (Kind.WORD, Kind.SYMBOL, Kind.OPEN, Kind.QUOTE)
    if reading.tokens[index].kind is Kind.SYMBOL and reading.mark(end) not in named:
        return scope  # "logo ❌, hat ✅"
    if scope is not None and scope.negated and scope.listed:
        return scope  # in "Negative prompt: no text" the text is still negated
    same = _here(reading, scope, index)
    if same is not None and same.negated and not same.has_noun:
        if same.effect in NEGATES:
            return same  # "no no X" is emphasis
        if same.effect in (Effect.WITHOUT, Effect.ORDER):
            return affirmation(reading, index, "double-negation", f"{same.cue} {text}")
    return negation(reading, index, cue.effect, text, end)


def _handle(reading: Reading, scope: Scope | None, text: str, index: int, end: int) -> Scope | None:
    """Apply a verb whose object must exist: under a negation the object is affirmed."""
    same = _here(reading, scope, index)
    if scope is not None and _doubled(scope) and (same or reading.begins_item(index)):
        if reading.begins_item(index):
            scope = affirmation(reading, index, scope.rule, f"{scope.cue} {text}")
        return replace(scope, handled=True)
    if same is None or same.listed or not same.negated or same.has_noun:
        return None
    if "determiner" in reading.kinds(index - 1) or reading.word(index - 1) == "any":
        return None
    if not same.verbal and not (text.endswith("ing") and reading.word(end)):
        return None
    affirmed = affirmation(reading, index, "double-negation", f"{same.cue} {text}")
    return replace(affirmed, handled=True)


def _invert(reading: Reading, scope: Scope | None, cue: Cue, index: int, end: int) -> Scope | None:
    """Apply a cue that negates alone and affirms under another negation."""
    text, same = " ".join(cue.words), _here(reading, scope, index)
    command = cue.effect is Effect.ORDER or "command" in reading.lexicon.kinds(cue.words[0])
    listed = scope is not None and scope.negated and scope.listed
    if scope is not None and not listed:
        both = f"{scope.cue} {text}"
        joined_verb = (
            scope.verbal and command and reading.items[reading.numbers[index]].joined == "or"
        )
        if scope.negated and (same or joined_verb) and not (command and scope.has_noun and same):
            return affirmation(reading, index, "double-negation", both)
        if same and same.effect is Effect.SELDOM and cue.effect is not Effect.INVERT:
            return affirmation(reading, index, "double-negation", f"{same.cue} … {text}")
        if _doubled(same):
            return negation(reading, index, cue.effect, both, end, "double-negation")
        if _doubled(scope) and command and reading.begins_item(index):
            return scope  # "do not crop, hide or remove X" continues
    if cue.effect is Effect.INVERT or listed:
        return None
    if cue.effect is Effect.ORDER and not _is_order(reading, text, index, end):
        return None
    return negation(reading, index, cue.effect, text, end)


def _is_order(reading: Reading, text: str, index: int, end: int) -> bool:
    """Whether a verb is a command ("remove the text") and not "a man removing posters"."""
    after = reading.word(end)
    needs_article = "article_command" in reading.lexicon.kinds(text)
    if needs_article and after not in ("the", "any", "all", "every", "a", "an"):
        return False
    if index == 0:
        return True
    before = reading.tokens[index - 1]
    if before.kind in (Kind.END, Kind.LINE, Kind.COLON, Kind.OPEN, Kind.QUOTE, Kind.SEMICOLON):
        return True
    if text.split()[0].endswith("ing"):
        return before.text == "by" or after in ("all", "any", "every")
    if before.kind is not Kind.WORD:
        return before.kind in (Kind.COMMA, Kind.SLASH, Kind.AND)
    if before.text == "to":
        return "intending" in reading.kinds(index - 2)
    return "polite" in reading.kinds(index - 1) or before.text.endswith("ly")


def _stop(
    reading: Reading, scope: Scope | None, text: str, index: int, universal: int
) -> Scope | None:
    if text == "but" and (scope is None or not scope.negated):
        word = reading.word(universal)
        if word and index - universal <= (1 if word in ("all", "every", "each") else 4):
            return negation(reading, index, Effect.EXCEPT, f"{word} but", index + 1, "exception")
    if scope is None:
        return None
    accompanies = "with" in reading.lexicon.kinds(text)
    if not scope.negated:
        if scope.handled and accompanies:
            return negation(reading, index, Effect.WITHOUT, scope.cue, index + 1)
        return None
    if scope.listed and (accompanies or text in ("as", "so", "when", "where", "if")):
        return None
    if accompanies and not scope.has_noun:
        return None  # "not covered with X"
    return affirmation(reading, index, "terminator", text)


def _except(
    reading: Reading, scope: Scope | None, text: str, index: int, end: int, universal: int
) -> Scope | None:
    if scope is not None and scope.negated:
        return affirmation(reading, index, "exception", text)
    word = reading.word(universal)
    if word and index - universal <= 8:
        return negation(reading, index, Effect.EXCEPT, f"{word} {text}", end, "exception")
    return None


def _announce(reading: Reading, text: str, index: int, end: int) -> Scope | None:
    """Apply a title such as "Negative prompt:"; without a colon or a dash it is ordinary words."""
    while "title" in reading.kinds(end):
        end += 1
    mark = reading.tokens[end] if end < len(reading.tokens) else None
    dash = mark is not None and mark.kind is Kind.END and mark.text in DASHES
    if mark is not None and (mark.kind is Kind.COLON or dash):
        return negation(reading, index, Effect.LIST, text, end, "negative-list")
    return None
