"""A schema made into one quick question: is this value surely valid?

Made from the schema itself, so there is nothing to keep in step with it. The answer is "surely" or
"perhaps not", and after the second the caller asks jsonschema, which also finds the words. So this
may be as narrow as it likes, but must never say "surely" of what jsonschema refuses: a word of
JSON Schema that is unknown here makes every answer "perhaps not".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from specs.schemas import expression

Question = Callable[[Any], bool]
Maker = Callable[[Any, Mapping[str, Any]], Question]

# Words that explain and ask nothing.
_SILENT = frozenset(
    {"$schema", "$id", "title", "description", "default", "examples", "errorMessage"}
)
# Words that only work together: all of them make one question.
_OF_OBJECTS = frozenset({"properties", "patternProperties", "additionalProperties"})
# What Python compares as JSON does.
_COMPARED = frozenset({str, int, float})
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


def question(schema: Any) -> Question:
    """The question that a bundled schema comes to."""
    if schema is True:
        return lambda value: True
    if not isinstance(schema, dict):
        return _perhaps_not
    words = [word for word in schema if word not in _SILENT | _OF_OBJECTS]
    if not _MAKERS.keys() >= set(words):
        return _perhaps_not
    parts = [_MAKERS[word](schema[word], schema) for word in words]
    if not _OF_OBJECTS.isdisjoint(schema):
        parts.append(_object(schema))
    return _all(parts)


def _perhaps_not(value: Any) -> bool:
    return False


def _all(parts: list[Question]) -> Question:
    if len(parts) == 1:
        return parts[0]
    every = tuple(parts)

    def ask(value: Any) -> bool:
        # A loop, because a generator would double the time of a small spec.
        for part in every:
            if not part(value):
                return False
        return True

    return ask


def _type(wanted: Any, schema: Mapping[str, Any]) -> Question:
    names = wanted if isinstance(wanted, list) else [wanted]
    # Exact types: a bool is no number here, and 20.0 is left to those who make it 20.
    types = frozenset(kind for name in names for kind in _TYPES[name])
    return lambda value: type(value) in types


def _const(wanted: Any, schema: Mapping[str, Any]) -> Question:
    return _enum([wanted], schema)


def _enum(wanted: list[Any], schema: Mapping[str, Any]) -> Question:
    # Python takes True for 1, JSON does not.
    allowed = frozenset((type(each), each) for each in wanted if type(each) in (str, int, bool))
    return lambda value: type(value) in (str, int, bool) and (type(value), value) in allowed


def _number(holds: Callable[[Any, Any], bool]) -> Maker:
    return lambda limit, schema: (
        lambda value: type(value) not in (int, float) or holds(value, limit)
    )


def _sized(kind: type, holds: Callable[[int, int], bool]) -> Maker:
    def make(limit: int, schema: Mapping[str, Any]) -> Question:
        def ask(value: Any) -> bool:
            given: object = type(value)
            return given is not kind or holds(len(value), limit)

        return ask

    return make


def _at_least(value: Any, limit: Any) -> bool:
    return bool(value >= limit)


def _at_most(value: Any, limit: Any) -> bool:
    return bool(value <= limit)


def _pattern(wanted: str, schema: Mapping[str, Any]) -> Question:
    search = expression(wanted).search
    longest = schema.get("maxLength", float("inf"))
    return lambda value: (
        type(value) is not str or (len(value) <= longest and search(value) is not None)
    )


def _items(wanted: Any, schema: Mapping[str, Any]) -> Question:
    each = question(wanted)
    return lambda value: type(value) is not list or all(map(each, value))


def _unique(wanted: bool, schema: Mapping[str, Any]) -> Question:
    def ask(value: Any) -> bool:
        if type(value) is not list or not wanted:
            return True
        return set(map(type, value)) <= _COMPARED and len(set(value)) == len(value)

    return ask


def _required(wanted: list[str], schema: Mapping[str, Any]) -> Question:
    keys = frozenset(wanted)
    return lambda value: type(value) is not dict or keys <= value.keys()


def _object(schema: Mapping[str, Any]) -> Question:
    patterns = [
        (expression(pattern).search, question(part))
        for pattern, part in schema.get("patternProperties", {}).items()
    ]
    named = {
        key: _all([question(part), *(each for search, each in patterns if search(key))])
        for key, part in schema.get("properties", {}).items()
    }
    others = question(schema.get("additionalProperties", True))

    def other(key: str, part: Any) -> bool:
        asked = [each for search, each in patterns if search(key)] or [others]
        return all(each(part) for each in asked)

    def ask(value: Any) -> bool:
        if type(value) is dict:
            for key, part in value.items():
                own = named.get(key)
                if not (own(part) if own else other(key, part)):
                    return False
        return True

    return ask


def _all_of(wanted: list[Any], schema: Mapping[str, Any]) -> Question:
    return _all([question(part) for part in wanted])


def _any_of(wanted: list[Any], schema: Mapping[str, Any]) -> Question:
    branches = [question(part) for part in wanted]
    return lambda value: any(branch(value) for branch in branches)


def _one_of(wanted: list[Any], schema: Mapping[str, Any]) -> Question:
    """Only where the branches are of different types: then no value fits two of them."""
    types = [part.get("type") for part in wanted if isinstance(part, dict)]
    apart = all(isinstance(each, str) for each in types) and not {"integer", "number"} <= {*types}
    distinct = len(set(types)) == len(wanted)
    return _any_of(wanted, schema) if apart and distinct else _perhaps_not


def _not(wanted: Any, schema: Mapping[str, Any]) -> Question:
    """Only where it is about which keys are there: "perhaps not" turned round would be a guess."""
    return _lacks(wanted)


def _lacks(schema: Any) -> Question:
    """Whether a value surely fails a schema: a key that it requires is not there."""
    if not isinstance(schema, dict):
        return _perhaps_not
    keys = frozenset(schema.get("required", ()))
    inside = {key: _lacks(part) for key, part in schema.get("properties", {}).items()}

    def ask(value: Any) -> bool:
        if type(value) is not dict:
            return False
        if not keys <= value.keys():
            return True
        return any(key in value and lacks(value[key]) for key, lacks in inside.items())

    return ask


_MAKERS: dict[str, Maker] = {
    "type": _type,
    "const": _const,
    "enum": _enum,
    "minimum": _number(_at_least),
    "maximum": _number(_at_most),
    "multipleOf": _number(lambda value, unit: not value % unit),
    "minLength": _sized(str, _at_least),
    "maxLength": _sized(str, _at_most),
    "pattern": _pattern,
    "items": _items,
    "minItems": _sized(list, _at_least),
    "maxItems": _sized(list, _at_most),
    "uniqueItems": _unique,
    "required": _required,
    "minProperties": _sized(dict, _at_least),
    "allOf": _all_of,
    "anyOf": _any_of,
    "oneOf": _one_of,
    "not": _not,
}
