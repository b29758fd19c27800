"""Choices in a text: what is drawn is one of all, and the same wherever it is drawn."""

from collections import Counter
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.choices import (
    MANY,
    ChoiceProblem,
    Expander,
    Options,
    Text,
    parse,
    unexpanded,
    wilds,
)

LINES = {"colour": ["red", "2::blue", "{big|small} green"], "tree": ["oak", "__colour__ elm"],
         "fish": ["eel", "{big|small} cod"]}  # fmt: skip


def wildcard(name: str) -> Options:
    weights: dict[Text, int] = {}
    for line in LINES[name]:
        weights[parse(line.removeprefix("2::"))] = 2 if line.startswith("2::") else 1
    return Options.of(weights)


EXPANDER = Expander(wildcard)


def every(text: str) -> list[str]:
    return EXPANDER.every(parse(text))


def draw(text: str, key: str = "1") -> str:
    return EXPANDER.draw(parse(text), key)


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ("a {red|blue} mug", ["a red mug", "a blue mug"]),
        ("{a|b} {c|d}", ["a c", "a d", "b c", "b d"]),
        ("{{a|b}|c}", ["a", "b", "c"]),
        ("{a|}x", ["ax", "x"]),
        ("{}", [""]),
        ("{a}", ["a"]),
        ("{a|a}", ["a"]),
        ("{2::a|0.5::b|.5::c}", ["a", "b", "c"]),
        ("{0::a|b}", ["b"]),
        ("{2$$a|b}", ["a,b", "b,a"]),
        ("{2$$ and $$a|b}", ["a and b", "b and a"]),
        ("{1-2$$, $$a|b}", ["a", "b", "a, b", "b, a"]),
        ("{2-1$$, $$a|b}", ["a", "b", "a, b", "b, a"]),
        ("{0-1$$a|b}", ["", "a", "b"]),
        ("{-2$$|$$a|b}", ["a", "b", "a|b", "b|a"]),
        ("{2-$$a|b}", ["a,b", "b,a"]),
        ("{3$$a|b}", ["a,b", "b,a"]),
        ("{2$$2::a|b}", ["a,b", "b,a"]),
        ("{2$$__fish__}", ["eel,big cod", "eel,small cod", "big cod,eel", "small cod,eel"]),
        ("{1-$$ $$ __fish__ }", ["eel", "big cod", "small cod", "eel big cod", "eel small cod",
                                 "big cod eel", "small cod eel"]),
        ("__colour__", ["red", "blue", "big green", "small green"]),
        ("super__tree__", ["superoak", "superred elm", "superblue elm", "superbig green elm",
                           "supersmall green elm"]),
        (r"\{a\|b\} \_\_ a | b \(d\) 50% $5 #1", [r"{a|b} __ a | b \(d\) 50% $5 #1"]),
        ("snake_case __ x", ["snake_case __ x"]),
    ],
)  # fmt: skip
def test_a_text_has_these_choices(text: str, texts: list[str]) -> None:
    assert every(text) == texts
    assert {draw(text, str(seed)) for seed in range(200)} == set(every(text))
    assert EXPANDER.count(parse(text)) == len(every(text))


@pytest.mark.parametrize(
    ("text", "at", "said"),
    [
        ("a {red|blue", 2, "'{' is not closed"),
        ("a {b|{c}", 2, "'{' is not closed"),
        ("a red} mug", 5, "'}' closes no '{'"),
        ("a ${x=red} mug", 2, "'${'"),
        ("a %{x$$y}", 2, "'%{'"),
        ("{!a|b}", 0, "not understood"),
        ("__~colour__", 0, "not understood"),
        ("__colour(x=1)__", 0, "not understood"),
        ("__women's(x=1)__", 0, "not understood"),
        ("a 2#__colour__", 2, "'2#': "),
        ("x" + "{" * 11 + "a" + "}" * 11, 11, "more than 10 braces"),
    ],
)
def test_what_cannot_be_read_is_an_error_at_its_place(text: str, at: int, said: str) -> None:
    with pytest.raises(ChoiceProblem) as caught:
        parse(text)
    assert said in str(caught.value)
    assert caught.value.at == at


def test_wildcards_are_found_with_their_places() -> None:
    text = parse("a __b__ {c|__d/e*__ {f|__g__}} {2$$__h__}")
    assert list(wilds(text)) == [("b", 2), ("d/e*", 11), ("g", 23), ("h", 31)]


def test_what_is_drawn_is_the_same_in_every_version() -> None:
    """Sidecars and reuse depend on it: a change here is a change for callers."""
    text = "{a|b|c|d} __tree__ {2$$a|b|c} {1-3$$ $$x|y|z} {9::a|b}"
    assert [draw(text, f"{seed}/mug/day/1") for seed in range(4)] == [
        "b red elm b,c y z x a",
        "c oak c,b z a",
        "c oak b,a y z x a",
        "b red elm b,a z y x a",
    ]


def test_weights_count() -> None:
    drawn = Counter(draw("{3::a|b}", str(seed)) for seed in range(4000))
    assert 2900 < drawn["a"] < 3100
    twice = Counter(draw("{a|a|a|b}", str(seed)) for seed in range(4000))
    assert 2900 < twice["a"] < 3100
    lines = Counter(draw("__colour__", str(seed)) for seed in range(4000))
    assert 1880 < lines["blue"] < 2120
    pairs = Counter(draw("{2$$ $$1::a|100::b|1::c}", str(seed)) for seed in range(9000))
    # Behind a rare first choice the heavy one comes.
    assert pairs["c b"] > 10 * pairs["c a"] and pairs["a b"] > 10 * pairs["a c"]


def test_places_are_independent_of_each_other() -> None:
    pairs = Counter(draw("{a|b} {a|b}", str(seed)) for seed in range(2000))
    assert all(420 < number < 580 for number in pairs.values()) and len(pairs) == 4


def test_a_product_is_counted_without_being_made() -> None:
    assert EXPANDER.count(parse("{a|b}" * 200)) == MANY
    assert EXPANDER.count(parse("{1-30$$" + "|".join(map(str, range(30))) + "}")) == MANY
    assert EXPANDER.count(parse("{2$$" + "|".join(map(str, range(5000))) + "}")) == MANY


def test_reading_takes_time_in_proportion() -> None:
    for part in ("{", "{ ", "__a", "__", "|", "{2$$", "{2$$a$", "{a|", "}", "\\"):
        text = part * 20_000
        unexpanded(text)
        with suppress(ChoiceProblem):
            parse(text)


TEMPLATES = st.recursive(
    st.sampled_from(["a", "b ", "", "__colour__", "__tree__", "#1", " , "]),
    lambda inner: (
        st.builds(
            lambda bounds, options: "{" + bounds + "|".join(options) + "}",
            st.sampled_from(["", "2$$", "1-2$$ and $$", "0-1$$", "-2$$", "1-$$"]),
            st.lists(
                st.builds("{}{}".format, st.sampled_from(["", "2::", "0::"]), inner), max_size=3
            ),
        )
        | st.lists(inner, max_size=2).map(" ".join)
    ),
    max_leaves=6,
)


@given(TEMPLATES, st.lists(st.text(max_size=8), max_size=5))
def test_every_expansion_is_one_of_all_and_all_are_counted(text: str, keys: list[str]) -> None:
    parsed = parse(text)
    if EXPANDER.count(parsed) <= 20_000:
        texts = EXPANDER.every(parsed)
        assert len(texts) == EXPANDER.count(parsed)
        assert {EXPANDER.draw(parsed, key) for key in keys} <= set(texts)


@given(st.text(alphabet="{}|_$:ab12-,\\ #.*/", max_size=40))
def test_any_text_is_read_or_refused_at_a_place_in_it(text: str) -> None:
    try:
        parsed = parse(text)
    except ChoiceProblem as problem:
        assert 0 <= problem.at < len(text)
    else:
        assert all(text[at : at + 2 + len(name)] in (f"__{name}", text[at:]) or text[at] == "{"
                   for name, at in wilds(parsed))  # fmt: skip
