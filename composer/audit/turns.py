"""Applies cues: a cue begins, inverts or ends the open negation.

Two negations affirm ("do not hide X"), and one that is repeated is emphasis ("no, no X"). Uncertain
cases affirm, because an undetected double negation would be a missed violation.
"""

from dataclasses import dataclass, replace

from composer.audit.lexicon import NEGATES, Effect
from composer.audit.reading import Reading, Scope, affirmation, negation
from composer.audit.tokens import DASHES, Kind

_BEFORE_ORDERS = (Kind.END, Kind.LINE, Kind.COLON, Kind.OPEN, Kind.QUOTE, Kind.SEMICOLON)


@dataclass(frozen=True, slots=True)
class Turn:
    """The cue [index, end) of a prompt, and the scope that was open before it.

    `universal` is the last token such as "everything"; `same` is the scope if its item is this one.
    """

    reading: Reading
    scope: Scope | None
    index: int
    end: int
    effect: Effect
    text: str
    universal: int
    same: Scope | None
    first: bool  # an item begins with the cue

    def affirm(self, rule: str, cue: str = "", effect: Effect = Effect.AFFIRM) -> Scope:
        """The end of the negation."""
        return affirmation(self.reading, self.index, rule, cue or self.text, effect)

    def negate(self, rule: str = "negated", cue: str = "", effect: Effect | None = None) -> Scope:
        """A negation of what follows."""
        effect = effect or self.effect
        return negation(self.reading, self.index, effect, cue or self.text, self.end, rule)

    def kinds(self, index: int) -> frozenset[str]:
        """The classes of the word at a token."""
        return self.reading.kinds(index)


def after_cue(reading: Reading, scope: Scope | None, index: int, universal: int) -> Scope | None:
    """The open scope after the cue at a token; None if its words are ordinary words here."""
    (cue, end), text = reading.cues[index], " ".join(reading.cues[index][0].words)
    same = scope if scope is not None and scope.item == reading.numbers[index] else None
    first = reading.begins_item(index)
    turn = Turn(reading, scope, index, end, cue.effect, text, universal, same, first)
    if cue.effect in (Effect.AFFIRM, Effect.SELDOM):
        return turn.affirm("pseudo", effect=cue.effect)
    if Kind.HYPHEN in (reading.mark(index - 1), reading.mark(end)):
        return None  # part of a compound: "never-ending", "just-baked"
    if cue.effect in (*NEGATES, Effect.WITHOUT) and _is_weak(turn):
        weak = f"{turn.text} {reading.word(end)}".strip()
        return turn.affirm("pseudo", weak, Effect.SELDOM)
    match cue.effect:
        case Effect.STOP:
            return _stop(turn)
        case Effect.EXCEPT:
            return _except(turn)
        case Effect.INSTEAD:
            return turn.negate("replacement")
        case Effect.LIST:
            return _announce(turn)
        case Effect.INCLUDE:
            if scope is None or not scope.negated or scope.listed:
                return None
            return replace(scope, all_bare=True, outside=False, rule="list")
        case Effect.NO | Effect.NOT:
            return _negate(turn)
        case Effect.HANDLE:
            return _handle(turn)
    return _invert(turn)


def _doubled(scope: Scope | None) -> bool:
    return scope is not None and not scope.negated and scope.rule == "double-negation"


def _is_weak(turn: Turn) -> bool:
    """Whether a cue does not negate: almost no X, No. 3, no bigger than X, no smoking sign, f/0."""
    reading, index = turn.reading, turn.index
    first, second = (*reading.words_after(turn.end - 1, 2), "", "")[:2]
    if "almost" in turn.kinds(index - 1) or reading.words_after(index - 3, 2) == ["far", "from"]:
        return True
    adjoined = reading.mark(turn.end) is not Kind.WORD or reading.mark(index - 1) is Kind.SLASH
    if (turn.text == "0" and adjoined) or (turn.text in ("no", "minus") and first.isdigit()):
        return True
    if turn.text == "no":
        forbids = first.endswith("ing") or "prohibition" in reading.lexicon.kinds(first)
        if second == "than" or (forbids and "sign" in reading.lexicon.kinds(second)):
            return True
    if "ambiguous" in turn.kinds(index) and not turn.first:
        return "before_ambiguous" not in turn.kinds(index - 1)
    drawn = "determiner" in turn.kinds(index - 1) or "sign" in turn.kinds(turn.end)
    return reading.mark(index) is Kind.SYMBOL and drawn


def _negate(turn: Turn) -> Scope | None:
    scope, same = turn.scope, turn.same
    after = turn.reading.mark(turn.end)
    if turn.text == "no" and after is Kind.COMMA:
        return scope  # "no, ..." is an answer and negates no noun
    named = after in (Kind.WORD, Kind.SYMBOL, Kind.OPEN, Kind.QUOTE)
    if turn.reading.mark(turn.index) is Kind.SYMBOL and not named:
        return scope  # "logo ❌, hat ✅"
    if scope is not None and scope.negated and scope.listed:
        return scope  # in "Negative prompt: no text" the text is still negated
    if same is not None and same.negated and not same.has_noun:
        if same.effect in NEGATES:
            return same  # "no no X" is emphasis
        if same.effect in (Effect.WITHOUT, Effect.ORDER):
            return turn.affirm("double-negation", f"{same.cue} {turn.text}")
    return turn.negate()


def _handle(turn: Turn) -> Scope | None:
    """Apply a verb whose object must exist: under a negation the object is affirmed."""
    same, before = turn.same, turn.index - 1
    if same is None or same.listed or not same.negated or same.has_noun:
        return None
    if "determiner" in turn.kinds(before) or turn.reading.word(before) == "any":
        return None
    if not same.verbal and not (turn.text.endswith("ing") and turn.reading.word(turn.end)):
        return None
    return turn.affirm("double-negation", f"{same.cue} {turn.text}")


def _invert(turn: Turn) -> Scope | None:
    """Apply a cue that negates alone and affirms under another negation."""
    scope, same, effect = turn.scope, turn.same, turn.effect
    verb = turn.text.split()[0]
    command = effect is Effect.ORDER or "command" in turn.reading.lexicon.kinds(verb)
    listed = scope is not None and scope.negated and scope.listed
    if scope is not None and not listed:
        both = f"{scope.cue} {turn.text}"
        joined = turn.reading.items[turn.reading.numbers[turn.index]].joined
        verbs = scope.verbal and command and joined == "or"
        if scope.negated and (same or verbs) and not (command and scope.has_noun and same):
            return turn.affirm("double-negation", both)
        if same and same.effect is Effect.SELDOM and effect is not Effect.INVERT:
            return turn.affirm("double-negation", f"{same.cue} … {turn.text}")
        if _doubled(same):
            return turn.negate("double-negation", both)
        if _doubled(scope) and command and turn.first:
            return scope  # "do not crop, hide or remove X" continues
    if effect is Effect.INVERT or listed or (effect is Effect.ORDER and not _is_order(turn)):
        return None
    return turn.negate()


def _is_order(turn: Turn) -> bool:
    """Whether a verb is a command ("remove the text") and not "a man removing posters"."""
    reading, before = turn.reading, turn.index - 1
    after, mark, word = reading.word(turn.end), reading.mark(before), reading.word(before)
    needs_article = "article_command" in reading.lexicon.kinds(turn.text)
    if needs_article and after not in ("the", "any", "all", "every", "a", "an"):
        return False
    if mark in _BEFORE_ORDERS:
        return True
    if turn.text.split()[0].endswith("ing"):
        return word == "by" or after in ("all", "any", "every")
    if mark is not Kind.WORD:
        return mark in (Kind.COMMA, Kind.SLASH, Kind.AND)
    if word == "to":
        return "intending" in turn.kinds(before - 1)
    return "polite" in turn.kinds(before) or word.endswith("ly")


def _stop(turn: Turn) -> Scope | None:
    scope, word = turn.scope, turn.reading.word(turn.universal)
    if turn.text == "but" and word and (scope is None or not scope.negated):
        reach = 1 if word in ("all", "every", "each") else 4
        if turn.index - turn.universal <= reach:
            return turn.negate("exception", f"{word} but", Effect.EXCEPT)
    if scope is None or not scope.negated:
        return None
    accompanies = "with" in turn.reading.lexicon.kinds(turn.text)
    if scope.listed and (accompanies or turn.text in ("as", "so", "when", "where", "if")):
        return None
    if accompanies and not scope.has_noun:
        return None  # "not covered with X"
    return turn.affirm("terminator")


def _except(turn: Turn) -> Scope | None:
    if turn.scope is not None and turn.scope.negated:
        return turn.affirm("exception")
    word = turn.reading.word(turn.universal)
    if word and turn.index - turn.universal <= 8:
        return turn.negate("exception", f"{word} {turn.text}")
    return None


def _announce(turn: Turn) -> Scope | None:
    """Apply a title such as "Negative prompt:"; without a colon or a dash it is ordinary words."""
    end, tokens = turn.end, turn.reading.tokens
    while "title" in turn.kinds(end):
        end += 1
    mark = turn.reading.mark(end)
    dash = mark is Kind.END and end < len(tokens) and tokens[end].text in DASHES
    return replace(turn, end=end).negate("negative-list") if mark is Kind.COLON or dash else None
