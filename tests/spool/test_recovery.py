"""Starting again after the last runner ended, whatever way it ended."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runner.daemon import Daemon
from runner.errors import RunnerBusy
from runner.settings import Home
from runner.spool.inputs import signature_of
from runner.spool.judge import Verdict
from runner.spool.locks import RunnerLock
from runner.spool.planner import Planner
from runner.spool.recovery import MOST_ATTEMPTS
from runner.spool.settle import Drop
from runner.supervisor import EXIT_DEVICE_LOST, EXIT_HUNG
from tests.spool.conftest import SPEC, Spool
from tests.spool.device import FlatColours

BULK = SPEC.replace("seed: 7", "seeds: {start: 1, count: 4}")


def die(spool: Spool) -> None:
    """End the daemon as a kill would: nothing is requeued and nothing more is written."""
    daemon = spool.daemon
    assert daemon is not None
    spool.until(lambda: not daemon.writer.waiting)
    daemon.ask_to_stop()
    daemon.intake.wake.set()
    daemon._intake_thread.join()
    daemon.writer.close()
    daemon.ledger.close()
    daemon._release()
    spool.daemon = None


def start_again(spool: Spool) -> None:
    """Start a daemon with a fresh device."""
    spool.device = FlatColours()
    spool.start()


def die_with_one_image_that_the_ledger_forgot(spool: Spool) -> None:
    """End in the second image of four, the first one's row not yet in the ledger."""
    spool.device.by_hand = True
    spool.drop("hero.yaml", BULK)
    spool.until(lambda: spool.device.task)
    spool.device.finish()
    spool.until(lambda: spool.device.task and spool.device.task.index == 2)
    die(spool)
    with sqlite3.connect(spool.home.data / "ledger.sqlite") as connection:
        connection.execute("DELETE FROM image")


def test_a_killed_job_continues_at_the_first_missing_image(spool: Spool) -> None:
    spool.device.by_hand = True
    spool.drop("hero.yaml", BULK)
    for number in (1, 2):
        spool.until(lambda n=number: spool.device.task and spool.device.task.index == n)
        spool.device.finish()
    spool.until(lambda: len(spool.pictures("hero")) == 2 and spool.device.task)
    die(spool)
    start_again(spool)
    status = spool.end("hero")
    assert (status["state"], status["attempt"]) == ("succeeded", 2)
    assert spool.device.started == [("hero", 3), ("hero", 4)]
    assert spool.device.seeds == [3, 4]


def test_an_image_whose_sidecar_is_there_is_adopted_and_not_made_twice(spool: Spool) -> None:
    die_with_one_image_that_the_ledger_forgot(spool)
    start_again(spool)
    assert spool.end("hero")["images"]["done"] == 4
    assert spool.device.started == [("hero", 2), ("hero", 3), ("hero", 4)]


def test_a_torn_picture_is_made_again(spool: Spool) -> None:
    die_with_one_image_that_the_ledger_forgot(spool)
    picture = spool.home.job("hero") / "hero-0001.png"
    whole = picture.read_bytes()
    picture.write_bytes(whole[: len(whole) // 2])
    start_again(spool)
    spool.end("hero")
    assert spool.device.started[0] == ("hero", 1)
    assert len(picture.read_bytes()) == len(whole)


def test_a_job_that_ends_the_process_three_times_fails_and_the_next_one_runs(
    spool: Spool,
) -> None:
    spool.device.by_hand = True
    spool.drop("bomb.yaml")
    spool.until(lambda: spool.device.task)
    for attempt in range(1, MOST_ATTEMPTS + 1):
        spool.until(lambda: spool.device.task)
        assert spool.daemon is not None
        assert spool.daemon.ledger.get(1).attempt == attempt
        die(spool)
        start_again(spool)
        spool.device.by_hand = attempt < MOST_ATTEMPTS
    spool.drop("next.yaml")
    status, following = spool.over("bomb", "next")
    assert (status["state"], status["reason"]) == ("failed", "CrashLoop")
    assert following["state"] == "succeeded"
    assert spool.device.started == [("next", 1)]


def test_a_stopped_runner_requeues_the_image_in_hand_without_charging_an_attempt(
    spool: Spool,
) -> None:
    spool.device.by_hand = True
    spool.drop("hero.yaml", BULK)
    spool.until(lambda: spool.device.task)
    spool.stop()
    status = spool.status("hero")
    assert (status["state"], status["attempt"]) == ("queued", 0)
    start_again(spool)
    assert spool.end("hero")["attempt"] == 1


def test_the_revision_rises_across_a_kill(spool: Spool) -> None:
    spool.device.by_hand = True
    spool.drop("hero.yaml")
    spool.until(lambda: spool.device.task)
    before = spool.until(lambda: spool.status("hero").get("revision"))
    die(spool)
    start_again(spool)
    assert spool.end("hero")["revision"] > before


def test_a_file_whose_job_was_committed_before_the_kill_is_not_taken_twice(
    spool: Spool,
) -> None:
    text = SPEC
    path = spool.drop("hero.yaml", text)
    spool.end("hero")
    assert spool.daemon is not None
    record = spool.daemon.ledger.get(1)
    die(spool)
    # As if the kill had come after the commit and before the file left the inbox.
    path.write_text(text, encoding="utf-8")
    drop = Drop("hero.yaml", text.encode(), signature_of(path.stat()))
    with sqlite3.connect(spool.home.data / "ledger.sqlite") as connection:
        connection.execute("UPDATE job SET identity = ? WHERE seq = 1", (drop.identity,))
    start_again(spool)
    spool.gone("hero.yaml")
    assert spool.status("hero")["source"]["sha256"] == record.source_sha256
    assert not spool.home.job("hero-2").exists()
    assert spool.device.started == []


def test_a_status_that_fell_behind_is_written_again(spool: Spool) -> None:
    spool.drop("hero.yaml")
    before = spool.end("hero")
    die(spool)
    (spool.home.job("hero") / "status.json").unlink()
    with sqlite3.connect(spool.home.data / "ledger.sqlite") as connection:
        connection.execute("UPDATE job SET behind = 1")
    start_again(spool)
    after = spool.end("hero")
    assert (after["state"], after["outputs"]) == (before["state"], before["outputs"])


def test_files_that_a_dead_runner_was_writing_aside_are_swept(spool: Spool) -> None:
    die(spool)
    left = spool.home.outbox / ".runner.json.1-2.writing"
    left.write_bytes(b"half")
    start_again(spool)
    assert not left.exists()


def test_what_a_power_loss_left_of_the_status_of_a_queued_job_is_swept(spool: Spool) -> None:
    spool.device.by_hand = True
    spool.drop("hero.yaml")
    spool.drop("next.yaml")
    spool.until(lambda: spool.device.task and spool.status("next"))
    die(spool)
    with sqlite3.connect(spool.home.data / "ledger.sqlite") as connection:
        connection.execute("INSERT INTO mark VALUES ('open')")
    left = spool.home.job("next") / ".status.json.1-2.writing"
    left.write_bytes(b"half")
    start_again(spool)
    assert not left.exists()


def test_a_second_runner_of_a_home_is_refused_and_told_who_holds_it(spool: Spool) -> None:
    second = Daemon(spool.home, FlatColours())
    with pytest.raises(RunnerBusy, match=r"in use by another runner \(pid \d+\)"):
        second.open()


def test_a_second_runner_of_a_gpu_is_refused_whatever_the_home(tmp_path: Path) -> None:
    gpu = f"test-{tmp_path.name}-{os.getpid()}"
    homes = [Home(tmp_path / name) for name in ("one", "two")]
    for home in homes:
        home.prepare()
    with Daemon(homes[0], FlatColours(), gpu=gpu):
        with pytest.raises(RunnerBusy, match=f"the GPU {gpu} is in use"):
            Daemon(homes[1], FlatColours(), gpu=gpu).open()
    with Daemon(homes[1], FlatColours(), gpu=gpu):
        pass


def test_a_lock_that_a_dead_runners_child_still_shares_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.name == "nt":
        pytest.skip("on Windows no process inherits another one's lock")
    first, second = (RunnerLock(tmp_path / "lock", "the home") for _ in range(2))
    first.acquire()
    assert first._handle is not None
    waiting = [sys.executable, "-c", "input()"]
    with subprocess.Popen(waiting, stdin=subprocess.PIPE, pass_fds=[first._handle]) as child:
        with pytest.raises(RunnerBusy):
            second.acquire()
        first.release()
        dead = subprocess.Popen([sys.executable, "-c", ""])
        dead.wait()
        (tmp_path / "lock").write_bytes(f"\0pid {dead.pid}".encode())
        # The first time that it waits, the child ends.
        monkeypatch.setattr("runner.spool.locks.time.sleep", lambda seconds: child.kill())
        monkeypatch.setattr("runner.spool.locks._MOST_TRIES", sys.maxsize)
        second.acquire()
    assert child.returncode == -signal.SIGKILL
    second.release()


def test_the_order_of_acceptance_survives_a_restart(idle_spool: Spool) -> None:
    for name in ("c.yaml", "a.yaml", "b.yaml"):
        idle_spool.drop(name, SPEC + 'not_before: "2999-01-01T00:00:00Z"\n')
        if idle_spool.daemon is None:
            idle_spool.start()
        idle_spool.gone(name)
    die(idle_spool)
    with sqlite3.connect(idle_spool.home.data / "ledger.sqlite") as connection:
        rows = connection.execute("SELECT seq, realised FROM job").fetchall()
        for seq, realised in rows:
            values = json.loads(realised)
            del values["not_before"]
            connection.execute(
                "UPDATE job SET ready_at = 0, realised = ? WHERE seq = ?",
                (json.dumps(values), seq),
            )
    start_again(idle_spool)
    idle_spool.over("a", "b", "c")
    assert [job for job, _ in idle_spool.device.started] == ["c", "a", "b"]


def test_the_home_of_a_dead_runner_can_be_opened_again(spool: Spool, tmp_path: Path) -> None:
    lock = spool.home.data / "runner.lock"
    die(spool)
    assert lock.exists()
    start_again(spool)
    spool.drop("hero.yaml")
    assert spool.end("hero")["state"] == "succeeded"


def test_a_lost_device_ends_the_process_with_the_attempt_charged_and_the_job_goes_on(
    spool: Spool,
) -> None:
    spool.device.failing["hero", 2] = ("DeviceLost", "the GPU is gone")
    spool.drop("hero.yaml", BULK)
    assert spool.daemon is not None
    worker = spool.daemon.worker
    spool.until(lambda: worker.lost)
    assert worker.lost == EXIT_DEVICE_LOST
    spool.stop()
    assert spool.status("hero")["state"] == "running"
    start_again(spool)
    status = spool.end("hero")
    assert (status["state"], status["attempt"]) == ("succeeded", 2)
    assert spool.device.started == [("hero", 2), ("hero", 3), ("hero", 4)]


def test_an_image_that_hangs_beyond_its_timeout_fails_and_ends_the_process(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.turn._HUNG_AFTER_SECONDS", 0.1)
    spool.device.by_hand = True
    spool.drop("hero.yaml", BULK + "timeout: 0.1\n")
    spool.until(lambda: spool.device.task)
    spool.device.step()
    assert spool.daemon is not None
    worker = spool.daemon.worker
    spool.until(lambda: worker.lost)
    assert worker.lost == EXIT_HUNG
    spool.stop()
    start_again(spool)
    status = spool.end("hero")
    assert (status["state"], status["reason"]) == ("failed", "Timeout")
    assert status["images"] == {"total": 4, "done": 3, "failed": 1, "skipped": 0}


def die_while_reading(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start a daemon that ends while it reads what lies in the inbox."""

    class Died(BaseException):
        """Stands for the end of the process."""

    def deadly(*order: object) -> object:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr("runner.spool.intake.judge", deadly)
        patch.setattr("threading.excepthook", lambda args: None)
        spool.start()
        assert spool.daemon is not None
        thread = spool.daemon._intake_thread
        spool.until(lambda: not thread.is_alive())
        die(spool)


def test_a_spec_whose_reading_ends_the_process_is_found_out_and_the_others_run(
    idle_spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = SPEC + "x_poison: 1\n"
    for name in ("a.yaml", "bomb.yaml", "z.yaml"):
        idle_spool.drop(name, poison if name == "bomb.yaml" else SPEC)
    die_while_reading(idle_spool, monkeypatch)
    judge = Planner.judge

    def deadly(planner: Planner, drop: Drop, *rest: Any) -> Verdict:
        if b"poison" in drop.data:
            planner.kill()
        return judge(planner, drop, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Planner, "judge", deadly)
        start_again(idle_spool)
        statuses = idle_spool.over("a", "bomb", "z")
    assert [s["state"] for s in statuses] == ["succeeded", "rejected", "succeeded"]
    assert statuses[1]["reason"] == "CrashLoop"


def test_specs_that_were_being_read_whenever_the_process_was_killed_are_not_blamed(
    idle_spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        # Each of them with those before, which are read aside from their first death on.
        idle_spool.drop(f"{name}.yaml", SPEC + f"x_name: {name}\n")
        die_while_reading(idle_spool, monkeypatch)
    start_again(idle_spool)
    statuses = idle_spool.over("a", "b", "c")
    assert [s["state"] for s in statuses] == ["succeeded"] * 3
    assert idle_spool.daemon is not None
    assert idle_spool.daemon.ledger.judging() == set()
