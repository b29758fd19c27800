"""The processes that plan: when one dies, cannot be had, or loses its runner."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import psutil
import pytest

from runner.spool.inbox.assess import Assessment
from runner.spool.inbox.compose_process import ComposeProcess, ComposeProcessDied
from runner.spool.inbox.settle import Drop
from tests.harness import ROOT, eventually
from tests.spool.composing import LARGE, SMALL
from tests.spool.conftest import Spool


def test_a_planner_that_dies_is_asked_again_and_costs_its_spec_only_the_second_time(
    packed: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaths = {"once.yaml": 1, "often.yaml": 2}
    asked = ComposeProcess.assess

    def deadly(planner: ComposeProcess, drop: Drop, *rest: Any) -> Assessment:
        deaths[drop.name] = deaths.get(drop.name, 0) - 1
        if deaths[drop.name] >= 0:
            planner.kill()
        return asked(planner, drop, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(ComposeProcess, "assess", deadly)
        for name in ("once.yaml", "often.yaml", "never.yaml"):
            packed.drop(name, SMALL)
        once, often, never = packed.over("once", "often", "never")
    assert (once["state"], never["state"]) == ("succeeded", "succeeded")
    assert (often["state"], often["reason"]) == ("rejected", "CrashLoop")


def test_without_room_for_a_process_a_spec_is_planned_in_this_one(
    packed: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise BlockingIOError("no more processes")

    with monkeypatch.context() as patch:
        patch.setattr("runner.spool.inbox.compose_process._start", fail)
        packed.drop("small.yaml", SMALL)
        assert packed.end("small")["images"]["done"] == 2


_ORPHAN = """
import sys
from pathlib import Path
from runner.catalogue import RegistryCatalogue
from runner.settings import Home
from runner.spool.inbox.compose_process import ComposeProcess
from runner.spool.inbox.settle import Drop

home, planner = Home(Path(sys.argv[1])), ComposeProcess()
planner.start()
print(planner._process.pid, flush=True)
if sys.argv[2]:
    drop = Drop("big.yaml", sys.argv[2].encode(), ())
    planner.assess(drop, home, RegistryCatalogue(home.settings))
sys.stdin.read()
"""


@pytest.mark.parametrize("text", [LARGE, ""], ids=["busy", "idle"])
def test_a_planner_does_not_outlive_a_runner_that_was_killed(packed: Spool, text: str) -> None:
    command = [sys.executable, "-c", _ORPHAN, str(packed.home.root), text]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=ROOT) as runner:
        assert runner.stdout is not None
        planner = psutil.Process(int(runner.stdout.readline()))
        if text:
            eventually(lambda: planner.cpu_times().user > 0.5, "the planner to plan")
        runner.kill()
    eventually(lambda: is_gone(planner), "the planner to end", seconds=30)


def is_gone(process: psutil.Process) -> bool:
    """Whether a process has ended, reaped or not."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_a_planner_answers_once_and_is_gone_with_its_with(packed: Spool) -> None:
    assert packed.daemon is not None
    intake = packed.daemon.intake
    with ComposeProcess() as planner:
        planner.start()
        assert planner._process is not None
        process = psutil.Process(planner._process.pid)
        drop = Drop("small.yaml", SMALL.encode(), ())
        verdict = planner.assess(drop, packed.home, intake._catalogue)
        assert (verdict.reason, verdict.total, len(verdict.composed)) == (None, 2, 2)
        if sys.platform != "win32":
            assert process.nice() == min(psutil.Process().nice() + 10, 19), "others go first"
        planner.kill()
        with pytest.raises(ComposeProcessDied):
            planner.assess(drop, packed.home, intake._catalogue)
    assert not process.is_running()
