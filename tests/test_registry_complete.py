"""A kind is complete or it is not there: its file, its schema with examples, a model, a spec."""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path

import pytest

from runner.engine import kinds as kinds_package
from runner.engine.entries import CONTROL_DEFAULTS, DEFAULTS, MODEL_REGISTRY
from runner.engine.families import FAMILIES
from runner.engine.kinds.base import Kind
from runner.engine.models import Model
from runner.engine.registry import KINDS, problems

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
def test_what_the_examples_of_a_kind_ask_for_their_models_can_do(name: str) -> None:
    assert [problems(each) for each in SCHEMAS[name]["examples"] if problems(each)] == []


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_has_a_default_model_and_the_built_in_one(name: str) -> None:
    assert name in MODEL_REGISTRY["tiny"].serves
    assert name in MODEL_REGISTRY[DEFAULTS[name]].serves


def test_the_default_models_by_control_follow_that_control() -> None:
    for control, model in CONTROL_DEFAULTS.items():
        assert control in MODEL_REGISTRY[model].serves["control"].controls


@pytest.mark.parametrize("model", MODEL_REGISTRY.values(), ids=lambda model: model.name)
def test_a_model_says_all_that_the_house_plans_with(model: Model) -> None:
    weights = model.weights
    assert min(weights.transformer, weights.text, weights.vae) > 0
    has_prior = any(serving.prior for serving in model.serves.values())
    assert (weights.prior > 0) == has_prior
    assert model.builtin or model.bytes >= 2 * weights.total
    assert model.family in FAMILIES
    for kind, serving in model.serves.items():
        assert model.sizes_for(kind).problem(*model.sizes_for(kind).default) is None
        assert serving.guided or serving.guidance in (0.0, 1.0), "a distilled model has no more"
        assert (serving.controls != ()) == (kind == "control")


@pytest.mark.parametrize("model", MODEL_REGISTRY.values(), ids=lambda model: model.name)
def test_a_model_loads_loras_where_all_of_its_pipelines_can(model: Model) -> None:
    import diffusers

    pipelines = [getattr(diffusers, each.pipeline) for each in model.serves.values()]
    assert model.loras == all(hasattr(each, "load_lora_weights") for each in pipelines)


@pytest.mark.parametrize("model", MODEL_REGISTRY.values(), ids=lambda model: model.name)
def test_nothing_of_what_is_under_a_mask_shines_through(model: Model) -> None:
    """Less than the full strength would leave some of it; pipelines differ in their default."""
    import diffusers

    serving = model.serves.get("fill")
    if serving is not None:
        call = inspect.signature(getattr(diffusers, serving.pipeline).__call__)
        assert serving.fixed.get("strength", call.parameters["strength"].default) == 1.0


def test_the_readmes_table_of_models_is_the_registrys() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    _, _, table = text.partition("| model | kinds | licence | account needed | download |\n")
    rows = table.partition("\n\n")[0].splitlines()[1:]
    assert rows == [_readme_row(model) for model in MODEL_REGISTRY.values()]


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_has_an_example_to_drop(name: str) -> None:
    texts = [path.read_text("utf-8") for path in (ROOT / "specs" / "examples").glob("*.y*ml")]
    assert any(f"kind: {name}" in text.splitlines() for text in texts)


def _kind_of(schema: dict[str, object]) -> dict[str, object]:
    properties = schema.get("properties")
    kind = properties.get("kind") if isinstance(properties, dict) else None
    return kind if isinstance(kind, dict) else {}


def _readme_row(model: Model) -> str:
    kinds = "all" if set(model.serves) == set(KINDS) else ", ".join(model.serves)
    account = "yes" if model.gated else "no"
    download = "built in" if model.builtin else f"{model.bytes / 1e9:.0f} GB"
    return f"| `{model.name}` | {kinds} | {model.licence} | {account} | {download} |"
