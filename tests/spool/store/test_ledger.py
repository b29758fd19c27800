"""The ledger's moves, in any order that callers and kills can bring: what always holds."""

from __future__ import annotations

import errno
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from runner.errors import LedgerUnusable
from runner.holds import PAUSED, Hold
from runner.job import Phase, State
from runner.spool.disk.disk import Disk
from runner.spool.store.database import is_damaged
from runner.spool.store.ledger import MOST_LOSSES, Ledger
from runner.spool.store.record import Record
from tests.spool.faulty import FaultyDisk, sqlite_full

WALL = 1000.0
MODEL = "tiny"
CHOICE = st.integers(min_value=0, max_value=11)
T = TypeVar("T")


def chosen(among: Sequence[T], n: int) -> T:
    return among[n % len(among)]


def job_of(name: str, total: int = 3, **fields: object) -> Record:
    record = Record(
        0, name, State.QUEUED, f"{name}.yaml", "0", 1, ".yaml", b"", "2026-01-01T00:00:00.000Z",
        model=MODEL, total=total,
    )  # fmt: skip
    return replace(record, **fields)  # type: ignore[arg-type]  # by name


class Moves(RuleBasedStateMachine):
    """Calls the moves as the runner does, on up to three jobs, with starts after a death between.

    A rule applies to the job that `n` chooses of those in the state it is about.
    """

    @initialize()
    def open(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.file = self.root / "ledger.sqlite"
        self.ledger = Ledger(self.file, Disk())
        self.ledger.begin_run()
        self.jobs: list[int] = []
        self.final: dict[int, Record] = {}
        self.losses: Counter[tuple[int, int]] = Counter()
        self.accept("")
        self.begin(0)
        self.claim(0, Phase.DENOISING)

    def teardown(self) -> None:
        self.ledger.close()
        shutil.rmtree(self.root)

    def those(self, *states: State) -> list[Record]:
        records = map(self.ledger.get, self.jobs)
        return [record for record in records if record.state in states]

    def in_flight(self, seq: int, *, heard: bool = False) -> list[int]:
        rows = self.ledger._rows("SELECT * FROM in_flight WHERE seq = ? ORDER BY number", seq)
        return [row["number"] for row in rows if not heard or row["phase"] != "starting"]

    def flying(self) -> list[tuple[Record, int]]:
        running = self.those(State.RUNNING)
        return [(record, number) for record in running for number in self.in_flight(record.seq)]

    @precondition(lambda self: len(self.jobs) < 3)
    @rule(held=st.sampled_from(["", "", "inputs", "hours", "unanswered", "rejected"]))
    def accept(self, held: str) -> None:
        name = f"job{len(self.jobs)}"
        record = job_of(
            name, inputs_missing=held == "inputs", ready_at=WALL + 1 if held == "hours" else 0.0
        )
        if held == "rejected":
            record = job_of(name, 0, state=State.REJECTED, end_reason="BadYaml", finished_at="now")
        self.jobs.append(self.ledger.accept(record, identity=name).seq)
        if held != "unanswered":
            self.ledger.answered([name])

    @precondition(lambda self: self.those(State.QUEUED))
    @rule(n=CHOICE)
    def release(self, n: int) -> None:
        record = chosen(self.those(State.QUEUED), n)
        self.ledger.answered([record.id])
        self.ledger.gathered(record.seq, {"a.png": "a.png"}, None)
        self.ledger.put_off(record.seq, 0.0)
        assert self.ledger.is_answered(record.seq)

    @precondition(lambda self: self.jobs)
    @rule(n=CHOICE)
    def cancel(self, n: int) -> None:
        before = self.ledger.get(chosen(self.jobs, n))
        was = self.ledger.cancel(before.seq)
        after = self.ledger.get(before.seq)
        assert was == (None if before.is_final else before.state)
        queued = before.state == State.QUEUED
        assert after.state == (State.CANCELLED if queued else before.state)

    @precondition(lambda self: self.those(State.QUEUED))
    @rule(n=CHOICE)
    def begin(self, n: int) -> None:
        before = chosen(self.those(State.QUEUED), n)
        begun = self.ledger.begin(before.seq)
        may = not before.inputs_missing and self.ledger.is_answered(before.seq)
        assert (begun is not None) == may

    @precondition(lambda self: self.those(State.RUNNING))
    @rule(n=CHOICE, phase=st.sampled_from([None, Phase.LOADING, Phase.DENOISING]))
    def claim(self, n: int, phase: Phase | None) -> None:
        record = chosen(self.those(State.RUNNING), n)
        taken = {*self.ledger.images(record.seq), *self.in_flight(record.seq)}
        for number in [number for number in (1, 2, 3) if number not in taken][:1]:
            claimed = self.ledger.claim(record.seq, {number: MODEL}, "gpu0", warm=False)
            assert claimed == (record.cancel_at is None)
            if claimed and phase:
                self.ledger.published([record], {record.seq: (number, phase)})

    @precondition(lambda self: self.flying())
    @rule(n=CHOICE, made=st.booleans())
    def image_over(self, n: int, *, made: bool) -> None:
        record, number = chosen(self.flying(), n)
        if made:
            self.ledger.made(record.seq, number, {"file": f"{number}.png"})
        else:
            self.ledger.image_failed(record.seq, number, "OutOfMemory", "too large")
        # A second answer for the same image changes nothing.
        self.ledger.image_failed(record.seq, number, "Internal", "late")
        self.losses.pop((record.seq, number), None)
        reason = self.ledger.images(record.seq)[number]["reason"]
        assert reason == (None if made else "OutOfMemory")
        assert number not in self.ledger.suspect_images(record.seq)

    @precondition(lambda self: self.those(State.RUNNING))
    @rule(n=CHOICE, hold=st.sampled_from([PAUSED, Hold(None, "continues")]))
    def leave_the_device(self, n: int, hold: Hold) -> None:
        """At an image's end: what was stopped is given back, and the job ends or waits."""
        before = chosen(self.those(State.RUNNING), n)
        self.ledger.unclaim(before.seq)
        if not self.ledger.end(before.seq):
            assert before.images_left
            self.ledger.put_back(before.seq, hold)
        after = self.ledger.get(before.seq)
        if before.cancel_at:
            assert after.state == State.CANCELLED
        elif not before.images_left:
            assert after.state == (State.FAILED if before.failed else State.SUCCEEDED)
        else:
            assert (after.state, after.attempt) == (State.QUEUED, before.attempt - 1)
            shown = after.why(WALL + 2)
            assert (shown.reason, shown.message) == (hold.reason, hold.message)

    @precondition(lambda self: self.those(State.RUNNING))
    @rule(n=CHOICE)
    def cancel_before_it_is_put_back(self, n: int) -> None:
        record = chosen(self.those(State.RUNNING), n)
        if not self.in_flight(record.seq):
            self.ledger.cancel(record.seq)
            assert self.ledger.put_back(record.seq, PAUSED) == State.CANCELLED

    @precondition(lambda self: self.flying())
    @rule(stopping=st.booleans(), times=st.sampled_from([1, 2, 3]))
    def die_and_start_again(self, *, stopping: bool, times: int) -> None:
        for _ in range(times):
            self.die(stopping=stopping)

    def die(self, *, stopping: bool) -> None:
        if stopping:
            self.ledger.stopping()
        self.ledger.close(clean=False)
        self.ledger = Ledger(self.file, Disk())
        for record in self.those(State.RUNNING):
            numbers, heard = self.in_flight(record.seq), self.in_flight(record.seq, heard=True)
            self.ledger.lost(record.seq, "killed")
            assert not self.in_flight(record.seq)
            if not stopping:
                self.losses.update((record.seq, number) for number in heard)
                assert self.ledger.suspect_images(record.seq).issuperset(
                    number for number in numbers if self.losses[record.seq, number] < MOST_LOSSES
                )
            for number in numbers:
                charges = self.losses[record.seq, number]
                image = self.ledger.images(record.seq).get(number)
                assert (image is not None) == (charges >= MOST_LOSSES)
                if image is not None:
                    assert (image["reason"], charges) == ("CrashLoop", MOST_LOSSES)
                    assert image["message"].count("gpu0, denoising: killed") == MOST_LOSSES
            self.ledger.put_back(record.seq, PAUSED, after_death=not stopping)
        self.ledger.begin_run()
        for record in self.those(State.QUEUED)[:1]:
            if self.ledger.begin(record.seq):
                # As the runner does: the first image that is not over is the next.
                numbers = [n for n in (1, 2, 3) if n not in self.ledger.images(record.seq)]
                if numbers:
                    self.ledger.claim(record.seq, {numbers[0]: MODEL}, "gpu0", warm=False)
                    self.ledger.reached(record.seq, [numbers[0]], Phase.DENOISING, MODEL)

    @precondition(lambda self: self.jobs)
    @rule(n=CHOICE)
    def publish(self, n: int) -> None:
        record = self.ledger.get(chosen(self.jobs, n))
        self.ledger.published([record])
        after = self.ledger.get(record.seq)
        assert after.is_shown and after.revision == record.revision + 1

    @invariant()
    def what_always_holds(self) -> None:
        ready = {record.seq for record in self.ledger.ready(WALL, 9)}
        ended = Counter(row["seq"] for row in self.ledger._rows("SELECT seq FROM event"))
        for seq in self.jobs:
            record = self.ledger.get(seq)
            outcomes = Counter(row["outcome"] for row in self.ledger.images(seq).values())
            assert (record.done, record.failed) == (outcomes["done"], outcomes["failed"])
            assert record.is_final == (record.finished_at is not None) == (ended[seq] == 1)
            assert seq not in self.final or record.state == self.final[seq].state
            assert not self.in_flight(seq) or record.state == State.RUNNING
            assert not (record.state == State.QUEUED and record.cancel_at)
            assert (seq in ready) == (
                record.state == State.QUEUED
                and not record.inputs_missing
                and record.ready_at <= WALL
                and self.ledger.is_answered(seq)
            )
            if record.is_final:
                self.final.setdefault(seq, record)


Moves.TestCase.settings = settings(
    max_examples=80,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
test_whatever_order_the_moves_come_in_the_facts_agree = pytest.mark.timeout(120)(Moves.TestCase)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path / "ledger.sqlite", Disk())
    yield made
    made.close()


def running(ledger: Ledger, name: str = "hero", total: int = 3) -> int:
    """A running job."""
    seq = ledger.insert(job_of(name, total)).seq
    assert ledger.begin(seq)
    return seq


def test_a_final_state_stays_whoever_writes_it(ledger: Ledger) -> None:
    seq = ledger.insert(job_of("hero")).seq
    ledger.cancel(seq)
    with pytest.raises(sqlite3.IntegrityError, match="a final state stays"), ledger.transaction():
        ledger._run("UPDATE job SET state = 'queued' WHERE seq = ?", seq)


def test_a_job_never_leaves_the_device_with_images_in_flight(ledger: Ledger) -> None:
    seq = running(ledger)
    ledger.claim(seq, {1: MODEL}, "gpu0")
    with pytest.raises(AssertionError):
        ledger.put_back(seq, PAUSED)
    assert ledger.get(seq).state == State.RUNNING


def test_three_dead_loads_of_one_model_in_a_row_fail_the_job_and_a_completed_one_clears_them(
    ledger: Ledger,
) -> None:
    seq = running(ledger)

    def load(*, completes: bool) -> None:
        ledger.begin_run()
        ledger.claim(seq, {1: MODEL}, "gpu0")
        ledger.reached(seq, [1], Phase.LOADING, MODEL)
        if completes:
            ledger.reached(seq, [1], Phase.DENOISING, MODEL)
            ledger.unclaim(seq)
        else:
            ledger.lost(seq, "killed by SIGKILL")

    for completes in (False, False, True, False, False):
        load(completes=completes)
        assert ledger.dead_load(seq) is None
    load(completes=False)
    hold = ledger.dead_load(seq)
    assert hold is not None and hold.reason == "CrashLoop"
    assert hold.message.count("gpu0, loading: killed by SIGKILL") == MOST_LOSSES
    # No image is charged with a load.
    assert ledger.suspect_images(seq) == frozenset() and not ledger.images(seq)
    assert ledger.end(seq, hold)
    assert ledger.dead_load(seq) is None


def test_a_listener_hears_of_an_end_once_the_status_says_so_and_of_each_once(
    ledger: Ledger,
) -> None:
    first, second = running(ledger, "first", 0), running(ledger, "second", 0)
    ledger.end(second)
    ledger.end(first)
    assert ledger.events_for("gallery", 9) == []
    ledger.published([ledger.get(first)])
    # In order: the first to end is not shown yet.
    assert ledger.events_for("gallery", 9) == []
    ledger.published([ledger.get(second)])
    events = ledger.events_for("gallery", 9)
    assert [(event.type, event.id, event.body["state"]) for event in events] == [
        ("ended", "second", "succeeded"),
        ("ended", "first", "succeeded"),
    ]
    ledger.heard("gallery", events[0].n)
    ledger.forget(first)
    assert [event.id for event in ledger.events_for("gallery", 9)] == ["first"]
    assert len(ledger.events_for("another", 9)) == 2


def test_old_events_go_once_every_listener_has_heard_them(ledger: Ledger) -> None:
    for name in ("a", "b", "c"):
        ledger.cancel(ledger.insert(job_of(name)).seq)
    with ledger.transaction():
        ledger._run("UPDATE event SET at = '2020-01-01T00:00:00.000Z' WHERE id <> 'c'")
    ledger.heard("slow", 1)
    ledger.heard("gallery", 3)
    assert [row["id"] for row in ledger._rows("SELECT id FROM event")] == ["b", "c"]


def test_runs_of_which_nothing_is_left_go_but_for_the_last_and_those_with_an_image_in_flight(
    ledger: Ledger,
) -> None:
    seq = running(ledger)
    for run in range(1, 6):
        ledger.begin_run()
        if run == 2:
            ledger.claim(seq, {1: MODEL}, "gpu0")
            ledger.stopping()
    ledger.forget_past()
    assert [row["n"] for row in ledger._rows("SELECT n FROM run")] == [2, 5]
    # It was asked to stop: nobody is charged.
    ledger.lost(seq, "killed by SIGKILL")
    assert ledger.suspect_images(seq) == frozenset()
    ledger.forget_past()
    ledger.begin_run()
    assert [row["n"] for row in ledger._rows("SELECT n FROM run")] == [5, 6]


def pages(ledger: Ledger, name: str) -> int:
    return int(ledger._rows(f"PRAGMA {name}")[0][0])


def test_free_pages_are_given_back_a_few_at_a_time_but_for_those_that_the_next_jobs_need(
    tmp_path: Path,
) -> None:
    """Seen red: the file of a home that was cleaned stayed as large as its history."""
    file = tmp_path / "ledger.sqlite"
    ledger = Ledger(file, Disk())
    jobs = [ledger.insert(job_of(f"j{n}", spec=bytes(100_000))).seq for n in range(40)]
    ledger.shrink()
    full = pages(ledger, "page_count")
    ledger.forget(*jobs)
    given_back = 0
    while (free := pages(ledger, "freelist_count")) > 256:
        ledger.shrink()
        assert free - pages(ledger, "freelist_count") == 256
        given_back += 1
    assert given_back > 2
    ledger.shrink()
    assert pages(ledger, "freelist_count") == free < full / 3
    ledger.close()
    assert file.stat().st_size < full * 4096 / 3
    assert not is_damaged(file)


def test_a_ledger_of_an_earlier_version_gives_its_pages_back_only_as_a_whole(
    tmp_path: Path,
) -> None:
    """Seen red: an idle runner asked for each page in vain, every two seconds."""
    file = tmp_path / "ledger.sqlite"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    ledger = Ledger(file, Disk())
    ledger.forget(*(ledger.insert(job_of(f"j{n}", spec=bytes(100_000))).seq for n in range(40)))
    stays = ledger.insert(job_of("stays")).seq
    before, asked = pages(ledger, "page_count"), []
    ledger._connection.set_trace_callback(asked.append)
    ledger.shrink()
    ledger._connection.set_trace_callback(None)
    assert asked == ["PRAGMA auto_vacuum"]
    assert (pages(ledger, "page_count"), pages(ledger, "auto_vacuum")) == (before, 0)
    ledger.shrink(whole=True)
    assert pages(ledger, "page_count") < before / 3 and pages(ledger, "auto_vacuum") == 2
    assert ledger.get(stays).id == "stays"
    ledger.close()


@pytest.mark.parametrize("operation", ["statement", "commit"])
def test_a_ledger_that_cannot_be_shrunk_now_goes_on_as_it_was(
    tmp_path: Path, operation: str
) -> None:
    disk = FaultyDisk(operation, "ledger", errno.ENOSPC, broken=False)
    ledger = Ledger(tmp_path / "ledger.sqlite", disk)
    jobs = [ledger.insert(job_of(f"j{n}", spec=bytes(100_000))).seq for n in range(20)]
    ledger.forget(*jobs[1:])
    disk.broken = True
    with pytest.raises((LedgerUnusable, OSError)):
        ledger.shrink(whole=True)
    disk.broken = False
    assert ledger.get(jobs[0]).id == "j0"
    ledger.cancel(jobs[0])
    ledger.shrink(whole=True)
    assert ledger.get(jobs[0]).is_final
    ledger.close()


@pytest.mark.parametrize(
    ("record", "shown"),
    [
        (job_of("a"), (None, "")),
        (job_of("a", put_back="Preempted", put_back_message="why"), ("Preempted", "why")),
        (job_of("a", put_back="Preempted", ready_at=WALL + 1), ("OutsideWindow", "waits for its")),
        (job_of("a", inputs_missing=True, ready_at=WALL + 1), ("WaitingForInput", "")),
        (job_of("a", inputs_missing=True, waits_for="x"), ("WaitingForInput", "x")),
        (job_of("a", state=State.RUNNING, put_back="Paused"), (None, "")),
        (job_of("a", state=State.FAILED, end_reason="Timeout", ready_at=WALL + 1), ("Timeout", "")),
    ],
)
def test_the_reason_that_is_shown_is_derived_from_the_facts(
    record: Record, shown: tuple[str | None, str]
) -> None:
    why = record.why(WALL)
    assert why.reason == shown[0] and why.message.startswith(shown[1])
    held = record.why(WALL, PAUSED)
    waits = record.state == State.QUEUED and not record.inputs_missing and record.ready_at <= WALL
    assert (held == PAUSED) == waits


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (sqlite3.SQLITE_FULL, "make room"),
        (sqlite3.SQLITE_IOERR_FSYNC, "see that its disk works"),
        (sqlite3.SQLITE_READONLY, "may write there"),
        (sqlite3.SQLITE_CANTOPEN, "may write there"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, "another program"),
        (sqlite3.SQLITE_LOCKED, "another program"),
    ],
)
def test_an_error_that_may_pass_is_waited_out_with_its_own_advice(
    ledger: Ledger, code: int, advice: str
) -> None:
    error = sqlite_full()
    error.sqlite_errorcode = code
    with pytest.raises(LedgerUnusable, match=advice), ledger.transaction():
        raise error
    seq = ledger.insert(job_of("hero")).seq
    assert ledger.get(seq).id == "hero"


def test_an_error_of_the_schema_is_a_bug_and_never_a_full_disk(ledger: Ledger) -> None:
    with pytest.raises(sqlite3.OperationalError, match="no such column"), ledger.transaction():
        ledger._run("UPDATE job SET colour = 1")
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        ledger._rows("SELECT * FROM missing")


def test_a_ledger_that_another_program_holds_is_waited_for(tmp_path: Path, ledger: Ledger) -> None:
    ledger._connection.execute("PRAGMA busy_timeout = 10")
    other = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerUnusable, match="another program has it open"):
        ledger.insert(job_of("hero"))
    other.close()
    assert ledger.insert(job_of("hero")).seq == 1


def test_what_is_no_database_is_damaged(tmp_path: Path) -> None:
    file = tmp_path / "ledger.sqlite"
    file.write_bytes(b"no database, but as long as one" * 99)
    assert is_damaged(file)
