"""Finds negations in or after a mention: "text-free", "logo: none", "labels are not shown".

They apply only where the mention is the subject: "people not looking" does not negate the people.
Each search forward or back is bounded, so that the cost stays linear.
"""

from composer.audit.mentions import Mention
from composer.audit.reading import Reading
from composer.audit.scope import Mark
from composer.audit.tokens import DASHES, WORDS, Kind

_WORDS_BESIDE = 3
"""So many words of a compound before a mention, or of a list after it, an affix reaches."""


def decide(text: Reading, mention: Mention, mark: Mark | None) -> Mark:
    """The mark of a mention; `mark` is that of the scope which it is in."""
    if mark is not None and mark.negated:
        return _affirmed_after(text, mention, mark) or mark
    return _negated_after(text, mention, mark) or mark or Mark(False, "affirmed", "")


def _negated_after(text: Reading, mention: Mention, mark: Mark | None) -> Mark | None:
    if affix := _affix(text, mention):
        return affix
    before = text.word(mention.first - 1)
    if mark is not None and mark.cue == f"not {before}":
        return None  # "not every logo is removed"
    places = [*_predicates(text, mention), *_second_predicate(text, mention.last)]
    for at in places:
        if answer := _answer_at(text, at):
            return Mark(True, "after", answer)
        words = _says_absent(text, mention, at)
        forgone = "forgone" in text.lexicon.kinds(words.rpartition(" ")[2])
        if words and (forgone or _is_subject(text, mention)):
            return Mark(True, "after", words)
    return None


def _affirmed_after(text: Reading, mention: Mention, mark: Mark) -> Mark | None:
    """The double negation of a covered mention: "not label-free", "let no label be hidden"."""
    cue, last, both = mark.cue.split()[0], mention.last, ""
    if _free_after(text, mention) and cue not in ("no", "avoid"):
        both = "-free"
    elif _is_let(text, mention):
        both = "let"
    elif "harmed" in text.kinds(last):
        both = f"… {text.word(last)}"
    elif text.word(last) in ("be", "get", "become") and "lost" in text.kinds(last + 1):
        both = f"{text.word(last)} {text.word(last + 1)}"
    elif "tick" in text.kinds(last) and _ends(text, last + 1) and not cue.isalnum():
        both = text.word(last)
    elif _one_left(text, mention, cue) or (mark.rule == "exception" and _is_spared(text, last)):
        return Mark(False, "exception", mark.cue)
    elif verb := _undone(text, last):
        both = f"… {verb}"
    return Mark(False, "double-negation", f"{mark.cue} {both}") if both else None


def _one_left(text: Reading, mention: Mention, cue: str) -> bool:
    """Whether one is there: "no other word than OPEN", "no hat but one", "swap X for a new one"."""
    first, last = mention.first, mention.last
    if any("other" in text.kinds(at) for at in (first - 1, last)):
        return any("than" in text.kinds(at) for at in range(last, last + 3))
    if "traded" in text.lexicon.kinds(cue):
        return not {"one", "ones", "version"}.isdisjoint(text.words_after(last - 1, 6))
    at = last + (text.mark(last) is Kind.COMMA) + 1
    counted = text.kinds(at - 1) & {"stop", "except"} and "number" in text.kinds(at)
    while counted and ("number" in text.kinds(at) or text.joins(at)):
        at += 1
    return bool(counted) and not _is_noun(text, at)


def _is_spared(text: Reading, at: int) -> bool:
    """Whether an exception is one of what is said, not of what is shown: "… is in shadow"."""
    index, _, finite = _verbs(text, at)
    said = text.kinds(index) | text.kinds(index - 1)
    return finite and not (said & {"present", "gone"} or _sees(text, index))


def _undone(text: Reading, at: int) -> str:
    """The verb at the end of a phrase under which a negation affirms: "ohne Text zu vergessen"."""
    kinds, words = text.lexicon.kinds, text.words_after(at - 1, 8)
    verb = next((word for word in words if kinds(word) & {"undone", "show", "no", "without"}), "")
    return verb if "undone" in kinds(verb) else ""


def _is_let(text: Reading, mention: Mention) -> bool:
    """Whether "let" affirms a mention: "don't let the dog leave", not "don't let a dog appear"."""
    before, last = map(text.word, range(mention.first - 3, mention.first)), mention.last
    appears = text.word(last) in ("", "be", "in", "into") or "present" in text.kinds(last)
    return not appears and not {"let", "letting"}.isdisjoint(before)


def _affix(text: Reading, mention: Mention) -> Mark | None:
    """A negating prefix or suffix: "text-free", "non-stick"."""
    first = mention.first
    compound = [first]
    while len(compound) <= _WORDS_BESIDE and text.mark(compound[-1] - 1) is Kind.HYPHEN:
        compound.append(compound[-1] - 2)
    if cue := _free_after(text, mention):
        before = compound[-1] - 1
        weak = "almost" in text.kinds(before) or text.word(before) in ("not", "never")
        return None if weak else Mark(True, "affix", cue)
    for at in compound[1:]:  # no-price-tag, non-stick
        if "prefix" in text.kinds(at):
            return Mark(True, "affix", f"{text.word(at)}-")
    cue = "non" if text.word(first - 1) == "non" else _written_beside(text, mention)
    return Mark(True, "affix", cue) if cue else None


def _written_beside(text: Reading, mention: Mention) -> str:
    """A negation of a script without blanks beside a mention; two affirm: 不要去掉logo."""
    first, last = text.tokens[mention.first], text.tokens[mention.last - 1]
    start, end = mention.start - first.start, mention.end - last.start
    before = first.text[max(0, start - 9) : start] or text.word(mention.first - 1)
    after = "".join((last.text[end : end + 9], *text.words_after(mention.last - 1, 2)))
    if before.isascii() and after.isascii():
        return ""
    classes = text.lexicon.classes
    after = after.lstrip("".join(classes["particle"]))
    absent = [cue for cue in classes["written_after"] if after.startswith(cue)]
    while cue := next((cue for cue in classes["written_before"] if before.endswith(cue)), ""):
        absent.append(cue)
        before = before.removesuffix(cue)
    return absent[0] if len(absent) == 1 else ""


def _free_after(text: Reading, mention: Mention) -> str:
    """The "-free" or "-less" after a mention, also after the first one of "logo- and text-free"."""
    last = mention.last
    if text.word(last) == "free" and text.mark(last + 1) is not Kind.HYPHEN:
        return "" if "not_free" in text.kinds(last + 1) else "free"
    if text.mark(last) not in (Kind.HYPHEN, Kind.SLASH):
        return ""
    # Each word of a list brings its hyphen and a comma or a conjunction.
    listed = text.mark(last) is Kind.SLASH or text.joins(last + 1)
    for index in range(last, last + 1 + 3 * _WORDS_BESIDE * bool(listed)):
        if text.mark(index) is Kind.HYPHEN and "suffix" in text.kinds(index + 1):
            return "" if text.mark(index + 2) is Kind.HYPHEN else f"-{text.word(index + 1)}"
        if not text.joins(index) and text.mark(index) not in (Kind.HYPHEN, Kind.WORD):
            break
    return ""


def _answer_at(text: Reading, at: int) -> str:
    """A negative answer after a mention: "logo: none", "logos? no", "text - none"."""
    mark = text.tokens[at].text if at < len(text.tokens) else ""
    if mark == "," and text.word(at + 1) == "none":
        at += 1
    elif mark in (":", "=", "?", *"([])", *DASHES) and text.mark(at) is not Kind.HYPHEN:
        at += 2 if text.tokens[at + 1 : at + 2] and text.tokens[at + 1].text == ">" else 1
    elif text.word(at) not in ("none", "nope", "no") and text.mark(at) is not Kind.SYMBOL:
        return ""
    answer = text.word(at)
    if answer in ("not", "absolutely"):
        follows = text.word(at + 1) in ("any", "not", "at") or "present" in text.kinds(at + 1)
        return f"{mark} {answer} {text.word(at + 1)}" if follows else ""
    numbered = text.word(at + 2).isdigit()  # No. 5
    ends = (_ends(text, at + 1) or "emphasis" in text.kinds(at + 1)) and not numbered
    words = answer if mark == answer else f"{mark} {answer}".strip()
    return words if "answer" in text.kinds(at) and ends else ""


def _predicates(text: Reading, mention: Mention) -> list[int]:
    """Where the predicate of a subject may begin: after nouns, a place, or other subjects."""
    at = mention.last
    places, nouns, limit = [at], 0, min(at + 14, len(text.tokens))
    while at < limit:
        kinds = text.kinds(at)
        if text.mark(at) is Kind.COMMA and text.word(at + 1) in ("which", "who"):
            comma = (i for i in range(at + 2, limit) if text.mark(i) is Kind.COMMA)
            return [*places, at + 1, *(i + 1 for i in comma)]
        if text.joins(at):
            # After a noun: the word after the mention may be its verb.
            if nouns or not _joined_subject(text, at, limit):
                break
            while text.joins(at) or text.word(at) in ("the", "any"):
                at += 1
            while _is_noun(text, at):
                at += 1
            places.append(at)
        elif "preposition" in kinds and "no" not in text.kinds(at + 1):
            at += 1
            while _is_noun(text, at) or text.kinds(at) & {"determiner", "neutral", "filler"}:
                at += 1
            if "determiner" not in text.kinds(at - 1):
                places.append(at)
            nouns = 0
        elif _is_noun(text, at) and nouns <= 1:
            nouns += 1
            at += 1
            places.append(at)
        else:
            break
    return places


def _second_predicate(text: Reading, at: int) -> list[int]:
    """Where a predicate goes on after the first one: "signs are painted over and are gone"."""
    index, _, finite = _verbs(text, at)
    if finite or "ed" in text.kinds(at):
        for place in range(max(index, at + 1), index + 5):
            if text.joins(place):
                goes_on = text.kinds(place + 1) & {"auxiliary", "negator", "gone"}
                return [place + 1] if goes_on else []
            if not text.word(place):
                break
    return []


_NO_NOUNS = frozenset(
    "stop except gone gone_at_end negator auxiliary preposition determiner with ing ed".split()
)


def _is_noun(text: Reading, at: int) -> bool:
    return bool(text.word(at)) and not text.kinds(at) & _NO_NOUNS


def _joined_subject(text: Reading, at: int, limit: int) -> bool:
    """Whether a list of subjects ends with a conjunction, as in "A, B and C"."""
    for index in range(at, limit):
        slash = text.mark(index) in (Kind.AND, Kind.SLASH)
        if slash or text.kinds(index) & {"join_or", "join_and"} and text.word(index) != "plus":
            return text.word(index + 1) not in ("a", "an", "one", "some")
        if not (text.joins(index) or _is_noun(text, index) or text.word(index) == "the"):
            return False
    return False


def _says_absent(text: Reading, mention: Mention, at: int) -> str:
    """The words from `at` on if they mean absence, else empty."""
    index, negator, finite = _verbs(text, at)
    word, kinds, end = text.word(index), text.kinds(index), index + 1
    ends, kept = _ends(text, end), _kept(text, mention)
    moves = {"off": "removing", "into": "turning"}.get(word, "none")
    if "appears" in kinds and "negator" in text.kinds(end):  # "das Logo erscheint nicht"
        absent, end = True, end + 1
    elif negator:
        absent = _is_presence(text, index)
    elif gone := _gone_at(text, index, finite):
        end = index + gone
        placed = "locative" in text.kinds(end) and "definite" in text.kinds(end + 1)
        away = finite or text.word(end) in ("from", "by") or _sees(text, end)
        denied = (text.kinds(end) | text.kinds(end + 1)) & {"negator", "no"}
        # Not "left out in the rain", "das Logo fehlt nicht".
        absent = (not denied or bool(text.joins(end))) and (not placed or away)
    elif (ends and "leaves" in kinds) or _kept(text, mention, moves):
        absent = True
    elif ends and "gone_at_end" in kinds:
        absent = word not in ("out", "off", "away") or bool(kept)
    else:
        moved = word in ("out", "off", "outside", "hidden", "away")
        absent = moved and kept is not False and _sees(text, index)
    return " ".join(filter(None, map(text.word, range(at, end)))) if absent else ""


def _verbs(text: Reading, at: int) -> tuple[int, str, bool]:
    """Where the auxiliaries and adverbs from `at` on end, their negation, and if one is finite."""
    index, negator, finite = at, "", False
    while index < at + 7:
        word, kinds = text.word(index), text.kinds(index)
        no_longer = word == "no" and text.word(index + 1) == "longer"
        if not negator and ("negator" in kinds or no_longer):
            negator = word
            finite = finite or word not in ("not", "never", "no")
            index += no_longer
        elif "auxiliary" in kinds and not (negator and "present" in kinds):
            finite = finite or word not in ("that", "which", "who", "all", "both", "to")
        elif negator or ("degree" not in kinds and not word.endswith("ly")):
            # "Not fully visible" is there.
            break
        index += 1
    return index, negator, finite


def _is_presence(text: Reading, index: int) -> bool:
    """Whether a word after a negation is one of presence: "not visible", "not in frame"."""
    word, after = text.word(index), text.word(index + 1)
    if word == "anywhere" or (word in ("in", "within") and _sees(text, index)):
        return True
    acts = after == "to" and text.word(index + 2) not in ("be", "appear", "show")
    return "present" in text.kinds(index) and not acts and "manner" not in text.kinds(index + 1)


def _ends(text: Reading, index: int) -> bool:
    """Whether a phrase ends at a token."""
    return text.mark(index) not in (*WORDS, Kind.HYPHEN, Kind.SLASH)


def _sees(text: Reading, index: int) -> bool:
    """Whether one of the three words after a token is "frame", "picture" or the like."""
    return any("visibility" in text.kinds(at) for at in range(index + 1, index + 4))


def _gone_at(text: Reading, index: int, finite: bool) -> int:
    """How many tokens a predicate of absence has that begins at a token: "out of the question"."""
    words: list[str] = []
    for at in range(index, index + 7):  # no predicate is longer
        if text.mark(at) is Kind.HYPHEN:
            continue
        words.append(text.word(at))
        kinds = text.lexicon.kinds(" ".join(words))
        if "gone" in kinds or ("refused" in kinds and (finite or _ends(text, at + 1))):
            return at + 1 - index
    return 0


def _kept(text: Reading, mention: Mention, kind: str = "keep") -> bool | None:
    """Whether a verb such as "leave" before the mention is not negated; None if there is none."""
    for index in range(mention.first - 1, mention.first - 5, -1):
        if kind in text.kinds(index):
            before = text.kinds(index - 1) | text.kinds(index - 2)
            return not before & {"negator", "no", "without"}
    return None


def _is_subject(text: Reading, mention: Mention) -> bool:
    """Whether a mention is no object of the words before it: "glare on the label is not shown"."""
    for index in range(mention.first - 1, max(-1, mention.first - 7), -1):
        word, kinds = text.word(index), text.kinds(index)
        if not word or text.joins(index) or "stop" in kinds:  # "a cap where no logo is seen"
            return True
        if "preposition" in kinds:
            return False
    return True
