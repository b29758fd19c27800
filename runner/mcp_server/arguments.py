"""The argument schemas of the tools, derived from the schemas of the kinds, and their validation.

A tool's fields are the fields of its kind's spec, with the same bounds. Left out are the fields
that only spec files have (`kind`, `schema`, `result`) and annotations that no model needs; images
may also be data URIs. Rules between fields stay in the spec's schema and are described in words:
many hosts refuse `allOf` at the top of a tool's schema.
"""

from collections.abc import Mapping
from typing import Any

from mcp.server.mcpserver.exceptions import ToolError

from specs import schemas

MOST_DATA_BYTES = 3_000_000
"""The largest picture that a data URI may carry."""

FILE_ONLY_FIELDS = ("kind", "schema", "$schema", "result")
"""Fields of a spec file that no tool takes."""

_LONGEST_DATA_URI = MOST_DATA_BYTES * 4 // 3 + 200
_FIRST_FIELDS = ("prompt", "image", "mask", "outpaint", "composite", "control", "preprocessed")
_NOT_FOR_MODELS = frozenset({"errorMessage", "examples", "title", "$id", "$schema"})
_DESCRIBED_DEPTH = 2
"""How deep descriptions are kept: a field's own, and those of its parts."""

_IMAGE = (
    "Given as one of: a path in the inbox, the home or an allowed folder (`cat.png`); one that"
    " fluxdrop made (`<job>/<file>`, the `file` of a search result, or flux://jobs/<job>/images/<n>;"
    " a picture that a submitted job will still make is waited for); or a data URI of at most 3 MB"
    " (`data:image/png;base64,…`)."
)
_DRY_RUN = (
    "true: submit nothing; say what would run: the spec, the final prompts with their audit, and"
    " the number of images."
)
_ID = (
    "The job's id and the name of its folder; leave it out and a free one is chosen. The same call"
    " with the same id again runs nothing and answers with the first job, so a call can be repeated"
    " safely."
)


def of_kind(kind: str) -> dict[str, Any]:
    """The schema of the arguments of the tool that makes pictures of this kind."""
    spec = schemas.bundle(kind)
    fields = {
        name: part for name, part in spec["properties"].items() if name not in FILE_ONLY_FIELDS
    }
    order = dict.fromkeys([*(name for name in _FIRST_FIELDS if name in fields), *fields])
    # What the parts of a matrix are is said by their names.
    properties = {name: _for_models(fields[name], 1 + (name == "matrix")) for name in order}
    properties["id"]["description"] = _ID
    for name, form in (("image", _IMAGE), ("mask", "Given like `image`.")):
        if name in properties:
            properties[name]["description"] = f"{fields[name]['description']} {form}"
    properties["dry_run"] = {"description": _DRY_RUN, "type": "boolean", "default": False}
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in spec["required"] if name != "kind"],
        "patternProperties": spec["patternProperties"],
        "additionalProperties": False,
    }


def _for_models(part: Any, depth: int) -> Any:
    """A part of a spec's schema without what no model needs; a path may also be a data URI."""
    if isinstance(part, list):
        return [_for_models(item, depth) for item in part]
    if not isinstance(part, dict):
        return part
    path = schemas.load("common")["$defs"]["path"]
    if all(part.get(key) == path[key] for key in ("type", "maxLength", "pattern")):
        return {"type": "string", "minLength": 1, "maxLength": _LONGEST_DATA_URI}
    kept: dict[str, Any] = {}
    for key, value in part.items():
        if key == "properties":
            kept[key] = {name: _for_models(child, depth + 1) for name, child in value.items()}
        elif key in ("items", "anyOf", "allOf", "oneOf", "not", "additionalProperties"):
            kept[key] = _for_models(value, _DESCRIBED_DEPTH + 1)
        elif key not in _NOT_FOR_MODELS and (key != "description" or depth <= _DESCRIBED_DEPTH):
            kept[key] = value
    return kept


def without_nulls(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call; many hosts send null for one that was left out."""
    return {name: value for name, value in arguments.items() if value is not None}


def check(arguments: Mapping[str, Any], schema: dict[str, Any], tool: str) -> dict[str, Any]:
    """The arguments of a call, checked against the schema of a tool that makes no pictures.

    Integers are ints, also where JSON had 4.0. Raises ToolError with every problem.
    """
    from specs.document import dotted
    from specs.messages import explain, validator

    values = without_nulls(arguments)
    problems = [
        f"{dotted(found.path)}: {found.message()}"
        for error in validator(schema).iter_errors(values)
        for found in explain(error, tool)
    ]
    properties = schema["properties"]
    if problems:
        raise refusal(problems, f"{tool} takes {', '.join(properties)}, and did nothing")
    return {
        name: int(value) if properties[name].get("type") == "integer" else value
        for name, value in values.items()
    }


def refusal(problems: list[str], outcome: str) -> ToolError:
    """The error that a model reads when its call is refused: every problem, one on each line."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return ToolError("\n".join([f"{outcome}: {count} to mend.", *(f"- {p}" for p in problems)]))
