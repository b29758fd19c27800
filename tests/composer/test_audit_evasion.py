"""Disguised words: what a person would read as the word counts as the word."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.audit import audit
from composer.audit.normalise import LOOKALIKES

INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u202e\u2066\u180e\u034f\ufe0f\U000e0020"


@given(st.lists(st.sampled_from(INVISIBLE), min_size=1, max_size=5), st.integers(1, 3))
def test_invisible_characters_do_not_hide_a_word(hidden: list[str], at: int) -> None:
    word = "logo"[:at] + "".join(hidden) + "logo"[at:]
    assert audit(f"a {word} on a cap", ["logo"]).verdict == "violation"


@given(st.data())
def test_look_alike_letters_do_not_hide_a_word(data: st.DataObject) -> None:
    word = "".join(
        data.draw(st.sampled_from([letter, *(k for k, v in LOOKALIKES.items() if v == letter)]))
        for letter in "logo"
    )
    assert audit(f"a {word} on a cap", ["logo"]).verdict == "violation"


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("lоgo", "'lоgo' contains a Cyrillic о; nothing negates it"),
        ("l\u200bogo", "'logo' is written with a hidden zero width space; nothing negates it"),
        ("l0g0", "'l0g0' has digits for letters; nothing negates it"),
        ("l-o-g-o", "'l-o-g-o' is spelt letter by letter; nothing negates it"),
        ("logo", "nothing negates it"),
    ],
)
def test_a_finding_says_how_the_word_was_disguised(word: str, reason: str) -> None:
    assert [f.why for f in audit(f"a {word} on a cap", ["logo"]).findings] == [reason]


@pytest.mark.parametrize("negator", ["nо", "ոo", "n\u200bo", "NО", "ｎｏ", "no\u00a0"])
def test_a_negator_in_disguise_still_negates(negator: str) -> None:
    assert audit(f"a cap, {negator} logo", ["logo"]).verdict == "ok"


@pytest.mark.parametrize(
    "word", ["l.o.g.o", "l-o-g-o", "a l o g o", "L O G O", "l0g0", "ⓛⓞⓖⓞ", "ʟᴏɢᴏ", "𝓵𝓸𝓰𝓸"]
)
def test_spelt_out_and_decorated_words_are_read(word: str) -> None:
    assert audit(f"a cap with {word} on it", ["logo"]).verdict == "violation"


@pytest.mark.parametrize("text", ["text\u200bure", "tex\u00adture", "con\u200btext"])
def test_a_word_that_looks_like_another_is_that_other(text: str) -> None:
    assert audit(f"a {text} here", ["text"]).verdict == "ok"


@pytest.mark.parametrize("dash", ["-", "\u2010", "\u2011", "\u2013", "\u2212"])
def test_every_hyphen_makes_the_same_compound(dash: str) -> None:
    assert audit(f"a logo{dash}free cap", ["logo"]).verdict == "ok"


@pytest.mark.parametrize("apostrophe", ["'", "\u2019", "\u02bc", "`"])
def test_every_apostrophe_makes_the_same_negation(apostrophe: str) -> None:
    assert audit(f"don{apostrophe}t show a logo", ["logo"]).verdict == "ok"
