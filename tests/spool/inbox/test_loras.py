"""The LoRA files that a spec names: found in their roots, checked, pinned by their hash."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path

import pytest

from runner.engine.hub import library as hub
from runner.errors import InputBad, ModelMissing, PathNotAllowed
from runner.settings import Home
from runner.task import Lora
from specs.errors import SpecInvalid
from specs.read import read
from specs.validate import validate
from specs.write import to_yaml
from tests.spool.lora_files import (
    content,
    fault,
    for_task,
    only,
    pulled,
    put,
    recorded,
    settled,
    with_roots,
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    return with_roots(tmp_path, monkeypatch)


def test_a_spec_without_loras_has_none(home: Home) -> None:
    assert recorded({}, home) == ([], [])
    assert for_task({}, home) == ()


def test_a_file_in_a_root_is_found_and_its_hash_recorded(home: Home, tmp_path: Path) -> None:
    sha = put(home.root / "loras/styles/ink.safetensors", content())
    far = put(tmp_path / "more/Oil.SAFETENSORS", content(1))
    assert only({"loras": [{"path": "styles/ink.safetensors"}]}, home) == {
        "path": "styles/ink.safetensors",
        "weight": 1.0,
        "sha256": sha,
    }
    assert only({"loras": [{"path": "Oil.SAFETENSORS", "weight": -0.5}]}, home)["sha256"] == far
    assert only({"loras": [{"path": "styles\\ink.safetensors"}]}, home)["sha256"] == sha
    absolute = str(tmp_path / "more/Oil.SAFETENSORS")
    assert only({"loras": [{"path": absolute}]}, home)["sha256"] == far


def test_the_first_root_that_has_the_file_wins(home: Home, tmp_path: Path) -> None:
    put(tmp_path / "more/ink.safetensors", content(1))
    sha = put(home.root / "loras/ink.safetensors", content(2))
    assert only({"loras": [{"path": "ink.safetensors"}]}, home)["sha256"] == sha


def test_what_is_recorded_is_a_valid_spec_and_gives_the_same_task(home: Home) -> None:
    sha = put(home.root / "loras/ink.safetensors", content())
    pulled(home, "someone/oil", {"oil.safetensors": content(1)})
    named = [{"path": "ink.safetensors", "weight": 0.5, "name": "ink"}, {"repo": "someone/oil"}]
    spec = {"kind": "text2img", "prompt": "a fox", "loras": named}
    found, _ = recorded(spec, home)
    again = validate(read(to_yaml({**spec, "loras": found})))
    assert recorded(again, home) == (found, [])
    ink, oil = for_task(again, home)
    assert ink == Lora(home.root / "loras/ink.safetensors", 0.5, "ink", sha)
    assert (oil.weight, oil.path.name) == (1.0, "oil.safetensors")
    assert oil.path.read_bytes() == content(1)


def test_a_file_that_changed_since_is_said(home: Home) -> None:
    file = home.root / "loras/ink.safetensors"
    put(file, content(1))
    first = only({"loras": [{"path": "ink.safetensors"}]}, home)
    sha = put(file, content(2))
    os.utime(file, ns=(1, 1))
    reason, path, message = fault(first, home)
    assert (reason, path) == ("InputBad", "loras.0.sha256")
    assert sha in message
    assert "leave `sha256` out" in message


@pytest.mark.parametrize("asked", ["0" * 64, "f" * 64])
def test_a_hash_that_the_file_has_not_is_a_fault_and_the_files_own_is_recorded(
    home: Home, asked: str
) -> None:
    sha = put(home.root / "loras/ink.safetensors", content())
    found, faults = recorded({"loras": [{"path": "ink.safetensors", "sha256": asked}]}, home)
    assert [each["sha256"] for each in found] == [sha]
    assert [path for path, _ in faults] == ["loras.0.sha256"]


def test_the_names_of_its_tensors_may_begin_with_any_letter(home: Home) -> None:
    for key in ("A.lora_A.weight", "_.lora_A.weight", "z.lora_A.weight"):
        sha = put(home.root / "loras/ink.safetensors", content(key=key))
        assert only({"loras": [{"path": "ink.safetensors"}]}, home)["sha256"] == sha


@pytest.mark.parametrize(
    "key",
    ["diffusion_model.double_blocks.0.img_attn.qkv.hada_w1_a", "layers.0.w1.lokr_w1", "a.diff"],
)
def test_a_file_is_no_lora_by_its_name_alone(home: Home, key: str) -> None:
    """Seen red: what had no "lora" in its tensors' names was taken for a whole model."""
    put(home.root / "loras/ink.safetensors", content(key=key))
    assert only({"loras": [{"path": "ink.safetensors"}]}, home)["path"] == "ink.safetensors"


def test_a_format_that_cannot_act_is_named_when_the_spec_is_dropped(home: Home) -> None:
    key = "lora_unet_double_blocks_0_img_attn_qkv.oft_blocks"
    put(home.root / "loras/ink.safetensors", content(key=key))
    assert fault({"path": "ink.safetensors"}, home) == (
        "InputBad",
        "loras.0",
        "ink.safetensors changes layers in the format OFT (1 of them), which cannot act here:"
        " convert it to a plain LoRA",
    )


def test_a_lora_without_a_weight_acts_with_its_whole_weight(home: Home) -> None:
    put(home.root / "loras/ink.safetensors", content())
    (ink,) = for_task({"loras": [{"path": "ink.safetensors"}]}, home)
    assert (ink.weight, ink.name, ink.sha256) == (1.0, "", "")


def test_the_same_file_in_another_folder_is_suggested_before_a_name_that_is_alike(
    home: Home,
) -> None:
    for name in ("colours/Wash", "colours/dash", "ink/dash", "ink/zash"):
        put(home.root / f"loras/{name}.safetensors", content())
    message = fault({"path": "ink/wash.safetensors"}, home)[2]
    assert "did you mean 'colours/Wash.safetensors'?" in message


@pytest.mark.parametrize(
    ("path", "reason", "says"),
    [
        ("gone.safetensors", "ModelMissing", "is in none of the `lora_roots`"),
        ("inc.safetensors", "ModelMissing", "did you mean 'ink.safetensors'?"),
        ("wash.safetensors", "ModelMissing", "did you mean 'styles/wash.safetensors'?"),
        ("gone.safetensors", "ModelMissing", "fluxdrop models pull owner/name"),
        ("../secret.safetensors", "PathNotAllowed", "'..'"),
        ("styles/../../secret.safetensors", "PathNotAllowed", "'..'"),
        ("styles\\..\\..\\secret.safetensors", "PathNotAllowed", "'..'"),
        ("ink.safetensors:stream.safetensors", "PathNotAllowed", "':'"),
        ("C:ink.safetensors", "PathNotAllowed", "':'"),
        ("/a:b.safetensors", "PathNotAllowed", "':'"),
        ("/etc/secret.safetensors", "PathNotAllowed", "outside the `lora_roots`"),
        ("\\\\server\\share\\secret.safetensors", "PathNotAllowed", "outside the `lora_roots`"),
        ("//server/share/secret.safetensors", "PathNotAllowed", "outside the `lora_roots`"),
        ("ink.pt", "InputBad", "is no .safetensors file"),
        ("ink", "InputBad", "is no .safetensors file"),
        ("styles", "InputBad", "is no .safetensors file"),
        ("styles/wash", "InputBad", "file (did you mean 'styles/wash.safetensors'?)"),
        ("folder.safetensors", "ModelMissing", "is in none"),
        ("x" * 300 + ".safetensors", "ModelMissing", "is in none"),
        ("nul\0.safetensors", "PathNotAllowed", ""),
    ],
)
def test_what_cannot_be_taken_is_refused_with_a_sentence(
    path: str, reason: str, says: str, home: Home
) -> None:
    put(home.root / "loras/ink.safetensors", content())
    put(home.root / "loras/styles/wash.safetensors", content())
    put(home.root / "secret.safetensors", content())
    (home.root / "loras/folder.safetensors").mkdir()
    told = fault({"path": path}, home)
    assert told[:2] == (reason, "loras.0")
    assert says in told[2]


def test_without_roots_the_setting_is_named(home: Home) -> None:
    reason, _, message = fault({"path": "ink.safetensors"}, Home(home.root))
    assert reason == "ModelMissing"
    assert "`lora_roots` in fluxdrop.yaml" in message


def test_a_link_may_stay_in_the_roots_and_not_leave_them(home: Home, tmp_path: Path) -> None:
    sha = put(home.root / "loras/styles/ink.safetensors", content())
    put(tmp_path / "secret/ink.safetensors", content(1))
    (home.root / "loras/near.safetensors").symlink_to(home.root / "loras/styles/ink.safetensors")
    (home.root / "loras/far.safetensors").symlink_to(tmp_path / "secret/ink.safetensors")
    (home.root / "loras/away").symlink_to(tmp_path / "secret")
    assert only({"loras": [{"path": "near.safetensors"}]}, home)["sha256"] == sha
    for path in ("far.safetensors", "away/ink.safetensors"):
        reason, _, message = fault({"path": path}, home)
        assert reason == "PathNotAllowed"
        assert "a link that leaves" in message


def test_a_link_that_is_swapped_after_acceptance_is_refused_too(home: Home, tmp_path: Path) -> None:
    file = home.root / "loras/ink.safetensors"
    put(file, content())
    found = only({"loras": [{"path": "ink.safetensors"}]}, home)
    put(tmp_path / "secret.safetensors", content())
    file.unlink()
    file.symlink_to(tmp_path / "secret.safetensors")
    with pytest.raises(PathNotAllowed):
        for_task({"loras": [found]}, home)


def test_a_file_that_is_gone_when_its_turn_comes_is_missing(home: Home) -> None:
    file = home.root / "loras/ink.safetensors"
    put(file, content())
    found = only({"loras": [{"path": "ink.safetensors"}]}, home)
    file.unlink()
    with pytest.raises(ModelMissing, match="fluxdrop models pull"):
        for_task({"loras": [found]}, home)


def test_a_file_that_comes_after_acceptance_is_pinned_when_its_turn_comes(home: Home) -> None:
    spec = {"kind": "text2img", "loras": [{"path": "ink.safetensors", "weight": 0.5}]}
    with pytest.raises(ModelMissing, match="is in none of the `lora_roots`"):
        settled(spec, home)
    sha = put(home.root / "loras/ink.safetensors", content())
    pinned = settled(spec, home)
    assert pinned["loras"] == [{"path": "ink.safetensors", "weight": 0.5, "sha256": sha}]
    assert settled(pinned, home) is pinned
    put(home.root / "loras/ink.safetensors", content()[:-1])
    with pytest.raises(InputBad, match="not whole"):
        settled(spec, home)
    assert settled({"kind": "text2img"}, home) == {"kind": "text2img"}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (content()[:-1], "not whole"),
        (content() + b"x", "not whole"),
        (content()[:20], "not whole"),
        (b"", "ink.safetensors is empty"),
        (b"<!doctype html><html>", "is a web page and holds no weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "`git lfs pull`"),
        (b"\xff" * 8, "not whole"),
        ((5).to_bytes(8, "little") + b"[1,2]", "not whole"),
        ((2).to_bytes(8, "little") + b"{}", "holds no LoRA"),
        (pickle.dumps({"transformer.x.lora_A.weight": 1}, 2), "is a pickle"),
        (b"PK\x03\x04" + bytes(100), "is a pickle, which may run code"),
        ((60_000).to_bytes(8, "little") + b"[" * 60_000, "not whole"),
        (content(key="transformer.x.weight"), "holds no LoRA"),
        (content(key="double_blocks.0.img_attn.norm.query_norm.scale"), "holds no LoRA"),
        (content(key="lora" * 10_000 + ".lora_A.weight"), "holds no LoRA"),
    ],
)
def test_what_is_no_whole_lora_is_refused(data: bytes, says: str, home: Home) -> None:
    put(home.root / "loras/ink.safetensors", data)
    reason, _, message = fault({"path": "ink.safetensors"}, home)
    assert reason == "InputBad"
    assert says in message


def test_a_file_that_is_too_large_is_refused_unread(home: Home) -> None:
    file = home.root / "loras/ink.safetensors"
    with file.open("wb") as stream:
        stream.truncate(9 * 2**30)  # a hole: takes no room
    assert "larger than 8 GiB" in fault({"path": "ink.safetensors"}, home)[2]
    with file.open("r+b") as stream:
        stream.truncate(8 * 2**30)
    assert "not whole" in fault({"path": "ink.safetensors"}, home)[2]


def test_a_file_that_may_not_be_read_is_refused(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(path: Path) -> int:
        raise PermissionError(13, "Permission denied")

    put(home.root / "loras/ink.safetensors", content())
    monkeypatch.setattr("runner.spool.inbox.loras.open_regular", deny)
    reason, _, message = fault({"path": "ink.safetensors"}, home)
    assert reason == "InputBad"
    assert message == "ink.safetensors cannot be read as a file: Permission denied"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_does_not_block(home: Home) -> None:
    os.mkfifo(home.root / "loras/ink.safetensors")
    assert fault({"path": "ink.safetensors"}, home)[0] == "ModelMissing"


@pytest.mark.parametrize(
    ("lora", "says"),
    [
        ({"path": "a.safetensors", "file": "b"}, "put the name into 'path'"),
        ({"path": "a.safetensors", "revision": "b"}, "'revision' belongs to 'repo'"),
        ({"repo": "a/b", "revision": "../up"}, "is not a revision"),
        ({"repo": "a/b", "sha256": "short"}, "sha256"),
    ],
)
def test_what_makes_no_sense_together_is_an_error_of_the_spec(
    lora: Mapping[str, str], says: str
) -> None:
    text = json.dumps({"kind": "text2img", "prompt": "a fox", "loras": [lora]}).encode()
    with pytest.raises(SpecInvalid, match=says):
        validate(read(text, json=True))


def test_all_that_is_wrong_is_told_at_once(home: Home) -> None:
    put(home.root / "loras/ink.safetensors", content())
    named = [{"path": "../a.safetensors"}, {"path": "ink.safetensors"}, {"repo": "no/such"}]
    found, faults = recorded({"loras": named}, home)
    assert [path for path, _ in faults] == ["loras.0", "loras.2"]
    assert [each["path"] for each in found] == ["ink.safetensors"]
    # In the place of one that an earlier check found wrong.
    _, faults = recorded({"loras": [None, *named]}, home)
    assert [path for path, _ in faults] == ["loras.1", "loras.3"]


def test_a_file_is_hashed_once_for_each_state_it_is_in(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    real = hashlib.file_digest
    monkeypatch.setattr(
        hashlib, "file_digest", lambda file, name: read.append(name) or real(file, name)
    )
    put(home.root / "loras/ink.safetensors", content(3))
    for _ in range(3):
        only({"loras": [{"path": "ink.safetensors"}]}, home)
    assert len(read) == 1


def test_a_lora_is_hashed_by_its_content_and_not_by_the_name_of_its_blob(home: Home) -> None:
    pulled(home, "someone/oil", {"oil.safetensors": content(4)})
    link = next(hub.repo_folder("someone/oil", home.data).glob("snapshots/*/oil.safetensors"))
    for data in (content(4), content(5)):
        link.resolve().write_bytes(data)
        recorded = only({"loras": [{"repo": "someone/oil"}]}, home)
        assert recorded["sha256"] == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(("count", "more"), [(2, False), (8, False), (9, True)])
def test_of_a_repository_with_several_files_the_first_eight_are_named(
    home: Home, count: int, more: bool
) -> None:
    pulled(home, "someone/oil", {f"{n}.safetensors": content(n) for n in range(count)})
    message = fault({"repo": "someone/oil"}, home)[2]
    named = min(count, 8)
    assert message.endswith(f"{named - 1}.safetensors" + ", …" * more)
    assert message.count(".safetensors") == named
