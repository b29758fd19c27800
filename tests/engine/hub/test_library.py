"""Weights are found without the network, whole or not at all."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from runner.engine.entries import DEPTH_ANYTHING, MODEL_REGISTRY
from runner.engine.hub import library as hub
from runner.engine.hub.checkup import check
from runner.engine.hub.sources import Layout, Source, sources
from runner.engine.models import Model, Serving, SingleFile
from runner.errors import ModelMissing
from tests.engine.weight_files import flux1, gguf, header_only
from tests.fake_hub import WEIGHTS, pipeline, put

DEV = MODEL_REGISTRY["dev"]
REDUX = "black-forest-labs/FLUX.1-Redux-dev"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def cached(home: Path, repo: str, commit: str = "c0ffee", **extra: bytes) -> Path:
    """A whole pipeline in the layout of the hub's cache."""
    base = home / "hf-cache" / "hub" / f"models--{repo.replace('/', '--')}"
    put(base / "refs", {"main": commit.encode()})
    return put(base / "snapshots" / commit, pipeline() | extra)


def test_a_model_that_is_not_there_is_missing_with_the_command_that_fetches_it(home: Path) -> None:
    with pytest.raises(ModelMissing, match=r"run `fluxdrop models pull dev`"):
        hub.Disk(home).main(DEV, "text2img")
    assert hub.present(DEV, home) is None


def test_a_whole_model_in_the_cache_is_found(home: Path) -> None:
    folder = cached(home, DEV.repo)
    assert hub.Disk(home).main(DEV, "text2img") == folder
    assert hub.present(DEV, home, "text2img") == folder
    assert hub.revision_of(folder, DEV) == "c0ffee"


def test_a_model_is_present_for_all_kinds_only_with_its_prior(home: Path) -> None:
    folder = cached(home, DEV.repo)
    assert hub.present(DEV, home) is None
    prior = cached(home, REDUX)
    assert hub.present(DEV, home) == folder
    assert hub.Disk(home).prior(DEV, "redux") == prior


def test_an_estimator_is_found_or_names_the_command_that_fetches_it(home: Path) -> None:
    with pytest.raises(ModelMissing, match="run `fluxdrop models pull depth-anything`"):
        hub.Disk(home).estimator(DEPTH_ANYTHING)
    folder = cached(home, DEPTH_ANYTHING.repo)
    with pytest.raises(ModelMissing, match=r"partly on this machine \(config.json, .* missing\)"):
        hub.Disk(home).estimator(DEPTH_ANYTHING)
    put(folder, {"config.json": b"{}", "preprocessor_config.json": b"{}", "model.safetensors": b""})
    assert hub.Disk(home).estimator(DEPTH_ANYTHING) == folder


def test_hf_home_wins_over_the_homes_own_cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cached(home, DEV.repo)
    monkeypatch.setenv("HF_HOME", str(home / "elsewhere"))
    assert hub.present(DEV, home, "text2img") is None
    monkeypatch.setenv("HF_HOME", str(home / "hf-cache"))
    assert hub.present(DEV, home / "any", "text2img") == folder


@pytest.mark.parametrize("lost", ["transformer", "text_encoder", "tokenizer", "scheduler"])
def test_half_a_download_is_missing_and_says_what(home: Path, lost: str) -> None:
    folder = cached(home, DEV.repo)
    shutil.rmtree(folder / lost)
    with pytest.raises(ModelMissing, match=rf"\({lost} missing\).*pull dev` again"):
        hub.Disk(home).main(DEV, "text2img")


def test_a_link_into_nothing_is_no_file(home: Path) -> None:
    folder = cached(home, DEV.repo)
    (folder / WEIGHTS).unlink()
    try:
        (folder / WEIGHTS).symlink_to("../../../blobs/gone")
    except OSError:
        pytest.skip("this system lets this user make no links")
    assert hub.present(DEV, home, "text2img") is None


def test_a_local_folder_serves_as_a_repository(home: Path) -> None:
    folder = put(home / "mine", pipeline())
    mine = Model("mine", str(folder), "mine", {"text2img": Serving("FluxPipeline", 2, 1.0)})
    assert hub.Disk(home, {"mine": mine}).main(mine, "text2img") == folder
    assert hub.revision_of(folder, mine) is None
    shutil.rmtree(folder)
    with pytest.raises(ModelMissing, match="see `fluxdrop models check mine`") as told:
        hub.Disk(home, {"mine": mine}).main(mine, "text2img")
    assert str(folder) not in str(told.value)


def test_a_file_of_a_local_folder_that_is_cut_short_is_named(home: Path) -> None:
    folder = put(home / "mine", pipeline())
    mine = Model("mine", str(folder), "mine", {"text2img": Serving("FluxPipeline", 2, 1.0)})
    weights = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(weights[:-1])
    with pytest.raises(ModelMissing, match=f"mine: {WEIGHTS} is damaged or cut short: copy it"):
        hub.Disk(home, {"mine": mine}).main(mine, "text2img")


def test_weights_that_are_pickles_are_named_with_what_to_do(home: Path) -> None:
    """Seen red: they were loaded."""
    folder = put(home / "mine", pipeline())
    (folder / "text_encoder/model.safetensors").rename(folder / "text_encoder/pytorch_model.bin")
    mine = Model("mine", str(folder), "mine", {"text2img": Serving("FluxPipeline", 2, 1.0)})
    with pytest.raises(ModelMissing, match="text_encoder/pytorch_model.bin.*safetensors"):
        hub.Disk(home, {"mine": mine}).main(mine, "text2img")
    (advice, *_) = check(mine, home).advice
    assert "text_encoder/pytorch_model.bin" in advice and "convert" in advice


def test_a_single_file_is_found_and_its_pipeline_needs_no_weights_of_its_own(home: Path) -> None:
    folder = cached(home, DEV.repo)
    (folder / WEIGHTS).unlink()
    file = gguf(home / "q4.gguf", flux1())
    q4 = replace(DEV, name="q4", single=SingleFile(str(file)))
    disk = hub.Disk(home, {"q4": q4})
    assert disk.main(q4, "text2img") == folder
    assert disk.single(q4) == file
    assert disk.single(DEV) is None
    file.unlink()
    with pytest.raises(ModelMissing, match="models check q4"):
        disk.single(q4)


def test_the_bytes_that_are_here_count_every_file_once(home: Path) -> None:
    assert hub.bytes_here(DEV, home) == 0
    folder = cached(home, DEV.repo)
    before = hub.bytes_here(DEV, home)
    assert before > sum(len(data) for data in pipeline().values())
    blobs = folder.parent.parent / "blobs"
    blobs.mkdir()
    try:
        (blobs / "same").hardlink_to(folder / WEIGHTS)
    except OSError:
        pytest.skip("this file system has no hard links")
    assert hub.bytes_here(DEV, home) == before


CONTROL = MODEL_REGISTRY["z-image-control"]
UNION = "alibaba-pai/Z-Image-Turbo-Fun-Controlnet-Union-2.1"


def union(home: Path, *, cut: int = 0) -> Path:
    """A small file in the place of the ControlNet's."""
    base = home / "hf-cache" / "hub" / f"models--{UNION.replace('/', '--')}"
    put(base / "refs", {"main": b"facade"})
    folder = put(base / "snapshots" / "facade", {})
    folder.mkdir(parents=True, exist_ok=True)
    serving = CONTROL.serves["control"]
    assert serving.controlnet is not None
    shapes = {"control_layers.0.after_proj.bias": (32,)}
    return header_only(folder / serving.controlnet.file, shapes, cut=cut)


def test_a_model_with_a_controlnet_needs_its_one_file_and_what_makes_depth_maps() -> None:
    needed = sources(CONTROL)
    assert [each.repo for each in needed] == [CONTROL.repo, UNION, DEPTH_ANYTHING.repo]
    assert needed[1] == Source(UNION, layout=Layout.FILE, file=needed[1].file)
    assert hub.bytes_to_pull(CONTROL) - hub.bytes_to_pull(MODEL_REGISTRY["z-image-turbo"]) > 6.7e9


def test_a_controlnet_is_found_with_our_configuration_or_names_what_fetches_it(home: Path) -> None:
    cached(home, CONTROL.repo)
    with pytest.raises(ModelMissing, match=f"{UNION} is not .* pull z-image-control`"):
        hub.Disk(home).controlnet(CONTROL, "control")
    file = union(home)
    config, found = hub.Disk(home).controlnet(CONTROL, "control")
    assert found == file and (config / "config.json").is_file()
    assert hub.revision_of(found.parent, CONTROL) == "facade"
    assert hub.present(CONTROL, home, estimates=False) == hub.Disk(home).main(CONTROL, "control")
    said = hub.absence(CONTROL, home)
    assert said and "only partly" in said, "what makes depth maps is not here"


def test_a_controlnet_that_is_cut_short_is_told_before_it_is_loaded(home: Path) -> None:
    cached(home, CONTROL.repo)
    union(home, cut=3)
    told = "is cut short, its last 3 bytes are missing: .* pull z-image-control --verify`"
    with pytest.raises(ModelMissing, match=told):
        hub.Disk(home).controlnet(CONTROL, "control")
    found = check(CONTROL, home)
    assert found.here and not found.ok and "its last 3 bytes" in found.advice[0]


def test_who_has_the_pipeline_alone_has_not_begun_to_fetch_the_controlnet(home: Path) -> None:
    """Seen red: with the pipeline of z-image-turbo here, half of a model was missed for ever."""
    cached(home, CONTROL.repo)
    assert check(MODEL_REGISTRY["z-image-turbo"], home).ok
    found = check(CONTROL, home)
    assert not found.here and not found.ok
    assert hub.bytes_here(CONTROL, home) > 0
    union(home)
    assert check(CONTROL, home).here
