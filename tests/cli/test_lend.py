"""`lend`, where no runner is: what it writes, how long it waits, and what it leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runner import client
from runner.settings import Home
from runner.spool.store import lending
from runner.wire import Lent
from tests.cli.here import Here
from tests.harness import clean_environment, eventually, fluxdrop

Lends = Callable[..., "subprocess.Popen[str]"]
MINE = """
import pathlib, sys, time, json, os
file = pathlib.Path(sys.argv[1], "inbox", "runner.lend")
while json.loads(file.read_text())["pid"] != os.getpid(): time.sleep(0.01)
"""
"""Waits until the file says that the device is lent to this process."""


def lent(home: Path) -> Lent | None:
    return client.current_lend(Home(home))


def until(home: Path) -> float:
    """For how many minutes the device is lent."""
    said = lent(home)
    assert said is not None and said["until"] is not None
    return round((lending.time_of(said["until"]) - time.time()) / 60, 1)


@pytest.fixture
def lends(home: Path) -> Iterator[Lends]:
    """Starts `lend` in a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "runner", "lend", "--home", str(home), *arguments]
        pipe, env = subprocess.PIPE, clean_environment()
        lend = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=env)
        started.append(lend)
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.communicate()


def test_a_lend_for_a_time_returns_at_once_and_another_one_waits_for_its_end(
    here: Here, lends: Lends
) -> None:
    done = here("lend", "--for", "30m")
    assert done.code == 0 and "the device is free, and lent until" in done.out
    assert until(here.home) == 30 and lent(here.home)["pid"] is None  # type: ignore[index]
    waits = lends("--for", "2h")
    assert waits.stderr is not None and "waiting, for the device" in waits.stderr.readline()
    assert until(here.home) == 30
    assert "taken back" in here("lend", "--end").out
    assert waits.wait(60) == 0 and until(here.home) == 120
    here("lend", "--end")
    assert here("lend", "--json").json == {"lent": lent(here.home)}
    assert lent(here.home)["until"] is None, "until it is taken back"  # type: ignore[index]
    assert "taken back" in here("lend", "--end").out
    assert lent(here.home) is None and "was not lent" in here("lend", "--end").out


def test_a_time_or_a_command_that_is_none_lends_nothing(here: Here) -> None:
    # Seen red: with a traceback for the last, which no calendar has.
    for time_given in ("soon", "", "99999999999d"):
        wrong = here("lend", "--for", time_given)
        assert (wrong.code, lent(here.home)) == (2, None) and "90s, 30m or 2h" in wrong.err
    absent = here("lend", "no-such-command")
    assert (absent.code, lent(here.home)) == (2, None) and "'no-such-command'" in absent.err


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        ("sys.exit(7)", 7),
        pytest.param(
            "os.kill(os.getpid(), 9)", 137,
            marks=pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals"),
        ),
    ],
    ids=["code", "signal"],
)  # fmt: skip
def test_a_command_has_the_device_until_it_ends_and_its_exit_code_is_passed_on(
    home: Path, ends: str, code: int
) -> None:
    program = f"{MINE}print('said', '--json', flush=True)\n{ends}"
    command = (sys.executable, "-c", program, str(home))
    done = fluxdrop("lend", "--for", "1h", "--home", str(home), "--", *command)
    assert (done.code, lent(home)) == (code, None)
    assert done.out.split() == ["said", "--json"], "nothing else is printed"


def test_the_second_of_two_commands_waits_for_the_first_and_for_one_that_is_dead_none(
    home: Path, lends: Lends
) -> None:
    first = lends("--", sys.executable, "-c", "input()")
    eventually(lambda: lent(home), "the first lend")
    second = lends("--for", "5m")
    assert (
        second.stderr is not None and "waiting, for the device is lent" in second.stderr.readline()
    )
    assert second.poll() is None
    eventually(lambda: (lent(home) or lending.ENDLESS)["pid"] not in (None, first.pid), "its child")
    child = lent(home)["pid"]  # type: ignore[index]
    # As after the end of this machine: the file stays, and those that it names are gone.
    first.kill()
    first.wait()
    os.kill(child, signal.SIGTERM)  # type: ignore[arg-type]
    assert second.wait(60) == 0 and until(home) == 5


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C of Windows goes to a whole console")
def test_ctrl_c_takes_back_what_is_waited_for_or_asked_for(
    home: Path, lends: Lends, tmp_path: Path
) -> None:
    client.lend(Home(home), lending.lent_to(os.getpid()), print)
    waits = lends("--", "true")
    assert waits.stderr is not None and waits.stderr.readline()
    waits.send_signal(signal.SIGINT)
    assert waits.wait(60) == 130 and lent(home)["pid"] == os.getpid()  # type: ignore[index]
    client.take_back(Home(home))
    # A stop is passed on to the command.
    runs = lends("--", sys.executable, "-c", MINE + "print(1, flush=True)\ninput()", str(home))
    assert runs.stdout is not None and runs.stdout.readline()
    runs.send_signal(signal.SIGTERM)
    assert runs.wait(60) == 143 and lent(home) is None


def test_who_waits_for_the_device_is_told_when_it_is_taken_back(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(home: Home) -> dict[str, object]:
        client.take_back(home)
        return {"state": "working", "lent": None}

    monkeypatch.setattr(client, "runner_health", busy)
    done = here("lend")
    assert done.code == 2 and "taken back before it was free" in done.err
