"""What a model sees before its first call: tools, whose fields are the fields of specs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from mcp.types import Tool

from runner.mcp_server import arguments, tools
from specs import messages, schemas
from specs.errors import SpecInvalid
from specs.read import read
from specs.validate import validate
from tests.harness import ROOT
from tests.mcp_server.support import NAMES, agent, play

LISTED = tools.tools()


def test_the_server_lists_its_tools_in_their_order(home: Path) -> None:
    async def scene() -> list[str]:
        async with agent(home) as one:
            return [tool.name for tool in (await one.client.list_tools()).tools]

    assert tuple(play(scene)) == NAMES


def test_the_readmes_table_has_exactly_these_tools_and_the_kinds_that_they_make() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| `(flux_\w+)` \| .*?(?:\(`(\w+)`\) )?\|$", text, re.MULTILINE)
    assert rows == [(name, tools.KIND_OF.get(name, "")) for name in NAMES]


@pytest.mark.parametrize("tool", LISTED.values(), ids=LISTED)
def test_a_tool_says_enough_to_be_picked_and_every_argument_is_explained(tool: Tool) -> None:
    assert len(tool.description or "") > 100 and tool.title and tool.annotations
    for name, part in tool.input_schema["properties"].items():
        assert part.get("description") or name in ("seed", "limit", "offset"), name
    assert tool.input_schema["additionalProperties"] is False


@pytest.mark.parametrize("tool", LISTED.values(), ids=LISTED)
def test_schemas_are_valid_and_have_nothing_that_hosts_refuse(tool: Tool) -> None:
    for schema in (tool.input_schema, tool.output_schema):
        assert schema is not None and schema["type"] == "object"
        Draft202012Validator.check_schema(schema)
        assert not {"allOf", "anyOf", "oneOf", "not", "$ref", "$defs"} & set(schema)
        assert "$ref" not in json.dumps(schema)
    names = tool.input_schema["properties"]
    assert all(re.fullmatch("[a-z_]{1,64}", name) for name in names)


def test_the_tool_list_costs_a_model_no_more_than_it_must() -> None:
    listed = [json.dumps(tool.model_dump(exclude_none=True)) for tool in LISTED.values()]
    assert sum(map(len, listed)) < 10_500 * len(listed)


def test_every_kind_has_its_tool() -> None:
    assert sorted(tools.KIND_OF.values()) == sorted(schemas.kinds())


def _bare(part: Any) -> Any:
    """A schema without words, and with paths as they are told to models."""
    if isinstance(part, list):
        return [_bare(item) for item in part]
    if not isinstance(part, dict):
        return part
    if part.get("type") == "string" and part.get("maxLength", 0) in (1024, 4_000_200):
        return "path"
    words = {"description", "errorMessage", "examples", "title"}
    return {
        key: {name: _bare(child) for name, child in value.items()}
        if key == "properties"
        else _bare(value)
        for key, value in part.items()
        if key not in words
    }


@pytest.mark.parametrize("kind", schemas.kinds())
def test_the_fields_of_a_tool_are_those_of_its_spec_with_the_same_bounds(kind: str) -> None:
    """Seen red: with `maximum` left out of the copied keywords."""
    spec, tool = schemas.bundle(kind)["properties"], arguments.of_kind(kind)["properties"]
    own = set(spec) - {"kind", "schema", "$schema", "result"}
    assert set(tool) == own | {"dry_run"}
    assert {name: _bare(tool[name]) for name in own} == {name: _bare(spec[name]) for name in own}


VALUES: list[tuple[str, Any]] = [
    ("prompt", "a"), ("prompt", ""), ("prompt", " "), ("prompt", 7), ("prompt", "x" * 2001),
    ("seed", 0), ("seed", 2**32 - 1), ("seed", 2**32), ("seed", "7"), ("steps", 1.0),
    ("steps", 0), ("steps", 1001), ("width", 64), ("width", 65), ("width", True), ("id", "a/b"),
    ("id", "fine.1"), ("seeds", [1, 2]), ("seeds", [1, 1]), ("seeds", {"start": 1, "count": 2}),
    ("seeds", {"start": 1}), ("matrix", {"steps": [1, 2]}), ("matrix", {"stpes": [1]}),
    ("format", "gif"), ("format", "webp"), ("tags", ["a"]), ("tags", "a"), ("x_mine", {"a": 1}),
    ("upscale", 2), ("upscale", 4.0), ("upscale", 3), ("upscale", "2"), ("upscale", True),
    ("keep_original", True), ("keep_original", 1), ("matrix", {"upscale": [2, 4]}),
    ("matrix", {"upscale": [1]}), ("priority", -101),
    ("compose", {"pack": "p", "subjects": "all"}), ("compose", {}),
    ("image", "cat.png"), ("image", 7), ("image", ["a.png", {"path": "b.png", "weight": 2}]),
    ("mask", "m.png"), ("outpaint", {"left": 64}), ("outpaint", {"left": -1}),
    ("control", "canny"), ("control", "pose"), ("composite", "yes"), ("window", "23:00-07:00"),
    ("window", "never"), ("loras", [{"path": "a.safetensors"}]), ("loras", [{}]), ("stpes", 4),
]  # fmt: skip


@pytest.mark.parametrize("kind", schemas.kinds())
def test_what_the_tool_forbids_the_spec_forbids_and_the_other_way_round(kind: str) -> None:
    """Field by field; rules between fields are the spec's alone, and are told in words."""
    assert [pair for pair in VALUES if _disagree(kind, *pair)] == []


def _disagree(kind: str, name: str, value: Any) -> bool:
    by_tool = [
        error.absolute_path[0] if error.absolute_path else ""
        for error in messages.validator(arguments.of_kind(kind)).iter_errors({name: value})
        if error.absolute_path or error.validator != "required"
    ]
    try:
        validate(read(json.dumps({"kind": kind, name: value}).encode(), json=True))
        by_spec: list[str] = []
    except SpecInvalid as error:
        by_spec = [re.split(r"[.\[]", problem.path)[0] for problem in error.problems]
    return (name in by_tool) != (name in by_spec and not _of_the_whole(kind, name, value))


def _of_the_whole(kind: str, name: str, value: Any) -> bool:
    """Whether the field by itself is sound, and only misses or excludes another one."""
    part = schemas.bundle(kind)["properties"].get(name)
    if part is None:
        return name.startswith("x_")
    return not any(messages.validator(part).iter_errors(value))
