"""The whole way of a lend in mid image, with a real runner and the built-in model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.harness import Runner, clean_environment, eventually, fluxdrop
from tests.walks.test_walk import pixels

pytestmark = pytest.mark.timeout(240)

STEPS = 120
LOOK = "import pathlib, sys; print(*(pathlib.Path(p).read_text() for p in sys.argv[1:]), sep='\\0')"


def test_a_command_that_is_lent_the_device_in_mid_image_finds_it_empty_and_costs_nothing(
    runner: Runner,
) -> None:
    (whole,) = runner.succeeded(runner.drop("lend-whole", steps=STEPS))
    job = runner.drop("lend-cut", steps=STEPS)
    runner.until(job, lambda s: s["progress"] and s["progress"]["step"] > 5)
    outbox = runner.home / "outbox"
    seen = [str(outbox / "runner.json"), str(outbox / job / "status.json")]
    command = (sys.executable, "-c", f"{LOOK}; sys.exit(3)", *seen)
    done = fluxdrop("lend", "--now", "--home", str(runner.home), "--", *command)
    assert done.code == 3 and "waiting until the runner has left" in done.err
    health, status = map(json.loads, done.out.split("\0"))
    assert (health["state"], health["models"]) == ("lent", [])
    assert [slot["memory"] for slot in health["slots"]] == [None]
    assert (status["state"], status["reason"], status["attempt"]) == ("queued", "Lent", 0)
    (cut,) = runner.succeeded(job)
    assert pixels(runner, cut) == pixels(runner, whole)
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
