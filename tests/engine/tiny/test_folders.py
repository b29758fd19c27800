"""Folders of the built-in model: whole or absent, whoever asks, and loadable without a hub."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runner.engine.tiny import folders
from runner.engine.tiny.folders import WEIGHTS, fingerprint, folder

PARTS = sorted(file.stem for file in (WEIGHTS / "model_index").iterdir())


def tree(root: Path) -> dict[str, bytes]:
    """Every file under a folder."""
    return {
        file.relative_to(root).as_posix(): file.read_bytes()
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }


@pytest.mark.parametrize("part", PARTS)
def test_a_folder_holds_every_component_its_index_names(part: str, tmp_path: Path) -> None:
    where = folder(part, tmp_path)
    assert where == tmp_path / "tiny" / fingerprint() / part
    index = json.loads((where / "model_index.json").read_text(encoding="utf-8"))
    named = {name for name, value in index.items() if isinstance(value, list) and value[0]}
    assert {each.name for each in where.iterdir() if each.is_dir()} == named
    assert all(any((where / name).iterdir()) for name in named)


def test_a_second_call_touches_nothing(tmp_path: Path) -> None:
    where = folder("fill", tmp_path)
    before = {file: file.stat().st_mtime_ns for file in where.rglob("*")}
    marker = where / "marker"
    marker.write_text("kept", encoding="utf-8")
    assert folder("fill", tmp_path) == where
    assert marker.exists()
    assert all(
        file.stat().st_mtime_ns == moment for file, moment in before.items() if file != where
    )


def test_components_are_linked_not_copied_where_links_work(tmp_path: Path) -> None:
    probe = tmp_path / "probe"
    try:
        os.link(WEIGHTS / "FINGERPRINT", probe)
    except OSError:
        pytest.skip("the temporary folder is on another drive than the weights")
    where = folder("text2img", tmp_path)
    stored = WEIGHTS / "vae" / "diffusion_pytorch_model.safetensors"
    assert (where / "vae" / stored.name).samefile(stored)


def test_without_links_the_files_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linked = tree(folder("redux-prior", tmp_path / "linked"))

    def refuse(source: Path, target: Path) -> None:
        raise OSError("links are not supported here")

    monkeypatch.setattr(folders.os, "link", refuse)
    where = folder("redux-prior", tmp_path / "copied")
    assert tree(where) == linked
    assert not (where / "model_index.json").samefile(WEIGHTS / "model_index" / "redux-prior.json")


def test_many_at_once_get_the_same_whole_folder_and_leave_nothing_behind(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: folder("control", tmp_path), range(8)))
    assert len(found) == 1
    (where,) = found
    assert [each.name for each in where.parent.iterdir()] == ["control"]


def test_a_failure_halfway_leaves_no_folder_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed = []

    def full_disk(source: Path, target: Path) -> None:
        placed.append(target)
        if len(placed) > 4:
            raise OSError(28, "No space left on device")
        target.write_bytes(source.read_bytes())

    monkeypatch.setattr(folders, "_place", full_disk)
    with pytest.raises(OSError, match="No space left"):
        folder("kontext", tmp_path)
    assert list((tmp_path / "tiny" / fingerprint()).iterdir()) == []
    monkeypatch.undo()
    assert (folder("kontext", tmp_path) / "model_index.json").exists()


def test_the_weights_are_small_and_safetensors_only() -> None:
    files = [file for file in WEIGHTS.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 25_000_000
    assert {file.suffix for file in files} == {".safetensors", ".json", ".md", ""}
    assert [file.name for file in files if not file.suffix] == ["FINGERPRINT"]


def test_no_config_tells_where_the_training_ran() -> None:
    for config in WEIGHTS.rglob("*.json"):
        assert "_name_or_path" not in config.read_text(encoding="utf-8"), config
