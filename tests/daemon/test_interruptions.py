"""What befalls a job unasked, in each state that the job can be in: one test for each.

    a stop of the runner, a kill, a slot that is lost or hangs, a folder that is deleted

The states are those of `test_requests.py`. A kill here leaves all that was written; what a power
loss may take of it is tried by `tests/crash`.
"""

from __future__ import annotations

import errno
import shutil
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace
from typing import Any

import pytest

from runner import exit_codes
from runner.daemon.daemon import Daemon
from runner.daemon.ends import GONE, JobEnds
from runner.errors import LedgerUnusable
from runner.spool.store.record import Record
from tests.daemon import columns
from tests.daemon.columns import BULK, Column, Go, daemon_of, each, in_flight, losses
from tests.harness import eventually
from tests.spool.conftest import SPEC, Spool
from tests.spool.deaths import die, start_again
from tests.spool.device import FlatColours
from tests.spool.faulty import FaultyDisk, refused


def remove(folder: Path) -> None:
    """Remove a folder into which the runner may write meanwhile."""
    aside = folder.rename(Path(mkdtemp(dir=folder.parents[1])) / folder.name)
    shutil.rmtree(aside, ignore_errors=True)


def facts(spool: Spool) -> dict[str, Any]:
    """What the closed ledger says of the first job, and of the last run."""
    with closing(sqlite3.connect(spool.home.data / "ledger.sqlite")) as connection:
        connection.row_factory = sqlite3.Row
        (job,) = connection.execute("SELECT state, attempt FROM job WHERE id = 'hero'")
        run = connection.execute("SELECT stop_at FROM run ORDER BY n DESC").fetchone()
        held = {
            table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("unanswered", "in_flight", "loss")
        }
    return {**dict(job), **held, "stopped": run["stop_at"] is not None}


# -- a stop of the runner ----------------------------------------------------------------------


def test_a_stop_leaves_a_job_that_is_not_answered_yet_and_the_next_runner_answers(
    told: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns.unanswered(told, monkeypatch)
    told.stop()
    left = facts(told)
    assert (left["state"], left["attempt"], left["unanswered"]) == ("queued", 0, 1)
    start_again(told)
    assert told.receipt("hero.yaml")["outcome"] == "accepted"
    status = told.end("hero")
    assert (status["state"], status["attempt"]) == ("succeeded", 1)
    assert not told.home.job("hero-2").exists()


@each([columns.paused, columns.outside_hours, columns.without_input])
def test_a_stop_leaves_a_queued_job_as_it_is(
    told: Spool, monkeypatch: pytest.MonkeyPatch, column: Column
) -> None:
    column(told, monkeypatch)
    before = told.until(lambda: told.status("hero"))
    told.stop()
    assert told.status("hero") == before
    start_again(told)
    told.drop("next.yaml", "kind: text2img\n")
    told.end("next")
    assert told.status("hero") == before
    assert told.device.started == []


def test_a_stop_between_two_images_puts_the_job_back_and_charges_nobody(
    told: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = columns.between_images(told, monkeypatch)
    go()
    told.stop()
    status = told.status("hero")
    assert (status["state"], status["attempt"], status["images"]["done"]) == ("queued", 0, 1)
    _goes_on_at(told, 2, attempt=1)


def test_a_stop_in_mid_image_sets_the_stop_sign_and_takes_the_image_back_uncharged(
    told: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns.in_mid_image(told, monkeypatch)
    told.stop()
    assert told.device.task is None
    status, left = told.status("hero"), facts(told)
    assert (status["state"], status["attempt"], status["images"]["done"]) == ("queued", 0, 1)
    assert left["stopped"] and (left["in_flight"], left["loss"]) == (0, 0)
    _goes_on_at(told, 2, attempt=1)


def test_an_image_that_never_answers_a_stop_is_taken_back_by_the_next_runner_uncharged(
    told: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns.in_mid_image(told, monkeypatch)
    daemon_of(told).ledger.stopping()
    die(told)
    left = facts(told)
    assert left["stopped"] and (left["state"], left["in_flight"]) == ("running", 1)
    start_again(told)
    assert losses(told) == []
    told.end("hero")
    assert (told.status("hero")["state"], told.status("hero")["attempt"]) == ("succeeded", 1)


def test_a_job_stopped_but_at_fault_at_the_next_start_is_put_back_later_and_uncharged(
    told: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: its attempt was counted, as of a process that died."""
    columns.in_mid_image(told, monkeypatch)
    daemon_of(told).ledger.stopping()
    die(told)
    (told.home.job("hero") / "hero-0002.png").write_bytes(b"half")
    disk = FaultyDisk("remove", "hero-0002", errno.EIO)
    told.device = FlatColours()
    told.start(disk)
    assert disk.failed and facts(told)["state"] == "running"
    disk.broken = False
    status = told.end("hero")
    assert (status["state"], status["attempt"]) == ("succeeded", 1)


def test_an_image_that_ends_with_its_load_long_after_a_stop_is_kept_and_its_job_put_back(
    told: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: the job stayed running, its picture was thrown away and made again."""
    columns.in_mid_image(told, monkeypatch)
    monkeypatch.setattr("runner.daemon.daemon._LET_GO_SECONDS", 0.2)
    monkeypatch.setattr(told.device, "stop", lambda slot: None)
    monkeypatch.setattr(told.device, "close", told.device.finish)
    told.stop()
    status, left = told.status("hero"), facts(told)
    assert (status["state"], status["attempt"], status["images"]["done"]) == ("queued", 0, 2)
    assert (left["in_flight"], left["loss"]) == (0, 0)
    assert told.pictures("hero") == ["hero-0001.png", "hero-0002.png"]
    _goes_on_at(told, 3, attempt=1)


def test_an_image_in_flight_as_a_thread_ends_is_charged_by_the_next_runner(
    told: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: nobody was, and the runner was started again for ever."""
    for life in range(3):
        told.device = FlatColours(by_hand=True)
        told.start()
        if not life:
            told.drop("hero.yaml", BULK)
        told.until(lambda: told.device.task)
        told.device.step()
        told.until(lambda: in_flight(told) == {1: "denoising"})
        assert len(losses(told)) == life
        told.home.threads.start("gpu0", sys.exit).join()
        told.until(lambda: daemon_of(told).worker.exit_code)
        told.stop()
        (told.home.job("hero") / ".hero-0001.png.1-a.writing").touch()
    start_again(told)
    status = told.end("hero")
    assert (status["reason"], status["images"]["done"]) == ("CrashLoop", 2)
    assert not [*told.home.job("hero").glob(".*.writing")], "what the ended threads left"


def test_a_thread_that_ends_while_the_runner_closes_ends_it_with_its_code_too(
    told: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns.in_mid_image(told, monkeypatch)
    daemon = daemon_of(told)
    told.home.threads.start("writer", sys.exit).join()
    told.stop()
    assert daemon.worker.exit_code == exit_codes.BROKEN


def test_a_stop_leaves_a_final_job_as_it_is(told: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    columns.over(told, monkeypatch)
    before = told.status("hero")
    told.stop()
    start_again(told)
    told.drop("next.yaml")
    told.end("next")
    assert told.status("hero") == before


def _goes_on_at(spool: Spool, number: int, *, attempt: int) -> None:
    """Start again, and see the job go on at this image with no loss charged."""
    start_again(spool)
    assert losses(spool) == []
    status = spool.end("hero")
    assert (status["state"], status["attempt"]) == ("succeeded", attempt)
    assert spool.device.started == [("hero", n) for n in range(number, 4)]


# -- a kill ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "path", "there"),
    [("write", "hero", True), ("rename", r"\.taken-hero", True), ("sync_folder", "inbox", False)],
    ids=["no status", "no removal", "removed"],
)
def test_a_job_that_was_not_answered_before_a_kill_is_answered_again_and_not_made_twice(
    told: Spool, operation: str, path: str, *, there: bool
) -> None:
    disk = FaultyDisk(operation, path, errno.EROFS)
    # It must not be tried again before the kill.
    disk.on_failure = lambda: daemon_of(told).ask_to_stop()
    told.start(disk)
    told.drop("hero.yaml", BULK)
    told.until(lambda: disk.failed)
    die(told)
    assert (told.home.inbox / "hero.yaml").exists() == there
    assert facts(told)["unanswered"] == 1
    start_again(told)
    receipt = told.receipt("hero.yaml")
    assert (receipt["outcome"], receipt["job"]) == ("accepted", "hero")
    status = told.end("hero")
    assert (status["state"], status["attempt"]) == ("succeeded", 1)
    assert not told.home.job("hero-2").exists()


@pytest.mark.parametrize("end", [Spool.stop, die], ids=["a stop", "a kill"])
def test_an_end_of_the_runner_leaves_a_job_that_is_ready_where_it_is_and_it_follows(
    told: Spool, monkeypatch: pytest.MonkeyPatch, end: Callable[[Spool], None]
) -> None:
    columns.ready(told, monkeypatch)
    before = told.until(lambda: told.status("hero"))
    end(told)
    assert told.status("hero") == before
    start_again(told)
    told.over("busy", "hero")
    assert told.device.started[:2] == [("busy", 1), ("hero", 1)]


@each([columns.paused, columns.outside_hours, columns.without_input])
def test_a_kill_leaves_a_queued_job_as_it_is(
    told: Spool, monkeypatch: pytest.MonkeyPatch, column: Column
) -> None:
    column(told, monkeypatch)
    before = told.until(lambda: told.status("hero"))
    die(told)
    start_again(told)
    told.drop("next.yaml", "kind: text2img\n")
    told.end("next")
    after = told.status("hero")
    assert {key for key in after if after[key] != before[key]} <= {"revision", "updated_at"}
    assert told.device.started == []


def test_a_job_that_was_killed_between_two_images_is_put_back_and_nobody_is_charged(
    told: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns.between_images(told, monkeypatch)
    die(told)
    monkeypatch.undo()
    _goes_on_at(told, 2, attempt=2)


def test_a_kill_is_charged_to_the_image_in_flight_and_the_job_goes_on_there(
    told: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns.in_mid_image(told, monkeypatch)
    die(told)
    monkeypatch.setenv(exit_codes.LAST_END, "killed by SIGKILL")
    start_again(told)
    assert (losses(told), in_flight(told)) == ([(2, "denoising", "killed by SIGKILL")], {})
    status = told.end("hero")
    assert (status["state"], status["attempt"]) == ("succeeded", 2)
    assert told.device.started == [("hero", 2), ("hero", 3)]
    assert told.device.seeds == [2, 3]
    assert losses(told) == []


def test_a_final_status_that_a_kill_kept_back_is_shown_by_the_next_runner(told: Spool) -> None:
    disk = FaultyDisk("write", r"hero/(status|index)", errno.EIO, broken=False)
    told.device.on_start = lambda task: setattr(disk, "broken", True)
    told.start(disk)
    told.drop("hero.yaml")
    ledger = daemon_of(told).ledger
    told.until(lambda: [record for record in ledger.behind() if record.is_final])
    die(told)
    assert told.status("hero")["state"] in ("queued", "running")
    start_again(told)
    status = told.end("hero")
    assert (status["state"], status["images"]["done"]) == ("succeeded", 1)
    assert told.device.started == []


def test_a_cancel_just_as_a_job_is_put_back_leaves_a_page_that_says_so(
    told: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: the end was published without its page, which went on saying "running"."""
    columns.in_mid_image(told, monkeypatch)
    daemon = daemon_of(told)
    true = daemon.spool.outbox.write_status

    def late(seq: int, *, durable: bool = False) -> None:
        if threading.current_thread().name == "writer":
            (told.home.inbox / "hero.cancel").touch()
            ledger = daemon.ledger
            eventually(lambda: ledger.get(seq).is_final, "the cancel")
        true(seq, durable=durable)

    monkeypatch.setattr(daemon.spool.outbox, "write_status", late)
    (told.home.inbox / "runner.pause").touch()
    told.until(lambda: daemon.worker.hold)
    told.device.finish()
    assert told.end("hero")["state"] == "cancelled"
    page = (told.home.job("hero") / "index.html").read_text(encoding="utf-8")
    assert '<i class="pill" data-state="cancelled">' in page


def test_an_end_that_a_kill_kept_back_gets_its_page_though_a_keep_comes_first(
    told: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: the keep published the end, and nobody wrote the page."""
    disk = FaultyDisk("write", r"hero/(status|index)", errno.EIO, broken=False)
    told.device.on_start = lambda task: setattr(disk, "broken", True)
    told.start(disk)
    told.drop("hero.yaml")
    ledger = daemon_of(told).ledger
    told.until(lambda: [record for record in ledger.behind() if record.is_final])
    die(told)
    (told.home.job("hero") / "index.html").unlink(missing_ok=True)
    (told.home.inbox / "hero.keep").touch()
    with monkeypatch.context() as patch:
        patch.setattr(Daemon, "_publish_unpublished", lambda daemon: None)
        start_again(told)
        told.gone("hero.keep")
    told.until(lambda: told.status("hero").get("kept"))
    told.until(lambda: not daemon_of(told).writer.waiting)
    assert (told.home.job("hero") / "index.html").is_file()


# -- a slot that is lost or hangs --------------------------------------------------------------


def lose(spool: Spool, patch: pytest.MonkeyPatch) -> None:
    assert spool.device.task is not None
    spool.device.failing["hero", 2] = ("DeviceLost", "the GPU is gone")
    spool.device.finish()


def hang(spool: Spool, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("runner.daemon.active_job.Dispatch.is_hung", lambda job, moment: True)


@pytest.mark.parametrize(
    ("end", "code", "why"),
    [
        (lose, exit_codes.DEVICE_LOST, "the GPU was lost"),
        (hang, exit_codes.HUNG, "the image hung"),
    ],
)
def test_a_slot_that_ends_is_charged_with_what_it_had_and_the_job_stays_running(
    told: Spool, monkeypatch: pytest.MonkeyPatch, end: Go, code: int, why: str
) -> None:
    columns.in_mid_image(told, monkeypatch)
    told.drop("next.yaml")
    told.gone("next.yaml")
    with monkeypatch.context() as patch:
        end(told, patch)
        told.until(lambda: daemon_of(told).worker.exit_code)
    assert daemon_of(told).worker.exit_code == code
    told.until(lambda: not daemon_of(told).writer.waiting)
    assert (losses(told), in_flight(told)) == ([(2, "denoising", why)], {})
    told.stop()
    assert told.status("hero")["state"] == "running"
    assert not facts(told)["stopped"]
    start_again(told)
    # Charged once: the next runner finds nothing in flight.
    assert losses(told) == [(2, "denoising", why)]
    status, following = told.over("hero", "next")
    assert (status["state"], status["attempt"], following["state"]) == ("succeeded", 2, "succeeded")
    assert told.device.started == [("hero", 2), ("hero", 3), ("next", 1)]


def test_an_image_that_is_silent_beyond_its_timeout_hangs(
    told: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.daemon.active_job._HUNG_AFTER_SECONDS", 0.1)
    told.device.by_hand = True
    told.start()
    told.drop("hero.yaml", BULK + "timeout: 0.1\n")
    told.until(lambda: told.device.task)
    told.device.step()
    told.until(lambda: daemon_of(told).worker.exit_code)
    assert daemon_of(told).worker.exit_code == exit_codes.HUNG
    told.until(lambda: not daemon_of(told).writer.waiting)
    assert [number for number, _, _ in losses(told)] == [1]


def test_a_process_that_stood_still_for_long_takes_no_image_for_hung(
    told: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: a closed lid ended the runner with 87, and the image with Timeout."""
    told.device.by_hand = True
    told.start()
    told.drop("hero.yaml", BULK + "timeout: 1\n")
    told.until(lambda: told.device.task)
    told.device.step()
    daemon = daemon_of(told)
    told.until(lambda: in_flight(told) == {1: "denoising"})
    before = daemon.home.threads.awake()
    asleep = SimpleNamespace(time=time.time, monotonic=lambda: time.monotonic() + 35.0)
    monkeypatch.setattr("runner.clock.time", asleep)
    assert daemon.home.threads.awake() - before < 30.0, "what the limits of the GPU thread go by"
    for _ in range(3):
        daemon.step(0.0)
    assert daemon.worker.exit_code is None
    assert daemon.home.threads.awake() - before < 30.0
    told.device.by_hand = False
    told.device.finish()
    assert told.end("hero")["state"] == "succeeded"


def test_a_job_that_a_mistake_leaves_running_in_no_slot_goes_on_soon(
    told: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: it went on only after the next start."""
    true, failed = JobEnds.end, []

    def end(self: JobEnds, records: Sequence[Record]) -> None:
        if records and not failed:
            failed.append(records)
            raise ZeroDivisionError
        true(self, records)

    monkeypatch.setattr(JobEnds, "end", end)
    told.start()
    told.drop("hero.yaml")
    told.until(lambda: failed)
    assert told.end("hero")["state"] == "succeeded"


def test_a_late_answer_for_an_image_that_is_over_changes_nothing(
    told: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told.device.failing["hero", 2] = ("OutOfMemory", "too large")
    columns.over(told, monkeypatch)
    ledger = daemon_of(told).ledger
    record, images = ledger.get(1), {n: tuple(row) for n, row in ledger.images(1).items()}
    for number in (1, 2, 3):
        ledger.made(1, number, {"file": "late.png"})
        ledger.image_failed(1, number, "Internal", "late")
    ledger.lost(1, "late")
    assert ledger.get(1) == record
    assert {n: tuple(row) for n, row in ledger.images(1).items()} == images


# -- a folder that is deleted ------------------------------------------------------------------


def test_a_keep_of_a_job_that_ended_before_its_folder_was_made_is_obeyed(told: Spool) -> None:
    """Seen red: it was refused, as if the folder had been taken away."""
    disk = FaultyDisk("make_folder", r"outbox/hero$", errno.EIO)
    told.start(disk)
    told.drop("hero.yaml", BULK)
    told.until(lambda: disk.failed)
    daemon_of(told).ledger.cancel(1)
    (told.home.inbox / "hero.keep").touch()
    told.until(lambda: daemon_of(told).ledger.get(1).kept)
    disk.broken = False
    status = told.end("hero")
    assert (status["state"], status["kept"]) == ("cancelled", True)


@pytest.mark.parametrize("what", ["status", "folder"])
def test_a_status_deleted_before_the_answer_is_written_again_with_the_answer(
    told: Spool, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    go = columns.unanswered(told, monkeypatch)
    pause = told.home.inbox / "runner.pause"
    pause.touch()
    folder = told.home.job("hero")
    (folder / "status.json").unlink() if what == "status" else remove(folder)
    go()
    assert told.receipt("hero.yaml")["job"] == "hero"
    assert told.status("hero")["state"] == "queued"
    assert (told.home.job("hero") / "spec.yaml").exists()
    pause.unlink()
    assert told.end("hero")["state"] == "succeeded"


@pytest.mark.parametrize("what", ["status", "folder"])
@each([columns.paused, columns.outside_hours, columns.without_input])
def test_a_status_of_a_queued_job_that_is_deleted_is_written_again_at_the_next_look(
    told: Spool, monkeypatch: pytest.MonkeyPatch, column: Column, what: str
) -> None:
    """Seen red: it stayed away until the job began."""
    column(told, monkeypatch)
    before = told.until(lambda: told.status("hero"))
    folder = told.home.job("hero")
    (folder / "status.json").unlink() if what == "status" else remove(folder)
    after = told.until(lambda: told.status("hero"))
    assert after["revision"] > before["revision"]
    assert {key for key in after if after[key] != before[key]} <= {"revision", "updated_at"}
    assert (folder / "spec.yaml").exists()


def test_a_status_that_was_written_again_just_before_a_kill_is_followed_by_a_higher_revision(
    told: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: the next one had the same revision and said something else."""
    go = columns.paused(told, monkeypatch)
    before = told.until(lambda: told.status("hero"))
    with monkeypatch.context() as patch:
        patch.setattr(daemon_of(told).ledger, "published", lambda *given: None)
        (told.home.job("hero") / "status.json").unlink()
        again = told.until(lambda: told.status("hero"))
        die(told)
    assert again["revision"] == before["revision"] + 1
    start_again(told)
    go()
    assert told.until(lambda: told.status("hero"))["revision"] > again["revision"]
    assert told.end("hero")["state"] == "succeeded"


@pytest.mark.parametrize("killed", [False, True], ids=["goes on", "killed"])
def test_a_folder_of_a_queued_job_that_is_deleted_gets_its_status_again(
    told: Spool, monkeypatch: pytest.MonkeyPatch, *, killed: bool
) -> None:
    go = columns.paused(told, monkeypatch)
    remove(told.home.job("hero"))
    if killed:
        die(told)
        start_again(told)
        assert told.status("hero")["state"] == "queued"
    told.device.by_hand = True
    go()
    # Before any image is saved.
    told.until(lambda: told.device.task and told.status("hero").get("state") == "running")
    told.device.by_hand = False
    told.device.finish()
    status = told.end("hero")
    assert (status["state"], status["images"]["done"]) == ("succeeded", 3)
    assert len(told.pictures("hero")) == 3


@each([columns.between_images, columns.in_mid_image])
def test_images_of_a_running_job_whose_folder_is_deleted_are_counted_and_said_while_it_goes_on(
    told: Spool, monkeypatch: pytest.MonkeyPatch, column: Column
) -> None:
    """Seen red: three done, two pictures, and not a word."""
    go = column(told, monkeypatch)
    remove(told.home.job("hero"))
    go()
    status = told.end("hero")
    assert (status["state"], status["images"]["done"]) == ("succeeded", 3)
    assert told.pictures("hero") == ["hero-0002.png", "hero-0003.png"]
    assert status["warnings"] == [GONE.format(1, 3)]


def test_a_folder_that_cannot_be_listed_has_no_picture_told_as_gone(
    told: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: "3 of 3 pictures were no longer in the folder"."""
    go = columns.in_mid_image(told, monkeypatch)
    with refused(told.home.job("hero"), reads=["listdir"]):
        go()
        status = told.end("hero")
    assert (status["state"], status["images"]["done"]) == ("succeeded", 3)
    assert not [each for each in status["warnings"] if "no longer" in each]


def test_pictures_that_are_gone_are_counted_and_said_by_the_next_runner_too(
    told: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: a kill between the end and those words lost them."""
    go = columns.in_mid_image(told, monkeypatch)
    remove(told.home.job("hero"))
    with monkeypatch.context() as patch:
        for name in ("_count_gone", "_publish", "publish"):
            patch.setattr(JobEnds, name, lambda *given: None)
        go()
        told.until(lambda: daemon_of(told).ledger.get(1).is_final)
        die(told)
    start_again(told)
    assert told.end("hero")["warnings"] == [GONE.format(1, 3)]


def test_pictures_that_are_gone_of_a_job_that_is_put_back_and_cancelled_are_counted_and_said(
    told: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns.in_mid_image(told, monkeypatch)
    remove(told.home.job("hero"))
    (told.home.inbox / "runner.pause").touch()
    told.until(lambda: daemon_of(told).worker.hold)
    told.device.finish()
    told.until(lambda: told.status("hero").get("state") == "queued")
    (told.home.inbox / "hero.cancel").touch()
    status = told.end("hero")
    assert (status["state"], status["warnings"]) == ("cancelled", [GONE.format(1, 2)])


def test_pictures_that_are_moved_once_the_job_has_ended_are_no_warning(
    told: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns.over(told, monkeypatch)
    (told.home.job("hero") / "hero-0001.png").unlink()
    (told.home.inbox / "hero.keep").touch()
    told.until(lambda: told.status("hero").get("kept"))
    assert told.status("hero")["warnings"] == []


@each([columns.between_images, columns.in_mid_image])
def test_images_of_a_running_job_whose_folder_is_deleted_are_made_again_after_a_kill(
    told: Spool, monkeypatch: pytest.MonkeyPatch, column: Column
) -> None:
    column(told, monkeypatch)
    remove(told.home.job("hero"))
    die(told)
    monkeypatch.undo()
    start_again(told)
    status = told.end("hero")
    assert (status["state"], status["images"]["done"]) == ("succeeded", 3)
    assert told.device.started == [("hero", 1), ("hero", 2), ("hero", 3)]
    assert len(told.pictures("hero")) == 3


@each([columns.between_images, columns.in_mid_image])
def test_a_status_of_a_running_job_that_is_deleted_is_written_with_the_next_change(
    told: Spool, monkeypatch: pytest.MonkeyPatch, column: Column
) -> None:
    go = column(told, monkeypatch)
    before = told.status("hero")
    (told.home.job("hero") / "status.json").unlink()
    go()
    after = told.until(lambda: told.status("hero"))
    assert after["revision"] > before["revision"]
    status = told.end("hero")
    assert (status["state"], len(told.pictures("hero"))) == ("succeeded", 3)


def test_a_status_of_a_final_job_that_is_deleted_stays_away(
    told: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns.over(told, monkeypatch)
    (told.home.job("hero") / "status.json").unlink()
    told.drop("next.yaml")
    told.end("next")
    scans = daemon_of(told).intake.scans + 2
    told.until(lambda: daemon_of(told).intake.scans > scans)
    assert told.status("hero") == {}


def test_a_final_job_whose_folder_is_deleted_is_forgotten_when_its_id_is_wanted(
    told: Spool,
) -> None:
    told.start()
    told.drop("hero.yaml", SPEC + "id: hero\n")
    told.end("hero")
    remove(told.home.job("hero"))
    told.drop("other.yaml")
    told.end("other")
    ledger = daemon_of(told).ledger
    assert ledger.newest("hero") == ledger.get(1)
    told.drop("again.yaml", SPEC + "id: hero\nsteps: 5\n")
    assert told.end("hero")["state"] == "succeeded"
    again = ledger.newest("hero")
    assert again is not None and again.seq > 2


def test_a_late_answer_for_a_final_job_changes_nothing(told: Spool) -> None:
    told.device.by_hand = True
    told.start()
    told.drop("hero.yaml", BULK)
    told.until(lambda: told.device.task)
    (told.home.inbox / "hero.cancel").touch()
    told.end("hero")
    ledger = daemon_of(told).ledger
    before = ledger.get(1)
    ledger.made(1, 2, {"file": "late.png"})
    assert ledger.get(1) == before and not ledger.images(1)


def test_a_file_is_known_until_its_removal_is_on_the_disk(told: Spool) -> None:
    disk = FaultyDisk("sync_folder", "inbox", errno.EIO)
    told.start(disk)
    told.drop("hero.yaml", BULK)
    told.until(lambda: disk.failed)
    ledger = daemon_of(told).ledger
    told.until(lambda: disk.failed >= 3 or ledger.is_answered(1))
    assert not ledger.is_answered(1)


def test_a_job_that_cannot_be_read_when_it_begins_is_begun_again(
    told: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: it ran in no slot until the next start."""
    told.start()
    ledger = daemon_of(told).ledger
    true, refused = ledger.images, []

    def images(seq: int) -> dict[int, Any]:
        if not refused:
            refused.append(seq)
            raise LedgerUnusable("disk I/O error")
        return true(seq)

    monkeypatch.setattr(ledger, "images", images)
    told.drop("hero.yaml")
    assert told.end("hero")["state"] == "succeeded" and refused == [1]


def test_images_that_cannot_be_recorded_as_in_flight_are_made_when_they_can(
    told: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told.start()
    ledger = daemon_of(told).ledger
    true, refused = ledger.claim, []

    def claim(seq: int, images: Mapping[int, str], slot: str, *, warm: bool) -> bool:
        if len(refused) < 2:
            refused.append(seq)
            raise LedgerUnusable("no room")
        return true(seq, images, slot, warm=warm)

    monkeypatch.setattr(ledger, "claim", claim)
    told.drop("hero.yaml", BULK)
    status = told.end("hero")
    assert (status["state"], status["images"]["failed"]) == ("succeeded", 0)
    made = [number for _, number in told.device.started]
    assert made == [*range(1, status["images"]["total"] + 1)]


def test_that_the_runner_was_asked_to_stop_is_recorded_before_the_device_has_answered(
    told: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told.device.by_hand = True
    told.start()
    told.drop("hero.yaml")
    told.until(lambda: told.device.task)
    ledger, stop, seen = daemon_of(told).ledger, told.device.stop, []

    def stopped(slot: str) -> None:
        if told.device.task is not None:
            seen.append(ledger.last_run().stopping)
        stop(slot)

    monkeypatch.setattr(told.device, "stop", stopped)
    told.stop()
    assert seen == [True]


def test_a_device_that_is_lost_during_a_stop_charges_nobody(
    told: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: the image was charged."""
    told.device.by_hand = True
    told.start()
    told.drop("hero.yaml", BULK)
    told.until(lambda: told.device.task)
    told.device.failing["hero", 1] = ("DeviceLost", "gone")
    monkeypatch.setattr(told.device, "stop", lambda slot: told.device.task and told.device.finish())
    told.stop()
    start_again(told)
    assert losses(told) == []
    assert told.end("hero")["state"] == "succeeded"
