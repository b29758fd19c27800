"""Weights are found without the network, whole or not at all; hub errors become sentences."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from runner.engine import fingerprint, hub
from runner.engine.models import MODEL_REGISTRY, Model, Serving
from runner.errors import JobFailed, ModelMissing
from tests import random_twin

DEV = MODEL_REGISTRY["dev"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def cached(home: Path, repo: str, source: Path, commit: str = "c0ffee") -> Path:
    """A repository in the layout of the hub's cache, copied from a pipeline folder."""
    base = home / "hf-cache" / "hub" / f"models--{repo.replace('/', '--')}"
    (base / "refs").mkdir(parents=True)
    (base / "refs" / "main").write_text(commit, encoding="utf-8")
    shutil.copytree(source, base / "snapshots" / commit)
    return base / "snapshots" / commit


def test_a_model_that_is_not_there_is_missing_with_the_command_that_fetches_it(home: Path) -> None:
    with pytest.raises(ModelMissing, match=r"run `fluxdrop models pull dev`"):
        hub.Disk(home).main(DEV, "text2img")
    assert hub.present(DEV, home) is None


def test_a_whole_model_in_the_cache_is_found(home: Path, data: Path) -> None:
    folder = cached(home, DEV.repo, random_twin.folder("text2img", data))
    assert hub.Disk(home).main(DEV, "text2img") == folder
    assert hub.present(DEV, home, "text2img") == folder
    assert hub.revision_of(folder, DEV) == "c0ffee"


def test_a_model_is_present_for_all_kinds_only_with_its_prior(home: Path, data: Path) -> None:
    folder = cached(home, DEV.repo, random_twin.folder("text2img", data))
    assert hub.present(DEV, home) is None
    cached(home, "black-forest-labs/FLUX.1-Redux-dev", random_twin.folder("redux-prior", data))
    assert hub.present(DEV, home) == folder


def test_hf_home_wins_over_the_homes_own_cache(
    home: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cached(home, DEV.repo, random_twin.folder("text2img", data))
    monkeypatch.setenv("HF_HOME", str(home / "elsewhere"))
    assert hub.present(DEV, home, "text2img") is None
    monkeypatch.setenv("HF_HOME", str(home / "hf-cache"))
    assert hub.present(DEV, home / "any", "text2img") == folder


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        ("transformer/diffusion_pytorch_model.safetensors", "transformer"),
        ("text_encoder_2/config.json", "text_encoder_2"),
        ("tokenizer", "tokenizer"),
        ("scheduler/scheduler_config.json", "scheduler"),
    ],
)
def test_half_a_download_is_missing_and_says_what(
    home: Path, data: Path, lost: str, named: str
) -> None:
    folder = cached(home, DEV.repo, random_twin.folder("text2img", data))
    if (folder / lost).is_dir():
        shutil.rmtree(folder / lost)
    else:
        (folder / lost).unlink()
    if lost == "text_encoder_2/config.json":
        (folder / "text_encoder_2" / "model.safetensors").unlink()
    with pytest.raises(ModelMissing, match=rf"\({named} missing\).*pull dev` again"):
        hub.Disk(home).main(DEV, "text2img")


def test_a_missing_shard_is_noticed(home: Path, data: Path) -> None:
    folder = cached(home, DEV.repo, random_twin.folder("text2img", data))
    shards = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    index = folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps(shards), encoding="utf-8")
    (folder / "transformer" / "one.safetensors").touch()
    assert hub.missing_parts(folder) == ["transformer"]
    (folder / "transformer" / "two.safetensors").touch()
    assert hub.missing_parts(folder) == []


def test_a_local_folder_serves_as_a_repository(home: Path, data: Path) -> None:
    folder = random_twin.folder("text2img", data)
    mine = Model("mine", str(folder), "mine", {"text2img": Serving("FluxPipeline", 2, 1.0)})
    assert hub.Disk(home, {"mine": mine}).main(mine, "text2img") == folder
    assert hub.revision_of(folder, mine) is None


def named(name: str, *, cause: BaseException | None = None) -> BaseException:
    error: BaseException = type(name, (Exception,), {})("misleading text")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (named("OSError", cause=named("GatedRepoError")), "accept its licence"),
        (OSError("no file named config.json"), None),
        (named("OSError", cause=named("RepositoryNotFoundError")), "not found on the hub"),
        (named("LocalEntryNotFoundError", cause=named("ConnectError")), "cannot be reached"),
        (named("LocalEntryNotFoundError", cause=named("OfflineModeIsEnabled")), "switched off"),
        (named("LocalEntryNotFoundError"), "not wholly"),
        (named("SafetensorError"), "damaged"),
        (named("HfHubHTTPError"), "answered with an error"),
    ],
)
def test_hub_errors_are_explained_by_their_causes(error: BaseException, says: str | None) -> None:
    ours = hub.explain(error, DEV)
    if says is None:
        assert ours is None
    else:
        assert isinstance(ours, JobFailed) and says in str(ours)
        assert "models pull dev" in str(ours)


def test_an_error_that_is_its_own_cause_ends_the_search() -> None:
    error = ValueError("x")
    error.__context__ = error
    assert hub.explain(error, DEV) is None


def test_the_hash_of_a_folder_follows_its_content_and_not_its_place(
    tmp_path: Path, data: Path
) -> None:
    source = random_twin.folder("redux-prior", data)
    shutil.copytree(source, tmp_path / "copy")
    assert fingerprint.of_folder(source) == fingerprint.of_folder(tmp_path / "copy")
    file = tmp_path / "copy" / "image_encoder" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    assert fingerprint.of_folder(source) != fingerprint.of_folder(tmp_path / "copy")
