"""Writing: whatever is written is read back unchanged, or refused."""

from __future__ import annotations

import json
import math
from enum import StrEnum
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as some

from specs.document import UNFIT
from specs.errors import SpecInvalid
from specs.read import read
from specs.write import to_yaml

TEXT = some.text(max_size=40).filter(lambda text: not UNFIT.search(text))
TRICKY = some.sampled_from(
    ["", " ", "no", "On", "y", "~", "null", "True", "1e3", "010", "0x1F", ".5", "-", "- a", "? a",
     "a: b", "a #b", "# a", "<<", "=", "&a", "*a", "!a", "|", ">", "%a", "@a", "`a`", "{", "[a]",
     "'", '"', "\\", "\\n", "a\nb", "\n", "a ", " a", "\ta", "---", "...", "\u2028", "\u2029x",
     "\ufeff", "é", "😀", "12:30:45", "2026-11-23", ".inf", "a,b", "null ", "\r", "a\r\nb",
     "a" * 3_000, "x, " * 900, "key: [1", "a:", "\u00a0"]
)  # fmt: skip
SCALARS = (
    some.none() | some.booleans() | TEXT | TRICKY
    | some.integers(-(10**40) + 1, 10**40 - 1)
    | some.floats(allow_nan=False, allow_infinity=False)
)  # fmt: skip
VALUES = some.recursive(
    SCALARS,
    lambda inner: (
        some.lists(inner, max_size=4) | some.dictionaries(TEXT | TRICKY, inner, max_size=4)
    ),
    max_leaves=12,
)


def same(one: Any, other: Any) -> bool:
    """Equal, and of equal types all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return one == other and math.copysign(1, one) == math.copysign(1, other)
    return bool(one == other)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(VALUES)
def test_what_is_written_is_read_back_unchanged(value: Any) -> None:
    assert same(read(to_yaml(value)).value, value)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(some.dictionaries(TEXT | TRICKY, TEXT | TRICKY, max_size=4))
def test_text_stays_text_for_yaml_1_1_readers_too(value: dict[str, str]) -> None:
    assert yaml.safe_load(to_yaml(value)) == value


@settings(max_examples=150, deadline=None, derandomize=True)
@given(VALUES)
def test_json_is_read_as_the_standard_library_reads_it(value: Any) -> None:
    text = json.dumps(value)
    assert same(read(text.encode(), json=True).value, json.loads(text))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(some.binary(max_size=200))
def test_any_bytes_are_a_document_or_refused(data: bytes) -> None:
    for kind in (False, True):
        try:
            read(data, json=kind)
        except SpecInvalid as refused:
            assert refused.problems


def test_a_spec_looks_as_a_person_would_write_it() -> None:
    spec = {
        "kind": "text2img",
        "prompt": "a red circle on a blue background",
        "seeds": {"start": 1, "count": 4},
        "tags": ["a", "no", "x: y"],
        "x_empty": [],
        "guidance": 3.5,
        "notes": "two\nlines",
    }
    assert to_yaml(spec).decode() == (
        "kind: text2img\n"
        "prompt: a red circle on a blue background\n"
        "seeds:\n  start: 1\n  count: 4\n"
        'tags:\n  - a\n  - "no"\n  - "x: y"\n'
        "x_empty: []\nguidance: 3.5\n"
        'notes: "two\\nlines"\n'
    )


def test_text_of_other_classes_and_tuples_are_written_by_value() -> None:
    class Word(StrEnum):
        ONE = "one"

    assert read(to_yaml({"a": Word.ONE, "b": ("x", Word.ONE)})).value == {
        "a": "one",
        "b": ["x", "one"],
    }


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, "\x00", "\x1b[m", "\ud800", "\x85", "\x7f", 10**40, 10**9000,
     "x" * 70_000, ["x" * 50_000] * 9, {"\0": 1}, [1] * 30_000],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_could_not_be_read_back_is_refused(value: Any) -> None:
    with pytest.raises(SpecInvalid):
        to_yaml({"a": value})


def test_too_deep_a_value_is_refused_and_a_deep_one_is_not() -> None:
    value: Any = 1
    for _ in range(32):
        value = [value]
    assert read(to_yaml(value)).value == value
    for _ in range(5_000):
        value = [value]
    with pytest.raises(SpecInvalid) as caught:
        to_yaml(value)
    assert caught.value.reason == "TooDeep"


@pytest.mark.parametrize("value", [{1: 2}, b"x", {"a": object()}, {3.5: 1}, {"a": {1, 2}}])
def test_what_yaml_has_no_word_for_is_a_type_error(value: Any) -> None:
    with pytest.raises(TypeError):
        to_yaml(value)
