"""Words and moments, as a row is found by them."""

from __future__ import annotations

import pytest

from runner.gallery.terms import facet, moment, terms_of, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "A red Fox, in-the SNOW_storm 35mm!",
            ["a", "red", "fox", "in", "the", "snow", "storm", "35mm"],
        ),
        ("Käse STRASSE straße", ["kase", "strasse", "strasse"]),
        ("cafe\u0301 Œuvre Łódź ёлка", ["cafe", "œuvre", "łodz", "елка"]),
        ("がぎ", ["が", "ぎ"]),
        ("ｆｕｌｌ ﬁne", ["full", "fine"]),
        ("猫と犬 cat", ["猫", "と", "犬", "cat"]),
        ("лиса в снегу", ["лиса", "в", "снегу"]),
        ("", []),
        ("🦊 !!!", []),
    ],
)
def test_words_are_folded_and_scripts_without_spaces_split(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_a_row_has_a_term_for_every_filter() -> None:
    row = {
        "prompt": "Red fox",
        "kind": "fill",
        "model": "Dev",
        "pack": "lamps",
        "seed": 0,
        "tags": ["One two"],
        "width": 64,
        "height": 32,
    }
    facets = {
        "kind": "fill", "model": "dev", "pack": "lamps", "seed": 0, "tag": "one two",
        "size": "64x32",
    }  # fmt: skip
    expected = {"red", "fox", *(facet(name, value) for name, value in facets.items())}
    assert set(terms_of(row).split(" ")) == expected


def test_no_word_is_a_facet() -> None:
    term = facet("kind", "fill")
    assert term not in words(term) and term != facet("model", "fill")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:01.500Z", 1500),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-01T00:00:02", 2000),
        ("yesterday", 0),
        (None, 0),
    ],
)
def test_a_moment_is_milliseconds(text: object, expected: int) -> None:
    assert moment(text) == expected
