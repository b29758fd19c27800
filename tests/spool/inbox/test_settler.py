"""When one file of the inbox counts as completely written, by the clock that a scan brings."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.settings import Settings
from runner.spool.disk.platform import allow_writer_probe, can_probe_writers
from runner.spool.inbox.settle import Drop, Settler, drop_at
from specs.document import MAX_BYTES
from tests.spool.conftest import SPEC

_WHOLE = SPEC.encode()
_SETTINGS: dict[str, Any] = {
    "settle_seconds": 0.5,
    "settle_seconds_unknown": 4.0,
    "rescan_seconds": 32.0,
}


class Writers:
    """What is known of a file's writers; `on_probe` is called at each look."""

    known: bool | None = False
    on_probe: Callable[[], object] = staticmethod(lambda: None)

    def __call__(self, handle: int) -> bool | None:
        self.on_probe()
        return self.known


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> Writers:
    """Nobody has a file open for writing, unless a test says so."""
    made = Writers()
    monkeypatch.setattr("runner.spool.inbox.settle.has_writer", made)
    return made


@pytest.fixture
def settler(writers: Writers) -> Settler:
    """Settles after half a second, or four where writers are unknown."""
    return Settler(Settings(**_SETTINGS))


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """A spec without an end marker."""
    file = tmp_path / "x.yaml"
    file.write_bytes(_WHOLE)
    return file


def taken(result: Drop | float | None) -> bytes:
    assert isinstance(result, Drop) and result.refused is None, result
    return result.data


def refusal(result: Drop | float | None) -> str:
    assert isinstance(result, Drop) and result.refused is not None, result
    assert result.data == b"" and result.sha256 == ""
    return result.refused[0]


def test_a_file_settles_when_it_is_unchanged_for_the_settling_time(
    spec: Path, settler: Settler
) -> None:
    assert settler.check(spec, 8.0) == 0.5
    assert settler.check(spec, 8.25) == 0.25
    assert taken(settler.check(spec, 8.5)) == _WHOLE


def test_a_change_begins_the_settling_time_anew(spec: Path, settler: Settler) -> None:
    settler.check(spec, 8.0)
    spec.write_bytes(_WHOLE + b"steps: 2\n")
    assert settler.check(spec, 8.5) == 0.5
    spec.write_bytes(_WHOLE)
    assert settler.check(spec, 9.0) == 0.5
    assert taken(settler.check(spec, 9.5)) == _WHOLE


def test_a_writer_that_holds_the_file_open_begins_the_settling_time_anew(
    spec: Path, settler: Settler, writers: Writers
) -> None:
    writers.known = True
    assert settler.check(spec, 8.0) == 0.5
    assert settler.check(spec, 100.0) == 0.5
    writers.known = False
    assert settler.check(spec, 100.25) == 0.25
    assert taken(settler.check(spec, 100.5)) == _WHOLE


def test_where_writers_are_unknown_the_longer_settling_time_counts(
    spec: Path, settler: Settler, writers: Writers
) -> None:
    writers.known = None
    assert settler.check(spec, 8.0) == 4.0
    assert settler.check(spec, 11.0) == 1.0
    assert taken(settler.check(spec, 12.0)) == _WHOLE


@pytest.mark.parametrize("known", [False, None])
def test_a_file_that_was_renamed_in_is_complete_at_once(
    spec: Path, settler: Settler, writers: Writers, known: bool | None
) -> None:
    writers.known = known
    assert taken(settler.check(spec, 8.0, renamed_in=True)) == _WHOLE


def test_a_file_that_was_renamed_in_and_is_open_for_writing_is_complete_once_it_is_closed(
    tmp_path: Path,
) -> None:
    if not can_probe_writers(tmp_path):
        pytest.skip("this system cannot say who has a file open for writing")
    allow_writer_probe()
    settler, target = Settler(Settings(**_SETTINGS)), tmp_path / "x.yaml"
    with (tmp_path / "aside").open("wb") as file:
        file.write(_WHOLE)
        file.flush()
        (tmp_path / "aside").rename(target)
        assert settler.check(target, 8.0, renamed_in=True) == 0.5
        assert settler.check(target, 100.0) == 0.5
    assert taken(settler.check(target, 100.0)) == _WHOLE


def test_what_was_renamed_in_and_changed_since_settles_like_any_other(
    spec: Path, settler: Settler, writers: Writers
) -> None:
    writers.known = True
    settler.check(spec, 8.0, renamed_in=True)
    spec.write_bytes(_WHOLE + b"steps: 2\n")
    writers.known = False
    assert settler.check(spec, 9.0) == 0.5


@pytest.mark.parametrize("known", [True, False, None])
@pytest.mark.parametrize(
    ("name", "text", "complete"),
    [
        ("x.yaml", SPEC + "...\n", True),
        ("x.JSON", '{"kind": "text2img"}', True),
        ("x.json", '{"kind": "text2img"', False),
        ("x.json", '{"kind": "text2img"\n...\n', False),
        ("x.yaml", '{"kind": "text2img"}', False),
    ],
)
def test_an_end_marker_or_a_whole_json_object_is_complete_at_once(
    tmp_path: Path, settler: Settler, writers: Writers, name: str, text: str,
    complete: bool, known: bool | None,
) -> None:  # fmt: skip
    writers.known = known
    (tmp_path / name).write_text(text, encoding="utf-8")
    result = settler.check(tmp_path / name, 8.0)
    assert taken(result) == text.encode() if complete else isinstance(result, float)


@pytest.mark.parametrize("change", [_WHOLE + b"...\n", b"steps: 2\n"])
def test_a_file_that_changes_while_it_is_read_is_looked_at_again(
    spec: Path, settler: Settler, writers: Writers, change: bytes
) -> None:
    settler.check(spec, 8.0)
    writers.on_probe = lambda: spec.write_bytes(change)
    assert settler.check(spec, 9.0) == 0.5


def test_an_empty_file_is_waited_for_ten_minutes_and_then_refused(
    tmp_path: Path, settler: Settler
) -> None:
    file = tmp_path / "x.yaml"
    file.touch()
    assert settler.check(file, 8.0) == 32.0
    assert settler.check(file, 606.0) == 2.0
    assert refusal(settler.check(file, 608.0)) == "BadYaml"


def test_a_file_larger_than_a_spec_may_be_is_refused_when_it_has_settled(
    spec: Path, settler: Settler
) -> None:
    largest = b"#" * (MAX_BYTES - 1) + b"\n"
    spec.write_bytes(largest)
    settler.check(spec, 8.0)
    assert taken(settler.check(spec, 8.5)) == largest
    spec.write_bytes(largest + b"#")
    assert settler.check(spec, 9.0) == 0.5
    result = settler.check(spec, 9.5)
    assert refusal(result) == "TooLarge"
    assert isinstance(result, Drop) and result.refused is not None and result.size == 262145
    assert result.refused[1] == "a spec has at most 256 KiB, this file has 262145 bytes"


def test_a_strict_inbox_waits_a_minute_for_a_sign_of_the_end(spec: Path, writers: Writers) -> None:
    settler = Settler(Settings(**_SETTINGS, strict=True))
    assert settler.check(spec, 8.0) == 0.5
    assert settler.check(spec, 8.5) == 32.0
    assert settler.check(spec, 67.0) == 1.0
    assert refusal(settler.check(spec, 68.0)) == "Incomplete"
    spec.write_bytes(_WHOLE + b"...\n")
    assert taken(settler.check(spec, 68.0)) == _WHOLE + b"...\n"


def test_a_settled_file_stays_settled_until_it_is_forgotten(spec: Path, settler: Settler) -> None:
    settler.check(spec, 8.0)
    settler.check(spec, 8.5)
    settler.keep_only({spec.name})
    assert taken(settler.check(spec, 100.0)) == _WHOLE
    settler.forget([spec.name, "another.yaml"])
    assert settler.check(spec, 100.0) == 0.5
    settler.keep_only(set())
    assert settler.check(spec, 100.25) == 0.5


def test_a_file_that_is_gone_is_no_drop_and_a_new_one_of_its_name_begins_anew(
    spec: Path, settler: Settler
) -> None:
    settler.check(spec, 8.0)
    aside = spec.rename(spec.with_name("aside"))
    assert settler.check(spec, 8.25) is None
    aside.rename(spec)
    assert settler.check(spec, 8.5) == 0.5


def test_a_link_is_refused_at_once_and_its_target_is_not_read(
    spec: Path, settler: Settler, tmp_path: Path
) -> None:
    link = tmp_path / "link.yaml"
    link.symlink_to(spec)
    pipe = tmp_path / "pipe.yaml"
    if hasattr(os, "mkfifo"):
        os.mkfifo(pipe)
    for file in filter(os.path.lexists, (link, pipe)):
        drop = settler.check(file, 8.0)
        assert refusal(drop) == "NotARegularFile"
        assert isinstance(drop, Drop) and drop.identity == drop_at(file, file.name).identity


def test_a_file_that_cannot_be_read_is_tried_for_a_minute_and_then_refused(
    spec: Path, settler: Settler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(path: Path) -> int:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("runner.spool.inbox.settle.open_regular", deny)
        assert settler.check(spec, 8.0) == 32.0
        assert settler.check(spec, 67.0) == 1.0
        result = settler.check(spec, 69.0)
        assert refusal(result) == "Unreadable"
        assert isinstance(result, Drop) and (result.data, result.size) == (b"", len(_WHOLE))
    assert settler.check(spec, 69.0) == 0.5


def test_a_file_that_cannot_be_read_to_its_end_is_tried_for_a_minute_too(
    spec: Path, settler: Settler, writers: Writers
) -> None:
    def fail() -> None:
        raise OSError(5, "Input/output error")

    writers.on_probe = fail
    assert settler.check(spec, 8.0) == 32.0
    assert refusal(settler.check(spec, 68.0)) == "Unreadable"


def test_a_drop_is_told_from_a_later_one_by_size_time_bytes_and_name(
    spec: Path, settler: Settler
) -> None:
    os.utime(spec, ns=(5, 7))
    sha256 = hashlib.sha256(_WHOLE).hexdigest()
    drop = settler.check(spec, 8.0, renamed_in=True)
    assert isinstance(drop, Drop) and drop == drop_at(spec, "x.yaml")
    assert drop.identity == f"{len(_WHOLE)}|7|{sha256}|x.yaml"


def test_what_cannot_be_a_spec_is_a_drop_without_bytes(spec: Path, tmp_path: Path) -> None:
    spec.write_bytes(b"#" * MAX_BYTES)
    assert drop_at(spec, "x.yaml").size == len(drop_at(spec, "x.yaml").data) == MAX_BYTES
    spec.write_bytes(b"#" * (MAX_BYTES + 1))
    assert drop_at(spec, "x.yaml").refused is not None
    (tmp_path / "folder.yaml").mkdir()
    assert drop_at(tmp_path / "folder.yaml", "folder.yaml").refused is not None
    with pytest.raises(FileNotFoundError):
        drop_at(tmp_path / "none.yaml", "none.yaml")


@pytest.mark.skipif(os.name == "nt", reason="there only who may change a file can link it")
def test_another_name_of_a_private_file_is_refused_once_its_writer_has_had_time(
    spec: Path, settler: Settler
) -> None:
    """Seen red: with any hard link refused at once, a careful writer's own drop was rejected."""
    first = spec.with_name("first")
    spec.chmod(0o600)
    spec.write_bytes(_WHOLE + b"...\n")
    os.link(spec, first)
    assert settler.check(spec, 8.0) == 2.0
    assert refusal(settler.check(spec, 10.0)) == "NotARegularFile"
    assert drop_at(spec, spec.name).data == b""
    first.unlink()
    assert taken(settler.check(spec, 10.5)) == _WHOLE + b"...\n"
    os.link(spec, first)
    spec.chmod(0o644)
    assert taken(settler.check(spec, 11.0)), "everybody may read it"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("other", ["pipe", "huge", "link"])
def test_a_file_that_another_takes_the_place_of_is_not_waited_for_nor_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    """Seen red: the pipe was opened and waited for, and the file with holes read to its end."""
    file = tmp_path / "x.yaml"
    file.write_bytes(_WHOLE)
    lstat = os.lstat

    def swap(path: Path) -> os.stat_result:
        status = lstat(path)
        file.unlink()
        if other == "pipe":
            os.mkfifo(file)
        elif other == "link":
            file.symlink_to("/etc/hostname")
        else:
            file.touch()
            os.truncate(file, 8 << 40)
        return status

    monkeypatch.setattr(os, "lstat", swap)
    if other == "huge":
        drop = drop_at(file, "x.yaml")
        assert (drop.data, drop.refused, drop.size) == (b"", ("", ""), 8 << 40)
    else:
        with pytest.raises(OSError):
            drop_at(file, "x.yaml")
