"""`status` without a runner: what the jobs' own statuses say, not what a summary said last."""

from __future__ import annotations

import json
import os
import platform
import sys
from typing import Any

import pytest

from runner.clock import timestamp
from runner.settings import Home
from runner.spool.disk.locks import home_lock
from tests.cli.here import Here
from tests.harness import spec


@pytest.fixture
def left(here: Here) -> Here:
    """A home whose runner was killed between a job's end and its next summary."""
    counts = {"total": 1, "done": 0, "failed": 0, "skipped": 0}
    row = {"kind": "text2img", "model": "tiny", "reason": None, "message": None}
    health: dict[str, Any] = {
        "state": "working", "pid": 1, "host": "elsewhere", "system": "none",
        "interval_seconds": 0.01, "job": "hero", "counts": {"running": 2},
        "recent": [
            {**row, "id": "hero", "state": "running", **counts},
            {**row, "id": "gone", "state": "running", **counts},
        ],
    }  # fmt: skip
    status = {**row, "id": "hero", "state": "succeeded", "images": {**counts, "done": 1}}
    for name, value in (("runner.json", health), ("hero/status.json", status)):
        file = here.home / "outbox" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(value), encoding="utf-8")
    return here


def test_without_a_runner_a_job_is_shown_as_its_own_status_says(left: Here) -> None:
    """Seen red: `running 0/1` of a job that was over."""
    said = left("status").out
    first, hero = said.splitlines()
    assert first == "no runner is running; when it last wrote its summary: 2 running"
    assert hero.split() == ["hero", "succeeded", "1/1"]


def test_without_a_runner_the_rows_in_json_are_those_of_the_statuses(left: Here) -> None:
    told = left("status", "--json").json
    assert told["running"] is False
    rows = [(row["id"], row["state"], row["done"]) for row in told["recent"]]
    assert rows == [("hero", "succeeded", 1)]


def test_a_runner_that_died_is_not_idle_while_another_process_has_its_home(left: Here) -> None:
    """Seen red: `runner 1 is idle`, for as long as a `verify` made its picture."""
    file = left.home / "outbox" / "runner.json"
    health = json.loads(file.read_bytes())
    health |= {"host": platform.node(), "system": sys.platform, "state": "idle"}
    file.write_text(json.dumps(health), encoding="utf-8")
    lock = home_lock(Home(left.home))
    lock.acquire()
    try:
        first = left("status").out.splitlines()[0]
        assert first.startswith(f"process {os.getpid()} has the home, and no runner is running;")
        health["pid"] = os.getpid()
        file.write_text(json.dumps(health), encoding="utf-8")
        assert left("status").out.startswith(f"runner {os.getpid()} is idle")
    finally:
        lock.release()


def test_settings_that_were_changed_after_the_runner_started_are_told_with_what_to_do(
    left: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `status`, `doctor`, `check` and `submit`, as long as a runner has the home."""
    monkeypatch.setattr("runner.cli.submit._RECEIPT_SECONDS", 0.0)
    file = left.home / "outbox" / "runner.json"
    health = json.loads(file.read_bytes())
    here_and_now = {"host": platform.node(), "system": sys.platform, "pid": os.getpid()}
    shown = {"state": "idle", "watch": "events", "faults": [], "note": None}
    spec_file = left.home / "hero.yaml"
    spec_file.write_text(spec(), encoding="utf-8")

    def told(lack: str | None) -> list[bool]:
        file.write_text(json.dumps(health | here_and_now | shown | {"settings": lack}), "utf-8")
        said = [left("status"), left("doctor"), left("check", str(spec_file))]
        said.append(left("submit", str(spec_file)))
        return [wanted in done.out + done.err for done in said]

    wanted = "fluxdrop.yaml was changed after the runner started: restart it for device"
    lock = home_lock(Home(left.home))
    lock.acquire()
    assert not any(told(None))
    assert all(told(wanted))
    assert left("status", "--json").json["outdated"] == wanted
    lock.release()
    assert not any(told(wanted))


def test_status_shows_what_each_of_several_slots_makes(left: Here) -> None:
    file = left.home / "outbox" / "runner.json"
    empty = {"host": "", "device": "", "model": None, "job": None, "image": None, "note": None}
    slot = {**empty, "step": 0, "steps": 0, "memory": None, "state": "idle", "name": "cuda:0"}
    work = {"job": "hero", "image": 3, "step": 5, "steps": 28, "model": "dev", "memory": 3 << 30}
    lost = {"name": "cuda:2", "state": "lost", "note": "ended 4 times as it started"}
    slots = [slot, slot | work | {"name": "cuda:1", "state": "working"}, slot | lost]
    now = {"host": platform.node(), "system": sys.platform, "pid": os.getpid()}
    now |= {"updated_at": timestamp(), "note": None, "faults": [], "watch": "events"}
    health = json.loads(file.read_bytes()) | now | {"slots": slots}
    file.write_text(json.dumps(health), encoding="utf-8")
    lock = home_lock(Home(left.home))
    lock.acquire()
    said = [line.split() for line in left("status").out.splitlines() if line.startswith("slot")]
    assert said == [
        ["slot", "cuda:0", "idle"],
        "slot cuda:1 working hero image 3 5/28 dev 3.0 GiB".split(),
        "slot cuda:2 lost ended 4 times as it started".split(),
    ]
    for name, lines in (("gpu0", 0), ("vm/cpu0", 1)):
        own = [slot | {"name": name}]
        file.write_text(json.dumps(health | {"slots": own}), encoding="utf-8")
        assert left("status").out.count("slot ") == lines
    lock.release()
