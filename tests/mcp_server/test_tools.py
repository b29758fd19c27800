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
    assert len(tool.description or "") > 80 and tool.title and tool.annotations
    plain = {
        *("seed", "steps", "guidance", "format", "upscale"),
        *("kind", "model", "pack", "tag", "limit"),
    }
    for name, part in tool.input_schema["properties"].items():
        assert part.get("description") or name in {*plain, "limit", "offset"}, name


@pytest.mark.parametrize("tool", LISTED.values(), ids=LISTED)
def test_schemas_are_valid_and_have_nothing_that_hosts_refuse(tool: Tool) -> None:
    for schema in (tool.input_schema, tool.output_schema):
        assert schema is not None and schema["type"] == "object"
        Draft202012Validator.check_schema(schema)
        assert not {"allOf", "anyOf", "oneOf", "not", "$ref", "$defs"} & set(schema)
        assert "$ref" not in json.dumps(schema)
    names = tool.input_schema["properties"]
    assert all(re.fullmatch("[a-z_]{1,64}", name) for name in names)


def test_the_tool_list_costs_a_model_less_than_20_kb() -> None:
    sent = (
        tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in LISTED.values()
    )
    text = json.dumps({"tools": [*sent]}, ensure_ascii=False, separators=(",", ":"))
    # More than the eight tools are those of a recipe's new kind.
    assert len(text.encode()) < 20_000 + 3_500 * (len(LISTED) - 8)


def test_every_kind_has_its_tool() -> None:
    assert sorted(tools.KIND_OF.values()) == sorted(schemas.kinds())


@pytest.mark.parametrize(("name", "kind"), tools.KIND_OF.items())
def test_a_tool_has_or_names_every_field_of_its_spec(name: str, kind: str) -> None:
    spec, tool = schemas.bundle(kind)["properties"], LISTED[name]
    named = re.search(r"Also takes (.*) and x_… ", tool.description or "")
    assert named
    names = re.sub(r" \([^)]*\)", "", named[1]).split(", ")
    listed = {*tool.input_schema["properties"], *names}
    assert listed == set(spec) - {"kind", "schema", "$schema", "result"} | {"dry_run"}


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
def test_what_the_tool_forbids_the_spec_forbids_too(kind: str) -> None:
    """Field by field: a host that checks a call by the tool's schema keeps no good one back."""
    forbidden = [pair for pair in VALUES if _forbids(kind, *pair)]
    assert len(forbidden) > 5 and all(_forbidden_by_spec(kind, *pair) for pair in forbidden)


def _forbids(kind: str, name: str, value: Any) -> bool:
    schema = {**arguments.of_kind(kind), "required": []}
    return not messages.validator(schema).is_valid({name: value})


def _forbidden_by_spec(kind: str, name: str, value: Any) -> bool:
    try:
        validate(read(json.dumps({"kind": kind, name: value}).encode(), json=True))
    except SpecInvalid as error:
        return any(re.split(r"[.\[]", problem.path)[0] == name for problem in error.problems)
    return False
