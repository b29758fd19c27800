"""One runner for a home and for a GPU: a second one is refused, and a dead one holds nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runner.daemon.daemon import Daemon
from runner.errors import RunnerBusy
from runner.settings import Home
from runner.spool.disk.locks import RunnerLock
from tests.spool.conftest import Spool
from tests.spool.deaths import die, start_again
from tests.spool.device import FlatColours


def test_a_second_runner_of_a_home_is_refused_and_told_who_holds_it(spool: Spool) -> None:
    second = Daemon(spool.home, FlatColours())
    with pytest.raises(RunnerBusy, match=r"in use by another runner \(pid \d+\)"):
        second.open()


def test_a_second_runner_of_a_gpu_is_refused_whatever_the_home(tmp_path: Path) -> None:
    gpu = f"test-{tmp_path.name}-{os.getpid()}"
    homes = [Home(tmp_path / name) for name in ("one", "two")]
    for home in homes:
        home.prepare()
    with Daemon(homes[0], FlatColours(), gpu=gpu):
        with pytest.raises(RunnerBusy, match=f"the GPU {gpu} is in use"):
            Daemon(homes[1], FlatColours(), gpu=gpu).open()
    with Daemon(homes[1], FlatColours(), gpu=gpu):
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


def test_the_home_of_a_dead_runner_can_be_opened_again(spool: Spool, tmp_path: Path) -> None:
    lock = spool.home.data / "runner.lock"
    die(spool)
    assert lock.exists()
    start_again(spool)
    spool.drop("hero.yaml")
    assert spool.end("hero")["state"] == "succeeded"
