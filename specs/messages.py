"""jsonschema, made strict and put into words for people.

The one place that knows jsonschema: its keywords where the standard ones are too slow, too lax or
too vague, and the sentence for each kind of failure. Never shows more than 60 characters of what
somebody wrote.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.exceptions import best_match
from jsonschema.validators import extend
from referencing import Registry

from specs import schemas
from specs.document import MAX_COLLECTED, short
from specs.suggest import did_you_mean

Path = list[str | int]
Explained = tuple[Path, bool, Callable[[], str]]

# What other programs call our fields.
_ALIASES = {
    "num_inference_steps": "steps",
    "num_steps": "steps",
    "guidance_scale": "guidance",
    "cfg": "guidance",
    "cfg_scale": "guidance",
    "num_images": "count",
    "n": "count",
    "batch": "count",
    "dtype": "precision",
    "lora": "loras",
    "init_image": "image",
    "images": "image",
    "control_image": "image",
    "mask_image": "mask",
    "type": "kind",
    "output_format": "format",
}
_TYPES = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}


def _is_integer(_: Any, value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())


def _no_extras(_: Any, allowed: Any, value: Any, schema: dict[str, Any]) -> Iterator[Any]:
    if not isinstance(value, dict):
        return
    patterns = [schemas.expression(pattern) for pattern in schema.get("patternProperties", {})]
    for key in value:
        if key in schema.get("properties", {}) or any(p.search(key) for p in patterns):
            continue
        if allowed is False:
            # One error for each key, so that each can be shown where it stands.
            yield ValidationError("", path=[key])
        elif isinstance(allowed, dict):
            yield from _.descend(value[key], allowed, path=key)


def _unique(_: Any, wanted: bool, value: Any, schema: dict[str, Any]) -> Iterator[Any]:
    # The standard keyword compares each with each: minutes for a long list of mixed types.
    if not wanted or not isinstance(value, list):
        return
    seen: dict[Any, int] = {}
    for index, item in enumerate(value):
        simple = isinstance(item, (str, int, float)) and not isinstance(item, bool)
        mark = item if simple else json.dumps(item, sort_keys=True).join("\0\0")
        if mark in seen:
            yield ValidationError(str(seen[mark]), path=[index])
        seen.setdefault(mark, index)


def _multiple(_: Any, unit: int, value: Any, schema: dict[str, Any]) -> Iterator[Any]:
    # The standard keyword divides, and overflows on huge integers.
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value % unit:
        yield ValidationError("")


def _matches(_: Any, pattern: str, value: Any, schema: dict[str, Any]) -> Iterator[Any]:
    if not isinstance(value, str):
        return
    # A length that is wrong is one problem, and keeps long text away from the pattern.
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        return
    if not schemas.expression(pattern).search(value):
        yield ValidationError("")


def _items(validator: Any, items: Any, value: Any, schema: dict[str, Any]) -> Iterator[Any]:
    # A list that is too long is one problem, not one for each of its items.
    if isinstance(value, list) and len(value) <= schema.get("maxItems", len(value)):
        yield from islice(_each(validator, items, value), MAX_COLLECTED)


def _each(validator: Any, items: Any, value: list[Any]) -> Iterator[Any]:
    for index, item in enumerate(value):
        yield from validator.descend(item, items, path=index)


def _required(_: Any, keys: list[str], value: Any, schema: dict[str, Any]) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from (ValidationError(key) for key in keys if key not in value)


_Strict: Any = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    {
        "additionalProperties": _no_extras,
        "uniqueItems": _unique,
        "multipleOf": _multiple,
        "pattern": _matches,
        "items": _items,
        "required": _required,
    },
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer),
)


def validator(schema: dict[str, Any]) -> Any:
    """A validator for a bundled schema; what it cannot resolve locally is an error."""
    registry: Any = Registry()
    return _Strict(schema, registry=registry)


def explain(error: Any, name: str) -> Iterator[Explained]:
    """What an error means: its path, whether the key itself is meant, and its sentence when asked.

    One error of `anyOf` becomes the errors of the branch that the value was meant for.
    """
    word, path = error.validator, list(error.absolute_path)
    custom = error.schema.get("errorMessage") if isinstance(error.schema, dict) else None
    if word in ("anyOf", "oneOf") and custom is None:
        for inner in _meant(error):
            yield from explain(inner, name)
        if not error.context or _all_of_wrong_type(error):
            yield path, False, lambda: _type_sentence(error.instance, _branch_types(error))
    elif word == "required":
        missing = str(error.message)
        yield [*path, missing], False, lambda: f"{missing!r} is required{_of(path, name)}"
    elif word == "additionalProperties":
        yield path, True, lambda: _unknown(str(path[-1]), error.schema, path, name)
    elif word == "not" and custom is not None:
        # Point at the field of the excluded pair that comes second in the file.
        pair = error.validator_value.get("required", ())
        order = list(error.instance)
        second = sorted((key for key in pair if key in order), key=order.index)[-1:]
        yield path + second, True, lambda: str(custom)
    elif word in ("pattern", "anyOf") and custom is not None:
        yield path, False, lambda: str(custom).replace("{value}", short(error.instance))
    else:
        yield path, False, lambda: _sentence(error)


def _wrong_type(inner: Any) -> bool:
    return inner.validator == "type" and not inner.relative_path


def _all_of_wrong_type(error: Any) -> bool:
    return all(_wrong_type(inner) for inner in error.context)


def _branch_types(error: Any) -> list[str]:
    return [branch.get("type", "object") for branch in error.validator_value]


def _meant(error: Any) -> list[Any]:
    """The errors of the branch that accepts the value's type; of several, the nearest one's."""
    if _all_of_wrong_type(error):
        return []
    wrong = {inner.schema_path[0] for inner in error.context if _wrong_type(inner)}
    fitting = [inner for inner in error.context if inner.schema_path[0] not in wrong]
    branches = {inner.schema_path[0] for inner in fitting}
    nearest = best_match(iter(fitting)) if len(branches) > 1 else None
    return fitting if nearest is None else [nearest]


def _of(path: Path, name: str) -> str:
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
            return _choice(value, limit if isinstance(limit, list) else [limit])
        case "minimum":
            return f"{shown} is less than the minimum of {limit}"
        case "maximum":
            return f"{shown} is greater than the maximum of {limit}"
        case "multipleOf":
            return _nearest(value, limit, shown)
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
    number_like = types == ["string"] and isinstance(value, (bool, int, float))
    hint = ": put it in quotes" if number_like else ""
    return f"{short(value)} is not {' or '.join(_TYPES[name] for name in types)}{hint}"


def _choice(value: Any, allowed: list[Any]) -> str:
    offered = ", ".join(str(item) for item in allowed)
    if len(allowed) == 1:
        return f"{short(value)} is not {offered}"
    hint = _in_brackets(did_you_mean(value, (item for item in allowed if isinstance(item, str))))
    return f"{short(value)} is not one of {offered}{hint}"


def _nearest(value: Any, unit: int, shown: str) -> str:
    below = int(value) // unit * unit
    near = f" ({below} and {below + unit} are)" if 0 < below < 100_000 else ""
    return f"{shown} is not a multiple of {unit}{near}"


def _unknown(key: str, schema: dict[str, Any], path: Path, name: str) -> str:
    known = [field for field in schema.get("properties", {}) if field[:1] != "$"]
    if len(path) == 1 and name in schemas.kinds():
        owners = [kind for kind in schemas.kinds() if key in schemas.load(kind)["properties"]]
        if owners:
            return f"{key!r} is not a field of {name} (it belongs to {', '.join(owners)})"
    plain = key[:60].lower().replace("-", "_")
    meant = _ALIASES.get(plain, plain)
    hint = _in_brackets(did_you_mean(meant if meant in known else plain, known))
    return f"unknown key {short(key)}{hint}"


def _in_brackets(hint: str) -> str:
    return f" ({hint})" if hint else ""
