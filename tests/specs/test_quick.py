"""The quick check and jsonschema on the same values: what the check accepts is valid."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specs import messages, quick, schemas, validate

ASKED = ("settings", *schemas.kinds())
EXAMPLES = [(kind, spec) for kind in schemas.kinds() for spec in schemas.load(kind)["examples"]]
FULL = {
    "kind": "fill", "id": "hero-1", "model": "tiny", "image": ["a.png", {"path": "b.png"}],
    "outpaint": {"left": 64}, "seeds": {"start": 1, "count": 4}, "composite": False,
    "compose": {"pack": "stickers", "subjects": ["cat", "dog"], "variables": "all", "extra": ""},
    "matrix": {"steps": [4, 8], "guidance": [1, 3.5]}, "loras": [{"path": "a", "weight": 0.5}],
    "format": "webp", "quality": 90, "priority": -3, "window": "23:00-07:00", "timeout": 2.5,
    "tags": ["a", "b"], "result": {"job": "x"}, "x_mine": [None, {"a": 1}],
}  # fmt: skip
ODD = (
    None, True, False, 0, 1, -1, 100, 1024, 2**32, 10**39, 0.5, 1.0, 20.0, -0.0, 1e300,
    "", " ", "x", "a\n", "1", "é", "x" * 101, "x" * 2001, "../x", "23:00-07:00", "all",
    [], {}, [1], [1, 1], [1, 1.0], [1, True], ["a", "a"], ["a", 1], [[1], [1]], [{}], {"a": 1},
    {"prompt": ["x"]},
    {"path": "a", "repo": "b"}, {"start": 1, "count": 2}, list(range(10_001)),
)  # fmt: skip


def _parts(schema: Any) -> Iterator[dict[str, Any]]:
    """A schema and all the schemas in it."""
    if isinstance(schema, list):
        for each in schema:
            yield from _parts(each)
    elif isinstance(schema, dict):
        yield schema
        for word, inside in schema.items():
            named = word in ("properties", "patternProperties")
            if named or word in ("items", "additionalProperties", "not", "anyOf", "allOf"):
                yield from _parts(list(inside.values()) if named else inside)


PARTS = {json.dumps(part): part for name in ASKED for part in _parts(schemas.bundle(name))}


def _containers(value: Any) -> Iterator[Any]:
    if isinstance(value, (dict, list)):
        yield value
        for part in value.values() if isinstance(value, dict) else value:
            yield from _containers(part)


@st.composite
def _changed(draw: st.DrawFn) -> tuple[str, Any]:
    """A valid spec or one with everything in it, some of its parts replaced, removed or added."""
    name, start = draw(st.sampled_from([*EXAMPLES, *((kind, FULL) for kind in ASKED)]))
    value = copy.deepcopy(start)
    fields = sorted(schemas.load(name)["properties"])
    for _ in range(draw(st.integers(0, 5))):
        place = draw(st.sampled_from(list(_containers(value))))
        odd = copy.deepcopy(draw(st.sampled_from(ODD)))
        if isinstance(place, list):
            place.insert(0, odd) if draw(st.booleans()) or not place else place.pop()
        elif draw(st.booleans()) and place:
            place.pop(draw(st.sampled_from(sorted(place))))
        else:
            place[draw(st.sampled_from([*place, *fields, "x_new", "y_new"]))] = odd
    return name, value


@given(_changed())
def test_what_the_quick_check_is_sure_of_jsonschema_accepts(changed: tuple[str, Any]) -> None:
    name, value = changed
    errors = list(validate._validator(name).iter_errors(value))
    if validate._surely_valid(name)(value):
        assert not errors, (name, value)


@given(_changed())
def test_the_quick_check_leaves_only_odd_values_to_jsonschema(changed: tuple[str, Any]) -> None:
    name, value = changed
    valid = not any(validate._validator(name).iter_errors(value))
    odd = any(
        isinstance(part, bool) or (isinstance(part, float) and part.is_integer())
        for place in _containers(value)
        for part in (place.values() if isinstance(place, dict) else place)
    )
    if name != "settings" and not odd:
        assert validate._surely_valid(name)(value) == valid, (name, value)


def test_every_part_of_every_schema_is_sure_of_no_odd_value_that_jsonschema_refuses() -> None:
    assert len(PARTS) > 100
    for part in PARTS.values():
        ask, validator = quick.compile_check(part), messages.validator(part)
        for value in ODD:
            assert not ask(value) or validator.is_valid(value), (part, value)


@pytest.mark.parametrize("kind, spec", EXAMPLES)
def test_the_examples_need_no_jsonschema(kind: str, spec: dict[str, Any]) -> None:
    assert validate._surely_valid(kind)(spec)


@pytest.mark.parametrize("schema", [False, {"unheard": 1}, {"type": "string", "format": "date"}])
def test_a_schema_with_an_unknown_word_makes_nothing_sure(schema: Any) -> None:
    assert not any(quick.compile_check(schema)(value) for value in ODD)


def test_what_excludes_a_key_is_not_guessed_at() -> None:
    ask = quick.compile_check({"not": {"type": "string"}})
    assert not any(ask(value) for value in ODD)
    ask = quick.compile_check(
        {"not": {"required": ["a"], "properties": {"a": {"required": ["b"]}}}}
    )
    assert ask({}) and ask({"a": {}}) and not ask({"a": {"b": 1}}) and not ask({"a": 1})
