"""The ledger's named queries: what they give, and that none of them sorts a long queue."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runner.job import State
from runner.spool.disk.disk import Disk
from runner.spool.store.ledger import Ledger
from runner.spool.store.record import Record

WALL = 1000.0


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path / "ledger.sqlite", Disk())
    yield made
    made.close()


def job(ledger: Ledger, name: str, **fields: object) -> Record:
    return ledger.insert(replace(job_of(name), **fields))  # type: ignore[arg-type]  # by name


def job_of(name: str) -> Record:
    return Record(
        seq=0,
        id=name,
        state=State.QUEUED,
        source_name=f"{name}.yaml",
        source_sha256="0",
        source_bytes=1,
        suffix=".yaml",
        spec=b"",
        accepted_at="2026-01-01T00:00:00.000Z",
        model="A",
        total=1,
    )


def test_ready_jobs_come_by_priority_then_age_without_those_that_something_holds(
    ledger: Ledger,
) -> None:
    job(ledger, "first")
    job(ledger, "urgent", priority=5)
    job(ledger, "waits", inputs_missing=True)
    job(ledger, "later", ready_at=WALL + 1)
    ledger.accept(job_of("unanswered"), "1:2")
    job(ledger, "over", state=State.FAILED)
    assert [record.id for record in ledger.ready(WALL, limit=9)] == ["urgent", "first"]
    assert [record.id for record in ledger.waiting_for_input()] == ["waits"]
    assert [record.id for record in ledger.closed(WALL)] == ["later"]


def test_an_older_job_of_another_model_is_found_only_within_its_priority(ledger: Ledger) -> None:
    job(ledger, "low", model="B", priority=-1)
    other = job(ledger, "other", model="B")
    mine = job(ledger, "mine")
    found = ledger.ready_before(WALL, mine, "A")
    assert found is not None and found.id == other.id
    assert ledger.ready_before(WALL, other, "A") is None
    shared = ledger.ready_with_model(WALL, 0, "A")
    assert shared is not None and shared.id == "mine"


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("cafe\u0301.yaml", "2"), ("caf\u00e9.yaml", "2"), ("CAFE\u0301.yaml", "2"),
        ("HERO.yaml", "3"), ("hero.yaml", "3"), ("shot_1.yaml", "4"), ("shotx1.yaml", None),
        ("100%.yaml", "6"), ("%.yaml", None), ("TWO.yaml", None),
        ("sent.yaml", "9"), ("sent~0123456789ab.yaml", "8"), ("sent.json", None),
    ],
)  # fmt: skip
def test_the_newest_job_of_a_file_is_found_however_its_name_is_spelled_if_it_is_one(
    ledger: Ledger, asked: str, found: str | None
) -> None:
    names = ["cafe\u0301.yaml"] * 2 + [
        "Hero.yaml",
        "shot_1.yaml",
        "Two.yaml",
        "100%.yaml",
        "tWO.yaml",
        "sent~0123456789ab.yaml",
        "sent~ba9876543210.yaml",
        "sent~ba9876543210x.yaml",
    ]
    for number, name in enumerate(names, 1):
        job(ledger, str(number), source_name=name)
    record = ledger.newest_of_file(asked)
    assert (record and record.id) == found


@pytest.mark.parametrize(
    ("ask", "index"),
    [
        (lambda ledger, one: ledger.ready(WALL, 1), "job_turn"),
        (lambda ledger, one: ledger.ready_with_model(WALL, 0, "A"), "job_turn"),
        (lambda ledger, one: ledger.ready_before(WALL, one, "A"), "job_turn"),
        (lambda ledger, one: ledger.waiting_for_input(), "job_inputs"),
        (lambda ledger, one: ledger.rejected(after=1000, limit=5), "job_state"),
        (lambda ledger, one: ledger.is_answered(1), "unanswered_job"),
        (lambda ledger, one: ledger.behind(), "job_behind"),
        (lambda ledger, one: ledger.newest("one"), "job_key"),
        (lambda ledger, one: ledger.newest_of_file("one.yaml"), "job_source"),
        (lambda ledger, one: ledger.newest_of_file("ONE.yaml"), "job_source"),
        (lambda ledger, one: ledger.newest_of_content("one.yaml", "", 0), "job_source"),
        (lambda ledger, one: ledger.unused_number("one", 2), "job_key"),
    ],
)
def test_a_query_about_few_jobs_walks_their_index_and_sorts_nothing(
    ledger: Ledger, ask: Callable[[Ledger, Record], object], index: str
) -> None:
    asked: list[str] = []
    one = job(ledger, "one")
    ledger._connection.set_trace_callback(asked.append)
    ask(ledger, one)
    ledger._connection.set_trace_callback(None)
    plans = []
    for query in asked:
        rows = ledger._connection.execute(f"EXPLAIN QUERY PLAN {query}").fetchall()
        plans.append(" ".join(row["detail"] for row in rows))
    assert re.search(rf"USING (COVERING )?INDEX {index}\b", plans[0])
    # A job that was found is fetched by its number, a forgotten file by what it is known by.
    assert all("PRIMARY KEY" in plan for plan in plans[1:])
    assert "TEMP B-TREE" not in " ".join(plans)


def steps(ledger: Ledger, ask: Callable[[], object]) -> int:
    """How many steps of SQLite's machine a query takes."""
    taken = []
    ledger._connection.set_progress_handler(lambda: taken.append(1) and None, 1)
    ask()
    ledger._connection.set_progress_handler(None, 1)
    return len(taken)


def test_a_file_that_came_often_is_told_by_its_content_in_as_few_steps(ledger: Ledger) -> None:
    """Seen red: every job of that name was looked at."""

    def ask() -> object:
        return ledger.newest_of_content("cat.yaml", "sha-3", 1)

    taken = []
    for more in (range(10), range(10, 500)):
        for n in more:
            job(ledger, f"cat-{n}", source_name="cat.yaml", source_sha256=f"sha-{n}")
        taken.append(steps(ledger, ask))
    assert taken[1] == taken[0]


def test_the_counts_and_outputs_of_a_job_cost_the_same_however_many_images_it_has(
    ledger: Ledger,
) -> None:
    """Seen red where the images were counted for each status."""
    one = job(ledger, "one", total=5000)
    taken = []
    for more in (range(1, 201), range(201, 2001)):
        with ledger.transaction():
            for number in more:
                ledger.made(one.seq, number, {"file": f"{number}.png"})
        taken.append(steps(ledger, lambda: (ledger.get(one.seq), ledger.outputs(one.seq, 100))))
    assert ledger.get(one.seq).done == 2000
    assert taken[1] == taken[0]


def test_the_jobs_that_are_over_are_walked_by_their_numbers_from_the_last_one_on(
    ledger: Ledger,
) -> None:
    asked: list[str] = []
    ledger._connection.set_trace_callback(asked.append)
    assert ledger.over(after=0, limit=5) == []
    ledger._connection.set_trace_callback(None)
    (plan, *_) = ledger._connection.execute(f"EXPLAIN QUERY PLAN {asked[0]}").fetchall()
    assert plan["detail"] == "SEARCH job USING INTEGER PRIMARY KEY (rowid>?)"
