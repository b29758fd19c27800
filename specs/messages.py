"""A stricter jsonschema validator, and the sentences that explain its errors to people.

The one place that imports jsonschema. It replaces the keywords whose standard implementation is too
slow, too lax or too vague, and has a sentence for each kind of failure. The sentences written here
quote at most 60 characters of a value.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.exceptions import best_match
from jsonschema.validators import extend
from referencing import Registry

from specs import schemas
from specs.document import MAX_COLLECTED, ODD_SIGN, odd_sign, short
from specs.suggest import did_you_mean, nearest


class Explained(NamedTuple):
    """One problem: its path, its sentence, and whether the key there is at fault, not its value.

    `meant` returns the field that an unknown key is a misspelling of, if it is one.
    """

    path: tuple[str | int, ...]
    message: Callable[[], str]
    at_key: bool = False
    meant: Callable[[], str | None] = lambda: None


_TYPES = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}


def _no_extras(validator: Any, allowed: Any, value: Any, schema: dict[str, Any]) -> Iterator[Any]:
    if not isinstance(value, dict):
        return
    patterns = [schemas.expression(pattern) for pattern in schema.get("patternProperties", {})]
    for key in value:
        if key in schema.get("properties", {}) or any(p.search(key) for p in patterns):
            continue
        if allowed is False:
            # One error for each key, so that each is reported at its own position.
            yield ValidationError("", path=[key])
        elif isinstance(allowed, dict):
            yield from validator.descend(value[key], allowed, path=key)


def _unique(_: Any, unique: bool, value: Any, schema: dict[str, Any]) -> Iterator[Any]:
    # The standard keyword compares all pairs, which takes minutes for a long list of mixed types.
    if not unique or not isinstance(value, list):
        return
    first_index: dict[Any, int] = {}
    for index, item in enumerate(value):
        simple = isinstance(item, (str, int, float)) and not isinstance(item, bool)
        key = item if simple else json.dumps(item, sort_keys=True).join("\0\0")
        if key in first_index:
            yield ValidationError(str(first_index[key]), path=[index])
        first_index.setdefault(key, index)


def _matches(_: Any, pattern: str, value: Any, schema: dict[str, Any]) -> Iterator[Any]:
    if not isinstance(value, str):
        return
    # A wrong length is reported by its own keyword, and a long text is not matched at all.
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        return
    if not schemas.expression(pattern).search(value):
        yield ValidationError("")


def _items(validator: Any, items: Any, value: Any, schema: dict[str, Any]) -> Iterator[Any]:
    # A list that is too long is one problem; its items are not checked as well.
    if isinstance(value, list) and len(value) <= schema.get("maxItems", len(value)):
        errors = (
            error
            for index, item in enumerate(value)
            for error in validator.descend(item, items, path=index)
        )
        yield from islice(errors, MAX_COLLECTED)


def _required(_: Any, keys: list[str], value: Any, schema: dict[str, Any]) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from (ValidationError(key) for key in keys if key not in value)


_Strict: Any = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    {
        "additionalProperties": _no_extras,
        "uniqueItems": _unique,
        "pattern": _matches,
        "items": _items,
        "required": _required,
    },
)


def validator(schema: dict[str, Any]) -> Any:
    """A validator for a bundled schema; a reference that is left in it is an error."""
    registry: Any = Registry()
    return _Strict(schema, registry=registry)


def explain(error: Any, name: str) -> Iterator[Explained]:
    """Explain a jsonschema error of the schema `name`.

    An error of `anyOf` becomes the errors of the branch that fits the value best.
    """
    keyword, path = error.validator, tuple(error.absolute_path)
    custom = error.schema.get("errorMessage") if isinstance(error.schema, dict) else None
    if keyword in ("anyOf", "oneOf") and custom is None:
        for inner in _errors_of_branch(error):
            yield from explain(inner, name)
        if not error.context or _all_of_wrong_type(error):
            types = [branch.get("type", "object") for branch in error.validator_value]
            yield Explained(path, lambda: _type_sentence(error.instance, types))
    elif keyword == "required":
        missing = str(error.message)
        yield Explained((*path, missing), lambda: f"{missing!r} is required{_parent(path, name)}")
    elif keyword == "additionalProperties":
        yield _unknown_key(str(path[-1]), error.schema.get("properties", {}), path, name)
    elif keyword == "not" and custom is not None:
        # What is no mapping has a wrong type, which is another error.
        if isinstance(error.instance, dict):
            # Reported at that field of the excluded pair which is second in the file.
            pair = error.validator_value.get("required", ())
            second = [key for key in error.instance if key in pair][-1:]
            yield Explained((*path, *second), lambda: str(custom), at_key=True)
    elif keyword in ("pattern", "anyOf", "oneOf", "minimum") and custom is not None:
        absent = error.schema.get("errorPath", ())
        message = str(custom)
        yield Explained((*path, *absent), lambda: message.replace("{value}", short(error.instance)))
    else:
        yield Explained(path, lambda: _sentence(error))


def _wrong_type(inner: Any) -> bool:
    return inner.validator == "type" and not inner.relative_path


def _all_of_wrong_type(error: Any) -> bool:
    return all(_wrong_type(inner) for inner in error.context)


def _errors_of_branch(error: Any) -> list[Any]:
    """The errors of the branch that accepts the value's type; of several branches, the best one's.

    Empty where no branch accepts the type.
    """
    if _all_of_wrong_type(error):
        return []
    wrong = {inner.schema_path[0] for inner in error.context if _wrong_type(inner)}
    fitting = [inner for inner in error.context if inner.schema_path[0] not in wrong]
    branches = {inner.schema_path[0] for inner in fitting}
    best = best_match(iter(fitting)) if len(branches) > 1 else None
    return fitting if best is None else [best]


def _parent(path: tuple[str | int, ...], name: str) -> str:
    if not path:
        return f" for {name}"
    return f" in {path[-1]!r}" if isinstance(path[-1], str) else ""


def _sentence(error: Any) -> str:
    value, limit = error.instance, error.validator_value
    shown = short(value)
    if error.schema is False:
        return "this does not belong here"
    match error.validator:
        case "type":
            return _type_sentence(value, limit if isinstance(limit, list) else [limit])
        case "enum" | "const":
            return _not_allowed(value, limit if isinstance(limit, list) else [limit])
        case "minimum":
            return f"{shown} is less than the minimum of {limit}"
        case "maximum":
            return f"{shown} is greater than the maximum of {limit}"
        case "multipleOf":
            below = int(value) // limit * limit
            near = f" ({below} and {below + limit} are)" if 0 < below < 100_000 else ""
            return f"{shown} is not a multiple of {limit}{near}"
        case "minLength":
            return "this is empty" if not value else f"{shown} is shorter than {limit} characters"
        case "maxLength":
            return f"this has {len(value):,} characters, the limit is {limit:,}"
        case "pattern":
            return f"{shown} does not look as it should ({limit})"
        case "minItems" | "minProperties":
            return "this is empty" if not value else f"this needs at least {limit}"
        case "maxItems" | "maxProperties":
            return f"this has {len(value):,} entries, the limit is {limit:,}"
        case "uniqueItems":
            again = short(value[error.absolute_path[-1]])
            return f"duplicate value {again} (the first is number {int(error.message) + 1})"
        case _:
            text = str(error.message)
            return text if len(text) <= 160 else text[:157] + "..."


def _type_sentence(value: Any, types: list[str]) -> str:
    hint = ""
    if types == ["string"] and isinstance(value, (bool, int, float)):
        hint = ": put it in quotes"
    elif types == ["string"] and isinstance(value, dict) and not any(value.values()):
        # What `{red|blue}` is to YAML.
        hint = ": put text that begins with { in quotes"
    elif types == ["string"] and isinstance(value, list):
        hint = ": give one, without a list"
    elif "array" in types and isinstance(value, dict):
        hint = ": put it into a list"
    elif types == ["object"] and str(value).endswith(".safetensors"):
        hint = f": write {{path: {short(value)}}}"
    return f"{short(value)} is not {' or '.join(_TYPES[name] for name in types)}{hint}"


def _not_allowed(value: Any, allowed: list[Any]) -> str:
    offered = ", ".join(str(item) for item in allowed)
    if len(allowed) == 1:
        return f"{short(value)} is not {offered}"
    hint = _in_brackets(did_you_mean(value, (item for item in allowed if isinstance(item, str))))
    return f"{short(value)} is not one of {offered}{hint}"


def _unknown_key(
    key: str, fields: Iterable[str], path: tuple[str | int, ...], name: str
) -> Explained:
    if len(path) == 1 and name in schemas.kinds():
        owners = [kind for kind in schemas.kinds() if key in schemas.load(kind)["properties"]]
        if owners:
            told = schemas.other_name(f"{name}.{key}")
            text = f"{key!r} is not a field of {name} (it belongs to {', '.join(owners)})"
            text += f": {told}" if " " in told else ""
            return Explained(path, lambda: text, at_key=True)

    if path[:-1] == ("matrix",) and key in schemas.load(name)["properties"]:
        text = f"{key!r} cannot be in a matrix: give it beside the matrix, for all its images"
        return Explained(path, lambda: text, at_key=True)

    def message() -> str:
        near, odd, told = meant(key, fields), ODD_SIGN.match(key), schemas.other_name(key)
        if odd:
            return f"unknown key {short(key)} ({odd_sign(odd['sign'])})"
        hint = f"did you mean {near!r}?" if near else told if " " in told else ""
        return f"unknown key {short(key)}{_in_brackets(hint)}"

    return Explained(path, message, at_key=True, meant=lambda: meant(key, fields))


def meant(key: str, fields: Iterable[str]) -> str | None:
    """The one of the fields that an unknown key is a misspelling or another program's word of."""
    known = [field for field in fields if field[:1] != "$"]
    other = schemas.other_name(key)
    return None if " " in other else nearest(other if other in known else key, known)


def _in_brackets(hint: str) -> str:
    return f" ({hint})" if hint else ""
