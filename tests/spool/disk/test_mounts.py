"""The file systems that other tests mount are as odd as those tests need them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.spool.disk import mounts


def test_a_folder_that_is_passed_through_fuse_shows_the_same_files(tmp_path: Path) -> None:
    source, at = tmp_path / "source", tmp_path / "at"
    source.mkdir()
    with mounts.passed_through(source, at):
        (at / "x").write_bytes(b"x")
        assert (source / "x").read_bytes() == b"x"
        assert at.stat().st_dev != source.stat().st_dev
    assert list(at.iterdir()) == []


def test_where_a_connection_is_broken_off_nothing_can_be_asked(tmp_path: Path) -> None:
    source, at = tmp_path / "source", tmp_path / "at"
    source.mkdir()
    with mounts.passed_through(source, at):
        mounts.break_off(at)
        with pytest.raises(OSError) as caught:
            (at / "x").touch()
    assert caught.value.errno == errno.ENOTCONN and list(at.iterdir()) == []


def test_a_disk_with_windows_names_refuses_a_colon(tmp_path: Path) -> None:
    with mounts.windows_names(tmp_path / "at"):
        (tmp_path / "at" / "shot 12.30.yaml").touch()
        with pytest.raises(OSError) as caught:
            (tmp_path / "at" / "shot 12:30.yaml").touch()
    assert caught.value.errno == errno.EINVAL


def test_a_caseless_disk_opens_a_file_by_any_case(tmp_path: Path) -> None:
    with mounts.caseless(tmp_path / "at"):
        (tmp_path / "at" / "photo.JPG").write_bytes(b"x")
        assert (tmp_path / "at" / "PHOTO.jpg").read_bytes() == b"x"
        assert os.listdir(tmp_path / "at") == ["photo.jpg"]


def test_in_a_sticky_folder_nobody_removes_or_renames_the_file_of_another() -> None:
    with mounts.sticky_folder() as (folder, one, other):
        with mounts.acting_as(one):
            (folder / "x").write_bytes(b"x")
        with mounts.acting_as(other):
            assert (folder / "x").read_bytes() == b"x"
            with pytest.raises(PermissionError):
                (folder / "x").unlink()
            with pytest.raises(PermissionError):
                (folder / "x").rename(folder / "y")
        with mounts.acting_as(one):
            (folder / "x").unlink()
