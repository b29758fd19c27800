"""Real file systems that are not like the usual one, and a second user, for tests of any folder.

Each is a context manager, and skips the test, with the reason, where this machine has none: they
need root, `/dev/fuse`, and the packages bindfs and ntfs-3g. What is mounted is
unmounted in the end, even if a runner still has files open there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# Sparse; the runner begins no image where there is less than 64 MiB of room.
_NTFS_BYTES = 160 << 20
_ONE, _OTHER = 61_001, 61_002


@contextmanager
def passed_through(source: Path, at: Path) -> Iterator[None]:
    """The folder `source` seen through FUSE at `at` too, as sshfs or a cloud client shows one."""
    with _mounted(["bindfs", str(source), str(at)], at):
        yield


@contextmanager
def windows_names(at: Path) -> Iterator[None]:
    """An NTFS disk that refuses the names Windows refuses, such as `a:b`."""
    with _ntfs(at, "ntfs-3g", "windows_names"):
        yield


@contextmanager
def caseless(at: Path) -> Iterator[None]:
    """A disk where `A` and `a` are one file; it lists all names in lower case."""
    with _ntfs(at, "lowntfs-3g", "ignore_case"):
        yield


@contextmanager
def memory_disk(at: Path) -> Iterator[None]:
    """A small disk of its own, local and empty; it is gone with its content once unmounted."""
    with _mounted(["mount", "-t", "tmpfs", "-o", "size=16m", "fluxdrop-test", str(at)], at):
        yield


@contextmanager
def layered(below: Path, at: Path) -> Iterator[None]:
    """A folder under a layer that takes what is written, as the disk of a container is."""
    upper, work = at.with_name(f"{at.name}.upper"), at.with_name(f"{at.name}.work")
    upper.mkdir()
    work.mkdir()
    options = f"lowerdir={below},upperdir={upper},workdir={work}"
    with _mounted(["mount", "-t", "overlay", "-o", options, "fluxdrop-test", str(at)], at):
        yield


def unmount(at: Path) -> None:
    """Unmount what is mounted at a folder, at once, even where files are open."""
    subprocess.run(["umount", "--lazy", str(at)], check=True, timeout=30)


def break_off(at: Path) -> None:
    """End a FUSE mount's connection, as a server that dies does: what is asked of it fails."""
    number = os.minor(at.stat().st_dev)
    control = Path(tempfile.mkdtemp(prefix="fluxdrop-test-"))
    with _mounted(["mount", "-t", "fusectl", "fluxdrop-test", str(control)], control):
        (control / str(number) / "abort").write_bytes(b"1")
    control.rmdir()


@contextmanager
def sticky_folder() -> Iterator[tuple[Path, int, int]]:
    """A folder that all may write and where nobody removes another's files; ids of two users."""
    if os.name == "nt" or os.geteuid() != 0:
        pytest.skip("only root can act as two users")
    # Not below pytest's own folders, which other users may not enter.
    root = Path(tempfile.mkdtemp(prefix="fluxdrop-test-"))
    root.chmod(0o755)
    folder = root / "sticky"
    folder.mkdir()
    folder.chmod(0o1777)
    try:
        yield folder, _ONE, _OTHER
    finally:
        shutil.rmtree(root)


@contextmanager
def acting_as(user: int) -> Iterator[None]:
    """Be another user, in all threads of this process, where files are concerned."""
    assert sys.platform != "win32"
    os.setegid(user)
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@contextmanager
def _ntfs(at: Path, program: str, option: str) -> Iterator[None]:
    image = at.with_name(f"{at.name}.img")
    with image.open("wb") as file:
        file.truncate(_NTFS_BYTES)
    _run(["mkntfs", "--fast", "--force", "--quiet", str(image)])
    with _mounted([program, "-o", option, str(image), str(at)], at):
        yield


@contextmanager
def _mounted(command: list[str], at: Path) -> Iterator[None]:
    at.mkdir(exist_ok=True)
    _run(command)
    try:
        yield
    finally:
        # Not `ismount`, which says no where the connection is broken off.
        if f" {at} " in Path("/proc/self/mountinfo").read_text(encoding="utf-8"):
            unmount(at)


def _run(command: list[str]) -> None:
    """Run a program that makes or mounts a file system; without it, or root, skip the test."""
    if sys.platform != "linux":
        pytest.skip("file systems are mounted on Linux only")
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        pytest.skip(f"{command[0]} cannot be used here: {done.stderr.strip()}")
