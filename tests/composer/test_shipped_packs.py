"""The packs that ship, and the nightly set-up, are useful as they are."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from composer.packs import list_packs, read_pack
from composer.plan import make_plan
from composer.tokencount import estimate
from runner.engine.tiny.vocabulary import unknown_words
from specs.read import read
from specs.validate import validate

ROOT = Path(__file__).parent.parent.parent
PROMPTS = ROOT / "prompts"
NIGHTLY = ROOT / "specs" / "examples" / "nightly"
SHIPPED = ("featured-images", "pins", "product-mockups", "shapes")


def everything(pack_id: str) -> dict[str, object]:
    compose = {"pack": pack_id, "subjects": "all", "variables": "all"}
    return {"kind": "text2img", "compose": compose}


def test_the_packs_that_ship_are_these() -> None:
    assert list_packs(PROMPTS) == SHIPPED


@pytest.mark.parametrize("pack_id", SHIPPED)
def test_every_combination_of_a_shipped_pack_passes_its_own_audit(pack_id: str) -> None:
    plan = make_plan(everything(pack_id), PROMPTS)
    plan.reject()
    assert not (plan.violations or plan.duplicates or plan.over_long)
    assert len(plan.entries) >= 12
    assert not read_pack(PROMPTS, pack_id).warnings
    # Good prompts say what is wanted: nothing forbidden is even named.
    assert not any(entry.report.advice for entry in plan.entries)
    assert all(estimate("T5", entry.prompt) <= 256 for entry in plan.entries)
    assert not re.search("  |,,|\\.\\.|,\\.", " ".join(e.prompt for e in plan.entries))


@pytest.mark.parametrize("pack_id", SHIPPED)
def test_a_shipped_pack_stops_what_it_forbids(pack_id: str) -> None:
    spec = everything(pack_id)
    plan = make_plan({**spec, "compose": {**spec["compose"], "extra": "bold text"}}, PROMPTS)  # type: ignore[dict-item]
    assert len(plan.violations) == len(plan.entries)


@pytest.mark.parametrize(
    ("root", "pack_id"), [(PROMPTS, "shapes"), (NIGHTLY / "pack", "evening-walks")]
)
def test_packs_for_the_built_in_model_keep_to_its_words(root: Path, pack_id: str) -> None:
    plan = make_plan(everything(pack_id), root)
    assert {word for entry in plan.entries for word in unknown_words(entry.prompt)} == set()
    _, parameters = next(plan.images())
    assert (parameters["model"], parameters["width"], parameters["height"]) == ("tiny", 64, 64)


def test_wide_packs_can_be_tried_on_a_model_of_one_size() -> None:
    plan = make_plan(
        {**everything("pins"), "model": "tiny"},
        PROMPTS,
        model_defaults=lambda model: {"width": 64, "height": 64, "only_sizes": ((64, 64),)},
    )
    _, parameters = next(plan.images())
    assert (parameters["width"], parameters["height"]) == (64, 64)


def test_the_nightly_spec_is_valid_and_works_every_night() -> None:
    spec = validate(read((NIGHTLY / "night.yaml").read_bytes()))
    assert "id" not in spec  # a fixed id would be absorbed on the second night
    assert spec["window"] == "23:00-07:00"
    make_plan(spec, NIGHTLY / "pack").reject()


def test_the_nightly_timers_drop_a_fresh_copy_before_the_window_opens() -> None:
    texts = {file.name: file.read_text(encoding="utf-8") for file in NIGHTLY.glob("*.*")}
    for name in ("crontab.txt", "fluxdrop-night.service", "fluxdrop-night.xml"):
        assert re.search(r"submit \S+night\.yaml", texts[name]), name
    assert texts["crontab.txt"].splitlines()[-1].split()[:5] == ["55", "22", "*", "*", "*"]
    assert "OnCalendar=*-*-* 22:55:00" in texts["fluxdrop-night.timer"]
    task = ElementTree.fromstring(texts["fluxdrop-night.xml"])
    space = {"t": "http://schemas.microsoft.com/windows/2004/02/mit/task"}
    start = task.findtext(".//t:StartBoundary", namespaces=space)
    assert start is not None and start.endswith("T22:55:00")


@pytest.mark.parametrize("pack_id", SHIPPED)
def test_pack_files_are_plain_and_tidy(pack_id: str) -> None:
    folder = PROMPTS / pack_id
    for file in folder.rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            assert b"\r" not in data and data.endswith(b"\n"), file
    facts = json.loads((folder / "pack.json").read_text(encoding="utf-8"))
    assert facts["$schema"] == "../../specs/pack.schema.json"
    assert facts["description"]
