"""One runner for a home and for a GPU: a second one is refused, and a dead one holds nothing."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from runner.daemon.daemon import Daemon
from runner.errors import RunnerBusy, UsageProblem
from runner.settings import Home
from runner.spool.disk.locks import RunnerLock, gpu_lock, home_lock, is_held
from tests.spool.conftest import Spool
from tests.spool.deaths import die, start_again
from tests.spool.device import FlatColours
from tests.spool.disk import mounts


def test_a_second_runner_of_a_home_is_refused_and_told_who_holds_it(spool: Spool) -> None:
    second = Daemon(spool.home, FlatColours())
    with pytest.raises(RunnerBusy, match=r"in use by another runner \(pid \d+\)"):
        second.open()


def test_a_second_runner_of_a_gpu_is_refused_whatever_the_home(tmp_path: Path) -> None:
    gpu = f"test-{tmp_path.name}-{os.getpid()}"
    homes = [Home(tmp_path / name) for name in ("one", "two")]
    for home in homes:
        home.prepare()
    with Daemon(homes[0], FlatColours(), locks=[gpu_lock(gpu)]):
        with pytest.raises(RunnerBusy, match=f"the GPU {gpu} is in use"):
            Daemon(homes[1], FlatColours(), locks=[gpu_lock(gpu)]).open()
    with Daemon(homes[1], FlatColours(), locks=[gpu_lock(gpu)]), Daemon(homes[0], FlatColours()):
        pass


def test_a_lock_that_a_dead_runners_child_still_shares_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.name == "nt":
        pytest.skip("on Windows no process inherits another one's lock")
    first, second = (RunnerLock(tmp_path / "lock", "the home") for _ in range(2))
    first.acquire()
    assert first._handle is not None
    waiting = [sys.executable, "-c", "input()"]
    with subprocess.Popen(waiting, stdin=subprocess.PIPE, pass_fds=[first._handle]) as child:
        with pytest.raises(RunnerBusy):
            second.acquire()
        first.release()
        dead = subprocess.Popen([sys.executable, "-c", ""])
        dead.wait()
        (tmp_path / "lock").write_bytes(f"\0pid {dead.pid}".encode())
        # The first time that it waits, the child ends.
        monkeypatch.setattr("runner.spool.disk.locks.time.sleep", lambda seconds: child.kill())
        monkeypatch.setattr("runner.spool.disk.locks._MOST_TRIES", sys.maxsize)
        second.acquire()
    assert child.returncode == -signal.SIGKILL
    second.release()


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Path]:
    """The file of a lock that is held."""
    file = tmp_path / "lock"
    file.write_bytes(b"\0pid 123456789012345 of a longer name")
    lock = RunnerLock(file, "the home")
    lock.acquire()
    yield file
    lock.release()
    lock.release()


def refused(file: Path) -> str:
    """What a second one is told."""
    with pytest.raises(RunnerBusy) as caught:
        RunnerLock(file, "the home").acquire()
    return str(caught.value)


def test_a_lock_names_its_holder_and_is_free_again_when_it_is_released(held: Path) -> None:
    assert refused(held) == f"the home is in use by another runner (pid {os.getpid()})"
    assert held.read_bytes()[1:] == f"pid {os.getpid()}".encode()


def test_of_what_others_wrote_into_the_file_of_a_lock_a_little_is_told_if_it_can_be_read(
    held: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held.write_bytes(b"\0" + b"x" * 500)
    assert refused(held).endswith(f"({'x' * 100})")

    def deny(*given: object, **named: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "read", deny)
    assert refused(held).endswith("(unknown)")


def test_a_lock_that_was_released_can_be_taken_and_its_file_stays(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    for _ in range(2):
        lock = RunnerLock(file, "the home")
        lock.acquire()
        lock.release()
    assert os.name == "nt" or stat.S_IMODE(file.stat().st_mode) == 0o644


@pytest.mark.skipif(os.name == "nt", reason="on Windows a lock ends with its process at once")
@pytest.mark.parametrize(
    ("text", "error", "waits"),
    [
        ("pid 1234", psutil.NoSuchProcess, 499),
        ("pid 1234", psutil.AccessDenied, 3),
        ("pid 1234", None, 3),
        ("pid x", psutil.NoSuchProcess, 3),
        ("", psutil.NoSuchProcess, 3),
    ],
)
def test_only_for_a_holder_that_is_dead_the_lock_is_waited_for_five_seconds(
    held: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    error: type[psutil.Error] | None,
    waits: int,
) -> None:
    waited: list[float] = []

    def process(number: int) -> Any:
        assert number == 1234
        if error is not None:
            raise error(number)
        running = psutil.STATUS_RUNNING
        return SimpleNamespace(create_time=lambda: 0.0, status=lambda: running)

    held.write_bytes(b"\0" + text.encode())
    monkeypatch.setattr(psutil, "Process", process)
    monkeypatch.setattr("runner.spool.disk.locks.time.sleep", waited.append)
    assert refused(held).endswith(f"({text or 'unknown'})")
    assert waited == [0.01] * waits


def test_whether_a_lock_is_held_can_be_asked(home: Path) -> None:
    assert is_held(Home(home)) is False, "no runner was here yet"
    lock = home_lock(Home(home))
    for _ in range(2):
        lock.acquire()
        assert is_held(Home(home)) is True
        lock.release()
        assert is_held(Home(home)) is False


def test_who_asks_whether_a_lock_is_held_keeps_no_runner_from_taking_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: with no second try."""
    if sys.platform == "win32":
        pytest.skip("on Windows who asks does not take the lock for an instant")
    import fcntl

    lock = home_lock(Home(home))
    lock.acquire()
    lock.release()
    asking = os.open(home / "data" / "runner.lock", os.O_RDONLY)
    fcntl.flock(asking, fcntl.LOCK_SH)
    monkeypatch.setattr("runner.spool.disk.locks.time.sleep", lambda seconds: os.close(asking))
    lock.acquire()
    lock.release()


def test_of_a_lock_that_this_user_may_not_open_nothing_is_known(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(*given: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "open", deny)
    assert is_held(Home(home)) is None


def test_the_home_of_a_dead_runner_can_be_opened_again(spool: Spool, tmp_path: Path) -> None:
    lock = spool.home.data / "runner.lock"
    die(spool)
    assert lock.exists()
    start_again(spool)
    spool.drop("hero.yaml")
    assert spool.end("hero")["state"] == "succeeded"


@pytest.mark.skipif(os.name == "nt", reason="each user has a folder of temporary files there")
@pytest.mark.parametrize("planted", ["symlink", "hard link", "pipe", "folder"])
def test_a_lock_writes_to_no_file_that_another_planted_in_its_place(
    tmp_path: Path, planted: str
) -> None:
    """Seen red: the target of a link was emptied, and named the process."""
    target, lock = tmp_path / "target", tmp_path / "lock"
    target.write_bytes(b"precious")
    if planted == "symlink":
        lock.symlink_to(target)
    elif planted == "hard link":
        os.link(target, lock)
    elif planted == "pipe":
        os.mkfifo(lock)
    else:
        lock.mkdir()
    with pytest.raises(UsageProblem, match="lock"):
        RunnerLock(lock, "the GPU").acquire()
    assert target.read_bytes() == b"precious"


def test_the_lock_of_a_gpu_is_shared_by_users_and_held_by_one_at_a_time() -> None:
    """Seen red: for the second user it was wrong usage, for ever."""
    with mounts.sticky_folder() as (folder, one, other):
        first, second = (RunnerLock(folder / "gpu.lock", "the GPU 0") for _ in range(2))
        with mounts.acting_as(one):
            first.acquire()
        with mounts.acting_as(other):
            with pytest.raises(RunnerBusy, match="is in use by another runner"):
                second.acquire()
            first.release()
            second.acquire()
            second.release()
        (folder / "gpu.lock").chmod(0o600)
        with mounts.acting_as(other), pytest.raises(RunnerBusy, match="is another user's, see"):
            second.acquire()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.timeout(60)
def test_a_start_waits_for_no_pipe_in_the_place_of_a_lock() -> None:
    """Seen red: with a pipe of another user, who may be read, it hung for ever."""
    with mounts.sticky_folder() as (folder, one, other):
        pipe = folder / "gpu.lock"
        os.mkfifo(pipe)
        os.chown(pipe, one, one)
        pipe.chmod(0o644)
        with mounts.acting_as(other), pytest.raises(UsageProblem, match="remove it"):
            RunnerLock(pipe, "the GPU 0").acquire()
