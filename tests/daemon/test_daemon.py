"""The lives of jobs as lists of states, and what ends them."""

from __future__ import annotations

import errno
import json
import os
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from runner.daemon import daemon
from runner.executor import Progressed
from runner.job import Phase
from runner.spool.disk.disk import Disk, StrPath
from tests.harness import MOVES
from tests.spool.conftest import SPEC, Spool

BULK = SPEC.replace("seed: 7", "seeds: {start: 1, count: 4}")


def observed(spool: Spool, job: str) -> list[str]:
    """Every different state seen while turning until the job is over."""
    states: list[str] = []

    def look() -> bool:
        state = spool.status(job).get("state")
        if state and (not states or states[-1] != state):
            states.append(state)
        return spool.is_over(job)

    spool.until(look)
    return states


def test_a_good_job_is_queued_then_running_then_succeeded(spool: Spool) -> None:
    spool.device.by_hand = True
    spool.drop("hero.yaml")
    spool.until(lambda: spool.device.task)
    spool.device.step()
    spool.until(lambda: spool.status("hero").get("state") == "running")
    spool.device.finish()
    assert observed(spool, "hero") == ["running", "succeeded"]


class StatusesSeen(Disk):
    """Keeps every status of a job in the order in which readers may see them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, list[dict[str, Any]]] = {}

    def before(self, operation: str, path: StrPath, **details: Any) -> None:
        target = Path(details.get("target", path))
        if operation == "write" and target.name == "status.json":
            self.seen.setdefault(target.parent.name, []).append(json.loads(details["data"]))


def test_every_published_revision_rises_and_every_move_is_legal(idle_spool: Spool) -> None:
    disk = StatusesSeen()
    idle_spool.start(disk)
    idle_spool.drop("hero.yaml", BULK)
    for number in range(20):
        idle_spool.drop(f"quick{number}.yaml")
    idle_spool.over("hero", *(f"quick{number}" for number in range(20)))
    assert len(disk.seen) == 21
    for statuses in disk.seen.values():
        assert all(a["revision"] < b["revision"] for a, b in pairwise(statuses))
        states = [each["state"] for each in statuses]
        assert set(states) == {"queued", "running", "succeeded"}
        moves = [(a, b) for a, b in pairwise(states) if a != b]
        assert all(b in MOVES[a] for a, b in moves)


def test_progress_counts_images_and_steps(spool: Spool) -> None:
    spool.device.by_hand = True
    spool.drop("hero.yaml", BULK)
    spool.until(lambda: spool.device.task)
    spool.device.finish()
    spool.until(lambda: spool.device.task and spool.device.task.index == 2)
    assert spool.device.task is not None
    spool.device.step(spool.device.task.steps // 2)
    progress = spool.until(lambda: (spool.status("hero").get("progress") or {}).get("step") and
                           spool.status("hero")["progress"])  # fmt: skip
    assert (progress["phase"], progress["image"]) == ("denoising", 2)
    assert progress["steps"] == spool.device.task.steps
    assert progress["fraction"] == 0.375
    assert progress["eta_seconds"] is not None


def test_what_is_read_while_loading_is_told_and_counts_as_nothing_done(spool: Spool) -> None:
    spool.device.by_hand = True
    spool.drop("hero.yaml")
    task = spool.until(lambda: spool.device.task)
    spool.device.events.put(Progressed("gpu0", task, Phase.LOADING, 3, 4))
    progress = spool.until(lambda: (spool.status("hero").get("progress") or {}).get("step") and
                           spool.status("hero")["progress"])  # fmt: skip
    assert (progress["phase"], progress["step"], progress["steps"]) == ("loading", 3, 4)
    assert progress["fraction"] == 0.0
    spool.device.finish()


def test_a_bulk_job_makes_every_image_with_its_own_seed(spool: Spool) -> None:
    spool.drop("hero.yaml", BULK)
    status = spool.end("hero")
    assert status["images"] == {"total": 4, "done": 4, "failed": 0, "skipped": 0, "reused": 0}
    assert [output["seed"] for output in status["outputs"]] == [1, 2, 3, 4]
    assert spool.pictures("hero") == [f"hero-000{n}.png" for n in (1, 2, 3, 4)]


def test_seeds_that_nobody_gave_are_drawn_once_and_recorded(spool: Spool) -> None:
    spool.drop("hero.yaml", SPEC.replace("seed: 7", "count: 3"))
    seeds = [output["seed"] for output in spool.end("hero")["outputs"]]
    assert seeds == [seeds[0], seeds[0] + 1, seeds[0] + 2]
    spool.drop("other.yaml", SPEC.replace("seed: 7", "count: 3"))
    assert [output["seed"] for output in spool.end("other")["outputs"]] != seeds


def test_a_failing_image_does_not_stop_the_others(spool: Spool) -> None:
    spool.device.failing["hero", 2] = ("OutOfMemory", "no memory left: close other programs")
    spool.drop("hero.yaml", BULK)
    status = spool.end("hero")
    assert (status["state"], status["reason"]) == ("failed", "OutOfMemory")
    assert status["images"] == {"total": 4, "done": 3, "failed": 1, "skipped": 0, "reused": 0}
    assert "1 of 4 images" in status["message"]
    assert spool.pictures("hero") == ["hero-0001.png", "hero-0003.png", "hero-0004.png"]
    spool.drop("next.yaml")
    assert spool.end("next")["state"] == "succeeded"


def test_the_sidecar_is_the_realised_spec_with_the_facts_of_the_run(spool: Spool) -> None:
    spool.drop("hero.yaml", SPEC + "priority: 3\nid: hero\nx_mine: 1\n")
    spool.end("hero")
    sidecar = json.loads((spool.home.job("hero") / "hero-0001.json").read_bytes())
    result = sidecar.pop("result")
    assert sidecar == {
        "kind": "text2img",
        "model": "tiny",
        "prompt": "a red circle on a blue background",
        "seed": 7,
        "steps": sidecar["steps"],
        "guidance": sidecar["guidance"],
        "width": 64,
        "height": 64,
        "x_mine": 1,
    }
    assert (result["job"], result["index"], result["file"]) == ("hero", 1, "hero-0001.png")


def test_a_dropped_sidecar_asks_for_the_same_image(spool: Spool) -> None:
    spool.drop("hero.yaml", SPEC.replace("seed: 7", "count: 2"))
    seeds = [output["seed"] for output in spool.end("hero")["outputs"]]
    spool.drop("again.json", (spool.home.job("hero") / "hero-0002.json").read_bytes())
    again = spool.end("again")
    assert [output["seed"] for output in again["outputs"]] == seeds[1:]


def test_a_higher_priority_waits_for_the_image_in_flight_only(spool: Spool) -> None:
    spool.device.by_hand = True
    spool.drop("slow.yaml", BULK)
    spool.until(lambda: spool.device.task)
    spool.drop("urgent.yaml", SPEC + "priority: 5\n")
    assert spool.daemon is not None
    ledger = spool.daemon.ledger
    spool.until(lambda: ledger.ready(time.time(), 1))
    spool.device.by_hand = False
    spool.device.finish()
    spool.over("slow", "urgent")
    assert spool.device.started == [
        ("slow", 1),
        ("urgent", 1),
        ("slow", 2),
        ("slow", 3),
        ("slow", 4),
    ]


def test_a_job_outside_its_window_waits_and_says_until_when(spool: Spool) -> None:
    spool.drop("later.yaml", SPEC + 'not_before: "2999-01-01T00:00:00Z"\n')
    spool.gone("later.yaml")
    spool.drop("now.yaml")
    spool.end("now")
    assert spool.status("later")["state"] == "queued"
    assert spool.device.started == [("now", 1)]


def test_the_health_file_says_what_the_runner_does(spool: Spool) -> None:
    spool.device.by_hand = True
    spool.drop("hero.yaml")
    spool.gone("hero.yaml")
    spool.drop("next.yaml")
    file = spool.home.health

    def health() -> dict[str, object]:
        return json.loads(file.read_bytes()) if file.exists() else {}

    spool.until(lambda: health().get("job") == "hero" and health()["next"] == ["next"])
    assert (health()["state"], health()["queued"]) == ("working", 1)
    assert health()["watch"] == "events"


def test_models_leave_an_idle_device_after_a_while(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "home", idle_minutes=0.001)
    device = spool.device
    spool.start()
    spool.drop("hero.yaml")
    spool.end("hero")
    spool.until(lambda: device.released)
    spool.stop()


def test_models_leave_the_device_when_all_that_waits_waits_for_its_hours(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.daemon.daemon._BETWEEN_DROPS_SECONDS", 0.01)
    spool.drop("hero.yaml")
    spool.end("hero")
    spool.drop("later.yaml", SPEC + "not_before: 2099-01-01T00:00:00Z\n")
    spool.until(lambda: spool.device.released)
    assert spool.status("later")["state"] == "queued"


@pytest.mark.parametrize("what", ["name_quarantined", "recover_running"])
def test_a_refusal_while_nothing_is_to_do_ends_no_runner(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """Seen red: the runner ended with a traceback."""
    real, times = getattr(daemon, what), 0

    def refused(of: Any) -> None:
        nonlocal times
        times += 1
        if times == 1:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        real(of)

    monkeypatch.setattr(daemon, what, refused)
    spool.drop("hero.yaml")
    assert spool.end("hero")["state"] == "succeeded"
    spool.until(lambda: times > 1)
    assert os.strerror(errno.EMFILE) in caplog.text


def test_a_drain_that_ends_while_the_system_refuses_says_how_the_jobs_ended(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(of: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(daemon, "name_quarantined", refused)
    spool.drop("hero.yaml")
    assert spool.daemon is not None
    assert spool.daemon.drain().counts["succeeded"] == 1
