"""The argument schemas of the tools, derived from the schemas of the kinds, and their validation.

A tool takes the fields of its kind's spec, without the ones that only files have (`kind`, `schema`,
`result`). Its schema has those that are often needed, in few words, for a model reads all of it
before its first call; the others are named in its description. What it refuses a spec's schema
refuses too, and that one has the last word: images may also be data URIs, and many hosts refuse
`allOf` at the top of a tool's schema.
"""

from collections.abc import Mapping
from typing import Any

from mcp.server.mcpserver.exceptions import ToolError

from specs import schemas

MOST_DATA_BYTES = 3_000_000
"""The largest picture that a data URI may carry."""

FILE_ONLY_FIELDS = ("kind", "schema", "$schema", "result")
"""Fields of a spec file that no tool takes."""

_FIRST_FIELDS = ("prompt", "image", "mask", "outpaint", "composite", "control", "preprocessed")
_IN_A_SENTENCE = ("prompt", "mask", "invert_mask", "whole", "control", "strength", "table")
"""The fields that are explained by the first sentence of their description."""
_IN_SHORT = {
    "image": "A path in the inbox, the home or an allowed folder; `<job>/<file>`, made or to be"
    " made; or a data URI of at most 3 MB.",
    "id": "Else a free one is chosen. The same call again with the same id runs nothing.",
    "model": "One of flux://models, else the default.",
    "seeds": "Instead of `seed` and `count`: [1, 2, 3] or {start, count}.",
    "matrix": 'Every combination of lists, as in {"prompt": ["a cat", "a dog"], "steps": [4, 8]}.',
    "compose": 'A prompt for each subject and variable of a pack: {pack, subjects: "all" or a list,'
    " variables: the same}; see flux://packs.",
    "loras": "[{path, weight}] or [{repo, file, weight}].",
    "outpaint": "Pixels to add: {left, top, right, bottom}, each a multiple of 16.",
    "width": "A multiple of 16, to 4096.",
    "height": "The same.",
    "steps": "",
    "guidance": "",
    "seed": "",
    "count": "Pictures of each prompt, each with the next seed.",
    "format": "",
    "negative_prompt": "What it shall not show; few models take one.",
    "reuse": "Copy a picture that was made already.",
    "upscale": "",
}
_FORMS = {
    "priority": "-100 to 100, higher first",
    "window": '"23:00-07:00"',
    "quality": "1 to 100",
    "tags": "a list",
    "keep_original": "true",
}
_LISTED = " Several as a list, each may be {path, weight}."
_DRY_RUN = "Submit nothing; say what would run, with the final prompts."


def of_kind(kind: str) -> dict[str, Any]:
    """The schema of the arguments of the tool that makes pictures of this kind."""
    fields = _fields(kind)
    named = [name for name in fields if name in _IN_SHORT or name in _IN_A_SENTENCE]
    order = dict.fromkeys([*(name for name in _FIRST_FIELDS if name in named), *named])
    properties = {name: {**_form(fields[name]), **_words(name, fields[name])} for name in order}
    properties["dry_run"] = {"type": "boolean", "description": _DRY_RUN}
    required = [name for name in schemas.bundle(kind)["required"] if name != "kind"]
    return {"type": "object", "properties": properties, "required": required}


def rarely_needed(kind: str) -> list[str]:
    """The further fields that the tool of this kind takes, which its schema has not."""
    names = [name for name in _fields(kind) if name not in (*_IN_SHORT, *_IN_A_SENTENCE)]
    return [f"{name} ({_FORMS[name]})" if name in _FORMS else name for name in names]


def _fields(kind: str) -> dict[str, Any]:
    spec = schemas.bundle(kind)["properties"]
    return {name: part for name, part in spec.items() if name not in FILE_ONLY_FIELDS}


def _words(name: str, part: Mapping[str, Any]) -> dict[str, str]:
    words = _IN_SHORT.get(name)
    if words is None:
        words = part["description"].partition(". ")[0].rstrip(".") + "."
    elif name == "image" and "anyOf" in part:
        words += _LISTED
    return {"description": words} if words else {}


def _form(part: Mapping[str, Any]) -> dict[str, Any]:
    """The types of a part; its bounds are its words' and the spec's."""
    kept: dict[str, Any] = {name: part[name] for name in ("type", "enum", "const") if name in part}
    if "anyOf" in part:
        kept["anyOf"] = [_form(branch) for branch in part["anyOf"]]
    if isinstance(part.get("items"), Mapping):
        kept["items"] = _form(part["items"])
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
