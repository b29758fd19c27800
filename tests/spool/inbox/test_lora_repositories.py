"""LoRAs that a spec names by their repository: found in the hub's cache, and pinned to a commit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest

from runner.engine.hub import library as hub
from runner.settings import Home
from tests.spool.lora_files import content, fault, for_task, only, pulled, put, with_roots


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    return with_roots(tmp_path, monkeypatch)


def test_a_repository_is_pinned_to_its_commit_and_file(home: Home) -> None:
    pulled(home, "someone/oil", {"oil.safetensors": content(1), "README.md": b"oil"})
    assert only({"loras": [{"repo": "someone/oil", "weight": 0.7}]}, home) == {
        "repo": "someone/oil",
        "weight": 0.7,
        "revision": "c0ffee",
        "file": "oil.safetensors",
        "sha256": hashlib.sha256(content(1)).hexdigest(),
    }


def test_a_newer_commit_does_not_change_what_a_sidecar_names(home: Home) -> None:
    pulled(home, "someone/oil", {"oil.safetensors": content(1)}, "old")
    before = only({"loras": [{"repo": "someone/oil"}]}, home)
    pulled(home, "someone/oil", {"oil.safetensors": content(2)}, "new")
    assert only({"loras": [{"repo": "someone/oil"}]}, home)["revision"] == "new"
    assert only({"loras": [before]}, home) == before
    assert for_task({"loras": [before]}, home)[0].path.read_bytes() == content(1)


def test_the_same_file_of_another_commit_serves_where_the_commit_is_gone(home: Home) -> None:
    pulled(home, "someone/oil", {"oil.safetensors": content(1)}, "new")
    sha = hashlib.sha256(content(1)).hexdigest()
    asked = {"repo": "someone/oil", "revision": "old", "file": "oil.safetensors", "sha256": sha}
    assert only({"loras": [asked]}, home)["revision"] == "new"
    assert for_task({"loras": [asked]}, home)[0].path.read_bytes() == content(1)
    del asked["sha256"]
    assert fault(asked, home)[0] == "ModelMissing"


def test_a_repository_with_several_files_asks_which(home: Home) -> None:
    files = {"8steps.safetensors": content(1), "more/16steps.safetensors": content(2)}
    pulled(home, "someone/hyper", files)
    reason, _, message = fault({"repo": "someone/hyper"}, home)
    assert reason == "InputBad"
    assert "say which with `file`: 8steps.safetensors, more/16steps.safetensors" in message
    named = {"repo": "someone/hyper", "file": "more/16steps.safetensors"}
    found = only({"loras": [named]}, home)
    assert found["sha256"] == hashlib.sha256(content(2)).hexdigest()
    assert (found["revision"], found["file"]) == ("c0ffee", "more/16steps.safetensors")


@pytest.mark.parametrize(
    ("lora", "reason", "says"),
    [
        ({"repo": "no/such"}, "ModelMissing", "run `fluxdrop models pull no/such`"),
        ({"repo": "a/b", "file": "x.safetensors"}, "ModelMissing", "fluxdrop models pull a/b"),
        ({"repo": "a/b", "file": "../x.safetensors"}, "PathNotAllowed", "'..'"),
        ({"repo": "a/b", "file": "readme.bin"}, "InputBad", "may contain programs"),
        ({"repo": "a/b"}, "ModelMissing", "has no .safetensors file"),
        ({"repo": "a/b", "revision": "none"}, "ModelMissing", "fluxdrop models pull a/b"),
        ({"repo": "a/out"}, "PathNotAllowed", "leaves the hub's cache"),
    ],
)
def test_what_a_repository_lacks_is_told(
    lora: Mapping[str, str], reason: str, says: str, home: Home
) -> None:
    pulled(home, "a/b", {"readme.bin": b"x"})
    pulled(home, "a/out", {"README.md": b"x"})
    put(home.root / "secret.safetensors", content())
    link = hub.repo_folder("a/out", home.data) / "snapshots/c0ffee/out.safetensors"
    link.symlink_to(home.root / "secret.safetensors")
    told = fault(lora, home)
    assert told[0] == reason
    assert says in told[2]
