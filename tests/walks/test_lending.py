"""The whole way of a lend in mid image, with a real runner and the built-in model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.harness import Runner, clean_environment, eventually, fluxdrop
from tests.walks.test_walk import pixels

pytestmark = pytest.mark.timeout(240)

LOOK = "import pathlib, sys; print(pathlib.Path(sys.argv[1]).read_text()); sys.exit(3)"


def test_a_lend_in_mid_image_empties_the_device_and_costs_nothing(runner: Runner) -> None:
    (whole,) = runner.succeeded(runner.drop("lend-whole", steps=60))
    job = runner.drop("lend-cut", steps=60)
    runner.until(job, lambda s: s["progress"] and s["progress"]["step"] > 5)
    runner.put("runner.lend", '{"now": true}')
    health = eventually(lambda: is_lent(runner), "an empty device")
    assert health["models"] == [] and [slot["memory"] for slot in health["slots"]] == [None]
    status = runner.until(job, lambda s: s["state"] == "queued")
    assert (status["reason"], status["attempt"]) == ("Lent", 0)
    (runner.home / "inbox" / "runner.lend").unlink()
    (cut,) = runner.succeeded(job)
    assert pixels(runner, cut) == pixels(runner, whole)


def is_lent(runner: Runner) -> dict[str, Any]:
    """The health file, once it says that the device is lent."""
    health = runner.read("runner.json")
    return health if health["state"] == "lent" else {}


def test_a_command_waits_for_the_image_in_hand_and_finds_the_device_empty(runner: Runner) -> None:
    job = runner.drop("lend-first", steps=60)
    runner.until(job, lambda s: s["progress"])
    command = (sys.executable, "-c", LOOK, str(runner.home / "outbox" / "runner.json"))
    done = fluxdrop("lend", "--home", str(runner.home), "--", *command)
    assert done.code == 3 and "waiting until the runner has left" in done.err
    health = json.loads(done.out)
    assert (health["state"], health["models"]) == ("lent", [])
    runner.succeeded(job)
    assert not (runner.home / "inbox" / "runner.lend").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_runner_goes_on_when_the_command_has_been_killed_and_not_before(runner: Runner) -> None:
    lends = [sys.executable, "-m", "runner", "lend", "--home", str(runner.home)]
    command = [sys.executable, "-c", "import os; print(os.getpid(), flush=True); input()"]
    with subprocess.Popen(
        [*lends, "--", *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=clean_environment(),
    ) as lend:  # fmt: skip
        assert lend.stdout is not None
        child = int(lend.stdout.readline())
        job = runner.drop("lend-held")
        eventually(lambda: (runner.read("runner.json")["lent"] or {}).get("pid") == child, "it")
        lend.kill()
        lend.wait()
        assert runner.status(job)["state"] == "queued", "the command still has the device"
        os.kill(child, signal.SIGKILL)
        runner.succeeded(job)
