"""Whose turn it is: priority, age, and the model that is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from runner.clock import ready_at, timestamp
from runner.daemon.scheduler import Scheduler
from runner.job import State
from runner.settings import Home, Settings
from runner.spool.disk.disk import Disk
from runner.spool.disk.faults import Faults
from runner.spool.store.ledger import Ledger
from runner.spool.store.outbox import Outbox
from runner.spool.store.record import Record
from runner.spool.store.spool import Spool

HOLD = 600.0


class Queue:
    """A backlog over a real ledger; `turn` takes and ends one job at a given moment."""

    def __init__(self, root: Path) -> None:
        home = Home(root, Settings(hold_minutes=HOLD / 60))
        home.prepare()
        self.ledger = Ledger(home.data / "ledger.sqlite", Disk())
        faults = Faults(home)
        outbox = Outbox(home, self.ledger, Disk(), faults)
        spool = Spool(home, Disk(), self.ledger, outbox, faults, self.ledger.last_run())
        self.scheduler = Scheduler(spool)

    def add(
        self, job_id: str, model: str, priority: int = 0, *, inputs_missing: bool = False
    ) -> Record:
        record = Record(
            0, job_id, State.QUEUED, f"{job_id}.yaml", "", 0, ".yaml", b"", "",
            model=model, priority=priority, inputs_missing=inputs_missing,
        )  # fmt: skip
        return self.ledger.insert(record)

    def next(
        self, moment: float, wall: float = 1000.0, *, running: Record | None = None
    ) -> Record | None:
        """What a slot goes on with that worked on `running`, where that has images left."""
        own = running and replace(running, state=State.RUNNING)
        return self.scheduler.next("gpu0", own, [own] if own else [], moment, wall)

    def outranks(self, running: Record, moment: float, wall: float = 1000.0) -> bool:
        """Whether a queued job has the slot's next image, and not the one that runs."""
        record = self.next(moment, wall, running=running)
        return record is not None and record.seq != running.seq

    def turn(self, moment: float) -> str | None:
        record = self.next(moment)
        if record is None:
            return None
        self.ledger.begin(record.seq)
        self.scheduler.started("gpu0", record.model, moment)
        self.ledger.end(record.seq)
        return record.id


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    """An empty queue."""
    made = Queue(tmp_path)
    yield made
    made.ledger.close()


def test_jobs_that_share_the_loaded_model_go_together_oldest_first(queue: Queue) -> None:
    for job, model in (("a1", "A"), ("b1", "B"), ("a2", "A"), ("b2", "B")):
        queue.add(job, model)
    assert [queue.turn(1.0) for _ in range(5)] == ["a1", "a2", "b1", "b2", None]


def test_a_higher_priority_goes_first_whatever_is_loaded(queue: Queue) -> None:
    queue.add("a1", "A")
    assert queue.turn(1.0) == "a1"
    queue.add("a2", "A")
    queue.add("b1", "B", priority=1)
    assert [queue.turn(1.0), queue.turn(1.0)] == ["b1", "a2"]


def test_a_model_that_held_the_device_too_long_makes_way_for_an_older_job(queue: Queue) -> None:
    queue.add("a1", "A")
    assert queue.turn(0.0) == "a1"
    queue.add("b1", "B")
    queue.add("a2", "A")
    queue.add("a3", "A")
    assert queue.turn(HOLD - 1) == "a2"
    assert queue.turn(HOLD + 1) == "b1"
    assert queue.turn(HOLD + 2) == "a3"


def test_a_long_job_yields_at_an_images_end_once_its_model_held_too_long(queue: Queue) -> None:
    older = queue.add("b1", "B")
    running = queue.add("a1", "A")
    queue.ledger.begin(running.seq)
    queue.scheduler.started("gpu0", "A", 0.0)
    assert not queue.outranks(running, HOLD - 1)
    assert queue.outranks(running, HOLD + 1)
    queue.ledger.cancel(older.seq)
    assert not queue.outranks(running, HOLD + 1)


def test_a_job_that_waits_for_an_input_is_passed_over(queue: Queue) -> None:
    queue.add("a1", "A", inputs_missing=True)
    queue.add("a2", "A")
    assert queue.turn(1.0) == "a2"
    assert queue.turn(1.0) is None


def test_asking_who_is_next_takes_no_longer_when_ten_times_as_many_wait(queue: Queue) -> None:
    def effort(waiting: int) -> int:
        """Tens of steps of SQLite's machine for ten looks at so many jobs."""
        with queue.ledger.transaction():
            while queue.ledger.counts()["queued"] < waiting:
                queue.add(f"job{queue.ledger.counts()['queued']}", "A")
        steps: list[None] = []
        connection = queue.ledger._connection
        connection.set_progress_handler(lambda: steps.append(None), 10)
        for _ in range(10):
            running = queue.next(1.0)
            assert running is not None
            assert not queue.outranks(replace(running, priority=1), 1.0)
        connection.set_progress_handler(None, 10)
        return len(steps)

    queue.scheduler.started("gpu0", "A", 0.0)
    few, many = effort(100), effort(1000)
    assert many <= 2 * few


@pytest.mark.parametrize("step", [-7200.0, 7200.0])
def test_hours_are_computed_again_when_the_wall_clock_is_set_and_only_then(
    queue: Queue, step: float
) -> None:
    """Seen red: without the look at both clocks, and with one at every turn."""
    wall = 1_000_000.0
    record = queue.add("a1", "A")
    spec = {"not_before": timestamp(wall + 10_000)}
    values = (json.dumps(spec), wall + 90_000, record.seq)
    queue.ledger._run("UPDATE job SET realised = ?, ready_at = ? WHERE seq = ?", *values)

    def opening() -> float:
        return queue.ledger.get(record.seq).ready_at

    assert queue.next(1.0, wall) is None
    assert opening() == wall + 10_000, "computed by another process, by whatever clock"
    queue.ledger.put_off(record.seq, wall + 90_000)
    assert queue.next(5000.5, wall + 5000) is None
    assert opening() == wall + 90_000, "both clocks agree"
    running = replace(record, priority=1)
    assert not queue.outranks(running, 5001.0, wall + 5000 + step)
    assert opening() == max(wall + 10_000, wall + 5000 + step)


def test_a_job_is_ready_at_every_moment_of_its_window_however_moments_are_rounded() -> None:
    spec = {"window": "00:00-23:59", "not_before": "2020-01-01T00:00:00Z"}
    noon = datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()
    for number in range(1000):
        moment = noon + number / 700
        assert ready_at(spec, moment) == moment
