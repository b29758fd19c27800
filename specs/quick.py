"""Compiles a schema into one fast check that accepts most valid values.

The check is made from the schema itself, so that the two cannot drift apart. True means that the
value is surely valid; False means that it may be invalid, and the caller asks jsonschema, which
also finds the reasons. The check may therefore be too narrow, but it must never accept what
jsonschema refuses: a schema with a keyword that is unknown here accepts nothing.
"""

from collections.abc import Callable, Mapping
from operator import ge, le
from typing import Any

from specs.schemas import expression

Check = Callable[[Any], bool]
"""Whether a value is surely valid."""

Compiler = Callable[[Any, Mapping[str, Any]], Check]
"""Makes the check of one keyword, from its value and the schema that it is in."""

# Keywords that constrain nothing.
_ANNOTATIONS = frozenset(
    "$schema $id title description default examples errorMessage errorPath".split()
)
# Keywords that depend on each other and are compiled into one check.
_OBJECT_KEYWORDS = frozenset({"properties", "patternProperties", "additionalProperties"})
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


def compile_check(schema: Any) -> Check:
    """The check of a bundled schema."""
    if schema is True:
        return lambda value: True
    if not isinstance(schema, dict):
        return _unsure
    keywords = [key for key in schema if key not in _ANNOTATIONS | _OBJECT_KEYWORDS]
    if not _COMPILERS.keys() >= set(keywords):
        return _unsure
    checks = [_COMPILERS[keyword](schema[keyword], schema) for keyword in keywords]
    if not _OBJECT_KEYWORDS.isdisjoint(schema):
        checks.append(_object(schema))
    return _all(checks)


def _unsure(value: Any) -> bool:
    return False


def _all(checks: list[Check]) -> Check:
    if len(checks) == 1:
        return checks[0]
    fixed = tuple(checks)

    def check(value: Any) -> bool:
        # A loop, because a generator would double the time of a small spec.
        for part in fixed:
            if not part(value):
                return False
        return True

    return check


def _type(names: Any, schema: Mapping[str, Any]) -> Check:
    # Exact types: a bool is not a number, and 20.0 is left to the caller, which makes it 20.
    types = frozenset(
        accepted
        for name in (names if isinstance(names, list) else [names])
        for accepted in _TYPES[name]
    )
    return lambda value: type(value) in types


def _enum(values: list[Any], schema: Mapping[str, Any]) -> Check:
    # Python takes True for 1, JSON does not.
    allowed = frozenset((type(item), item) for item in values if type(item) in (str, int, bool))
    return lambda value: type(value) in (str, int, bool) and (type(value), value) in allowed


def _number(holds: Callable[[Any, Any], bool]) -> Compiler:
    return lambda limit, schema: (
        lambda value: type(value) not in (int, float) or holds(value, limit)
    )


def _sized(sized: type, holds: Callable[[int, int], bool]) -> Compiler:
    def compiler(limit: int, schema: Mapping[str, Any]) -> Check:
        def check(value: Any) -> bool:
            value_type: object = type(value)
            return value_type is not sized or holds(len(value), limit)

        return check

    return compiler


def _pattern(pattern: str, schema: Mapping[str, Any]) -> Check:
    search = expression(pattern).search
    longest = schema.get("maxLength", float("inf"))
    return lambda value: (
        type(value) is not str or (len(value) <= longest and search(value) is not None)
    )


def _items(item_schema: Any, schema: Mapping[str, Any]) -> Check:
    item_check = compile_check(item_schema)
    return lambda value: type(value) is not list or all(map(item_check, value))


def _unique(unique: bool, schema: Mapping[str, Any]) -> Check:
    def check(value: Any) -> bool:
        if type(value) is not list or not unique:
            return True
        # Python compares the values of these types as JSON does.
        return set(map(type, value)) <= {str, int, float} and len(set(value)) == len(value)

    return check


def _required(required: list[str], schema: Mapping[str, Any]) -> Check:
    keys = frozenset(required)
    return lambda value: type(value) is not dict or keys <= value.keys()


def _object(schema: Mapping[str, Any]) -> Check:
    patterns = [
        (expression(pattern).search, compile_check(part))
        for pattern, part in schema.get("patternProperties", {}).items()
    ]
    properties = {
        key: _all([compile_check(part), *(check for search, check in patterns if search(key))])
        for key, part in schema.get("properties", {}).items()
    }
    additional = compile_check(schema.get("additionalProperties", True))

    def other_property(key: str, part: Any) -> bool:
        checks = [check for search, check in patterns if search(key)] or [additional]
        return all(check(part) for check in checks)

    def check(value: Any) -> bool:
        if type(value) is dict:
            for key, part in value.items():
                own = properties.get(key)
                if not (own(part) if own else other_property(key, part)):
                    return False
        return True

    return check


def _any_of(schemas: list[Any], schema: Mapping[str, Any]) -> Check:
    branches = [compile_check(part) for part in schemas]
    return lambda value: any(branch(value) for branch in branches)


def _one_of(schemas: list[Any], schema: Mapping[str, Any]) -> Check:
    """Only for branches of different types, of which no value can fit two."""
    types = [part.get("type") for part in schemas if isinstance(part, dict)]
    single = all(isinstance(name, str) for name in types) and not {"integer", "number"} <= {*types}
    distinct = len(set(types)) == len(schemas)
    return _any_of(schemas, schema) if single and distinct else _unsure


def _surely_fails(schema: Any) -> Check:
    """Whether a value surely fails a schema: a required key is absent, or one of `false` is there.

    Used for `not`. No other reason is considered: the opposite of "may be invalid" is not "valid".
    """
    if not isinstance(schema, dict):
        return lambda value: schema is False
    keys = frozenset(schema.get("required", ()))
    inside = {key: _surely_fails(part) for key, part in schema.get("properties", {}).items()}

    def check(value: Any) -> bool:
        if type(value) is not dict:
            return False
        if not keys <= value.keys():
            return True
        return any(key in value and fails(value[key]) for key, fails in inside.items())

    return check


_COMPILERS: dict[str, Compiler] = {
    "type": _type,
    "const": lambda constant, schema: _enum([constant], schema),
    "enum": _enum,
    "minimum": _number(ge),
    "maximum": _number(le),
    "multipleOf": _number(lambda value, unit: not value % unit),
    "minLength": _sized(str, ge),
    "maxLength": _sized(str, le),
    "pattern": _pattern,
    "items": _items,
    "minItems": _sized(list, ge),
    "maxItems": _sized(list, le),
    "uniqueItems": _unique,
    "required": _required,
    "minProperties": _sized(dict, ge),
    "allOf": lambda schemas, schema: _all([compile_check(part) for part in schemas]),
    "anyOf": _any_of,
    "oneOf": _one_of,
    "not": lambda negated, schema: _surely_fails(negated),
}
