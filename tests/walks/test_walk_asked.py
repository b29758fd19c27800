"""The whole way of negative prompts, and of text2img from a picture."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Runner, fluxdrop
from tests.walks.test_walk import pixels

pytestmark = pytest.mark.timeout(240)

SOURCE = "outbox/asked-source/asked-source-0001.png"
NEGATIVE = "a large green square"


@pytest.fixture(scope="module")
def asked(shared_runner: Runner) -> list[dict[str, Any]]:
    """The sidecars of a job that begins before the picture it starts from is there."""
    runner = shared_runner
    varied = {"strength": [0.5, 0.9], "negative_prompt": [NEGATIVE, "a star"]}
    job = runner.drop("asked-start", image=SOURCE, steps=4, true_cfg=2.5, matrix=varied)
    assert runner.status(job)["reason"] == "WaitingForInput"
    runner.drop("asked-source", seed=3)
    return runner.succeeded(job)


def test_each_sidecar_is_the_whole_spec_of_its_picture(
    runner: Runner, asked: list[dict[str, Any]]
) -> None:
    assert [(each["strength"], each["negative_prompt"]) for each in asked] == [
        (0.5, NEGATIVE), (0.5, "a star"), (0.9, NEGATIVE), (0.9, "a star")
    ]  # fmt: skip
    for each in asked:
        assert (each["true_cfg"], each["steps"], each["width"], each["height"]) == (2.5, 4, 64, 64)
        assert each["image"] == "outbox/asked-start/inputs/asked-source-0001.png"
    assert len({pixels(runner, each) for each in asked}) == 4


def test_its_progress_counts_the_steps_that_are_made(
    runner: Runner, asked: list[dict[str, Any]]
) -> None:
    job = runner.drop("asked-steps", image=SOURCE, steps=400, strength=0.25)
    seen = runner.until(job, lambda status: (status.get("progress") or {}).get("step"))
    assert seen["progress"]["steps"] == 100
    (runner.home / "inbox" / f"{job}.cancel").touch()
    assert runner.over(job)["state"] in ("cancelled", "succeeded")


def test_its_defaults_are_recorded(runner: Runner, asked: list[dict[str, Any]]) -> None:
    job = runner.drop("asked-defaults", image=SOURCE, negative_prompt="a star")
    (sidecar,) = runner.succeeded(job)
    assert (sidecar["strength"], sidecar["true_cfg"]) == (0.6, 2.0)
    (plain,) = runner.succeeded(runner.drop("asked-plain"))
    assert not {"strength", "true_cfg", "negative_prompt", "image"} & plain.keys()


@pytest.mark.parametrize("form", ["sidecar", "picture"])
def test_its_sidecar_or_the_picture_alone_makes_the_same_pixels_again(
    form: str, runner: Runner, asked: list[dict[str, Any]], tmp_path: Path
) -> None:
    result = asked[1]["result"]
    if form == "sidecar":
        runner.put("asked-again.json", json.dumps(asked[1]))
        job = runner.answer("asked-again.json")["job"]
    else:
        alone = tmp_path / "kept.png"
        shutil.copy(runner.folder("asked-start") / result["file"], alone)
        (job,) = fluxdrop("submit", str(alone), "--json", home=runner.home).json["jobs"]
    (again,) = runner.succeeded(job)
    assert pixels(runner, again) == pixels(runner, asked[1])


def test_verify_finds_it_identical(runner: Runner, asked: list[dict[str, Any]]) -> None:
    sidecar = runner.folder("asked-start") / f"{Path(asked[2]['result']['file']).stem}.json"
    done = fluxdrop("verify", str(sidecar), "--json", home=runner.home)
    assert done.json["identical"] is True, done


def test_a_composed_job_takes_a_negative_prompt_for_all_of_its_prompts(runner: Runner) -> None:
    compose = {"pack": "shapes", "subjects": ["black-star"], "variables": "all"}
    job = runner.drop("asked-pack", prompt=None, compose=compose, negative_prompt="a star", steps=1)
    made = runner.succeeded(job)
    assert len(made) > 1
    assert {each["negative_prompt"] for each in made} == {"a star"}


def test_what_a_model_cannot_do_is_refused_at_the_drop_with_those_that_can(runner: Runner) -> None:
    job = runner.drop("asked-klein", model="klein", negative_prompt="a star")
    (error,) = runner.over(job)["errors"]
    assert error["path"] == "negative_prompt"
    assert error["message"].endswith(
        "leave it out; tiny, klein-base, klein-base-9b, dev, krea and flux3-klein-base can"
    )
