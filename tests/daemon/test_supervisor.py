"""The process that keeps a runner running: its signals, its end, and what becomes of the runner."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from runner import exit_codes
from runner.daemon.supervisor import keep_running
from tests.harness import PATIENCE, Runner, clean_environment, eventually, fluxdrop, spec

LONG = 120
"""Steps of an image that takes seconds."""

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals"),
    pytest.mark.timeout(300),
]


Supervised = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def supervised(home: Path) -> Iterator[Supervised]:
    """Starts `fluxdrop run` in the home, after some code; ends it, and its runners."""
    made: list[subprocess.Popen[bytes]] = []

    def start(before: str = "") -> subprocess.Popen[bytes]:
        code = f"import signal, sys; {before}from runner.cli import main; sys.exit(main())"
        made.append(subprocess.Popen(
            [sys.executable, "-c", code, "run", "--home", str(home)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=clean_environment(),
        ))  # fmt: skip
        return made[-1]

    yield start
    for process in made:
        process.kill()
        process.wait()
    for left in psutil.process_iter(["cmdline"]):
        if str(home) in (left.info["cmdline"] or ()):
            with suppress(psutil.NoSuchProcess):
                left.kill()


def _health(home: Path) -> dict[str, Any]:
    return json.loads((home / "outbox" / "runner.json").read_bytes())


def _runner(home: Path, supervisor: subprocess.Popen[bytes]) -> psutil.Process:
    """The child, once its health file says that it runs."""

    def found() -> psutil.Process | None:
        children = psutil.Process(supervisor.pid).children()
        there = children and (home / "outbox" / "runner.json").exists()
        return children[0] if there and _health(home)["pid"] == children[0].pid else None

    return eventually(found, "a runner under its supervisor")


def _hang_up(process: subprocess.Popen[bytes]) -> None:
    """Hang up again and again until the process has ended, as its shell and the system may."""
    while process.poll() is None:
        process.send_signal(signal.SIGHUP)
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.01)


def test_a_stop_between_two_runners_starts_no_other(home: Path, supervised: Supervised) -> None:
    supervisor = supervised()
    child = _runner(home, supervisor)
    child.kill()
    eventually(lambda: not psutil.Process(supervisor.pid).children(), "the runner's end")
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(timeout=30) == 0


def test_a_stop_while_a_runner_is_being_started_ends_that_runner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Started(subprocess.Popen[bytes]):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            # Before the supervisor has a name for it.
            os.kill(os.getpid(), signal.SIGTERM)

    idle = [sys.executable, "-c", f"import time; time.sleep({PATIENCE})"]
    monkeypatch.setattr(subprocess, "Popen", Started)
    monkeypatch.setattr("runner.daemon.supervisor.command", lambda: idle)
    told: list[str] = []
    code = keep_running([], final_codes=(), notify=told.append)
    assert (code, told) == (128 + signal.SIGTERM, [])


def test_a_runner_that_was_started_with_nohup_outlives_a_hangup(
    home: Path, supervised: Supervised
) -> None:
    supervisor = supervised("signal.signal(signal.SIGHUP, signal.SIG_IGN); ")
    child = _runner(home, supervisor)
    before = _health(home)["updated_at"]
    supervisor.send_signal(signal.SIGHUP)
    child.send_signal(signal.SIGHUP)
    eventually(lambda: _health(home)["updated_at"] != before, "another health file")
    assert _health(home)["state"] == "idle" and supervisor.poll() is None
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(timeout=30) == 0


def _in_flight(home: Path) -> tuple[Runner, str]:
    """A job at whose image the home's runner is at work."""
    caller = Runner(home)
    job = caller.drop("long", steps=LONG)
    caller.until(job, lambda status: status["progress"] and status["progress"]["step"] > 1)
    return caller, job


def _assert_takes_drops(home: Path) -> None:
    """A runner works there. What it refuses costs no picture, which would take seconds more."""
    caller = Runner(home)
    assert caller.answer(caller.put("wrong.yaml", spec(stpes=1)))["outcome"] == "rejected"


def _has_ended(process: psutil.Process) -> bool:
    try:
        # Process 1 of a container may leave it so.
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _assert_stopped_cleanly(child: psutil.Process, caller: Runner, job: str) -> None:
    eventually(lambda: _has_ended(child), "the runner's own end", seconds=15)
    status = caller.status(job)
    assert (status["state"], status["attempt"]) == ("queued", 0), status
    assert caller.read("runner.json")["state"] == "stopping"


def test_a_runner_whose_supervisor_is_killed_stops_cleanly_and_the_next_one_goes_on(
    home: Path, supervised: Supervised
) -> None:
    supervisor = supervised()
    child = _runner(home, supervisor)
    caller, job = _in_flight(home)
    supervisor.kill()
    supervisor.wait()
    _assert_stopped_cleanly(child, caller, job)
    assert fluxdrop("drain", home=home).code == 0
    assert caller.status(job)["state"] == "succeeded"


def test_a_runner_that_was_started_again_stops_with_its_supervisor_too(
    home: Path, supervised: Supervised
) -> None:
    supervisor = supervised()
    first = _runner(home, supervisor)
    first.kill()
    eventually(lambda: _health(home)["pid"] != first.pid, "another runner")
    second = _runner(home, supervisor)
    caller, job = _in_flight(home)
    supervisor.kill()
    supervisor.wait()
    _assert_stopped_cleanly(second, caller, job)


def test_a_terminal_that_is_closed_stops_the_runner_as_any_other_signal(
    home: Path, supervised: Supervised
) -> None:
    """Seen red: the second hangup, of the system after the shell's, ended it at once."""
    supervisor = supervised("signal.signal(signal.SIGHUP, signal.SIG_DFL); ")
    child = _runner(home, supervisor)
    caller, job = _in_flight(home)
    _hang_up(supervisor)
    assert supervisor.returncode == 0
    _assert_stopped_cleanly(child, caller, job)


def test_a_runner_without_a_supervisor_stops_at_a_hangup_too(
    home: Path, runner_of: Callable[..., Runner]
) -> None:
    """Seen red: it ended in the middle of whatever it did, also at the second of two."""
    runner = runner_of(home).start()
    _hang_up(runner.process)
    assert runner.process.returncode == 0
    assert _health(home)["state"] == "stopping"


def test_a_supervisor_that_is_suspended_keeps_its_runner(
    home: Path, supervised: Supervised
) -> None:
    supervisor = supervised()
    child = _runner(home, supervisor)
    supervisor.send_signal(signal.SIGSTOP)
    _assert_takes_drops(home)
    assert not _has_ended(child)
    supervisor.send_signal(signal.SIGCONT)
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(timeout=PATIENCE) == 0 and _has_ended(child)


@pytest.mark.parametrize(
    ("more", "redirected"),
    [([], "<&-"), (["--one-process"], "<&-"), (["--one-process"], "</dev/null")],
    ids=["closed", "alone-closed", "alone-empty"],
)
def test_a_run_goes_on_whatever_its_standard_input_is(
    home: Path, more: list[str], redirected: str
) -> None:
    command = [sys.executable, "-m", "runner", "run", "--home", str(home), *more]
    process = subprocess.Popen(
        ["sh", "-c", f'exec "$@" {redirected}', "sh", *command],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=clean_environment(),
    )  # fmt: skip
    try:
        eventually((home / "outbox" / "runner.json").exists, "the health file")
        _assert_takes_drops(home)
        assert process.poll() is None
    finally:
        process.terminate()
        assert process.wait(PATIENCE) == 0


_HANGS = """
import subprocess, sys, threading
from runner.daemon import supervisor

supervisor._LONGEST_STOP_SECONDS = 0.1
supervisor.stop_when_orphaned(lambda: print("asked to stop", flush=True))
subprocess.run([sys.executable, "-c", "import sys; print(len(sys.stdin.read()))"])
threading.Event().wait()
"""
"""A runner that starts something which reads its standard input, and never stops."""


def test_what_a_runner_starts_has_no_part_of_the_pipe_and_one_that_hangs_is_ended() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HANGS],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=clean_environment(),
    ) as process:  # fmt: skip
        try:
            assert process.stdin is not None and process.stdout is not None
            assert process.stdout.readline() == b"0\n"
            process.stdin.close()
            assert process.stdout.read() == b"asked to stop\n"
            assert process.wait(PATIENCE) == exit_codes.HUNG
        finally:
            process.kill()
