"""Which files are needed, which are missing, and which cannot be whole; names and small files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from runner.engine.entries import MODEL_REGISTRY
from runner.engine.hub.sources import (
    Layout,
    Source,
    damaged,
    lacking,
    pickles,
    sources,
    wanted,
)
from runner.engine.models import SingleFile
from tests import random_twin
from tests.fake_hub import WEIGHTS, pipeline, put, safetensors

HERE = Source("someone/twin")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return put(tmp_path, pipeline())


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        (WEIGHTS, WEIGHTS),
        ("transformer/config.json", "transformer/config.json"),
        ("text_encoder/model.safetensors", "text_encoder/model.safetensors"),
        ("tokenizer/tokenizer.json", "tokenizer/tokenizer.json"),
        ("scheduler/scheduler_config.json", "scheduler/"),
        ("model_index.json", "model_index.json"),
    ],
)
def test_a_file_that_is_missing_is_named(folder: Path, lost: str, named: str) -> None:
    assert lacking(HERE, folder) == []
    (folder / lost).unlink()
    assert lacking(HERE, folder) == [named]


def test_pieces_of_weights_are_missing_one_by_one(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    names = {key: f"{key}-of-two.safetensors" for key in ("one", "two")}
    listed = json.dumps({"weight_map": names}).encode()
    put(folder, {f"{WEIGHTS}.index.json": listed, "transformer/one-of-two.safetensors": b""})
    assert lacking(HERE, folder) == ["transformer/two-of-two.safetensors"]
    put(folder, {"transformer/two-of-two.safetensors": b""})
    assert lacking(HERE, folder) == []
    put(folder, {f"{WEIGHTS}.index.json": listed[:-5]})
    assert lacking(HERE, folder) == [f"{WEIGHTS}.index.json"]


@pytest.mark.parametrize(
    "names",
    [("pytorch_model.bin",), ("pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json")],
)
def test_pickles_are_neither_fetched_nor_taken_for_weights(
    folder: Path, names: tuple[str, ...]
) -> None:
    """Seen red: they were both, where there were no safetensors."""
    (folder / "text_encoder" / "model.safetensors").unlink()
    listed = b'{"weight_map": {"x": "pytorch_model-00001-of-00001.bin"}}'
    put(folder, {f"text_encoder/{name}": listed for name in names})
    gone = lacking(HERE, folder)
    assert gone == ["text_encoder/model.safetensors"]
    assert pickles(folder, gone) == [f"text_encoder/{min(names)}"]
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    index = json.loads(pipeline()["model_index.json"])
    assert not any(".bin" in name for name in wanted(HERE, files, index))


def test_a_real_pipelines_folder_lacks_nothing_and_is_fetched_wholly(tmp_path: Path) -> None:
    """What is held to be needed agrees with what diffusers itself writes."""
    for part in ("text2img", "redux-prior"):
        folder = random_twin.folder(part, tmp_path)
        assert lacking(HERE, folder) == [] and damaged(HERE, folder) == []
        names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
        index = json.loads((folder / "model_index.json").read_bytes())
        assert wanted(HERE, names, index) == sorted(names, key=lambda n: ("/" in n, n))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (WEIGHTS, safetensors(300_000, 2)[:-1]),
        (WEIGHTS, b"\xff" * 100),
        (WEIGHTS, b""),
        (WEIGHTS, safetensors(10, 1) + b"more"),
        ("transformer/config.json", b'{"in_channels": 6'),
    ],
)
def test_a_file_that_cannot_be_whole_is_damaged(folder: Path, file: str, content: bytes) -> None:
    assert damaged(HERE, folder) == []
    put(folder, {file: content})
    assert damaged(HERE, folder) == [file]


def test_a_model_with_a_transformer_of_its_own_does_not_fetch_the_other_one() -> None:
    own = replace(MODEL_REGISTRY["krea"], single=SingleFile("q4.gguf", "someone/gguf"))
    main, single = sources(own)
    assert single == Source("someone/gguf", layout=Layout.FILE, file="q4.gguf")
    names = wanted(main, pipeline(), json.loads(pipeline()["model_index.json"]))
    assert set(pipeline()) - set(names) == {WEIGHTS}


def test_what_several_kinds_need_is_named_once_and_what_is_built_in_is_not() -> None:
    repos = [source.repo for source in sources(MODEL_REGISTRY["dev"])]
    assert repos == ["black-forest-labs/FLUX.1-dev", "black-forest-labs/FLUX.1-Redux-dev"]
    assert [source.repo for source in sources(MODEL_REGISTRY["dev"], "text2img")] == repos[:1]
    assert sources(MODEL_REGISTRY["tiny"]) == ()
    assert "depth-anything/Depth-Anything-V2-Small-hf" in {
        source.repo for source in sources(MODEL_REGISTRY["depth"])
    }
