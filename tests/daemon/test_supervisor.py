"""The process that keeps a runner running: its signals, and its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.harness import clean_environment, eventually

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")


def _supervised(home: Path, before: str = "") -> subprocess.Popen[bytes]:
    code = f"import signal, sys; {before}from runner.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, "run", "--home", str(home)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=clean_environment(),
    )  # fmt: skip


def _health(home: Path) -> dict[str, Any]:
    return json.loads((home / "outbox" / "runner.json").read_bytes())


def _runner(home: Path, supervisor: subprocess.Popen[bytes]) -> psutil.Process:
    """The child, once its health file says that it runs."""

    def found() -> psutil.Process | None:
        children = psutil.Process(supervisor.pid).children()
        there = children and (home / "outbox" / "runner.json").exists()
        return children[0] if there and _health(home)["pid"] == children[0].pid else None

    return eventually(found, "a runner under its supervisor")


def test_a_stop_between_two_runners_starts_no_other(home: Path) -> None:
    supervisor = _supervised(home)
    child = _runner(home, supervisor)
    child.kill()
    eventually(lambda: not psutil.Process(supervisor.pid).children(), "the runner's end")
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(timeout=30) == 0


def test_a_runner_that_was_started_with_nohup_outlives_a_hangup(home: Path) -> None:
    supervisor = _supervised(home, "signal.signal(signal.SIGHUP, signal.SIG_IGN); ")
    child = _runner(home, supervisor)
    before = _health(home)["updated_at"]
    supervisor.send_signal(signal.SIGHUP)
    child.send_signal(signal.SIGHUP)
    eventually(lambda: _health(home)["updated_at"] != before, "another health file")
    assert _health(home)["state"] == "idle" and supervisor.poll() is None
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(timeout=30) == 0
