"""What differs between systems, tried where the system has it, and the answer where it has not."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runner.files import open_regular
from runner.spool.disk import platform
from runner.spool.disk.platform import (
    allow_writer_probe,
    can_probe_writers,
    can_sync_file_system,
    file_system_of,
    has_writer,
    own_file,
    path_of,
    signature_of,
    sync_file_system,
)
from tests.spool.disk import mounts

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has leases and syncfs")


@pytest.fixture
def probed(tmp_path: Path) -> Path:
    """A file in a folder where writers can be probed for."""
    if not can_probe_writers(tmp_path):
        pytest.skip("this system cannot say who has a file open for writing")
    allow_writer_probe()
    file = tmp_path / "x"
    file.write_bytes(b"x")
    return file


def test_a_writer_is_seen_while_it_has_the_file_open_and_never_kept_out(probed: Path) -> None:
    handle = open_regular(probed)
    assert has_writer(handle) is False
    with probed.open("ab") as file:
        assert has_writer(handle) is True
        with probed.open("rb"):
            assert has_writer(handle) is True
        file.write(b"y")
    assert has_writer(handle) is False
    # A lease that was still held would stop this one, or end this process.
    subprocess.run([sys.executable, "-c", "import sys; open(sys.argv[1], 'ab')", probed],
        check=True, timeout=30)  # fmt: skip
    os.close(handle)


@on_linux
def test_without_permission_for_the_probe_or_on_an_odd_file_writers_are_unknown(
    tmp_path: Path, probed: Path
) -> None:
    handle = open_regular(probed)
    before = signal.signal(signal.SIGIO, signal.SIG_DFL)
    assert has_writer(handle) is None
    signal.signal(signal.SIGIO, before)
    os.close(handle)
    folder = os.open(tmp_path, os.O_RDONLY)
    assert has_writer(folder) is None
    os.close(folder)


@on_linux
def test_writers_can_be_probed_for_where_a_file_can_be_leased(tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "x").touch()
    with (tmp_path / "x").open("rb") as file:
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except OSError:
            leased = False
        else:
            leased = True
    assert can_probe_writers(tmp_path) is (
        leased and file_system_of(tmp_path) in platform._LOCAL.values()
    )


@on_linux
def test_on_fuse_where_a_lease_is_granted_beside_a_writer_writers_are_unknown(
    tmp_path: Path, probed: Path
) -> None:
    """Seen red: a spec was taken, and removed, while its writer had written five of seven lines."""
    import fcntl

    at = tmp_path / "at"
    with mounts.passed_through(probed.parent, at):
        handle = open_regular(at / "x")
        with probed.open("ab"):
            fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            assert has_writer(handle) is None
        assert has_writer(handle) is None
        os.close(handle)
        assert not can_probe_writers(at) and file_system_of(at) == "FUSE"


@on_linux
def test_through_the_layers_of_a_container_a_writer_is_seen(tmp_path: Path, probed: Path) -> None:
    below, at = tmp_path / "below", tmp_path / "at"
    below.mkdir()
    (below / "old").write_bytes(b"x")
    with mounts.layered(below, at):
        (at / "new").write_bytes(b"x")
        for file in (at / "old", at / "new"):
            with file.open("ab"):
                handle = open_regular(file)
                assert has_writer(handle) is True
            assert has_writer(handle) is False
            os.close(handle)
        assert can_probe_writers(at) and file_system_of(at) == "overlay"


@on_linux
@pytest.mark.parametrize(
    "magic, name, is_local",
    [
        (0xEF53, "ext", True), (0x9123683E, "btrfs", True), (0x01021994, "tmpfs", True),
        (0x65735546, "FUSE", False), (0x6969, "NFS", False), (0x01021997, "9p", False),
        (0xFE534D42, "SMB", False), (0x1234, "a file system of type 0x1234", False),
        (0, "a file system of type 0x0", False),
    ],
)  # fmt: skip
def test_only_local_file_systems_are_believed_about_writers(
    probed: Path, monkeypatch: pytest.MonkeyPatch, magic: int, name: str, is_local: bool
) -> None:
    monkeypatch.setattr(platform, "_magic", lambda handle: magic)
    handle = open_regular(probed)
    assert has_writer(handle) is (False if is_local else None)
    os.close(handle)
    assert can_probe_writers(probed.parent) is is_local
    assert file_system_of(probed.parent) == name


@on_linux
def test_a_c_library_that_cannot_name_a_file_system_leaves_writers_unknown(
    probed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def fstatfs(self, handle: int, answer: object) -> int:
            return -1

    monkeypatch.setattr(platform, "_library", Broken)
    assert can_probe_writers(probed.parent) is False


def test_where_no_file_can_be_made_writers_cannot_be_probed_for(tmp_path: Path) -> None:
    assert can_probe_writers(tmp_path / "none") is False
    assert list(tmp_path.iterdir()) == []


@on_linux
def test_where_leases_are_refused_writers_cannot_be_probed_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: Any) -> int:
        raise OSError(errno.EINVAL, "no leases here")

    monkeypatch.setattr("runner.spool.disk.platform.fcntl.fcntl", refuse)
    assert can_probe_writers(tmp_path) is False
    assert list(tmp_path.iterdir()) == []


def test_an_own_file_is_new_private_empty_and_gone_in_the_end(tmp_path: Path) -> None:
    with own_file(tmp_path) as one, own_file(tmp_path) as other:
        assert one != other and one.parent == tmp_path
        assert one.name.startswith(".own-") and one.name.endswith(".writing")
        status = one.stat()
        assert status.st_size == 0
        assert os.name == "nt" or stat.S_IMODE(status.st_mode) == 0o600
        other.unlink()
    with pytest.raises(ZeroDivisionError), own_file(tmp_path):
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []


@on_linux
def test_the_file_system_of_a_folder_is_synced_and_a_failure_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert can_sync_file_system()
    open_before = os.listdir("/proc/self/fd")
    sync_file_system(tmp_path)
    assert os.listdir("/proc/self/fd") == open_before

    class Broken:
        def __init__(self, name: None, *, use_errno: bool) -> None:
            assert use_errno

        def syncfs(self, handle: int) -> int:
            import ctypes

            ctypes.set_errno(errno.EIO)
            return -1

    monkeypatch.setattr("runner.spool.disk.platform.ctypes.CDLL", lambda *given: object())
    can_sync_file_system.cache_clear()
    assert not can_sync_file_system(), "an older C library has no such call"
    can_sync_file_system.cache_clear()
    monkeypatch.setattr("runner.spool.disk.platform.ctypes.CDLL", Broken)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)) as caught:
        sync_file_system(tmp_path)
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(tmp_path))


def test_a_signature_changes_when_a_file_is_written_touched_moved_or_replaced(
    tmp_path: Path,
) -> None:
    file, seen = tmp_path / "x", set()
    for data in (b"x", b"xy"):
        file.write_bytes(data)
        seen.add(signature_of(file.stat()))
    os.utime(file, ns=(1, 1))
    seen.add(signature_of(file.stat()))
    file.rename(tmp_path / "aside")
    file.write_bytes(b"xy")
    os.utime(file, ns=(1, 1))
    seen.add(signature_of(file.stat()))
    assert len(seen) == 4


def test_the_path_of_an_open_file_is_where_it_lies_now(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    with (tmp_path / "x").open("rb") as file:
        if os.name == "nt":
            assert path_of(file.fileno()) is None
            return
        (tmp_path / "x").rename(tmp_path / "y")
        path = path_of(file.fileno())
        assert path is not None and path.samefile(tmp_path / "y")
