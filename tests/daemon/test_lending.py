"""A device that is lent: when it is free, who is told so, and what ends it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runner import clock, reading
from runner.clock import timestamp
from runner.executor import SlotState
from runner.spool.inbox import control
from runner.spool.store import lending
from tests.daemon import columns
from tests.daemon.columns import daemon_of
from tests.spool.conftest import SPEC, Spool
from tests.spool.deaths import die, start_again
from tests.spool.device import FlatColours, SeveralSlots
from tests.spool.inbox.test_set_aside import faults


def lend(spool: Spool, **content: Any) -> Path:
    """Lend the device, by an empty file where nothing is given."""
    return spool.drop("runner.lend", json.dumps(content) if content else "")


def health(spool: Spool) -> dict[str, Any]:
    return reading.health(spool.home.health) or {"state": "", "lent": None}


def is_lent(spool: Spool) -> bool:
    return health(spool)["state"] == "lent"


def later(seconds: float) -> str:
    """A moment as a file has it, so many seconds from now."""
    return timestamp(lending.time_of(timestamp()) + seconds)


def pass_an_hour(patch: pytest.MonkeyPatch) -> None:
    """Put the clock on by which a time is over."""
    patch.setattr(control, "now", lambda: clock.now() + 3601)


@pytest.fixture
def process() -> Any:
    """A process that runs until it is killed."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as running:
        yield running
        running.kill()


def test_the_device_is_empty_and_said_to_be_so_with_the_answer_of_its_image(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.daemon.daemon.HEALTH_SECONDS", 1000.0)
    spool.device.by_hand = True
    spool.drop("hero.yaml")
    spool.until(lambda: spool.device.task)
    until = later(3600)
    lend(spool, until=until)
    spool.until(lambda: health(spool)["lent"])
    assert health(spool)["state"] == "working" and spool.device.task
    assert until in health(spool)["note"]
    spool.device.finish()
    spool.device.by_hand = False
    spool.drop("next.yaml")
    spool.until(lambda: spool.is_over("hero") and is_lent(spool) and spool.status("next"))
    assert spool.device.models == set() and spool.status("next")["state"] == "queued"
    (spool.home.inbox / "next.cancel").touch()
    assert spool.end("next")["state"] == "cancelled", "cancels are obeyed"
    (spool.home.inbox / "runner.lend").unlink()
    spool.until(lambda: health(spool)["state"] == "idle")
    spool.drop("last.yaml")
    assert spool.end("last")["state"] == "succeeded"


def test_a_device_is_not_free_before_all_that_is_on_it_has_gone(spool: Spool) -> None:
    """The models of a GPU thread go a while after that was ordered."""
    spool.drop("hero.yaml")
    spool.end("hero")
    spool.device.release = lambda: None  # type: ignore[method-assign]
    lend(spool)
    spool.until(lambda: health(spool)["lent"])
    for _ in range(5):
        daemon_of(spool).step(0.0)
    assert daemon_of(spool)._state() == "working"
    FlatColours.release(spool.device)
    spool.until(lambda: is_lent(spool))


def test_every_slot_is_emptied_and_one_that_is_made_again_keeps_nothing_waiting(
    tmp_path: Path,
) -> None:
    spool = Spool(tmp_path / "home")
    slots = spool.device = SeveralSlots("a", "b", "c")  # type: ignore[assignment]
    spool.start()
    spool.drop("hero.yaml", columns.BULK)
    spool.until(lambda: len(slots.at_work) == 3)
    lend(spool, now=True)
    spool.until(lambda: is_lent(spool))
    assert slots.at_work == {} and not any(each.models for each in slots.each.values())
    slots["b"].models.add("tiny")
    spool.until(lambda: not slots["b"].models)
    slots["c"].models.add("tiny")
    slots.be("c", SlotState.LOST)
    spool.until(lambda: is_lent(spool))
    slots.be("c", SlotState.READY)
    slots.by_themselves()
    (spool.home.inbox / "runner.lend").unlink()
    assert spool.end("hero")["images"]["done"] == 3
    spool.stop()


@pytest.mark.parametrize("how", ["time", "process", "file"])
def test_the_runner_goes_on_by_itself_when_a_lend_is_over(
    spool: Spool, process: subprocess.Popen[bytes], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = {
        "time": {"until": later(3600)},
        "process": {**lending.lent_to(process.pid), "until": later(3600)},
        "file": {},
    }
    file = lend(spool, **contents[how])
    spool.until(lambda: is_lent(spool))
    spool.drop("hero.yaml")
    if how == "process":
        # Not waited for: a zombie has ended too.
        process.kill()
    elif how == "file":
        file.unlink()
    else:
        pass_an_hour(monkeypatch)
    assert spool.end("hero")["state"] == "succeeded"
    assert not file.exists()
    spool.until(lambda: health(spool)["lent"] is None)


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_lend_outlives_the_runner(told: Spool, end: str) -> None:
    told.start()
    lend(told, until=later(3600))
    told.until(lambda: is_lent(told))
    told.drop("hero.yaml")
    told.gone("hero.yaml")
    if end == "kill":
        die(told)
        start_again(told)
    else:
        told.restart()
    told.until(lambda: is_lent(told))
    assert told.device.started == [] and told.status("hero")["state"] == "queued"
    (told.home.inbox / "runner.lend").unlink()
    assert told.end("hero")["state"] == "succeeded"


def test_a_lend_that_is_made_longer_never_lets_an_image_begin(spool: Spool) -> None:
    lend(spool, until=later(60))
    spool.until(lambda: is_lent(spool))
    spool.drop("hero.yaml")
    spool.until(lambda: spool.status("hero"))
    until = later(3600)
    lend(spool, until=until)
    spool.until(lambda: health(spool)["lent"]["until"] == until)
    assert spool.device.started == [] and spool.status("hero")["state"] == "queued"


@pytest.mark.parametrize(
    "data",
    [
        b"soon", b'{"until": "soon"}', b'{"pid": "1"}', b'{"pid": -1}', b"[" * 4000, b" " * 5000,
        b'{"now": 1}', b"\xff", b"[]",
    ],
)  # fmt: skip
def test_a_file_that_says_what_it_must_not_lends_until_it_goes_and_is_a_fault(
    spool: Spool, data: bytes
) -> None:
    file = spool.drop("runner.lend", data)
    spool.until(lambda: is_lent(spool) and "inbox/runner.lend" in faults(spool))
    assert health(spool)["lent"] == lending.ENDLESS
    assert "is lent" in str(faults(spool)["inbox/runner.lend"]["message"]) or len(data) == 5000
    file.unlink()
    spool.until(lambda: not faults(spool) and health(spool)["state"] == "idle")


@pytest.mark.skipif(os.name == "nt", reason="links and pipes of Unix")
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_is_no_plain_file_lends_as_an_empty_one_and_nothing_is_read(
    spool: Spool, kind: str
) -> None:
    file = spool.home.inbox / "runner.lend"
    if kind == "pipe":
        os.mkfifo(file)
    else:
        secret = spool.home.root / "secret"
        secret.write_text(json.dumps({"until": later(-1)}), encoding="utf-8")
        file.symlink_to(secret)
    spool.until(lambda: is_lent(spool) and "inbox/runner.lend" in faults(spool))
    assert file.is_symlink() == (kind == "link")


def test_what_comes_while_an_old_lend_is_taken_out_is_not_taken_for_it(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is written into the same file, as a shell does."""
    until, is_over = later(3600), lending.is_over

    def replaced(lent: Any, wall: float) -> bool:
        over = is_over(lent, wall)
        if over:
            file.write_text(json.dumps({"until": until}), encoding="utf-8")
        return over

    monkeypatch.setattr(lending, "is_over", replaced)
    file = lend(spool, until=later(-1))
    spool.until(lambda: (health(spool)["lent"] or {}).get("until") == until)
    assert file.exists()


@pytest.mark.parametrize("ends", [True, False])
def test_a_drain_waits_for_a_lend_that_ends_by_itself_and_names_the_other(
    idle_spool: Spool, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = idle_spool
    lend(spool, **({"until": later(3600)} if ends else {}))
    spool.drop("hero.yaml")
    spool.start()
    daemon, said, steps = daemon_of(spool), list[str](), 0
    real = daemon.step

    def step(seconds: float) -> None:
        nonlocal steps
        steps += 1
        if steps == 50:
            # Long after the scans that a drain waits for.
            pass_an_hour(monkeypatch)
            daemon.intake.wake.set()
        real(min(seconds, 0.02))

    monkeypatch.setattr(daemon, "step", step)
    outcome = daemon.drain(notify=said.append)
    assert [line.startswith("the device is lent until") for line in said] == [True]
    if ends:
        assert outcome.all_well and outcome.counts["succeeded"] == 1
    else:
        assert outcome.note == said[0] and spool.status("hero")["state"] == "queued"


def test_a_drain_with_nothing_to_do_does_not_wait_for_the_end_of_a_lend(idle_spool: Spool) -> None:
    lend(idle_spool, until=later(3600))
    idle_spool.start()
    assert daemon_of(idle_spool).drain().all_well


def test_a_lend_is_told_before_a_pause_and_a_pause_stays_after_it(spool: Spool) -> None:
    pause, file = spool.home.inbox / "runner.pause", lend(spool)
    pause.touch()
    spool.until(lambda: is_lent(spool) and daemon_of(spool).intake.controls.paused)
    file.unlink()
    spool.until(lambda: health(spool)["state"] == "paused")
    assert health(spool)["lent"] is None


def test_a_process_of_elsewhere_is_not_asked_whether_it_runs(process: Any) -> None:
    here = lending.lent_to(process.pid)
    wall = lending.time_of(timestamp())
    assert not lending.is_over(here, wall)
    process.kill()
    process.wait()
    assert lending.is_over(here, wall)
    for key in ("host", "space"):
        assert not lending.is_over(here | {key: "another"}, wall)  # type: ignore[arg-type]
    # Who names none means this one: seen red, such a file lent for ever.
    assert lending.is_over(here | {"host": None}, wall)  # type: ignore[arg-type]
    mine = lending.lent_to(os.getpid())
    assert not lending.is_over(mine, wall)
    # Its number was another's when that was written.
    assert lending.is_over(mine | {"since": "2020-01-01T00:00:00Z"}, wall)  # type: ignore[arg-type]


def test_with_no_idle_minutes_the_device_is_empty_as_soon_as_nothing_is_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.daemon.daemon.HEALTH_SECONDS", 0.1)
    spool = Spool(tmp_path / "home", idle_minutes=0)
    spool.start()
    for name in ("one", "two"):
        spool.drop(f"{name}.yaml", SPEC)
        spool.end(name)
        spool.until(lambda: not spool.device.models)
    assert spool.device.released == 2
    spool.stop()
