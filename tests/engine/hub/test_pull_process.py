"""`models pull` as its users run it: what goes wrong is one sentence, what breaks off goes on.

Each is a real process against a hub on loopback, and has to end within `SECONDS`: no situation may
cost minutes of retries.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests import random_twin
from tests.engine.hub.pulling import (
    NOWHERE,
    REPO,
    SECONDS,
    TOKEN,
    environment,
    partial,
    process,
    repo_folder,
    snapshot,
    write,
)
from tests.fake_hub import WEIGHTS, FakeHub, Fault, files_of
from tests.harness import Runner, eventually


@dataclass(frozen=True)
class Situation:
    """What is wrong, and what must be said."""

    says: str
    arrange: Callable[[FakeHub], object] = lambda hub: None
    environment: Mapping[str, str] = field(default_factory=dict)


def _gate(hub: FakeHub) -> None:
    hub.repos[REPO].gated = True


def _fault(fault: Fault) -> Callable[[FakeHub], object]:
    return lambda hub: hub.faults.update({WEIGHTS: fault})


SITUATIONS = {
    "gated, no token": Situation("accept its licence on", _gate),
    "gated, not let in": Situation(
        "the account of your token has not been let in", _gate, {"HF_TOKEN": TOKEN}
    ),
    "a bad token": Situation(
        "does not accept your token", environment={"HF_TOKEN": "hf_thisIsAnOldOne"}
    ),
    "no such repository, no token": Situation(
        f"there is no {REPO} on the hub, or it is private", lambda hub: hub.repos.clear()
    ),
    "a private repository of others": Situation(
        f"there is no {REPO} on the hub that your token may see",
        lambda hub: setattr(hub.repos[REPO], "private", True),
        {"HF_TOKEN": TOKEN},
    ),
    "no such revision": Situation(
        "has no revision main", lambda hub: setattr(hub.repos[REPO], "revision", "v2")
    ),
    "the hub is down": Situation(
        "the hub has a fault of its own", lambda hub: setattr(hub, "status", 503)
    ),
    "the storage is down": Situation("the hub has a fault of its own", _fault(Fault(status=502))),
    "too many requests": Situation("wait a few minutes", lambda hub: setattr(hub, "status", 429)),
    "switched off": Situation("HF_HUB_OFFLINE", environment={"HF_HUB_OFFLINE": "1"}),
    "unreachable": Situation("cannot be reached", environment={"HF_ENDPOINT": NOWHERE}),
    "no address": Situation("HF_ENDPOINT is not the address", environment={"HF_ENDPOINT": "hub"}),
    "a log-in page": Situation("is not a hub", lambda hub: setattr(hub, "page", b"<html>log in")),
    "always cut off": Situation("broke off", _fault(Fault(after=5000))),
    "silent": Situation("broke off", _fault(Fault(after=5000, wait=True))),
    "changed on the way": Situation(
        "is not what the hub promised", _fault(Fault(content=b"<html>" + bytes(10**6)))
    ),
    "no pipeline": Situation(
        "holds no pipeline for diffusers",
        lambda hub: hub.repos[REPO].files.pop("model_index.json"),
    ),
    "no weights": Situation(
        f"has no {WEIGHTS} on the hub", lambda hub: hub.repos[REPO].files.pop(WEIGHTS)
    ),
}


@pytest.mark.parametrize("name", SITUATIONS)
def test_whatever_goes_wrong_is_one_sentence_with_a_remedy(
    hub: FakeHub, own: Path, name: str
) -> None:
    situation = SITUATIONS[name]
    situation.arrange(hub)
    done = process(hub, own, **situation.environment)
    assert done.code == 1 and done.out == ""
    said = [line for line in done.err.splitlines() if line.startswith("fluxdrop: ")]
    assert len(said) == 1 and situation.says in said[0], done.err
    assert not (repo_folder(own) / "refs").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is full")
def test_a_disk_that_fills_up_is_told_and_the_next_try_goes_on(hub: FakeHub, own: Path) -> None:
    file = partial(own, hub.repos[REPO].files[WEIGHTS])
    file.symlink_to("/dev/full")
    done = process(hub, own)
    assert done.code == 1 and "the disk is full: make room and run" in done.err
    file.unlink()
    assert process(hub, own).code == 0


ENDS = {"Ctrl-C": signal.SIGINT, "a kill": getattr(signal, "SIGKILL", signal.SIGTERM)}


@pytest.mark.parametrize("end", ENDS)
def test_a_download_that_was_ended_goes_on_where_it_broke_off(
    hub: FakeHub, own: Path, end: str
) -> None:
    if os.name == "nt" and end == "Ctrl-C":
        pytest.skip("Windows sends no SIGINT to another process")
    whole, half = hub.repos[REPO].files[WEIGHTS], 100_000
    hub.faults[WEIGHTS] = fault = Fault(after=half, wait=True)
    running = subprocess.Popen(
        [sys.executable, "-m", "runner", "models", "pull", "twin", "--home", str(own)],
        env=environment(hub, own, HF_HUB_DOWNLOAD_TIMEOUT="30"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    file = partial(own, whole)
    try:
        eventually(lambda: file.exists() and file.stat().st_size == half, "half of the weights")
        running.send_signal(ENDS[end])
        _, err = running.communicate(timeout=SECONDS)
    finally:
        running.kill()
        running.communicate()
    if end == "Ctrl-C":
        assert running.returncode == 130
        assert b"what has come is kept, `fluxdrop models pull twin` goes on" in err
    del hub.faults[WEIGHTS]
    fault.go_on.set()
    hub.seen.clear()
    assert process(hub, own).code == 0
    again = [seen for seen in hub.seen if seen.storage and seen.path.endswith(WEIGHTS)]
    assert [seen.start for seen in again] == [half]
    assert (snapshot(own) / WEIGHTS).read_bytes() == whole
    assert not file.exists()


@pytest.mark.timeout(180)
def test_a_job_runs_from_what_was_pulled_and_never_asks_the_hub(
    hub: FakeHub, own: Path, tmp_path: Path, runner_of: Callable[..., Runner]
) -> None:
    """The whole way: a registry entry, a job that fails, `models pull`, the same job again."""
    hub.repos[REPO].files = files_of(random_twin.folder("text2img", tmp_path))
    write(own, twin=f"{{like: dev, repo: {REPO}, kinds: [text2img], steps: 2}}")
    ours = {name: v for name, v in environment(hub, own).items() if name.startswith("HF_")}
    runner = runner_of(own, **ours).start()
    job = {"model": "twin", "steps": None, "width": 64, "height": 64}
    early = runner.over(runner.drop("early", **job))
    assert early["reason"] == "ModelMissing"
    assert "run `fluxdrop models pull twin`" in early["message"]
    assert hub.seen == []
    assert process(hub, own).code == 0
    hub.seen.clear()
    (sidecar,) = runner.succeeded(runner.drop("late", **job))
    assert hub.seen == []
    assert sidecar["steps"] == 2 and sidecar["model"] == "twin"
    facts = sidecar["result"]["model"]
    assert (facts["repo"], facts["revision"]) == (REPO, hub.repos[REPO].commit)
