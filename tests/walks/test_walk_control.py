"""The whole way when something comes between: cancels, pauses, priorities, kills, bad specs.

Real runners on the built-in model. A long job has many steps; it is stopped, never waited for.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Runner, eventually, fluxdrop, sidecars, spec

pytestmark = pytest.mark.timeout(300)

LONG = 1000
RunnerOf = Callable[..., Runner]


def pictures(runner: Runner, job: str) -> list[str]:
    """The names of the pictures in a job's folder, whole or half."""
    names = os.listdir(runner.folder(job))
    return [name for name in names if name.endswith((".png", ".writing"))]


@pytest.fixture
def paused(runner: Runner) -> Iterator[Runner]:
    """The shared runner, paused for this test; the test resumes it."""
    assert fluxdrop("pause", home=runner.home).code == 0
    eventually(lambda: runner.read("runner.json")["state"] == "paused", "the runner to pause")
    yield runner
    assert fluxdrop("resume", home=runner.home).code == 0
    eventually(lambda: runner.read("runner.json")["state"] != "paused", "the runner to go on")


def test_a_queued_job_is_cancelled_at_once_and_never_starts(paused: Runner) -> None:
    job = paused.drop("queued-cancel")
    assert paused.status(job)["state"] == "queued"
    done = fluxdrop("cancel", job, "--json", home=paused.home)
    assert done.json["jobs"] == [{"id": job, "state": "cancelled", "was_over": False}]
    status = paused.status(job)
    assert status["reason"] == "Cancelled" and status["started_at"] is None
    assert pictures(paused, job) == []
    assert not (paused.home / "inbox" / f"{job}.cancel").exists()


def test_a_running_job_stops_at_the_next_step_and_leaves_no_picture(runner: Runner) -> None:
    job = runner.drop("mid-cancel", steps=LONG)
    runner.until(job, lambda s: s["progress"] and s["progress"]["step"] > 5)
    runner.put(f"{job}.cancel")
    status = runner.over(job)
    assert (status["state"], status["reason"]) == ("cancelled", "Cancelled")
    assert status["images"]["done"] == 0 and pictures(runner, job) == []
    after = runner.succeeded(runner.drop("after-cancel"))
    before = runner.succeeded(runner.drop("before-cancel"))
    assert after[0]["result"]["sha256"] != "" and len(before) == 1


def test_images_finished_before_a_cancel_are_kept_and_listed(runner: Runner) -> None:
    job = runner.drop("part-cancel", seed=None, seeds=[1, 2], matrix={"steps": [2, LONG]})
    runner.until(job, lambda s: s["images"]["done"] == 2 and s["progress"])
    runner.put(f"{job}.cancel")
    status = runner.over(job)
    assert status["state"] == "cancelled" and status["images"]["done"] == 2
    assert [each["seed"] for each in status["outputs"]] == [1, 2]
    assert len(sidecars(runner.folder(job))) == len(pictures(runner, job)) == 2
    assert (runner.folder(job) / "index.html").is_file()


def test_a_cancel_after_the_end_changes_nothing(runner: Runner) -> None:
    job = runner.drop("late-cancel")
    runner.succeeded(job)
    before = runner.status(job)
    runner.put(f"{job}.cancel")
    eventually(lambda: not (runner.home / "inbox" / f"{job}.cancel").exists(), "it to be obeyed")
    assert runner.status(job) == before
    done = fluxdrop("cancel", job, home=runner.home)
    assert done.code == 0 and "was over already: succeeded" in done.out


def test_a_cancel_that_comes_before_its_spec_waits_for_it(runner: Runner) -> None:
    runner.put("early.cancel")
    answered = runner.drop("bystander")
    runner.succeeded(answered)
    assert (runner.home / "inbox" / "early.cancel").exists(), "it did not wait for a late spec"
    job = runner.drop("early", steps=LONG)
    assert runner.over(job)["state"] == "cancelled" and pictures(runner, job) == []
    eventually(lambda: not (runner.home / "inbox" / "early.cancel").exists(), "it to be removed")


def test_a_cancel_by_file_name_means_the_newest_drop_of_that_file(runner: Runner) -> None:
    first = runner.drop("by-name")
    runner.succeeded(first)
    second = runner.drop("by-name", steps=LONG)
    assert (first, second) == ("by-name", "by-name-2")
    done = fluxdrop("cancel", "by-name.yaml", home=runner.home)
    assert done.out == "by-name.yaml: cancelled\n"
    assert runner.over(second)["state"] == "cancelled"
    assert runner.status(first)["state"] == "succeeded"


def test_nothing_starts_while_paused_and_priority_orders_what_waits(paused: Runner) -> None:
    jobs = [paused.drop(f"rank-{n}", priority=n) for n in (0, -5, 50, 1)]
    health = eventually(
        lambda: (h := paused.read("runner.json"))["queued"] == 4 and h, "the health file"
    )
    assert health["next"] == ["rank-50", "rank-1", "rank-0", "rank--5"]
    assert all(paused.status(job)["started_at"] is None for job in jobs)
    assert fluxdrop("resume", home=paused.home).code == 0
    ended = {paused.over(job)["started_at"]: job for job in jobs}
    assert [ended[moment] for moment in sorted(ended)] == ["rank-50", "rank-1", "rank-0",
                                                           "rank--5"]  # fmt: skip


def test_a_higher_priority_waits_only_for_the_image_in_hand(runner: Runner) -> None:
    bulk = runner.drop("bulk-low", count=40, steps=60)
    runner.until(bulk, lambda s: s["images"]["done"] >= 1)
    urgent = runner.drop("urgent", priority=10)
    runner.succeeded(urgent)
    status = runner.status(bulk)
    assert status["images"]["done"] < 40 and status["state"] in ("queued", "running")
    assert fluxdrop("cancel", bulk, home=runner.home).code == 0
    assert runner.over(bulk)["attempt"] <= 1


def test_a_chained_job_waits_for_the_picture_it_names(paused: Runner) -> None:
    first = paused.drop("link-1")
    second = paused.drop("link-2", kind="kontext", image="outbox/link-1/link-1-0001.png")
    status = paused.status(second)
    assert (status["state"], status["reason"]) == ("queued", "WaitingForInput")
    assert "link-1" in status["message"]
    assert fluxdrop("resume", home=paused.home).code == 0
    (made,) = paused.succeeded(first)
    paused.succeeded(second)
    copy = paused.folder(second) / "inputs" / "link-1-0001.png"
    assert copy.read_bytes() == (paused.folder(first) / made["result"]["file"]).read_bytes()


def test_a_chain_whose_first_job_fails_fails_too_and_says_why(runner: Runner) -> None:
    runner.drop("broken-1", model="dev", steps=None)
    second = runner.drop("broken-2", kind="kontext", image="outbox/broken-1/broken-1-0001.png")
    status = runner.over(second)
    assert (status["state"], status["reason"]) == ("failed", "InputMissing")
    assert "broken-1" in status["message"]


def test_absent_weights_fail_the_job_with_the_command_that_fetches_them(runner: Runner) -> None:
    status = runner.over(runner.drop("absent", model="schnell", guidance=None))
    assert (status["state"], status["reason"]) == ("failed", "ModelMissing")
    assert "fluxdrop models pull schnell" in status["message"]
    assert status["images"] == {"total": 1, "done": 0, "failed": 1, "skipped": 0, "reused": 0}
    runner.succeeded(runner.drop("after-absent"))


def test_every_mistake_of_a_spec_is_named_with_its_place(runner: Runner, tmp_path: Path) -> None:
    file = tmp_path / "typo.yaml"
    file.write_text(spec(steps=None, stpes=500, guidance=900), encoding="utf-8")
    done = fluxdrop("submit", str(file), home=runner.home)
    assert done.code == 1 and "SchemaInvalid" in done.out
    status = runner.status("typo")
    assert (status["state"], status["reason"]) == ("rejected", "SchemaInvalid")
    (receipt,) = runner.folder("drops").glob("typo~*.yaml.json")
    assert runner.read(f"drops/{receipt.name}")["outcome"] == "rejected"
    found = {error["path"]: error for error in status["errors"]}
    assert found.keys() == {"stpes", "guidance"}
    assert "did you mean 'steps'" in found["stpes"]["message"]
    assert (found["stpes"]["line"], found["stpes"]["column"]) == (5, 1)
    checked = fluxdrop("check", str(file), "--json", home=runner.home)
    assert checked.code == 1 and checked.json["files"][0]["errors"] == status["errors"]
    told = fluxdrop("check", str(file), home=runner.home).out
    assert f"{file}:5:1: " in told and len(told.splitlines()) == 2


def test_a_rejected_name_is_free_for_the_mended_spec(runner: Runner) -> None:
    runner.put("mend.yaml", "id: mend\n" + spec(stpes=1))
    assert runner.answer("mend.yaml")["outcome"] == "rejected"
    runner.put("mend.yaml", "id: mend\n" + spec())
    assert runner.answer("mend.yaml") | {"outcome": "accepted", "job": "mend"} == runner.read(
        "drops/mend.yaml.json"
    )
    runner.succeeded("mend")
    runner.put("mend.yaml", "id: mend\n" + spec())
    assert runner.answer("mend.yaml")["outcome"] == "absorbed"
    runner.put("mend.yaml", "id: mend\n" + spec(seed=8))
    conflict = runner.answer("mend.yaml")
    assert conflict["outcome"] == "rejected"
    assert runner.status(conflict["job"])["reason"] == "IdConflict"


def test_a_finished_job_runs_again_under_a_new_id(runner: Runner) -> None:
    first = runner.drop("solo", seed=None)
    (made,) = runner.succeeded(first)
    done = fluxdrop("retry", first, home=runner.home)
    assert (done.code, done.out) == (0, "solo-2\n")
    (again,) = runner.succeeded("solo-2")
    assert again["seed"] == made["seed"], "a drawn seed is kept"
    here, there = runner.folder("solo"), runner.folder("solo-2")
    assert (here / "spec.yaml").read_bytes() == (there / "spec.yaml").read_bytes()
    (receipt,) = runner.folder("drops").glob("solo~*.retry.json")
    assert runner.read(f"drops/{receipt.name}")["job"] == "solo-2"


def test_a_retry_of_a_job_whose_folder_was_moved_away_disturbs_nobody(runner: Runner) -> None:
    first = runner.drop("moved-0")
    runner.succeeded(first)
    job = runner.drop("moved", kind="kontext", image="outbox/moved-0/moved-0-0001.png")
    runner.succeeded(job)
    shutil.rmtree(runner.folder(job))
    runner.put(f"{job}.retry")
    for n in range(2):
        runner.succeeded(runner.drop(f"undisturbed-{n}"))
    made = [name for name in os.listdir(runner.home / "outbox") if name.startswith("moved-")]
    assert len(made) <= 2, made
    (runner.home / "inbox" / f"{job}.retry").unlink(missing_ok=True)


def test_a_killed_runner_loses_no_job_and_runs_no_image_twice(
    home: Path, runner_of: RunnerOf
) -> None:
    runner = runner_of(home).start()
    job = runner.drop("killed", count=3, steps=50)
    waiting = runner.drop("waiting")
    runner.until(job, lambda s: s["images"]["done"] >= 1 and s["progress"])
    runner.kill()
    kept = {each["result"]["index"]: each for each in sidecars(runner.folder(job))}
    revision = runner.status(job)["revision"]
    runner.start()
    made = runner.succeeded(job)
    status = runner.status(job)
    assert status["attempt"] == 2 and status["revision"] > revision
    assert [each["result"]["index"] for each in made] == [1, 2, 3]
    for number, sidecar in kept.items():
        assert made[number - 1] == sidecar, "an image that was there was made again"
    runner.succeeded(waiting)
    # A runner that works keeps one in its inbox and outbox, to know them again.
    leftovers = [file for file in home.rglob("*.writing") if not file.name.startswith(".place-")]
    assert leftovers == []
    assert runner.stop() == 0, runner.log


def test_a_stopped_runner_puts_back_its_job_without_charging_an_attempt(
    home: Path, runner_of: RunnerOf
) -> None:
    runner = runner_of(home).start()
    job = runner.drop("interrupted", steps=LONG)
    runner.until(job, lambda s: s["progress"] and s["progress"]["step"] > 5)
    assert runner.stop(signal.SIGINT) == 0, runner.log
    status = runner.status(job)
    assert (status["state"], status["attempt"]) == ("queued", 0), status
    assert runner.read("runner.json")["state"] == "stopping"
    assert json.loads(fluxdrop("status", "--json", home=home).out)["running"] is False


def test_a_second_runner_of_a_home_is_refused_naming_the_first(runner: Runner) -> None:
    for verb in ("run", "drain"):
        second = fluxdrop(verb, home=runner.home)
        assert second.code == 75 and f"pid {runner.pid}" in second.err, second


def outcome(home: Path, **files: str) -> Any:
    """What a drain of these files says."""
    for stem, text in files.items():
        (home / "inbox" / f"{stem}.yaml").write_text(text, encoding="utf-8")
    return fluxdrop("drain", "--json", home=home)


def test_a_drain_ends_by_itself_and_its_exit_code_tells_how_it_went(home: Path) -> None:
    empty = outcome(home)
    assert empty.code == 0 and not any(json.loads(empty.out)["counts"].values())
    mixed = outcome(home, good=spec(), bad=spec(stpes=1))
    counts = json.loads(mixed.out.splitlines()[-1])["counts"]
    assert mixed.code == 1 and (counts["succeeded"], counts["rejected"]) == (1, 1)
    (home / "inbox" / "runner.pause").touch()
    held = outcome(home, held=spec())
    assert held.code == 1 and "resume" in json.loads(held.out.splitlines()[-1])["note"]
    (home / "inbox" / "runner.pause").unlink()
    released = fluxdrop("drain", home=home)
    assert released.code == 0 and "held" in released.out and "succeeded" in released.out
