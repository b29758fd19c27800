"""The examples, the README, the schemas and what the runner writes agree with each other."""

from __future__ import annotations

import json
import re
import typing
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from runner import wire
from specs import schemas
from specs.document import Document
from specs.errors import SpecInvalid
from specs.expand import count
from specs.read import read
from specs.schemas import kinds
from specs.validate import validate
from tests.specs import __main__ as editors

FOLDER = schemas.FOLDER
README = (FOLDER / "README.md").read_text(encoding="utf-8")
EXAMPLES = sorted((FOLDER / "examples").glob("*.yaml"))
BLOCKS = re.findall(r"^```(\w+)(?: (\w+))?\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def reads(text: str) -> dict[str, Any]:
    spec = validate(read(text.encode()))
    count(spec)
    return spec


@pytest.mark.parametrize("reason, text", [block[1:] for block in BLOCKS if block[0] == "yaml"])
def test_each_yaml_block_of_the_readme_does_what_it_says(reason: str, text: str) -> None:
    if not reason:
        reads(text)
        return
    with pytest.raises(SpecInvalid) as caught:
        reads(text)
    assert caught.value.reason == reason


@pytest.mark.parametrize("code", [block[2] for block in BLOCKS if block[0] == "python"])
def test_each_python_block_of_the_readme_runs(code: str) -> None:
    exec(compile(code, "README.md", "exec"), {})


def test_the_readme_names_every_field_of_every_kind() -> None:
    for kind in kinds():
        for field in schemas.load(kind)["properties"]:
            assert f"`{field}`" in README, field


def test_the_readme_explains_every_reason_word_of_the_code() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in FOLDER.glob("*.py"))
    words = set(re.findall(r'(?:refuse|fault|SpecInvalid)\(\s*"([A-Z]\w+)"', source))
    assert {"SchemaInvalid", "TooDeep", "NotUtf8", "DuplicateKey", "TooManyImages"} <= words
    for word in words:
        assert f"| `{word}` |" in README, word


def test_the_readme_lists_every_file_of_the_folder() -> None:
    for path in FOLDER.glob("*.py"):
        assert path.name.startswith("__") or f"`{path.name}`" in README, path.name


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_each_example_spec_is_valid_and_names_the_built_in_model(path: Path) -> None:
    spec = validate(read(path.read_bytes()))
    assert spec["model"] == "tiny"
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first == "# yaml-language-server: $schema=../specs/job.schema.json"
    # The same line serves from inbox/, where people put the file.
    assert (FOLDER.parent / "inbox" / first.split("=")[1]).resolve() == FOLDER / "job.schema.json"


def test_there_is_one_example_for_each_kind_and_those_that_read_a_picture_read_the_firsts() -> None:
    found = {path.stem: validate(read(path.read_bytes())) for path in EXAMPLES}
    assert sorted(spec["kind"] for spec in found.values()) == list(kinds())
    assert found["draw"]["kind"] == "text2img"
    for name, spec in found.items():
        if "image" in schemas.load(spec["kind"])["required"]:
            assert spec["image"] == "outbox/draw/draw-0001.png", name
    assert (FOLDER / "examples" / found["repaint"]["mask"]).is_file()


def test_the_mask_has_the_size_of_the_built_in_models_pictures() -> None:
    from PIL import Image

    with Image.open(FOLDER / "examples" / "repaint-mask.png") as mask:
        assert mask.size == (64, 64)
        assert mask.convert("L").getextrema() == (0, 255)


@pytest.mark.parametrize("name", schemas.names())
def test_each_schema_is_valid_2020_12_and_its_id_is_its_file_name(name: str) -> None:
    schema = schemas.load(name)
    Draft202012Validator.check_schema(schema)
    Draft202012Validator.check_schema(schemas.bundle(name))
    assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    assert schema["$id"] == f"{name}.schema.json"
    assert "$ref" not in json.dumps(schemas.bundle(name))


def registry() -> Any:
    pairs = [
        (f"{name}.schema.json", Resource.from_contents(schemas.load(name)))
        for name in schemas.names()
    ]
    empty: Any = Registry()
    return empty.with_resources(pairs)


@pytest.mark.parametrize("kind", kinds())
def test_each_kinds_examples_pass_our_checks_and_a_plain_validator(kind: str) -> None:
    examples = schemas.load(kind)["examples"]
    assert examples
    plain = Draft202012Validator(schemas.load("job"), registry=registry())
    for example in examples:
        assert validate(Document(example)) == example
        assert list(plain.iter_errors(example)) == []
        assert list(plain.iter_errors({**example, "stpes": 3})) != []


def test_the_settings_examples_pass() -> None:
    for example in schemas.load("settings")["examples"]:
        assert validate(Document(example), "settings") == example


def test_the_schema_for_editors_is_current_and_knows_the_kinds() -> None:
    assert schemas.load("job") == editors.job_schema(), "run python -m tests.specs"
    assert schemas.load("job")["properties"]["kind"]["enum"] == list(kinds())


def test_writing_the_schema_for_editors_gives_the_file_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (FOLDER / "job.schema.json").read_bytes()
    written = editors.job_schema()
    monkeypatch.setattr(editors, "FOLDER", tmp_path)
    monkeypatch.setattr(editors, "job_schema", lambda: written)
    assert editors.write_job_schema().read_bytes() == before


def every(schema: Any) -> typing.Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
        for key, part in schema.items():
            if key not in ("examples", "default", "const", "enum"):
                yield from every(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from every(part)


OURS = [name for name in schemas.names() if name != "pack"]


@pytest.mark.parametrize("name", OURS)
def test_every_number_has_both_bounds_and_no_pattern_can_run_away(name: str) -> None:
    for part in every(schemas.load(name)):
        types = part.get("type", ())
        if "integer" in types or "number" in types:
            assert {"minimum", "maximum"} <= set(part), part
        if isinstance(part.get("pattern"), str):
            assert part["pattern"] == r"\S" or "maxLength" in part or "propertyNames" in part, part
            assert not re.search(r"[+*][^()]*\)[+*]", part["pattern"]), part


@pytest.mark.parametrize("name", [*kinds(), "settings", "status", "receipt", "runner"])
def test_every_field_has_a_description(name: str) -> None:
    for field, part in schemas.bundle(name)["properties"].items():
        assert part.get("description", "").rstrip().endswith((".", '"', "1.")), field


def properties(name: str, *path: str) -> set[str]:
    part: Any = schemas.bundle(name)
    for key in path:
        part = part["properties"][key] if key != "items" else part["items"]
    return set(part["properties"])


@pytest.mark.parametrize(
    "shape, where",
    [
        (wire.Status, ("status",)),
        (wire.Source, ("status", "source")),
        (wire.Counts, ("status", "images")),
        (wire.Progress, ("status", "progress")),
        (wire.ProblemJson, ("status", "errors", "items")),
        (wire.Output, ("status", "outputs", "items")),
        (wire.Receipt, ("receipt",)),
        (wire.RunnerHealth, ("runner",)),
    ],
)
def test_the_schemas_name_the_keys_that_the_runner_writes(
    shape: Any, where: tuple[str, ...]
) -> None:
    assert properties(*where) == set(typing.get_type_hints(shape))


STATUS = {
    "schema": 1, "id": "hero", "kind": "text2img", "model": "tiny", "state": "running",
    "reason": None, "message": None, "revision": 9, "attempt": 1, "priority": 0, "tags": [],
    "source": {"name": "hero.yaml", "sha256": "0" * 64, "bytes": 84},
    "accepted_at": "2026-11-23T08:00:00.000Z", "started_at": "2026-11-23T08:00:01.000Z",
    "finished_at": None, "updated_at": "2026-11-23T08:00:02.000Z",
    "images": {"total": 4, "done": 1, "failed": 0, "skipped": 0},
    "progress": {"phase": "denoising", "image": 2, "step": 17, "steps": 28, "fraction": 0.4,
                 "eta_seconds": 41.2},
    "errors": [{"line": 3, "column": 8, "path": "steps", "message": "no"}], "warnings": [],
    "outputs": [{"file": "hero-0001.png", "sidecar": "hero-0001.json", "thumbnail": None,
                 "seed": 7, "sha256": "a" * 64, "width": 64, "height": 64}],
}  # fmt: skip


def test_the_contracts_status_is_valid_and_a_misspelt_state_is_not() -> None:
    assert validate(Document(STATUS), "status") == STATUS
    assert validate(Document({**STATUS, "later": 1}), "status")["later"] == 1
    with pytest.raises(SpecInvalid, match="did you mean 'running'"):
        validate(Document({**STATUS, "state": "runing"}), "status")


SIDECAR = {
    "schema": 1, "kind": "text2img", "model": "tiny", "prompt": "a red circle", "seed": 7,
    "precision": "fp32", "steps": 8, "guidance": 1.0, "width": 64, "height": 64, "tags": ["a"],
    "result": {"job": "hero", "index": 1, "file": "hero-0001.png", "sha256": "a" * 64,
               "width": 64, "height": 64, "created_at": "2026-11-23T08:00:02.000Z",
               "model": {"repo": "tiny"}},
}  # fmt: skip


def test_a_sidecar_is_valid_and_is_a_spec() -> None:
    assert validate(Document(SIDECAR), "sidecar") == SIDECAR
    spec = validate(Document(SIDECAR))
    assert spec == {key: SIDECAR[key] for key in SIDECAR if key not in ("schema", "result")}


@pytest.mark.parametrize("key, value", [("id", "x"), ("priority", 1), ("count", 2), ("steps", 0)])
def test_a_sidecar_holds_one_image_and_nothing_of_the_job(key: str, value: Any) -> None:
    with pytest.raises(SpecInvalid):
        validate(Document({**SIDECAR, key: value}), "sidecar")


def test_the_pack_schema_is_checked_with_the_same_words() -> None:
    pack = {"schema_version": 1, "id": "stickers", "name": "Stickers", "version": "1.0.0"}
    assert validate(Document(pack), "pack") == pack
    with pytest.raises(SpecInvalid, match="unknown key 'verson' .did you mean 'version'"):
        validate(Document({**pack, "verson": "1"}), "pack")


def test_settings_may_be_empty_and_are_checked_like_specs() -> None:
    assert validate(read(b"# nothing yet\n"), "settings") == {}
    assert validate(read(b"x_mine: 1\nwindow: 22:00-07:00\n"), "settings")["x_mine"] == 1
    with pytest.raises(SpecInvalid, match="'text2image' is not a kind .did you mean 'text2img'"):
        validate(read(b"models: {text2image: schnell}\n"), "settings")
    with pytest.raises(SpecInvalid, match="did you mean 'settle_seconds'"):
        validate(read(b"settle_second: 1\n"), "settings")
