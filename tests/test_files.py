"""Opening what others may have put in the place of a file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from runner.files import open_regular, read_file, sha256_of


def test_only_a_regular_file_is_opened_and_nothing_blocks(tmp_path: Path) -> None:
    file, link = tmp_path / "x", tmp_path / "link"
    file.write_bytes(b"x")
    handle = open_regular(file)
    assert os.read(handle, 9) == b"x" and not os.get_inheritable(handle)
    with pytest.raises(OSError):
        os.write(handle, b"y")
    os.close(handle)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none")
    if os.name == "nt":
        return
    link.symlink_to(file)
    with pytest.raises(OSError) as caught:
        open_regular(link)
    assert caught.value.errno == errno.ELOOP
    os.mkfifo(tmp_path / "pipe")
    for odd in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(OSError, match="not a regular file") as caught:
            open_regular(odd)
        assert caught.value.errno is None


@pytest.mark.skipif(os.name == "nt", reason="its time of the last change is that of the making")
def test_what_was_written_over_with_its_old_time_has_another_hash(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"1")
    before, status = sha256_of(file), file.stat()
    with file.open("r+b") as stream:
        stream.write(b"2")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_mtime_ns == status.st_mtime_ns and sha256_of(file) != before


def test_a_file_is_read_up_to_a_number_of_bytes_and_a_larger_one_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert read_file(tmp_path / "x") == read_file(tmp_path / "x", 3) == b"abc"
    with pytest.raises(OSError, match="larger than") as caught:
        read_file(tmp_path / "x", 2)
    assert caught.value.errno == errno.EFBIG
