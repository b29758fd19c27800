"""Cancelling: before, during, between and after; one answer each time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from threading import get_ident
from typing import Any

import pytest

from runner import client
from runner.catalogue import RegistryCatalogue
from runner.clock import now
from runner.spool.disk.disk import Disk
from runner.spool.inbox import acknowledge, intake
from runner.spool.inbox.acknowledge import Acknowledger
from runner.spool.inbox.control import Controls
from runner.spool.inbox.ids import Ids
from runner.spool.inbox.intake import Intake
from runner.spool.inbox.settle import Drop
from runner.spool.inbox.waiting import InputWait
from runner.spool.store.names import unique
from tests.daemon.columns import daemon_of
from tests.spool.composing import SMALL
from tests.spool.conftest import SPEC, Spool

BULK = SPEC.replace("seed: 7", "seeds: {start: 1, count: 3}")


def cancel(spool: Spool, name: str) -> None:
    """Ask, and turn until it is recorded."""
    (spool.home.inbox / f"{name}.cancel").touch()
    spool.gone(f"{name}.cancel")


def busy(spool: Spool) -> None:
    """Have the device busy with another job until told otherwise."""
    spool.device.by_hand = True
    spool.drop("busy.yaml")
    spool.until(lambda: spool.device.task)


def test_a_job_cancelled_while_it_waits_for_its_next_turn_ends_with_its_page(spool: Spool) -> None:
    spool.device.by_hand = True
    spool.drop("hero.yaml", BULK)
    spool.until(lambda: spool.device.task)
    spool.drop("first.yaml", SPEC + "priority: 50\n")
    # Only once its answer is whole is its turn thought of.
    daemon = spool.daemon
    assert daemon is not None
    spool.until(lambda: [record.id for record in daemon.ledger.ready(now(), 9)] == ["first"])
    spool.device.finish()
    spool.until(lambda: spool.status("hero").get("reason") == "Preempted")
    (spool.home.job("hero") / "index.html").unlink(missing_ok=True)
    cancel(spool, "hero")
    status = spool.end("hero")
    assert (status["state"], status["images"]["done"]) == ("cancelled", 1)
    page = (spool.home.job("hero") / "index.html").read_text(encoding="utf-8")
    assert "hero-0001.png" in page
    spool.device.finish()


def test_a_job_is_cancelled_by_the_name_of_its_file_too(spool: Spool) -> None:
    busy(spool)
    spool.drop("night.yaml", SPEC + "id: other\n")
    spool.until(lambda: spool.status("other"))
    cancel(spool, "night.yaml")
    assert spool.end("other")["state"] == "cancelled"


def test_a_cancel_that_came_before_its_spec_still_counts(spool: Spool) -> None:
    (spool.home.inbox / "hero.cancel").touch()
    spool.drop("hero.yaml")
    assert spool.end("hero")["state"] == "cancelled"
    assert spool.device.started == []


@pytest.mark.parametrize("first", [SPEC, "kind: text2img\n"], ids=["finished", "rejected"])
def test_a_cancel_means_the_drop_in_the_inbox_not_the_older_one_of_its_name(
    spool: Spool, first: str
) -> None:
    spool.drop("night.yaml", first)
    over = spool.end("night")["state"]
    spool.stop()
    (spool.home.inbox / ("night.yaml.cancel" if first is SPEC else "night.cancel")).touch()
    spool.drop("night.yaml", SPEC + "steps: 5\n")
    spool.start()
    job = spool.receipt("night.yaml")["job"]
    assert job == ("night-2" if first is SPEC else "night")
    assert over == ("succeeded" if first is SPEC else "rejected")
    assert spool.end(job)["state"] == "cancelled"
    spool.until(lambda: not list(spool.home.inbox.glob("*.cancel")))


def test_a_rejected_job_cannot_be_retried_and_the_receipt_says_so(spool: Spool) -> None:
    spool.drop("bad.yaml", "kind: text2img\n")
    spool.end("bad")
    (spool.home.inbox / "bad.retry").touch()
    receipt = spool.receipt("bad.retry")
    assert (receipt["outcome"], receipt["job"]) == ("rejected", "bad")
    assert not spool.home.job("bad-2").exists()


def test_a_cancel_of_an_unknown_job_waits_a_while_and_goes(spool: Spool) -> None:
    (spool.home.inbox / "nobody.cancel").touch()
    assert spool.daemon is not None
    parts = spool.daemon.spool
    # Not the intake's own, which goes by the true clock.
    waiting, models = InputWait(parts), RegistryCatalogue(parts.home.settings, parts.home.data)
    controls = Controls(
        parts, models, waiting, Ids(parts), Acknowledger(parts, waiting), on_cancel=lambda seq: None
    )
    controls.obey(["nobody.cancel"], moment=1000.0)
    controls.obey(["nobody.cancel"], moment=1059.0)
    assert (spool.home.inbox / "nobody.cancel").exists()
    controls.obey(["nobody.cancel"], moment=1061.0)
    assert not (spool.home.inbox / "nobody.cancel").exists()


@pytest.mark.parametrize("name", ["nobody.retry", "nobody.keep"])
def test_what_is_asked_of_an_unknown_job_is_answered_when_it_goes(spool: Spool, name: str) -> None:
    """Seen red: it vanished after a minute without a word."""
    (spool.home.inbox / name).touch()
    assert spool.daemon is not None
    parts = spool.daemon.spool
    waiting, models = InputWait(parts), RegistryCatalogue(parts.home.settings, parts.home.data)
    controls = Controls(
        parts, models, waiting, Ids(parts), Acknowledger(parts, waiting), on_cancel=lambda seq: None
    )
    controls.obey([name], moment=1000.0)
    assert (spool.home.inbox / name).exists()
    controls.obey([name], moment=1061.0)
    receipt = spool.receipt(name)
    assert (receipt["outcome"], receipt["job"], receipt["sha256"]) == ("rejected", "nobody", "")


@pytest.mark.parametrize("request_", ["cancel", "retry", "keep"])
def test_what_is_asked_of_an_unknown_job_stays_while_a_spec_that_may_be_it_is_there(
    spool: Spool, request_: str
) -> None:
    """Seen red: after a minute it went, and the job came under that id and ran."""
    assert spool.daemon is not None
    parts = spool.daemon.spool
    waiting, models = InputWait(parts), RegistryCatalogue(parts.home.settings, parts.home.data)
    controls = Controls(
        parts, models, waiting, Ids(parts), Acknowledger(parts, waiting), on_cancel=lambda seq: None
    )
    # It is empty still: whoever writes it is slow.
    (spool.home.inbox / "night.yaml").touch()
    asked = spool.home.inbox / f"hero.{request_}"
    asked.touch()
    for moment in (1000.0, 1061.0):
        controls.obey([asked.name, "night.yaml"], moment)
    assert asked.exists()
    spool.drop("night.yaml", SPEC + "id: hero\n")
    status = spool.end("hero")
    spool.gone(asked.name)
    assert status["state"] == ("cancelled" if request_ == "cancel" else "succeeded")
    assert spool.home.job("hero-2").exists() == (request_ == "retry")
    assert bool(spool.daemon.ledger.get(1).kept) == (request_ == "keep")


@pytest.mark.parametrize("name", ["caf\u00e9.yaml", "Cafe\u0301.YAML"], ids=["composed", "case"])
def test_a_cancel_finds_the_drop_in_another_unicode_form_and_case(spool: Spool, name: str) -> None:
    busy(spool)
    spool.drop("cafe\u0301.yaml", SPEC + "id: other\n")
    spool.until(lambda: spool.status("other"))
    cancel(spool, name)
    assert spool.end("other")["state"] == "cancelled"


def test_a_cancel_between_the_last_picture_and_the_end_has_one_outcome(spool: Spool) -> None:
    spool.device.by_hand = True
    spool.drop("hero.yaml")
    spool.until(lambda: spool.device.task)
    (spool.home.inbox / "hero.cancel").touch()
    spool.device.finish()
    status = spool.end("hero")
    spool.gone("hero.cancel")
    assert status["state"] in ("cancelled", "succeeded")
    assert spool.status("hero") == status
    assert status["images"]["done"] == len(spool.pictures("hero")) == 1


@pytest.mark.parametrize("control", ["hero.cancel", "runner.pause"])
def test_what_was_asked_while_no_runner_was_there_is_obeyed_before_the_first_job_begins(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, control: str
) -> None:
    (spool.home.inbox / "runner.pause").touch()
    spool.drop("hero.yaml")
    spool.until(lambda: spool.status("hero"))
    spool.stop()
    (spool.home.inbox / "runner.pause").unlink()
    (spool.home.inbox / control).touch()
    # However late the intake's own first look comes.
    monkeypatch.setattr(Intake, "run", lambda intake, stop: stop.wait())
    spool.start()
    assert spool.daemon is not None
    for _ in range(3):
        spool.daemon.step(0.01)
    assert spool.device.started == []


def test_a_cancel_that_is_put_back_beside_another_means_the_same_job_still(spool: Spool) -> None:
    """Seen red: it came back as `hero-2.cancel`, and cancelled the job of that id."""
    spool.drop("hero.yaml")
    spool.end("hero")
    (spool.home.inbox / "runner.pause").touch()
    (spool.home.inbox / "hero.retry").touch()
    spool.until(lambda: spool.status("hero-2"))
    spool.gone("hero.retry")
    spool.stop()
    # A kill came between the two steps of its removal, and then somebody asked again.
    for name in (".taken-hero.cancel", "hero.cancel"):
        (spool.home.inbox / name).touch()
    spool.start()
    spool.until(lambda: not list(spool.home.inbox.glob("*hero*")))
    assert spool.status("hero-2")["state"] == "queued"
    (spool.home.inbox / "runner.pause").unlink()
    assert spool.end("hero-2")["state"] == "succeeded"


def test_a_cancel_survives_a_restart(spool: Spool) -> None:
    busy(spool)
    spool.drop("hero.yaml")
    spool.until(lambda: spool.status("hero"))
    spool.stop()
    (spool.home.inbox / "hero.cancel").touch()
    spool.device = type(spool.device)()
    spool.start()
    spool.over("hero", "busy")
    assert spool.status("hero")["state"] == "cancelled"
    assert spool.device.started == [("busy", 1)]


def test_the_ledger_is_asked_once_for_all_control_files_which_of_them_cannot_leave(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: once for all of them and once for each."""
    parts = daemon_of(spool).spool
    asked = []
    stuck = parts.ledger.stuck
    monkeypatch.setattr(parts.ledger, "stuck", lambda: asked.append(get_ident()) or stuck())
    waiting, models = InputWait(parts), RegistryCatalogue(parts.home.settings, parts.home.data)
    controls = Controls(
        parts, models, waiting, Ids(parts), Acknowledger(parts, waiting), on_cancel=lambda seq: None
    )
    names = [f"nobody{number}.cancel" for number in range(9)]
    for name in names:
        (spool.home.inbox / name).touch()
    controls.obey(names, moment=1000.0)
    assert asked.count(get_ident()) == 1, "the intake asks too, in its own thread"


def test_a_cancel_by_a_submitted_files_own_name_means_the_one_that_is_still_being_written(
    tmp_path: Path,
) -> None:
    """Seen red: the older job of that name was asked, and the control file went."""
    spool = Spool(tmp_path / "home", rescan_seconds=0.1)
    spool.start()
    spool.until(lambda: client.runner_health(spool.home))
    assert "~" in client.submit(spool.home, SPEC.encode(), "cat.yaml")
    spool.end("cat")
    # As slowly as a sync tool writes one that was submitted elsewhere.
    with (spool.home.inbox / f"{unique('cat')}.yaml").open("w") as file:
        file.write(SPEC)
        file.flush()
        (spool.home.inbox / "cat.yaml.cancel").touch()
        scans = daemon_of(spool).intake.scans
        spool.until(lambda: daemon_of(spool).intake.scans > scans + 2)
        file.write("steps: 2\n")
    assert spool.end("cat-2")["state"] == "cancelled"
    spool.gone("cat.yaml.cancel")
    spool.stop()


@pytest.mark.parametrize("stem", ["hero", "a" * 200])
def test_a_control_file_that_is_put_back_beside_others_gets_a_name_however_long_it_is(
    tmp_path: Path, stem: str
) -> None:
    """Seen red: a long one was tried without end, and with it stood the intake."""
    for number in range(2):
        (tmp_path / f"{stem}.yaml.retry").touch()
        (tmp_path / ".taken-x").touch()
        acknowledge._restore(tmp_path / ".taken-x", f"{stem}.yaml.retry", Disk())
        assert len(list(tmp_path.iterdir())) == number + 2


def test_a_job_whose_folder_is_gone_is_not_kept_and_the_receipt_says_so(spool: Spool) -> None:
    """Seen red: its folder came again, with a status that named pictures that were gone."""
    spool.drop("hero.yaml")
    spool.end("hero")
    shutil.rmtree(spool.home.job("hero"))
    (spool.home.inbox / "hero.keep").touch()
    spool.gone("hero.keep")
    assert not spool.home.job("hero").exists()
    receipt = spool.receipt("hero.keep")
    assert (receipt["outcome"], receipt["job"]) == ("rejected", "hero")


@pytest.mark.parametrize("name", ["hero.json", "other.json"])
@pytest.mark.parametrize("left", ["finished and its folder removed", "rejected", "never planned"])
def test_a_cancel_meets_the_spec_beside_it_that_gets_an_id_which_an_older_job_has_left(
    packed: Spool, left: str, name: str
) -> None:
    """Seen red: it meant the older job, went, and the new one ran."""
    spool = packed
    first = {"rejected": "kind: text2img\n", "never planned": SMALL}.get(left, SPEC)
    if left == "never planned":
        (spool.home.inbox / "hero.cancel").touch()
    spool.drop("hero.yaml", first)
    spool.end("hero")
    if first is SPEC:
        shutil.rmtree(spool.home.job("hero"))
    spool.until(lambda: not list(spool.home.inbox.glob("hero*")))
    spool.stop()
    spec = {"id": "hero", "kind": "text2img", "model": "tiny", "prompt": "a red circle"}
    spool.drop(name, json.dumps(spec))
    (spool.home.inbox / "hero.cancel").touch()
    spool.device.started.clear()
    spool.start()
    assert spool.receipt(name)["job"] == "hero"
    assert spool.end("hero")["state"] == "cancelled"
    spool.gone("hero.cancel")
    assert spool.device.started == []


def test_a_cancel_that_kept_a_spec_from_being_planned_goes_with_it(packed: Spool) -> None:
    """Seen red: with the request kept for the next drop, which the id is free for."""
    (packed.home.inbox / "hero.cancel").touch()
    packed.drop("hero.yaml", SMALL)
    assert packed.end("hero")["state"] == "cancelled"
    packed.gone("hero.cancel")
    packed.drop("hero.yaml", SMALL)
    packed.until(lambda: packed.status("hero").get("state") == "succeeded")


def taken_in_turn(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of specs in the order in which they are taken, two at once."""
    monkeypatch.setattr(intake, "_BATCH", 2)
    monkeypatch.setattr(intake, "_CONTROLS_SECONDS", 0.0)
    taken: list[str] = []
    accept = Intake.accept

    def note(self: Intake, drops: Sequence[Drop]) -> None:
        taken.extend(drop.name for drop in drops)
        accept(self, drops)

    monkeypatch.setattr(Intake, "accept", note)
    (spool.home.inbox / "runner.pause").touch()
    return taken


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("s9.yaml", "s9"),
        ("S9.yaml", "s9.yaml"),
        ("s9~0123456789ab.yaml", "s9"),
        ("s9~0123456789ab.yaml", "s9.yaml"),
        ("s 9.yaml", "s-9"),
        ("s 9.yaml", "s 9.yaml"),
    ],
)
def test_a_spec_that_a_cancel_waits_for_is_taken_before_all_others(
    idle_spool: Spool, monkeypatch: pytest.MonkeyPatch, name: str, asked: str
) -> None:
    """Seen red: it was taken in its turn, 23 seconds later behind 20,000 others."""
    taken = taken_in_turn(idle_spool, monkeypatch)
    others = [f"s{n}.yaml" for n in range(9)]
    for each in (*others, name):
        idle_spool.drop(each, f"{SPEC}...\n")
    (idle_spool.home.inbox / f"{asked}.cancel").touch()
    idle_spool.start()
    idle_spool.until(lambda: not list(idle_spool.home.inbox.glob("*.*l")))
    assert taken == [name, *others]
    job = idle_spool.receipt(name)["job"]
    assert idle_spool.status(job)["state"] == "cancelled"
    ledger = daemon_of(idle_spool).ledger
    assert [record.id for record in ledger.queued()] == [f"s{n}" for n in range(9)]


@pytest.mark.parametrize("came", ["before", "with its cancel"])
def test_a_cancel_that_comes_while_a_long_inbox_is_taken_is_answered_after_the_batch_in_hand(
    idle_spool: Spool, monkeypatch: pytest.MonkeyPatch, came: str
) -> None:
    """Seen red: it was answered when the turn of its spec came, or in the next scan."""
    taken = taken_in_turn(idle_spool, monkeypatch)
    specs = [f"s{n}.yaml" for n in range(9)]
    for each in specs if came == "before" else specs[:-1]:
        idle_spool.drop(each, f"{SPEC}...\n")
    acknowledge = Acknowledger.acknowledge

    def ask(self: Acknowledger, *given: Any) -> list[str]:
        if len(taken) == 2:
            if came != "before":
                idle_spool.drop(specs[-1], f"{SPEC}...\n")
            (idle_spool.home.inbox / "s8.cancel").touch()
        return acknowledge(self, *given)

    monkeypatch.setattr(Acknowledger, "acknowledge", ask)
    idle_spool.start()
    idle_spool.until(lambda: not list(idle_spool.home.inbox.glob("*.*l")))
    assert taken == [*specs[:2], specs[-1], *specs[2:-1]]
    assert idle_spool.status("s8")["state"] == "cancelled"
    assert not (idle_spool.home.inbox / "s8.cancel").exists()
