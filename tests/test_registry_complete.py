"""A kind, a field, a model and a family are complete or they are not there.

A kind has its file, its schema with examples, a model, a spec; and whatever else speaks of kinds,
models and their fields knows all of them: the pages, the gallery. CONTRIBUTING.md has the recipes.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from dataclasses import fields

import pytest

from runner.engine.entries import CONTROL_DEFAULTS, DEFAULTS, MODEL_REGISTRY
from runner.engine.families import FAMILIES
from runner.engine.hub.library import bytes_to_pull
from runner.engine.kinds.base import Kind
from runner.engine.models import Model
from runner.engine.registry import KINDS, problems
from runner.engine.weights.assembly import class_of
from runner.gallery import foreign, formatting, infotext
from runner.mcp_server.tools import INSTRUCTIONS
from runner.task import ImageTask
from tests.harness import ROOT


def _files(folder: str) -> set[str]:
    files = (ROOT / "runner" / "engine" / folder).glob("*.py")
    return {path.stem for path in files} - {"__init__", "base"}


FILES = _files("kinds")
SCHEMAS = {
    path.name.removesuffix(".schema.json"): json.loads(path.read_text(encoding="utf-8"))
    for path in (ROOT / "specs").glob("*.schema.json")
}


SHARED = set.intersection(*(set(SCHEMAS[name]["properties"]) for name in KINDS if name in SCHEMAS))
SHARED -= {name for kind in KINDS.values() for name in (*kind.reads, *kind.may_read)}
"""The fields that every kind has, pictures aside."""

OF_THE_JOB = {
    "$schema", "schema", "id", "compose", "choices", "sample", "sample_seed", "table", "on_error",
    "count", "seeds", "matrix", "format", "quality", "metadata", "reuse", "notify", "priority",
    "not_before", "window", "tags", "notes", "result",
}  # fmt: skip
"""Those that say nothing about a single picture before it is saved."""


def test_every_file_of_a_kind_is_registered_and_every_kind_has_its_file() -> None:
    assert set(KINDS) == FILES


def test_every_family_has_its_file_and_a_model() -> None:
    assert set(FAMILIES) == _files("families")
    assert set(FAMILIES) == {model.family for model in MODEL_REGISTRY.values()}


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_kind_is_named_like_its_file(name: str) -> None:
    kind = importlib.import_module(f"runner.engine.kinds.{name}").KIND
    assert isinstance(kind, Kind)
    assert kind.name == name and kind.arguments


def test_every_schema_that_says_its_kind_belongs_to_a_kind() -> None:
    said = {name for name, schema in SCHEMAS.items() if "const" in _kind_of(schema)}
    assert said == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_the_schema_of_a_kind_has_its_fields_and_examples(name: str) -> None:
    schema = SCHEMAS[name]
    assert _kind_of(schema)["const"] == name
    assert {*_own_fields(name)} <= set(schema["properties"])
    assert schema["examples"] and all(each["kind"] == name for each in schema["examples"])


@pytest.mark.parametrize("name", KINDS)
def test_every_field_of_a_kind_is_read_by_it_and_a_plain_value_may_vary_in_a_matrix(
    name: str,
) -> None:
    own = {key: part for key, part in SCHEMAS[name]["properties"].items() if key not in SHARED}
    assert set(own) == {*_own_fields(name)}
    plain = {
        key
        for key, part in own.items()
        if "enum" in part or part.get("type") in ("boolean", "integer", "number")
    }
    assert plain <= set(SCHEMAS[name]["properties"]["matrix"]["properties"])


def test_every_shared_field_is_in_a_task_or_is_about_the_job() -> None:
    assert SHARED - OF_THE_JOB == SHARED & {field.name for field in fields(ImageTask)}


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
    controlnets = [each.controlnet.bytes for each in model.serves.values() if each.controlnet]
    assert [2 * weights.controlnet] * len(controlnets) == controlnets
    caches = any(serving.caches for serving in model.serves.values())
    assert (weights.kept > 0) == bool(caches or controlnets)
    assert (weights.controlnet > 0) == bool(controlnets)
    assert model.builtin or model.bytes >= 2 * weights.total
    assert model.family in FAMILIES
    for kind, serving in model.serves.items():
        assert model.sizes_for(kind).problem(*model.sizes_for(kind).default) is None
        assert serving.guided or serving.guidance in (0.0, 1.0), "a distilled model has no more"
        assert (serving.controls != ()) == (kind == "control")


@pytest.mark.parametrize("model", MODEL_REGISTRY.values(), ids=lambda model: model.name)
def test_a_model_loads_loras_where_all_of_its_pipelines_can(model: Model) -> None:
    names = [name for each in model.serves.values() for name in (each.pipeline, each.img2img)]
    pipelines = [class_of("diffusers", name) for name in names if name]
    assert model.loras == all(hasattr(each, "load_lora_weights") for each in pipelines)


@pytest.mark.parametrize("model", MODEL_REGISTRY.values(), ids=lambda model: model.name)
def test_nothing_of_what_is_under_a_mask_shines_through_unless_asked(
    model: Model,
) -> None:
    """Less than the full strength would leave some of it; pipelines differ in their default."""
    import diffusers

    serving = model.serves.get("fill")
    if serving is not None:
        call = inspect.signature(getattr(diffusers, serving.pipeline).__call__)
        assert "strength" in call.parameters and KINDS["fill"].options["strength"] == 1.0


def test_the_readmes_table_of_models_is_the_registrys() -> None:
    rows = _rows("README.md", "| model | kinds | licence | account needed | download |")
    assert rows == [_readme_row(model) for model in MODEL_REGISTRY.values()]


def test_the_pages_name_every_kind_and_every_field() -> None:
    beginning = (ROOT / "README.md").read_text("utf-8").partition("\n## ")[0]
    assert [name for name in KINDS if f"`{name}`" not in beginning] == []
    rows = [row.split(" | ") for row in _rows("specs/README.md", "| field | values | meaning |")]
    assert re.findall(r"`(\w+)`", rows[0][1]) == list(KINDS)
    assert {name for row in rows for name in re.findall(r"`([$\w]+)`", row[0])} == SHARED
    rows = [
        row.split(" | ") for row in _rows("specs/README.md", "| kind | field | values | meaning |")
    ]
    assert [(row[0].strip("| `"), row[1].strip("`")) for row in rows] == [
        (name, field) for name in KINDS for field in _own_fields(name)
    ]


def test_whatever_lists_the_models_that_take_a_negative_prompt_lists_the_same() -> None:
    able = {
        name
        for name, model in MODEL_REGISTRY.items()
        if any(serving.negative for serving in model.serves.values())
    }
    pages = {
        "runner/engine/README.md": r"`negative_prompt` \(([^;]+);",
        "specs/README.md": r"It works with ([^(]+)\(text2img, kontext\)",
    }
    said = {file: re.search(each, (ROOT / file).read_text("utf-8")) for file, each in pages.items()}
    said["tools"] = re.search(r"only ([^;]+) take a\s+negative_prompt", INSTRUCTIONS)
    for place, found in said.items():
        assert found is not None, place
        assert set(re.findall(r"[\w-]+", found[1])) - {"and"} == able, place
    assert able == foreign._NEGATIVE


def test_a_kind_that_reads_a_picture_keeps_a_part_of_it_or_is_named_here() -> None:
    """Those that keep some say in the metadata that a picture is a composite."""
    new = {"control", "redux"}
    reading = {name for name, kind in KINDS.items() if kind.reads or kind.may_read}
    assert reading - new == formatting.COMPOSITE_KINDS


@pytest.mark.parametrize("model", MODEL_REGISTRY.values(), ids=lambda model: model.name)
def test_a_model_is_known_by_the_name_that_other_programs_give_it(model: Model) -> None:
    name = model.repo.rpartition("/")[2] or model.name
    # With a ControlNet beside it, it is the model that other programs name.
    named = next(each.name for each in MODEL_REGISTRY.values() if each.repo == model.repo)
    assert foreign._model(name) == {"model": named}
    distilled = bool(infotext._DISTILLED.search(name.lower()))
    assert distilled == (not any(serving.guided for serving in model.serves.values()))


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_has_an_example_to_drop(name: str) -> None:
    texts = [path.read_text("utf-8") for path in (ROOT / "specs" / "examples").glob("*.y*ml")]
    assert any(f"kind: {name}" in text.splitlines() for text in texts)


def _own_fields(name: str) -> tuple[str, ...]:
    """The fields of a kind that not every kind has, in the order of its README rows."""
    kind = KINDS[name]
    return (*kind.reads, *kind.may_read, *kind.options)


def _kind_of(schema: dict[str, object]) -> dict[str, object]:
    properties = schema.get("properties")
    kind = properties.get("kind") if isinstance(properties, dict) else None
    return kind if isinstance(kind, dict) else {}


def _rows(page: str, head: str) -> list[str]:
    """The rows of the table with this head."""
    _, _, table = (ROOT / page).read_text("utf-8").partition(f"{head}\n")
    return table.partition("\n\n")[0].splitlines()[1:]


def _readme_row(model: Model) -> str:
    kinds = "all" if set(model.serves) == set(KINDS) else ", ".join(model.serves)
    account = "yes" if model.gated else "no"
    download = "built in" if model.builtin else f"{bytes_to_pull(model) / 1e9:.0f} GB"
    return f"| `{model.name}` | {kinds} | {model.licence} | {account} | {download} |"
