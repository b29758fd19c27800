"""What other programs see while the runner writes: whole files, rising revisions, legal moves.

The readers are processes of their own that look as fast as they can.
"""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from runner.settings import Home
from runner.spool.disk.disk import Disk
from runner.spool.disk.faults import Faults
from runner.spool.store.ledger import Ledger
from runner.spool.store.outbox import Outbox
from tests.harness import FINAL_STATES, MOVES
from tests.spool.conftest import SPEC, Spool
from tests.spool.faulty import FaultyDisk

# Looks at every status in turn, and keeps what differs from the last look at it.
_STATUSES = """
import json, pathlib, sys, time
outbox, stop, *jobs = map(pathlib.Path, sys.argv[1:])
faults, seen, last, looks = [], [], {}, 0
began = time.monotonic()
while True:
    over = stop.exists()
    for job in jobs:
        folder = outbox / job
        try:
            data = (folder / "status.json").read_bytes()
        except FileNotFoundError:
            if job in last: faults.append(f"{job}: the status is gone")
            continue
        looks += 1
        if data == last.get(job): continue
        last[job] = data
        try:
            status = json.loads(data)
        except ValueError:
            faults.append(f"{job}: torn: {data!r}")
            continue
        for output in status["outputs"]:
            for name in ("file", "sidecar", "thumbnail"):
                if not (folder / output[name]).is_file():
                    faults.append(f"{job}: {output[name]} is listed and not there")
        seen.append([job.name, status])
    stop.with_name("ready").touch()
    if over: break
seconds = time.monotonic() - began
print(json.dumps({"faults": faults, "seen": seen, "looks": looks, "seconds": seconds}))
"""
# Asks backwards: what must come first is looked at last, so that a look can never be too early.
_ANSWERS = """
import json, pathlib, sys, time
root, stop, *names = map(pathlib.Path, sys.argv[1:])
inbox, outbox = root / "inbox", root / "outbox"
faults, appeared, looks = [], set(), 0
began = time.monotonic()
while True:
    over = stop.exists()
    for name in names:
        there = (inbox / name).exists()
        if there: appeared.add(name.name)
        receipt = outbox / "drops" / f"{name}.json"
        looks += 1
        if not receipt.exists():
            if not there and name.name in appeared: faults.append(f"{name}: gone, no receipt")
            continue
        folder = outbox / json.loads(receipt.read_bytes())["job"]
        if not (folder / "status.json").exists():
            faults.append(f"{name}: its receipt came before its status")
        elif not (folder / "spec.yaml").exists():
            faults.append(f"{name}: its status came before its spec")
        else:
            json.loads((folder / "status.json").read_bytes())
    stop.with_name("ready").touch()
    if over: break
seconds = time.monotonic() - began
print(json.dumps({"faults": faults, "seen": sorted(appeared), "looks": looks, "seconds": seconds}))
"""


@dataclass
class Report:
    """What a reader saw."""

    faults: list[str] = field(default_factory=list)
    seen: list[Any] = field(default_factory=list)
    looks: int = 0
    seconds: float = 0.0


@contextmanager
def _reader(script: str, folder: Path, stop: Path, *names: str) -> Iterator[Report]:
    """A process that reads until the block ends; the report is filled in then."""
    report = Report()
    command = [sys.executable, "-ISE", "-c", script, str(folder), str(stop), *names]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 20
        while not stop.with_name("ready").exists():
            assert time.monotonic() < deadline, "the reader never began"
            time.sleep(0.01)
        yield report
    finally:
        stop.touch()
        said, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    report.__dict__.update(json.loads(said))


def _reachable(state: str) -> set[str]:
    """The states that moves can lead to: a reader may miss a status, and several moves be one."""
    found = {state}
    for _ in MOVES:
        found |= {after for before in found for after in MOVES[before]}
    return found


def _histories(report: Report) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for job, status in report.seen:
        found.setdefault(job, []).append(status)
    return found


def test_a_reader_at_a_thousand_looks_a_second_sees_whole_statuses_and_legal_moves(
    spool: Spool, tmp_path: Path
) -> None:
    jobs = ("bulk", "stopped", "broken", "bad", "broken-2")
    spool.device.failing["broken", 1] = ("OutOfMemory", "too large")
    with _reader(_STATUSES, spool.home.outbox, tmp_path / "stop", *jobs) as report:
        spool.drop("bulk.yaml", SPEC + "count: 1000\n")
        spool.drop("broken.yaml", SPEC + "count: 3\npriority: 1\n")
        spool.drop("bad.yaml", SPEC + "stpes: 3\n")
        spool.until(lambda: spool.status("bulk").get("images", {}).get("done", 0) > 10)
        spool.end("broken")
        pause = spool.drop("runner.pause", "")
        spool.until(lambda: spool.status("bulk")["state"] == "queued")
        pause.unlink()
        spool.until(lambda: spool.status("bulk")["images"]["done"] > 40)
        spool.restart()
        spool.drop("stopped.yaml", SPEC + "count: 1000\npriority: 5\n")
        spool.until(lambda: spool.status("stopped").get("images", {}).get("done", 0) > 5)
        spool.drop("stopped.cancel", "")
        spool.drop("broken.retry", "")
        spool.over(*jobs)
    assert report.faults == []
    assert report.looks > 1000 * report.seconds, f"{report.looks} looks in {report.seconds:.1f} s"
    histories = _histories(report)
    assert histories.keys() == set(jobs)
    for job, history in histories.items():
        _check_history(job, history)
    ends = {job: history[-1]["state"] for job, history in histories.items()}
    assert ends == {
        "bulk": "succeeded",
        "stopped": "cancelled",
        "broken": "failed",
        "bad": "rejected",
        "broken-2": "succeeded",
    }
    states = [status["state"] for status in histories["bulk"]]
    assert {"queued", "running", "succeeded"} == set(states)
    assert "queued" in states[states.index("running") :]


def _check_history(job: str, history: list[Mapping[str, Any]]) -> None:
    for before, after in zip(history, history[1:], strict=False):
        assert after["revision"] > before["revision"], job
        assert after["state"] in _reachable(before["state"]), (job, before, after)
        assert before["state"] not in FINAL_STATES, f"{job} changed after its end"
        assert after["images"]["done"] >= before["images"]["done"], job
        assert after["accepted_at"] == before["accepted_at"], job
    for status in history:
        total = status["images"]["total"]
        assert len(status["outputs"]) == min(status["images"]["done"], 100), job
        assert status["images"]["done"] + status["images"]["failed"] <= total, job
        assert (status["finished_at"] is not None) == (status["state"] in FINAL_STATES), (
            job,
            status,
        )
        if status["state"] == "succeeded":
            assert status["images"]["done"] == total, job


@pytest.mark.parametrize("drops", (3, 60), ids=("a few", "many at once"))
def test_a_reader_finds_the_status_before_the_receipt_and_both_before_the_file_is_gone(
    spool: Spool, tmp_path: Path, drops: int
) -> None:
    names = [f"job{number}.yaml" for number in range(drops)]
    with _reader(_ANSWERS, spool.home.root, tmp_path / "stop", *names) as report:
        for name in names:
            spool.drop(name, SPEC + "not_before: 2099-01-01T00:00:00Z\n")
        for name in names:
            spool.gone(name)
    assert report.faults == []
    assert report.seen, "the reader saw no file before it was taken"
    assert len(list(spool.home.drops.iterdir())) == drops


def test_after_a_status_that_was_seen_though_its_write_failed_the_revision_rises(
    idle_spool: Spool,
) -> None:
    """Seen red: two statuses of one revision, one of them queued and the other cancelled."""
    disk = FaultyDisk("sync_folder", "outbox/hero$", errno.EIO, broken=False)
    (idle_spool.home.inbox / "runner.pause").touch()
    idle_spool.start(disk)
    idle_spool.drop("hero.yaml")
    idle_spool.until(lambda: idle_spool.status("hero"))
    idle_spool.gone("hero.yaml")
    assert idle_spool.daemon is not None
    outbox, ledger = idle_spool.daemon.spool.outbox, idle_spool.daemon.ledger
    idle_spool.until(lambda: ledger.is_answered(1))
    before = idle_spool.status("hero")
    disk.broken = True
    with pytest.raises(OSError):
        outbox.write_status(1, durable=True)
    disk.broken = False
    seen = idle_spool.status("hero")
    outbox.write_status(1)
    after = idle_spool.status("hero")
    assert before["revision"] < seen["revision"] < after["revision"]


def test_json_nested_too_deeply_to_be_read_is_left_out_like_any_damaged_file(
    tmp_path: Path,
) -> None:
    """Seen red: with the RecursionError of `json.loads` let out of `read_json`."""
    home, disk = Home(tmp_path), Disk()
    home.prepare()
    folder = home.job("hero")
    folder.mkdir()
    good = {"result": {"index": 1}}
    (folder / "hero-0001.json").write_text(json.dumps(good), encoding="utf-8")
    for name in ("hero-0002.json", "status.json"):
        (folder / name).write_bytes(b"[" * 100_000)
    ledger = Ledger(home.data / "ledger.sqlite", disk)
    outbox = Outbox(home, ledger, disk, Faults(home))
    assert outbox.read_status("hero") is None
    assert outbox.sidecars("hero") == {1: good}
    ledger.close()
