"""What the catalogue says of weights that are not on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runner.catalogue import RegistryCatalogue
from runner.engine.custom_entries import models_of
from runner.engine.entries import MODEL_REGISTRY
from runner.engine.hub.checkup import check
from runner.settings import Settings
from tests.engine.weight_files import header_only
from tests.fake_hub import pipeline, put

KLEIN, DEPTH = MODEL_REGISTRY["klein"], MODEL_REGISTRY["depth"]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with its own cache of the hub."""
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def cached(data: Path, repo: str) -> Path:
    """A whole pipeline in the hub's cache."""
    base = data / "hf-cache/hub" / f"models--{repo.replace('/', '--')}"
    put(base / "refs", {"main": b"c0ffee"})
    return put(base / "snapshots/c0ffee", pipeline())


def absent(data: Path, *specs: dict[str, Any], **settings: Any) -> list[str]:
    catalogue = RegistryCatalogue(Settings(**settings))
    return catalogue.absent([{"kind": "text2img", **spec} for spec in specs], data)


def test_an_absent_model_is_named_with_its_command_and_its_size(data: Path) -> None:
    (said,) = absent(data, {})
    assert "`fluxdrop models pull klein`" in said and "not on this machine" in said
    assert f"({KLEIN.bytes / 1e9:.1f} GB to download)" in said


def test_of_a_spec_that_starts_from_a_picture_its_own_default_model_is_looked_for(
    data: Path,
) -> None:
    (said,) = absent(data, {"image": "a.png", "matrix": {"strength": [0.5, 1]}})
    assert "`fluxdrop models pull z-image-turbo`" in said


@pytest.mark.parametrize("asked", [{"upscale": 2}, {"matrix": {"upscale": [2, 4]}}])
def test_an_absent_upscaler_is_named_where_a_picture_is_to_be_enlarged(
    data: Path, asked: dict[str, Any]
) -> None:
    cached(data, KLEIN.repo)
    assert absent(data, {"model": "klein"}) == []
    (said,) = absent(data, {"model": "klein", **asked})
    assert said == (
        "realesr-general is not on this machine: run `fluxdrop models pull realesr-general` (5 MB"
        " to download)"
    )
    assert absent(data, {"model": "tiny", **asked}) == []
    (said,) = absent(data, {"model": "klein", **asked}, upscaler="realesr-anime")
    assert "models pull realesr-anime" in said


def test_of_a_model_that_is_partly_here_the_rest_is_to_be_downloaded(data: Path) -> None:
    folder = cached(data, KLEIN.repo)
    (folder / "transformer/config.json").unlink()
    (folder / "transformer/more.bin").write_bytes(bytes(200_000_000))
    (said,) = absent(data, {})
    assert "only partly on this machine" in said
    assert f"({KLEIN.bytes / 1e9 - 0.2:.1f} GB to download)" in said


def test_nothing_is_said_of_what_is_here_or_built_in_or_unknown(data: Path) -> None:
    cached(data, KLEIN.repo)
    assert absent(data, {}, {"model": "tiny"}, {"model": "tinny"}) == []


def test_every_model_that_a_matrix_names_is_looked_for_once(data: Path) -> None:
    cached(data, KLEIN.repo)
    matrix = {"model": ["tiny", "klein", "dev"]}
    assert len(absent(data, {"matrix": matrix}, {"model": "dev"}, {"model": "krea"})) == 2


def test_the_default_of_the_settings_and_of_the_control_is_looked_for(data: Path) -> None:
    assert absent(data, {}, models={"text2img": "tiny"}) == []
    (canny,) = absent(data, {"kind": "control"})
    (depth,) = absent(data, {"kind": "control", "control": "depth"})
    assert canny == depth and "pull z-image-control`" in canny
    (said,) = absent(data, {"kind": "control"}, models={"control": "canny"})
    assert "pull canny`" in said


def test_a_home_with_a_model_for_a_map_keeps_it_as_the_default_and_another_has_the_free_one(
    data: Path,
) -> None:
    catalogue = RegistryCatalogue(Settings(), data)
    canny, depth = ({"kind": "control", "control": each} for each in ("canny", "depth"))
    assert catalogue.default_model(canny) == catalogue.default_model(depth) == "z-image-control"
    cached(data, MODEL_REGISTRY["canny"].repo)
    assert catalogue.default_model(canny) == "canny"
    assert catalogue.default_model(depth) == "z-image-control"
    cached(data, DEPTH.repo)
    assert catalogue.default_model(depth) == "depth", "what makes maps may be fetched later"
    assert RegistryCatalogue(Settings()).default_model(canny) == "z-image-control"


def test_a_home_that_may_not_be_looked_at_has_the_default_of_a_new_one(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: Any, **named: Any) -> None:
        raise PermissionError(13, "not yours")

    monkeypatch.setattr("runner.engine.hub.library.present", refuse)
    catalogue = RegistryCatalogue(Settings(), data)
    assert catalogue.default_model({"kind": "control"}) == "z-image-control"


def test_what_makes_depth_maps_is_not_missed_where_the_map_is_ready(data: Path) -> None:
    """Seen red: with the estimator counted in every case."""
    cached(data, DEPTH.repo)
    spec = {"kind": "control", "control": "depth", "model": "depth"}
    assert absent(data, {**spec, "preprocessed": True}) == []
    assert len(absent(data, spec)) == 1


def test_a_folder_of_the_users_cannot_be_pulled_and_is_checked_instead(data: Path) -> None:
    mine = {"mine": {"like": "klein", "folder": str(data / "mine")}}
    (said,) = absent(data, {"model": "mine"}, registry=mine)
    assert "`fluxdrop models check mine`" in said and "pull" not in said


@pytest.mark.parametrize("is_here", [False, True])
def test_of_a_file_that_is_of_another_sort_that_is_told_and_nothing_to_fetch(
    data: Path, is_here: bool
) -> None:
    """Seen red: gigabytes to fetch where the rest was absent, and nothing where it was here."""
    header_only(data / "ink.safetensors", {"lora_A.weight": (4, 4)})
    mine = {"mine": {"like": "klein", "file": str(data / "ink.safetensors")}}
    if is_here:
        cached(data, KLEIN.repo)
    (said,) = absent(data, {"model": "mine"}, registry=mine)
    assert said == "ink.safetensors is a LoRA file: name it under `loras` of a spec"
    (found,) = check(models_of(Settings(registry=mine))["mine"], data).advice
    assert found == said


def test_a_file_of_the_users_that_is_not_there_cannot_be_fetched(data: Path) -> None:
    mine = {"mine": {"like": "klein", "file": str(data / "none.safetensors")}}
    (said,) = absent(data, {"model": "mine"}, registry=mine)
    (advice,) = check(models_of(Settings(registry=mine))["mine"], data).advice
    assert "`fluxdrop models check mine`" in said and "put there what is missing" in advice
    assert "pull" not in said + advice
