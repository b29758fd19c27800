"""Hashes of weights: of all of them, the same wherever they lie, and read once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from runner.engine.weights import fingerprint
from runner.engine.weights.fingerprint import Hashes, are_unchanged, combined
from runner.engine.weights.loading import telling
from runner.files import stamp
from tests.fake_hub import WEIGHTS, pipeline, put

MIB = 2**20


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "hashes.json"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The large files that are read, by name."""
    names: list[str] = []
    digest = hashlib.file_digest

    def watched(stream: Any, name: str) -> Any:
        names.append(Path(stream.name).name)
        return digest(stream, name)  # type: ignore[arg-type]

    monkeypatch.setattr(hashlib, "file_digest", watched)
    return names


def large(file: Path, middle: bytes = b"\0", size: int = 2 * MIB) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as stream:
        stream.truncate(size)
        stream.seek(size // 2)
        stream.write(middle)
    return file


def test_a_merge_that_changes_nothing_but_the_middle_of_a_large_file_changes_its_hash(
    tmp_path: Path, memory: Path
) -> None:
    one, other = (large(tmp_path / name, name.encode(), 65 * MIB) for name in ("1", "2"))
    assert Hashes(memory).file(one) != Hashes(memory).file(other)
    large(one, b"2", 65 * MIB)
    assert Hashes(memory).file(one) == Hashes(memory).file(other)


def test_the_same_weights_have_one_hash_behind_the_links_of_the_hubs_cache_and_as_plain_files(
    tmp_path: Path, memory: Path
) -> None:
    plain = put(tmp_path / "plain", pipeline())
    large(plain / WEIGHTS)
    cached = tmp_path / "hub" / "snapshots" / "c0ffee"
    for file in [file for file in plain.rglob("*") if file.is_file()]:
        content = file.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
        hub = hashlib.sha256(content) if file == plain / WEIGHTS else git
        blob = tmp_path / "hub" / "blobs" / hub.hexdigest()
        put(blob.parent, {blob.name: content})
        link = cached / file.relative_to(plain)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    behind_links = Hashes(memory).parts(cached)
    assert behind_links == Hashes(memory).parts(plain)
    assert behind_links == Hashes(memory).parts(shutil.copytree(plain, tmp_path / "copy"))


def test_a_blob_of_the_hubs_cache_that_is_written_over_has_another_hash_whatever_its_name(
    tmp_path: Path, memory: Path
) -> None:
    file = large(tmp_path / "a")
    (tmp_path / "blobs").mkdir()
    blob = file.rename(tmp_path / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest())
    assert Hashes(memory).file(blob) == blob.name
    large(blob, b"merged")
    assert Hashes(memory).file(blob) == hashlib.sha256(blob.read_bytes()).hexdigest() != blob.name


def test_only_what_is_loaded_counts(tmp_path: Path, memory: Path) -> None:
    folder = put(tmp_path / "a", pipeline())
    before = Hashes(memory).parts(folder)
    for name in ("diffusion_pytorch_model.fp16.safetensors", "README.md", ".hidden.json", "x.bin"):
        (folder / "transformer" / name).write_bytes(b"something else")
    (folder / "whole.safetensors").write_bytes(b"the same in one file")
    assert Hashes(memory).parts(folder) == before
    (folder / "transformer" / "config.json").write_bytes(b'{"other": 1}')
    after = Hashes(memory).parts(folder)
    assert [name for name in before if before[name] != after[name]] == ["transformer"]
    left_out = Hashes(memory).parts(folder, "transformer")
    assert left_out == {name: after[name] for name in after if name != "transformer"}


def test_a_large_file_is_read_once_and_again_when_it_was_changed(
    tmp_path: Path, memory: Path, read: list[str]
) -> None:
    file = large(tmp_path / "a")
    first = Hashes(memory).file(file)
    assert first == hashlib.sha256(file.read_bytes()).hexdigest()
    for _ in range(2):
        assert Hashes(memory).file(file) == first
    assert read == ["a"]
    stat = file.stat()
    aside = large(tmp_path / "b", b"1")
    os.utime(aside, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    aside.replace(file)  # of the same size and date: only the inode tells
    assert Hashes(memory).file(file) != first
    assert read == ["a", "a"]
    os.utime(file)
    Hashes(memory).file(file)
    assert len(read) == 3


@pytest.mark.skipif(os.name == "nt", reason="its time of the last change is that of the making")
def test_what_was_written_over_with_its_old_time_is_read_again(
    tmp_path: Path, memory: Path
) -> None:
    file = large(tmp_path / "a")
    before, stat, known = Hashes(memory).file(file), file.stat(), {file: stamp(file)}
    with file.open("r+b") as stream:
        stream.write(b"another")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert Hashes(memory).file(file) != before and not are_unchanged(known)


def test_who_waits_is_told_only_when_large_files_are_read(tmp_path: Path, memory: Path) -> None:
    told: list[str] = []
    small, file = put(tmp_path, {"small": b"1"}) / "small", large(tmp_path / "a")
    hashes = Hashes(memory)
    for each in (small, file, file):
        with telling(lambda done, files, each=each: told.append(each.name)):  # type: ignore[misc]
            hashes.file(each)
    assert told == ["a"]


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", "\0\0", '{"PATH": 1}', '{"PATH": []}', '{"PATH": [1, 2, 3, "ff"]}']
)
def test_a_damaged_memory_costs_only_time(tmp_path: Path, memory: Path, damage: str) -> None:
    file = large(tmp_path / "a")
    right = Hashes(memory).file(file)
    memory.write_text(damage.replace("PATH", json.dumps(str(file))[1:-1]), encoding="utf-8")
    assert Hashes(memory).file(file) == right
    assert list(json.loads(memory.read_text(encoding="utf-8"))) == [str(file.resolve())]


def test_what_cannot_be_remembered_is_read_again(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = large(tmp_path / "a")
    memory = put(tmp_path / "no folder", {"file": b""}) / "file" / "hashes.json"
    assert Hashes(memory).file(file) == Hashes(memory).file(file)
    assert read == ["a", "a"]


def test_two_processes_keep_what_the_other_remembers_and_the_oldest_go(
    tmp_path: Path, memory: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "_MOST", 3)
    one, other = Hashes(memory), Hashes(memory)
    files = [large(tmp_path / str(number), str(number).encode()) for number in range(4)]
    for number, hashes in enumerate((one, other, one, other)):
        hashes.file(files[number])
    stored = json.loads(memory.read_text(encoding="utf-8"))
    assert sorted(map(len, stored.values())) == [5, 5, 5]
    assert str(files[0].resolve()) not in stored and str(files[3].resolve()) in stored
    read.clear()
    assert len({one.file(file) for file in files}) == 4
    assert read == [], "the other's are known too"
    assert [each.name for each in memory.parent.iterdir()] == ["hashes.json"]


def test_two_writers_of_one_process_write_aside_under_names_of_their_own(
    tmp_path: Path, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    replace = Path.replace

    def watched(self: Path, target: Path) -> Path:
        names.append(self.name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    for number in range(2):
        Hashes(memory).file(large(tmp_path / str(number)))
    assert len(set(names)) == 2


def test_a_combined_hash_depends_on_which_name_has_which_hash() -> None:
    assert combined({"a": "1", "b": "2"}) == combined({"b": "2", "a": "1"})
    assert len({combined(each) for each in ({"a": "1"}, {"a": "2"}, {"b": "1"}, {})}) == 4
