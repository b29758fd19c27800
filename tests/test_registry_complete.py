"""A kind is complete or it is not there: its file, its schema with examples, a model, a spec."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from runner.engine import kinds as kinds_package
from runner.engine.kinds.base import Kind
from runner.engine.models import CONTROL_DEFAULTS, DEFAULTS, MODEL_REGISTRY
from runner.engine.registry import KINDS

ROOT = Path(__file__).parents[1]
FILES = {
    path.stem
    for folder in kinds_package.__path__
    for path in Path(folder).glob("*.py")
    if path.stem not in {"__init__", "base"}
}
SCHEMAS = {
    path.name.removesuffix(".schema.json"): json.loads(path.read_text(encoding="utf-8"))
    for path in (ROOT / "specs").glob("*.schema.json")
}


def test_every_file_of_a_kind_is_registered_and_every_kind_has_its_file() -> None:
    assert set(KINDS) == FILES


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_kind_is_named_like_its_file(name: str) -> None:
    kind = importlib.import_module(f"runner.engine.kinds.{name}").KIND
    assert isinstance(kind, Kind)
    assert kind.name == name and kind.summary and kind.arguments


def test_every_schema_that_says_its_kind_belongs_to_a_kind() -> None:
    said = {name for name, schema in SCHEMAS.items() if "const" in _kind_of(schema)}
    assert said == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_the_schema_of_a_kind_has_its_fields_and_examples(name: str) -> None:
    schema = SCHEMAS[name]
    assert _kind_of(schema)["const"] == name
    assert {*KINDS[name].reads, *KINDS[name].options} <= set(schema["properties"])
    assert schema["examples"] and all(each["kind"] == name for each in schema["examples"])


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_has_a_default_model_and_the_built_in_one(name: str) -> None:
    assert name in MODEL_REGISTRY["tiny"].serves
    assert name in MODEL_REGISTRY[DEFAULTS[name]].serves


def test_the_default_models_by_control_follow_that_control() -> None:
    for control, model in CONTROL_DEFAULTS.items():
        assert control in MODEL_REGISTRY[model].serves["control"].controls


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_has_an_example_to_drop(name: str) -> None:
    texts = [path.read_text("utf-8") for path in (ROOT / "specs" / "examples").glob("*.y*ml")]
    assert any(f"kind: {name}" in text.splitlines() for text in texts)


def _kind_of(schema: dict[str, object]) -> dict[str, object]:
    properties = schema.get("properties")
    kind = properties.get("kind") if isinstance(properties, dict) else None
    return kind if isinstance(kind, dict) else {}
