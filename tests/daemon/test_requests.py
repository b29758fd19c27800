"""What a caller asks of a job, in each state that the job can be in: one test for each.

    cancel, put back (a pause, a lend, hours, a higher priority, a full disk), retry, keep

each of a job that is queued and not answered yet, queued and held or ready, running between two
images, running in mid image, and final. What comes unasked is in `test_interruptions.py`, and what
it costs a job in `test_attempts.py`. A disk that cannot be written puts no job back yet, so no test
here has it.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from runner import holds
from runner.clock import now
from runner.daemon.pages import Pages
from runner.holds import PAUSED
from runner.spool.disk.disk import Disk, StrPath
from runner.spool.store.record import Record
from runner.wire import Status
from tests.daemon import columns
from tests.daemon.columns import Column, Go, daemon_of, each, losses
from tests.spool.conftest import SPEC, Spool
from tests.spool.deaths import die, start_again
from tests.spool.device import FlatColours
from tests.spool.faulty import FaultyDisk


def ask(spool: Spool, name: str) -> None:
    """Put a control file into the inbox, and turn until it is obeyed."""
    (spool.home.inbox / name).touch()
    spool.gone(name)


# -- cancel ------------------------------------------------------------------------------------


def test_a_cancel_of_a_job_that_is_not_answered_yet_ends_it_and_the_answer_goes_on(
    told: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = columns.unanswered(told, monkeypatch)
    ask(told, "hero.cancel")
    status = told.end("hero")
    assert (status["state"], status["reason"]) == ("cancelled", "Cancelled")
    assert (told.home.inbox / "hero.yaml").exists()
    go()
    receipt = told.receipt("hero.yaml")
    assert (receipt["outcome"], receipt["job"]) == ("accepted", "hero")
    assert told.status("hero")["state"] == "cancelled"
    assert told.device.started == []


@each(columns.HELD_OR_READY)
def test_a_cancel_of_a_queued_job_ends_it_at_once_whatever_holds_it_and_it_never_starts(
    told: Spool, monkeypatch: pytest.MonkeyPatch, column: Column
) -> None:
    go = column(told, monkeypatch)
    ask(told, "hero.cancel")
    status = told.end("hero")
    assert (status["state"], status["reason"]) == ("cancelled", "Cancelled")
    go()
    told.drop("next.yaml")
    told.end("next")
    assert "hero" not in {job for job, _ in told.device.started}


def test_a_cancel_of_a_running_job_between_two_images_ends_it_at_the_next_look(
    told: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns.between_images(told, monkeypatch)
    ask(told, "hero.cancel")
    # The writer is full still: an end does not wait for it, as the next image does.
    status = told.end("hero")
    assert (status["state"], status["images"]["done"]) == ("cancelled", 1)
    assert told.pictures("hero") == ["hero-0001.png"]
    assert told.device.started == [("hero", 1)]


class Slow(FlatColours):
    """Answers a stop only when it is told to."""

    stops = 0

    def stop(self, slot: str) -> None:
        self.stops += self.task is not None


@pytest.mark.parametrize(
    ("answer", "done"),
    [(lambda device: FlatColours.stop(device, "gpu0"), 1), (FlatColours.finish, 2)],
    ids=["stopped", "picture"],
)
def test_a_cancel_in_mid_image_sets_the_stop_sign_and_the_job_ends_with_the_last_answer(
    told: Spool,
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[[FlatColours], None],
    done: int,
) -> None:
    device = told.device = Slow()
    columns.in_mid_image(told, monkeypatch)
    ask(told, "hero.cancel")
    told.until(lambda: device.stops)
    assert told.status("hero")["state"] == "running"
    answer(device)
    status = told.end("hero")
    assert (status["state"], status["images"]["done"]) == ("cancelled", done)
    assert [output["file"] for output in status["outputs"]] == told.pictures("hero")
    assert len(told.pictures("hero")) == done
    assert told.device.started == [("hero", 1), ("hero", 2)]
    assert losses(told) == []


def test_a_cancel_of_a_final_job_is_removed_and_changes_nothing(
    told: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns.over(told, monkeypatch)
    before = told.status("hero")
    ask(told, "hero.cancel")
    assert told.status("hero") == before
    assert daemon_of(told).ledger.get(1).cancel_at is None


# -- put back ----------------------------------------------------------------------------------


def pause(spool: Spool, patch: pytest.MonkeyPatch) -> Go:
    file = spool.home.inbox / "runner.pause"
    file.touch()
    spool.until(lambda: daemon_of(spool).worker.hold == PAUSED)
    return file.unlink


def lend(spool: Spool, patch: pytest.MonkeyPatch) -> Go:
    file = spool.home.inbox / "runner.lend"
    file.touch()
    spool.until(lambda: (hold := daemon_of(spool).worker.hold) and hold.reason == "Lent")
    return file.unlink


def close_hours(spool: Spool, patch: pytest.MonkeyPatch) -> Go:
    tomorrow = now() + 86_400.0
    modules = ("runner.daemon.worker.ready_at", "runner.daemon.scheduler.ready_at")
    for name in modules:
        patch.setattr(name, lambda realised, wall: tomorrow)

    def open_hours() -> None:
        for name in modules:
            patch.setattr(name, lambda realised, wall: wall)
        daemon_of(spool).ledger.put_off(1, 0.0)

    return open_hours


def outrank(spool: Spool, patch: pytest.MonkeyPatch) -> Go:
    spool.drop("urgent.yaml", SPEC + "priority: 5\n")
    # Only once its answer is whole is its turn thought of.
    spool.until(lambda: daemon_of(spool).ledger.ready(now(), 1))
    return lambda: None


def fill_disk(spool: Spool, patch: pytest.MonkeyPatch) -> Go:
    least = holds.LEAST_FREE_BYTES
    patch.setattr(holds, "LEAST_FREE_BYTES", 1 << 62)
    spool.until(lambda: daemon_of(spool).worker.hold)
    return lambda: patch.setattr(holds, "LEAST_FREE_BYTES", least)


HOLDS = pytest.mark.parametrize(
    ("begin", "reason"),
    [
        (pause, "Paused"),
        (lend, "Lent"),
        (close_hours, "OutsideWindow"),
        (outrank, "Preempted"),
        (fill_disk, "DiskFull"),
    ],
    ids=["pause", "lend", "hours", "priority", "disk"],
)


@pytest.mark.parametrize("hold", [pause, lend])
def test_a_pause_lets_an_answer_go_on_and_its_job_waits(
    told: Spool, monkeypatch: pytest.MonkeyPatch, hold: Callable[..., Go]
) -> None:
    go = columns.unanswered(told, monkeypatch)
    resume = hold(told, monkeypatch)
    go()
    assert told.receipt("hero.yaml")["outcome"] == "accepted"
    assert told.status("hero")["state"] == "queued" and told.device.started == []
    resume()
    assert told.end("hero")["state"] == "succeeded"


@pytest.mark.parametrize("hold", [pause, lend])
@each([columns.ready, columns.outside_hours, columns.without_input])
def test_a_pause_leaves_a_queued_job_where_it_is(
    told: Spool, monkeypatch: pytest.MonkeyPatch, column: Column, hold: Callable[..., Go]
) -> None:
    go = column(told, monkeypatch)
    hold(told, monkeypatch)
    ledger = daemon_of(told).ledger
    seq = ledger.newest("hero").seq  # type: ignore[union-attr]
    go()
    told.until(lambda: daemon_of(told).worker.idle and not daemon_of(told).writer.waiting)
    told.until(lambda: column is not columns.without_input or not ledger.get(seq).inputs_missing)
    for _ in range(3):
        daemon_of(told).step(0.0)
    assert ledger.get(seq).state == "queued"
    assert "hero" not in {job for job, _ in told.device.started}


@HOLDS
def test_a_job_between_two_images_is_put_back_at_the_next_look(
    told: Spool,
    monkeypatch: pytest.MonkeyPatch,
    begin: Callable[[Spool, pytest.MonkeyPatch], Go],
    reason: str,
) -> None:
    go = columns.between_images(told, monkeypatch)
    finish = begin(told, monkeypatch)
    # The writer has room again.
    go()
    told.device.by_hand = True
    status = told.until(lambda: (s := told.status("hero"))["reason"] == reason and s)
    assert (status["state"], status["attempt"], status["images"]["done"]) == ("queued", 0, 1)
    assert ("hero", 2) not in told.device.started
    _lift(told, finish)
    assert told.end("hero")["attempt"] == 1


@HOLDS
def test_a_job_in_mid_image_is_put_back_at_the_end_of_that_image(
    told: Spool,
    monkeypatch: pytest.MonkeyPatch,
    begin: Callable[[Spool, pytest.MonkeyPatch], Go],
    reason: str,
) -> None:
    columns.in_mid_image(told, monkeypatch)
    finish = begin(told, monkeypatch)
    assert told.device.task is not None and told.status("hero")["state"] == "running"
    told.device.finish()
    status = told.until(lambda: (s := told.status("hero"))["reason"] == reason and s)
    assert (status["state"], status["attempt"], status["images"]["done"]) == ("queued", 0, 2)
    assert ("hero", 3) not in told.device.started
    _lift(told, finish)
    status = told.end("hero")
    assert (status["attempt"], status["images"]["done"]) == (1, 3)
    assert [n for job, n in told.device.started if job == "hero"] == [1, 2, 3]


def test_a_lend_at_once_sets_the_stop_sign_and_takes_the_image_back_uncharged(
    told: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns.in_mid_image(told, monkeypatch)
    (told.home.inbox / "runner.lend").write_text('{"now": true}', encoding="utf-8")
    status = told.until(lambda: (s := told.status("hero"))["reason"] == "Lent" and s)
    assert (status["state"], status["attempt"], status["images"]["done"]) == ("queued", 0, 1)
    assert columns.in_flight(told) == {} and losses(told) == []
    _lift(told, (told.home.inbox / "runner.lend").unlink)
    status = told.end("hero")
    assert (status["state"], status["attempt"], status["images"]["done"]) == ("succeeded", 1, 3)
    assert [n for job, n in told.device.started if job == "hero"] == [1, 2, 2, 3]


def _lift(spool: Spool, finish: Go) -> None:
    """End a hold; the device answers by itself again."""
    finish()
    spool.device.by_hand = False
    if spool.device.task is not None:
        spool.device.finish()


def test_a_job_that_is_put_back_after_a_cancel_was_recorded_ends_cancelled(
    told: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = columns.between_images(told, monkeypatch)
    # What the intake does first; that the worker hears of it comes after, and here too late.
    daemon_of(told).ledger.cancel(1)
    pause(told, monkeypatch)
    go()
    status = told.end("hero")
    assert (status["state"], status["images"]["done"]) == ("cancelled", 1)
    assert told.device.started == [("hero", 1)]


def test_a_hold_changes_nothing_of_a_final_job(
    told: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns.over(told, monkeypatch)
    ledger = daemon_of(told).ledger
    before, record = told.status("hero"), ledger.get(1)
    pause(told, monkeypatch)
    assert ledger.put_back(1, PAUSED) == "succeeded"
    assert (told.status("hero"), ledger.get(1)) == (before, record)


# -- its end -----------------------------------------------------------------------------------


@each([columns.between_images, columns.in_mid_image])
def test_a_job_whose_last_image_is_over_ends_once(
    told: Spool, monkeypatch: pytest.MonkeyPatch, column: Column
) -> None:
    go = column(told, monkeypatch)
    ledger = daemon_of(told).ledger
    go()
    status = told.end("hero")
    assert (status["state"], status["images"]["done"]) == ("succeeded", 3)
    told.until(lambda: ledger.get(1).is_shown)
    # Whoever asks for it again finds it over; one event is looked for by the fixture.
    assert ledger.end(1) and ledger.put_back(1, PAUSED) == "succeeded"
    daemon_of(told).writer.publish_end(ledger.get(1))
    told.until(lambda: not daemon_of(told).writer.waiting)
    assert told.status("hero") == status


def test_an_input_that_never_comes_ends_a_queued_job(
    told: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told.home = replace(told.home, settings=replace(told.home.settings, input_wait_seconds=0.1))
    columns.without_input(told, monkeypatch)
    status = told.end("hero")
    assert (status["state"], status["reason"]) == ("failed", "InputMissing")
    assert told.device.started == []


# -- retry and keep ----------------------------------------------------------------------------


def wait_in_vain(spool: Spool, name: str) -> None:
    """Put a control file into the inbox, and turn until two scans have left it there."""
    (spool.home.inbox / name).touch()
    scans = daemon_of(spool).intake.scans + 2
    daemon_of(spool).intake.wake.set()
    spool.until(lambda: daemon_of(spool).intake.scans > scans)
    assert (spool.home.inbox / name).exists()


@each(columns.UNFINISHED)
def test_a_retry_of_an_unfinished_job_waits_for_its_end(
    told: Spool, monkeypatch: pytest.MonkeyPatch, column: Column
) -> None:
    go = column(told, monkeypatch)
    wait_in_vain(told, "hero.retry")
    assert not told.home.job("hero-2").exists()
    go()
    assert [each["state"] for each in told.over("hero", "hero-2")] == ["succeeded", "succeeded"]
    told.gone("hero.retry")
    assert daemon_of(told).ledger.counts()["succeeded"] == 2


def test_a_retry_of_a_final_job_makes_a_new_one_with_its_seeds_under_a_new_id(
    told: Spool,
) -> None:
    told.start()
    told.drop("hero.yaml", SPEC.replace("seed: 7", "count: 2"))
    first = told.end("hero")
    ask(told, "hero.retry")
    again = told.end("hero-2")
    assert [o["seed"] for o in again["outputs"]] == [o["seed"] for o in first["outputs"]]
    assert told.receipt("hero.retry")["job"] == "hero-2"
    assert told.status("hero") == first


@pytest.mark.parametrize("killed", [False, True], ids=["goes on", "killed"])
def test_a_retry_of_a_final_job_makes_one_job_however_often_its_file_is_read(
    told: Spool, *, killed: bool
) -> None:
    disk = FaultyDisk("remove", r"hero\.retry", errno.EIO)
    told.start(disk)
    told.drop("hero.yaml")
    told.end("hero")
    (told.home.inbox / "hero.retry").touch()
    told.until(lambda: disk.failed >= (1 if killed else 2))
    if killed:
        die(told)
        start_again(told)
    disk.broken = False
    assert told.end("hero-2")["state"] == "succeeded"
    assert not (told.home.inbox / "hero.retry").exists()
    assert not told.home.job("hero-3").exists()
    assert daemon_of(told).ledger.counts()["succeeded"] == 2


@each(columns.UNFINISHED)
def test_a_keep_of_an_unfinished_job_waits_for_its_end(
    told: Spool, monkeypatch: pytest.MonkeyPatch, column: Column
) -> None:
    go = column(told, monkeypatch)
    wait_in_vain(told, "hero.keep")
    assert not daemon_of(told).ledger.get(1).kept
    go()
    assert told.end("hero")["state"] == "succeeded"
    told.gone("hero.keep")
    assert daemon_of(told).ledger.get(1).kept


def test_a_keep_of_a_final_job_marks_it_as_kept(
    told: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns.over(told, monkeypatch)
    before = told.status("hero")
    ask(told, "hero.keep")
    assert daemon_of(told).ledger.get(1).kept
    after = told.status("hero")
    changed = {key for key in after if after[key] != before.get(key)}
    assert changed <= {"revision", "updated_at", "kept"}


def test_a_second_keep_of_a_job_is_removed_and_changes_nothing(
    told: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: the final status came again, with a new revision and nothing new in it."""
    columns.over(told, monkeypatch)
    ask(told, "hero.keep")
    before = told.until(lambda: (s := told.status("hero"))["kept"] and s)
    ask(told, "hero.keep")
    assert told.status("hero") == before


def test_a_keep_that_comes_while_the_end_is_published_is_in_the_status(
    told: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: the status of the end was worked out before the keep, and written after it."""
    reached, go, true = threading.Event(), threading.Event(), Pages.of_job

    def slow(self: Pages, record: Record, status: Status) -> tuple[Mapping[str, str], str | None]:
        made = true(self, record, status)
        if record.is_final:
            reached.set()
            assert go.wait(60)
        return made

    monkeypatch.setattr(Pages, "of_job", slow)
    told.start()
    (told.home.inbox / "hero.keep").touch()
    told.drop("hero.yaml")
    ledger = daemon_of(told).ledger
    told.until(lambda: reached.is_set() and ledger.get(1).kept)
    go.set()
    told.until(lambda: told.status("hero").get("kept"))
    assert told.status("hero")["state"] == "succeeded"


class Interfering(Disk):
    """Calls a function when the folder of `hero-2` is made."""

    def __init__(self) -> None:
        super().__init__()
        self.act: Callable[[], object] = lambda: None

    def before(self, operation: str, path: StrPath, **details: Any) -> None:
        if operation == "make_folder" and str(path).endswith("hero-2"):
            self.act()


@pytest.mark.parametrize("how", ["removed", "written again"])
def test_a_retry_whose_file_changes_while_it_is_obeyed_makes_its_job_all_the_same(
    told: Spool, how: str
) -> None:
    """Seen red: the job waited to be answered until the next start."""
    disk = Interfering()
    told.start(disk)
    told.drop("hero.yaml")
    told.end("hero")
    file = told.home.inbox / "hero.retry"
    disk.act = file.unlink if how == "removed" else lambda: file.write_text("x", encoding="utf-8")
    file.touch()
    assert told.end("hero-2")["state"] == "succeeded"
    told.gone("hero.retry")
    # A shell makes a file first and writes into it then: that is one request.
    assert not told.home.job("hero-3").exists()
