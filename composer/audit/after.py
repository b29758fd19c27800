"""Finds negations in or after a mention: "text-free", "logo: none", "labels are not shown".

They apply only where the mention is the subject: "people not looking" does not negate the people.
Each search forward or back is bounded, so that the cost stays linear.
"""

from collections.abc import Sequence
from itertools import chain

from composer.audit import words as w
from composer.audit.cues import ALMOST
from composer.audit.items import is_join
from composer.audit.reading import Mark
from composer.audit.terms import Mention
from composer.audit.tokens import Kind, Token, word_at

_WORDS_BESIDE = 3
"""So many words of a compound before a mention, or of a list after it, an affix reaches."""


def negated_after(tokens: Sequence[Token], mention: Mention, mark: Mark | None) -> Mark | None:
    """The negation in or after a mention that no scope covers; None if there is none."""
    affix = _affix(tokens, mention, mark)
    if affix:
        return affix
    places = _predicates(tokens, mention)
    answers = (_answer_at(tokens, at) for at in places)
    predicates = (_predicate_at(tokens, at, mention) for at in places)
    return next(filter(None, chain(answers, predicates)), None)


def affirmed_after(tokens: Sequence[Token], mention: Mention, mark: Mark) -> Mark | None:
    """The double negation of a covered mention: "not label-free", "let no label be hidden"."""
    cue = mark.cue.split()[0]
    if _free_after(tokens, mention.last) and cue not in ("no", "avoid"):
        return Mark(False, "double-negation", f"{mark.cue} -free")
    if cue not in ("no", "without") and _is_let(tokens, mention):
        return Mark(False, "double-negation", f"{mark.cue} let")
    verb, participle = word_at(tokens, mention.last), word_at(tokens, mention.last + 1)
    if verb in w.LOST and cue in ("no", "not"):
        return Mark(False, "double-negation", f"{mark.cue} … {verb}")
    if verb in ("be", "get", "become") and participle in w.GONE | w.HARMED:
        return Mark(False, "double-negation", f"{mark.cue} {verb} {participle}")
    return None


def _is_let(tokens: Sequence[Token], mention: Mention) -> bool:
    """Whether "let" affirms a mention: "don't let the dog leave", not "don't let a dog appear"."""
    before = [word_at(tokens, index) for index in range(mention.first - 3, mention.first)]
    after = word_at(tokens, mention.last)
    is_let = "let" in before or "letting" in before
    return is_let and after not in w.PRESENT | {"", "be", "in", "into"}


def _kind(tokens: Sequence[Token], index: int) -> Kind:
    return tokens[index].kind if 0 <= index < len(tokens) else Kind.END


def _affix(tokens: Sequence[Token], mention: Mention, mark: Mark | None) -> Mark | None:
    """A negating prefix or suffix: "text-free", "non-stick"."""
    first, last = mention.first, mention.last
    if mark is not None and not mark.negated and mark.rule == "double-negation":
        return None
    compound = [first]
    while len(compound) <= _WORDS_BESIDE and _kind(tokens, compound[-1] - 1) is Kind.HYPHEN:
        compound.append(compound[-1] - 2)
    cue = _free_after(tokens, last)
    if cue:
        if word_at(tokens, compound[-1] - 1) in ALMOST | {"not", "never"}:
            return None
        return Mark(True, "affix", cue)
    for at in compound[1:]:  # no-price-tag, non-stick
        if word_at(tokens, at) in ("no", "non", "un", "zero", "without"):
            return Mark(True, "affix", f"{tokens[at].text}-")
    if word_at(tokens, first - 1) == "non":
        return Mark(True, "affix", "non")
    return None


def _free_after(tokens: Sequence[Token], last: int) -> str:
    """The "-free" or "-less" after a mention, also after the first one of "logo- and text-free"."""
    if _kind(tokens, last) is Kind.HYPHEN:
        if word_at(tokens, last + 1) in ("free", "less"):
            return "" if _kind(tokens, last + 2) is Kind.HYPHEN else f"-{tokens[last + 1].text}"
        if tokens[last + 1 : last + 2] and is_join(tokens, last + 1):
            return _suspended(tokens, last + 1)
        return ""
    if _kind(tokens, last) is Kind.SLASH and word_at(tokens, last + 1):
        return _suspended(tokens, last)
    if word_at(tokens, last) == "free" and _kind(tokens, last + 1) is not Kind.HYPHEN:
        return "" if word_at(tokens, last + 1) in w.NOT_FREE else "free"
    return ""


def _suspended(tokens: Sequence[Token], at: int) -> str:
    # Each word of the list brings its hyphen and a comma or a conjunction.
    for index in range(at, min(at + 3 * _WORDS_BESIDE, len(tokens))):
        kind, text = tokens[index].kind, tokens[index].text
        if kind is Kind.HYPHEN and word_at(tokens, index + 1) in ("free", "less"):
            return f"-{tokens[index + 1].text}"
        joins = bool(is_join(tokens, index)) or kind is Kind.HYPHEN
        if not joins and (kind is not Kind.WORD or text in ("free", "with")):
            return ""
    return ""


def _ends(tokens: Sequence[Token], index: int) -> bool:
    """Whether a phrase ends at a token."""
    return _kind(tokens, index) not in (Kind.WORD, Kind.HYPHEN, Kind.SLASH)


def _answer_at(tokens: Sequence[Token], at: int) -> Mark | None:
    """A negative answer after a mention: "logo: none", "logos? no", "text - none"."""
    mark = tokens[at].text if at < len(tokens) else ""
    if mark == "," and word_at(tokens, at + 1) == "none":
        at += 1
    elif mark in (":", "=", "?", "-", "–", "—") and _kind(tokens, at) is not Kind.HYPHEN:
        at += 1
    elif word_at(tokens, at) not in ("none", "nope"):
        return None
    answer = word_at(tokens, at)
    if answer in ("not", "absolutely"):
        at += 1
        follows = word_at(tokens, at) in w.PRESENT | {"any", "not", "at"}
        return Mark(True, "after", f"{mark} {answer} {word_at(tokens, at)}") if follows else None
    if answer in w.ANSWERS and (_ends(tokens, at + 1) or word_at(tokens, at + 1) in w.EMPHASIS):
        return Mark(True, "after", f"{mark} {answer}".strip())
    return None


def _predicate_at(tokens: Sequence[Token], at: int, mention: Mention) -> Mark | None:
    """A negating predicate: "labels are not shown", "labels removed", "keep labels out"."""
    finite, words = _says_absent(tokens, at, mention)
    is_negated = words and _is_subject(tokens, mention, finite)
    return Mark(True, "after", words) if is_negated else None


def _predicates(tokens: Sequence[Token], mention: Mention) -> list[int]:
    """Where the predicate of a subject may begin: after nouns, a place, or other subjects."""
    places = [mention.last]
    at, nouns, limit = mention.last, 0, min(mention.last + 14, len(tokens))
    while at < limit:
        text = word_at(tokens, at)
        if is_join(tokens, at):
            # After a noun: the word after the mention may be its verb.
            if nouns or not _joined_subject(tokens, at, limit):
                break
            while at < limit and (is_join(tokens, at) or word_at(tokens, at) in ("the", "any")):
                at += 1
            while at < limit and _is_noun(word_at(tokens, at)):
                at += 1
            places.append(at)
            continue
        if text in w.PREPOSITIONS:
            at += 1
            while at < limit and (_is_noun(word_at(tokens, at)) or word_at(tokens, at) in _PLAIN):
                at += 1
            places.append(at)
            nouns = 0
            continue
        if not _is_noun(text) or nouns > 1:
            break
        nouns += 1
        at += 1
        places.append(at)
    return places


_PLAIN = w.DETERMINERS | {"any", "kind", "sort"}
_STOPPERS = (
    w.GONE | w.GONE_AT_END | w.NOT | w.AUXILIARY | {"with", "left", "out", "but", "and", "or"}
)


def _is_noun(text: str) -> bool:
    if not text or text in _STOPPERS or text in w.PREPOSITIONS or text in w.DETERMINERS:
        return False
    return not (w.is_ing(text) or w.is_ed(text))


def _joined_subject(tokens: Sequence[Token], at: int, limit: int) -> bool:
    """Whether a list of subjects ends with a conjunction, as in "A, B and C"."""
    for index in range(at, limit):
        text = word_at(tokens, index)
        if text in ("and", "or", "nor") or _kind(tokens, index) in (Kind.AND, Kind.SLASH):
            return word_at(tokens, index + 1) not in ("a", "an", "one", "some")
        if not (is_join(tokens, index) or _is_noun(text) or text == "the"):
            return False
    return False


def _says_absent(tokens: Sequence[Token], at: int, mention: Mention) -> tuple[bool, str]:
    """Whether the words from `at` on mean absence: (with a finite verb, the words or empty)."""
    index, negator, longer, finite = at, "", False, False
    while index < min(at + 7, len(tokens)):
        text = word_at(tokens, index)
        if text in w.NOT or (text == "no" and word_at(tokens, index + 1) == "longer"):
            if negator:
                return False, ""
            negator = text
            finite = finite or text not in ("not", "never", "no")
            if text == "no":
                longer = True
                index += 1
        elif text in w.AUXILIARY:
            finite = finite or text not in ("that", "which", "who", "all", "both", "to")
        else:
            break
        index += 1
    text = word_at(tokens, index)
    second = index + 2 if _kind(tokens, index + 1) is Kind.HYPHEN else index + 1
    pair = f"{text} {word_at(tokens, second)}"
    words = " ".join(word_at(tokens, i) for i in range(at, min(index + 1, len(tokens)))).strip()
    if negator:
        present = text in w.PRESENT or (
            text in ("in", "within") and set(_words_after(tokens, index)) & w.VISIBILITY
        )
        late = text in ("to", "anywhere") or (longer and text in w.PRESENT)
        return finite, words if present or late else ""
    if text in w.GONE or pair in w.GONE_PAIRS:
        by_sight = text != "nowhere"
        return finite and by_sight, words
    if text in w.GONE_AT_END and _ends(tokens, index + 1):
        return False, words if text != "out" or _kept(tokens, mention) else ""
    if text in ("out", "off", "outside", "hidden", "away") and (
        set(_words_after(tokens, index)) & (w.VISIBILITY | {"camera", "screen"})
    ):
        return finite, words if _kept(tokens, mention) is not False else ""
    return False, ""


def _kept(tokens: Sequence[Token], mention: Mention) -> bool | None:
    """Whether a verb such as "leave" before the mention is not negated; None if there is none."""
    for index in range(mention.first - 1, mention.first - 5, -1):
        if word_at(tokens, index) in w.KEEP:
            before = {word_at(tokens, index - 1), word_at(tokens, index - 2)}
            return not before & (w.NOT | {"avoid", "without"})
    return None


def _words_after(tokens: Sequence[Token], index: int) -> list[str]:
    return [word_at(tokens, i) for i in range(index + 1, index + 4)]


def _is_subject(tokens: Sequence[Token], mention: Mention, finite: bool) -> bool:
    """Whether a mention is no object of the words before it: "glare on the label is not shown"."""
    for index in range(mention.first - 1, max(-1, mention.first - 7), -1):
        if tokens[index].kind is Kind.HYPHEN:
            continue
        text = word_at(tokens, index)
        if not text or is_join(tokens, index):
            return True
        if text == "with":
            return not finite
        if text in w.PREPOSITIONS:
            return text in ("for", "about") or word_at(tokens, index - 1) in ("kind", "any", "sort")
        if w.is_ing(text) and text not in w.SHOW_VERBS and text not in w.KEEP:
            return False
    return True
