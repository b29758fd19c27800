"""How each word changes the open scope: a cue begins, inverts or ends it, another word may end it.

Two negations affirm ("do not hide X"), and one that is repeated is emphasis ("no, no X"). "No glare
on the label" does not negate the label, and "not too many labels" not all of them. Uncertain cases
affirm, because an undetected double negation would be a missed violation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from composer.audit.lexicon import NEGATES, Cue, Effect
from composer.audit.reading import Phrase, Reading, phrase_of
from composer.audit.tokens import DASHES, Kind

_BEFORE_ORDERS = (Kind.END, Kind.LINE, Kind.COLON, Kind.OPEN, Kind.QUOTE, Kind.SEMICOLON)
_NEUTRAL = {"determiner", "filler", "auxiliary", "title", "neutral", "join_and", "join_or"}


@dataclass(frozen=True, slots=True)
class Scope:
    """The open scope: a negation, or an affirmation with the rule and cue that made it one."""

    negated: bool
    rule: str
    cue: str
    effect: Effect
    item: int
    start: int = -1  # the token after the cue
    phrase: Phrase = field(default_factory=Phrase)  # from there to the next cue
    listed: bool = False  # a list with a colon, which extends to the border
    has_noun: bool = False
    outside: bool = False  # after a preposition, in a place that is presupposed: "on the label"
    shared: bool = False  # that place has a definite article, which later places may share
    adjectives: int = 0
    all_bare: bool = True
    ended: str = ""

    @property
    def verbal(self) -> bool:
        """Whether the negation is of a verb: "do not show X"."""
        return self.effect is Effect.NOT


def negation(
    reading: Reading, at: int, effect: Effect, cue: str, after: int, rule: str = "negated"
) -> Scope:
    """A negation by the cue at the token `at`; its phrase starts at the token `after`."""
    number = reading.numbers[at]
    end = reading.items[number].end
    # The next cue ends it: phrases that overlap would make many cues in one item slow. But "blur"
    # in "no blur" is a noun.
    noun = after in reading.cues and reading.cues[after].effect is Effect.HANDLE
    end = next((place for place in range(after + noun, end) if place in reading.cues), end)
    phrase = phrase_of(reading, after, end)
    bare = phrase.nouns > 0 and not phrase.described
    return Scope(True, rule, cue, effect, number, after, phrase, all_bare=bare)


def affirmation(
    reading: Reading, at: int, rule: str, cue: str, effect: Effect = Effect.AFFIRM
) -> Scope:
    """The end of a negation at a token; it records the rule and cue."""
    return Scope(False, rule, cue, effect, reading.numbers[at])


def ended(scope: Scope, rule: str, by: str) -> Scope:
    """The end of a negation that its own cue does not reach beyond."""
    return replace(Scope(False, rule, scope.cue, scope.effect, -1), ended=by)


@dataclass(frozen=True, slots=True)
class Turn:
    """The cue at a token, and the scope that was open before it.

    `universal` is the last token such as "everything"; `same` is the scope if its item is this one.
    """

    reading: Reading
    scope: Scope | None
    index: int
    universal: int
    cue: Cue
    same: Scope | None

    def affirm(self, rule: str, cue: str = "", effect: Effect = Effect.AFFIRM) -> Scope:
        """The end of the negation."""
        return affirmation(self.reading, self.index, rule, cue or self.cue.text, effect)

    def negate(self, rule: str = "negated", cue: str = "", after: int = 0) -> Scope:
        """A negation of what follows the cue, or of what is from the token `after` on."""
        text, end = cue or self.cue.text, after or self.cue.end
        begun = negation(self.reading, self.index, self.cue.effect, text, end, rule)
        # In "no A, no B, C" each has its own negation.
        repeats = self.scope is not None and self.same is None and self.scope.cue == text
        return replace(begun, all_bare=False) if repeats else begun

    def kinds(self, index: int) -> frozenset[str]:
        """The classes of the word at a token."""
        return self.reading.kinds(index)


def after_cue(reading: Reading, scope: Scope | None, index: int, universal: int) -> Scope | None:
    """The open scope after the cue at a token; None if its words are ordinary words here."""
    cue = reading.cues[index]
    same = scope if scope is not None and scope.item == reading.numbers[index] else None
    turn = Turn(reading, scope, index, universal, cue, same)
    if cue.effect in (Effect.AFFIRM, Effect.SELDOM):
        return turn.affirm("pseudo", effect=cue.effect)
    if Kind.HYPHEN in (reading.mark(index - 1), reading.mark(cue.end)):
        return None  # part of a compound: "never-ending", "just-baked"
    if cue.effect in (*NEGATES, Effect.WITHOUT) and _is_weak(turn):
        weak = f"{cue.text} {reading.word(cue.end)}".strip()
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
    return _invert(turn)


def _is_weak(turn: Turn) -> bool:
    """Whether a cue does not negate: almost no X, No. 3, no bigger than X, no smoking sign."""
    reading, index = turn.reading, turn.index
    first, second = (*reading.words_after(turn.cue.end - 1, 2), "", "")[:2]
    if "almost" in turn.kinds(index - 1) or reading.words_after(index - 3, 2) == ["far", "from"]:
        return True
    adjoined = reading.mark(turn.cue.end) is not Kind.WORD  # 0°
    if (turn.cue.text == "0" and adjoined) or (
        turn.cue.text in ("no", "minus") and first.isdigit()
    ):
        return True
    if turn.cue.text == "no":
        forbids = first.endswith("ing") or "prohibition" in reading.lexicon.kinds(first)
        if second == "than" or (forbids and "sign" in reading.lexicon.kinds(second)):
            return True
    if "ambiguous" in turn.kinds(index) and not turn.reading.begins_item(turn.index):
        return "before_ambiguous" not in turn.kinds(index - 1)
    drawn = "determiner" in turn.kinds(index - 1) or "sign" in turn.kinds(turn.cue.end)
    return reading.mark(index) is Kind.SYMBOL and drawn


def _negate(turn: Turn) -> Scope | None:
    same = turn.same
    if turn.cue.effect is Effect.NO and turn.reading.mark(turn.cue.end) is Kind.COMMA:
        return turn.scope  # "no, ..." is an answer and negates no noun
    if same is not None and not same.has_noun and same.effect in (Effect.WITHOUT, Effect.ORDER):
        return turn.affirm("double-negation", f"{same.cue} {turn.cue.text}")
    return turn.negate()


def _invert(turn: Turn) -> Scope | None:
    """Apply a cue that affirms under another negation, and alone negates or does nothing."""
    scope, same, effect, text = turn.scope, turn.same, turn.cue.effect, turn.cue.text
    order, passive = effect is Effect.ORDER, effect in (Effect.INVERT, Effect.HANDLE)
    listed = scope is not None and scope.negated and scope.listed
    if effect is Effect.HANDLE and same is not None:
        # "No covered label" may be none; the object of "not covering the label" must exist.
        acts = text.endswith("ing") and turn.reading.word(turn.cue.end)
        if same.has_noun or not (same.verbal or acts):
            return None
    if scope is not None and not listed:
        both = f"{scope.cue} {text}"
        joined = turn.reading.items[turn.reading.numbers[turn.index]].joined
        verbs = scope.verbal and order and joined == "or"
        if scope.negated and (same or verbs) and not (order and scope.has_noun and same):
            return turn.affirm("double-negation", both)
        if same and same.effect is Effect.SELDOM and not passive:
            return turn.affirm("double-negation", f"{same.cue} … {text}")
        if order and scope.rule == "double-negation" and turn.reading.begins_item(turn.index):
            return scope  # "do not crop, hide or remove X" continues
    return None if listed or passive or (order and not _is_order(turn)) else turn.negate()


def _is_order(turn: Turn) -> bool:
    """Whether a verb is a command ("remove the text") and not "a man removing posters"."""
    reading, before = turn.reading, turn.index - 1
    after, mark, word = reading.word(turn.cue.end), reading.mark(before), reading.word(before)
    needs_article = "article_command" in reading.lexicon.kinds(turn.cue.text)
    if needs_article and after not in ("the", "any", "all", "every", "a", "an"):
        return False
    if mark not in _BEFORE_ORDERS and turn.cue.text.split()[0].endswith("ing"):
        return word == "by" or after in ("all", "any", "every")
    if word == "to":
        return "intending" in turn.kinds(before - 1)
    begins = mark in (*_BEFORE_ORDERS, Kind.COMMA, Kind.SLASH, Kind.AND)
    return begins or "polite" in turn.kinds(before)


def _stop(turn: Turn) -> Scope | None:
    scope, word = turn.scope, turn.reading.word(turn.universal)
    if turn.cue.text == "but" and word and (scope is None or not scope.negated):
        reach = 1 if word in ("all", "every", "each") else 4
        if turn.index - turn.universal <= reach:
            return turn.negate("exception", f"{word} but")
    if scope is None or not scope.negated:
        return None
    accompanies = "with" in turn.reading.lexicon.kinds(turn.cue.text)
    passes = accompanies or turn.cue.text in ("as", "so", "when", "where", "if")
    begun = scope.has_noun or scope.effect is Effect.ORDER
    if (scope.listed and passes) or (accompanies and not begun):
        return None  # "avoid: a cap with X", "not covered with X", but "replace it with X"
    return turn.affirm("terminator")


def _except(turn: Turn) -> Scope | None:
    if turn.scope is not None and turn.scope.negated:
        return turn.affirm("exception")
    word, between = turn.reading.word(turn.universal), range(turn.universal + 1, turn.index)
    if not word or len(between) > 7:
        return None
    verb = next((at for at in between if turn.kinds(at) & {"finite", "show"}), turn.index)
    said = [turn.kinds(at) for at in range(verb, turn.index)]
    if said and not any(kinds & {"present", "visibility"} for kinds in said):
        return None  # "everything is in focus except X": X may be there
    return turn.negate("exception", f"{word} {turn.cue.text}")


def _announce(turn: Turn) -> Scope | None:
    """Apply a title such as "Negative prompt:"; without a colon or a dash it is ordinary words."""
    end, tokens = turn.cue.end, turn.reading.tokens
    while "title" in turn.kinds(end):
        end += 1
    mark = turn.reading.mark(end)
    dash = mark is Kind.END and end < len(tokens) and tokens[end].text in DASHES
    titled = dash or mark is Kind.COLON or turn.reading.is_bullet(end + 1)
    return turn.negate("negative-list", after=end) if titled else None


def after_word(reading: Reading, scope: Scope, index: int) -> Scope:
    """The open scope after one word."""
    if not scope.negated or scope.listed or scope.outside:
        return scope
    text, kinds = reading.word(index), reading.kinds(index)
    if "than" in kinds and any("other" in reading.kinds(at) for at in range(index - 4, index)):
        return affirmation(reading, index, "exception", text)
    if scope.has_noun and _is_past_glued(reading, scope, index):
        return ended(scope, "list-end", text)
    if index in reading.mentioned:
        return scope if scope.has_noun else replace(scope, has_noun=True)
    following = reading.words_after(index, 3)
    after = reading.lexicon.kinds(following[0] if following else "")
    if not scope.has_noun and _some_remain(reading, index, scope):
        return affirmation(reading, index, "pseudo", f"{scope.cue} {text}")
    if "trade_for" in kinds and "traded" in reading.lexicon.kinds(scope.cue.split()[0]):
        return affirmation(reading, index, "terminator", text)
    if scope.effect is Effect.INSTEAD and index > scope.start and _begins_clause(reading, index):
        return ended(scope, "list-end", text)
    if "preposition" in kinds or text == "to":
        presupposed = _is_presupposed(reading, kinds, following, scope)
        return replace(scope, outside=presupposed, shared=presupposed and "definite" in after)
    if "show" in kinds and not scope.has_noun and (scope.verbal or "ing" in kinds):
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
    """Whether a command, a pronoun or a verb begins the clause that says what is used instead."""
    kinds, relative = reading.kinds(index), reading.word(index) in ("that", "which", "who")
    clause = "auxiliary" in kinds and not relative
    return clause or ("imperative" in kinds and bool(reading.word(index + 1)))


def _noun_or_modifier(scope: Scope, kinds: frozenset[str], following: Sequence[str]) -> Scope:
    joined = bool(following) and following[0] in ("and", "or")
    noun = "noun_too" in kinds and not following
    adjective = "adjective" in kinds and not noun
    listed = "list_adjective" in kinds and not noun and ("noun_too" not in kinds or joined)
    if adjective or listed:
        return replace(scope, adjectives=scope.adjectives + 1)
    return replace(scope, has_noun=True)


def _some_remain(reading: Reading, index: int, scope: Scope) -> bool:
    """Whether a word means that some remain: "not all", "without too many", "not a lot"."""
    text = reading.word(index)
    if text in ("all", "every"):
        return scope.verbal
    some = text == "a" and reading.word(index + 1) in ("lot", "ton", "bunch", "few")
    return some or "quantity" in reading.kinds(index)


def _is_presupposed(
    reading: Reading, kinds: frozenset[str], following: Sequence[str], scope: Scope
) -> bool:
    """Whether the object of a preposition exists in any case: "no glare on the label"."""
    if not following or following[0] == "any" or "of_like" in kinds:
        return False
    named = any(word.endswith("'s") for word in following) or following[0] == "either"
    if named or reading.lexicon.kinds(following[0]) & {"definite", "number"}:
        return True
    # A place may exist without an article: "no stains on shirts", "no boat on a lake".
    return "locative" in kinds and scope.has_noun
