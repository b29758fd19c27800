"""Bulk runs from packs, on a real runner with the built-in model.

The packs that ship are planned and run; what is forbidden stops a job before its first image; a
pack counts as it was at acceptance; and the same pack makes the same images everywhere.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.gallery.metadata import read as read_picture
from specs.schemas import bundle
from tests.composer.helpers import write_pack
from tests.harness import Runner, clean_environment, eventually, fluxdrop, spec

pytestmark = pytest.mark.timeout(300)

PHOTO_PACKS = ("featured-images", "pins", "product-mockups")
BULK = ("compose", "shapes", "--all")


def plan(home: Path, *arguments: str, **environment: str) -> dict[str, Any]:
    """What `compose --plan` says."""
    done = fluxdrop(*arguments, "--plan", "--json", home=home,
                    environment=clean_environment(**environment))  # fmt: skip
    assert done.code == 0, done
    shape: dict[str, Any] = done.json
    return shape


def queue(home: Path, *arguments: str) -> str:
    """Drop a bulk run; the job's id."""
    done = fluxdrop(*arguments, "--queue", home=home)
    assert done.code == 0, done
    return done.out.strip()


def composed(pack: str, **fields: Any) -> str:
    """A spec that makes all of a pack, one small image a prompt."""
    compose = {"pack": pack, "subjects": "all", "variables": "all", **fields.pop("compose", {})}
    return spec(prompt=None, compose=compose, seed=1, **fields)


def pack_of(runner: Runner, name: str, subjects: dict[str, str | bytes], **facts: Any) -> Path:
    """A pack of this test's own in the runner's home."""
    shutil.rmtree(runner.home / "prompts" / name, ignore_errors=True)
    return write_pack(runner.home / "prompts", name, subjects=subjects, separator=" ",
                      fixed="a picture of", variables={"day": "on a white background"},
                      **facts)  # fmt: skip


@pytest.fixture
def paused(runner: Runner) -> Iterator[Runner]:
    """The shared runner, paused until the test removes the file."""
    file = runner.home / "inbox" / "runner.pause"
    file.touch()
    eventually(lambda: runner.read("runner.json")["state"] == "paused", "the runner to pause")
    yield runner
    file.unlink(missing_ok=True)
    eventually(lambda: runner.read("runner.json")["state"] != "paused", "the runner to go on")


def test_the_shapes_pack_becomes_what_was_planned_and_every_image_says_where_from(
    runner: Runner,
) -> None:
    few = (*BULK, "--set", "steps=2")
    shape = plan(runner.home, *few)
    job = queue(runner.home, *few)
    made = runner.succeeded(job)
    assert len(made) == shape["count"] == 38
    for item, sidecar in zip(shape["items"], made, strict=True):
        assert (sidecar["prompt"], sidecar["seed"]) == (item["prompt"], item["seed"])
        result = sidecar["result"]
        assert {key: result[key] for key in ("subject", "variable", "audit")} == {
            "subject": item["subject"], "variable": item["variable"], "audit": "ok"
        }  # fmt: skip
        assert (result["pack"], result["pack_version"]) == ("shapes", "1.0.0")
        assert result["pack_sha256"] == shape["sha256"]
    known = bundle("sidecar")["properties"]["result"]["properties"]
    assert {"pack", "pack_version", "subject", "variable", "audit"} <= known.keys()
    inside = read_picture(runner.folder(job) / made[0]["result"]["file"])
    assert inside["result"]["subject"] == made[0]["result"]["subject"]
    status = runner.status(job)
    assert any("black-star" in warning for warning in status["warnings"]), "what was left out"
    page = (runner.folder(job) / "index.html").read_text(encoding="utf-8")
    assert all(name in page for name in ("purple-star", "on-yellow"))
    find = ("gallery", "search", "star yellow", "--pack", "shapes", "--job", job, "--json")
    found = fluxdrop(*find, home=runner.home)
    wanted = [i for i in shape["items"] if {"star", "yellow"} <= set(i["prompt"].split())]
    assert found.json["total"] == len(wanted) > 0
    measured = plan(runner.home, *few)["estimate"]
    assert measured["exact"] is True and measured["seconds"] > 0


@pytest.mark.parametrize("pack", PHOTO_PACKS)
def test_a_pack_for_photographs_is_planned_for_flux_and_can_be_tried_on_the_built_in_model(
    runner: Runner, pack: str
) -> None:
    everything = ("compose", pack, "--all")
    shape = plan(runner.home, *everything)
    assert shape["rejected"] is False and shape["count"] >= 24
    assert shape["violations"] == shape["over_long"] == shape["duplicates"] == []
    assert shape["estimate"]["bytes"] > 10_000_000
    # No two prompts of the plan are alike, so one subject's and one variable's stand for them all.
    first = shape["items"][0]
    tried = ("--set", "model=tiny", "--set", "steps=1", "--set", "count=1")
    made = []
    for part in (("--subject", first["subject"]), ("--variable", first["variable"])):
        made += runner.succeeded(queue(runner.home, *everything, *part, *tried))
    assert len({sidecar["prompt"] for sidecar in made}) == len(made) - 1 >= 8
    assert {(sidecar["width"], sidecar["height"]) for sidecar in made} == {(64, 64)}
    assert {sidecar["result"]["pack"] for sidecar in made} == {pack}


def test_one_bad_combination_rejects_the_job_with_the_findings(runner: Runner) -> None:
    subjects: dict[str, str | bytes] = {
        "good": "a red circle", "bad": "a sign with text", "fine": "a star, no text"
    }  # fmt: skip
    pack_of(runner, "one-bad", subjects, forbidden=["text"])
    runner.put("one-bad.yaml", composed("one-bad"))
    assert runner.answer("one-bad.yaml")["outcome"] == "rejected"
    status = runner.status("one-bad")
    assert (status["state"], status["reason"]) == ("rejected", "PromptForbidden")
    (error,) = status["errors"]
    assert error["path"] == "compose: subject bad, variable day"
    assert "'text' is forbidden" in error["message"] and "subject block" in error["message"]
    assert status["images"]["done"] == 0 and not list(runner.folder("one-bad").glob("*.png"))


def test_a_hundred_findings_are_listed_and_all_are_counted(runner: Runner) -> None:
    subjects: dict[str, str | bytes] = {f"s{n}": f"sign {n} with text" for n in range(130)}
    pack_of(runner, "many-bad", subjects, forbidden=["text"])
    runner.put("many-bad.yaml", composed("many-bad"))
    runner.answer("many-bad.yaml")
    errors = runner.status("many-bad")["errors"]
    listed = [error for error in errors if "is forbidden" in error["message"]]
    assert len(listed) == 100 and len(errors) == 101
    assert any("130 findings in all" in error["message"] for error in errors)


def test_with_skip_the_job_goes_on_and_lists_what_was_left_out(runner: Runner) -> None:
    subjects: dict[str, str | bytes] = {
        "good": "a red circle", "bad": "a sign with text", "empty": "# nothing yet"
    }  # fmt: skip
    pack_of(runner, "skipping", subjects, forbidden=["text"])
    runner.put("skipping.yaml", composed("skipping", compose={"on_violation": "skip"}))
    assert runner.answer("skipping.yaml")["outcome"] == "accepted"
    (made,) = runner.succeeded("skipping")
    assert made["result"]["subject"] == "good"
    left = [w for w in runner.status("skipping")["warnings"] if w.startswith("left out")]
    assert any("bad.txt: asks for 'text'" in each for each in left)
    assert any("empty.txt: is empty" in each for each in left)


def test_a_pack_that_leaves_nothing_is_rejected(runner: Runner) -> None:
    pack_of(runner, "all-bad", {"bad": "text"}, forbidden=["text"])
    runner.put("all-bad.yaml", composed("all-bad", compose={"on_violation": "skip"}))
    assert runner.answer("all-bad.yaml")["outcome"] == "rejected"
    assert runner.status("all-bad")["reason"] == "NothingToRun"
    runner.put("no-pack.yaml", composed("no-such-pack"))
    runner.answer("no-pack.yaml")
    assert runner.status("no-pack")["reason"] == "PackMissing"


def test_a_pack_that_is_edited_after_acceptance_changes_nothing(paused: Runner) -> None:
    folder = pack_of(paused, "edited", {"a": "a red circle", "b": "a blue square"})
    before = plan(paused.home, "compose", "edited", "--all", "--set", "model=tiny")
    paused.put("edited.yaml", composed("edited"))
    assert paused.answer("edited.yaml")["outcome"] == "accepted"
    (folder / "subjects" / "a.txt").write_text("something else", encoding="utf-8")
    (folder / "subjects" / "c.txt").write_text("one more", encoding="utf-8")
    (paused.home / "inbox" / "runner.pause").unlink()
    made = paused.succeeded("edited")
    assert [sidecar["prompt"] for sidecar in made] == [item["prompt"] for item in before["items"]]
    assert {sidecar["result"]["pack_sha256"] for sidecar in made} == {before["sha256"]}
    shutil.rmtree(folder)
    done = fluxdrop("retry", "edited", home=paused.home)
    assert done.out == "edited-2\n"
    again = paused.succeeded("edited-2")
    prompts = [(sidecar["prompt"], sidecar["seed"]) for sidecar in made]
    assert [(sidecar["prompt"], sidecar["seed"]) for sidecar in again] == prompts


def test_the_same_pack_makes_the_same_items_in_every_process(home: Path) -> None:
    first, second = (
        plan(home, *BULK, "--set", "matrix={steps: [4, 8]}", PYTHONHASHSEED=seed)
        for seed in ("1", "4242")
    )
    assert first["items"] == second["items"] and first["sha256"] == second["sha256"]
    part = plan(
        home, "compose", "shapes", "--subject", "red-circle", "--subject", "green-triangle",
        "--variable", "on-black", "--set", "matrix={steps: [4, 8]}", PYTHONHASHSEED="7",
    )  # fmt: skip
    chosen = [
        item for item in first["items"]
        if item["subject"] in ("red-circle", "green-triangle") and item["variable"] == "on-black"
    ]  # fmt: skip
    assert part["items"] == chosen and len(chosen) == 2 * 2 * 2
