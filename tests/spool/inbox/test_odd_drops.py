"""Thousands of odd drops beside good specs: those are made, these answered or named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runner.files import text_of
from tests.spool import odd
from tests.spool.conftest import Spool

_EACH = 400


def play(root: Path, seed: int, count: int) -> list[str]:
    """What is wrong after so many odd drops, in this process and after a restart."""
    spool = Spool(root, settle_seconds=0.0, settle_seconds_unknown=0.0, input_wait_seconds=0.2)
    drops = [each for each in odd.odd_drops(seed, count) if odd.put(each, spool.home.inbox)]
    stubborn = {each.text for each in drops if each.stubborn}
    good = odd.put_good(spool.home.inbox)
    missing: dict[str, str] = {}

    def is_over() -> bool:
        assert spool.daemon is not None
        if not all(spool.is_over(job) for job in good):
            return False
        named = {faulty.fault["file"] for faulty in spool.daemon.faults._faulty.values()}
        missing.clear()
        missing.update(odd.unanswered(drops, spool.home, named))
        return not missing

    found = []
    try:
        for start in (0, odd.GOOD, 2 * odd.GOOD):
            if start:
                good = odd.put_good(spool.home.inbox, start)
            spool.start(odd.StubbornDisk(spool.home.inbox, stubborn))
            assert spool.daemon is not None
            try:
                spool.until(is_over)
                spool.until(lambda: spool.daemon.worker.idle and spool.daemon.writer.is_idle)  # type: ignore[union-attr]
            except AssertionError:
                found += [f"lost: {name} {why}" for name, why in missing.items()]
            states = {job: spool.status(job).get("state") for job in good}
            found += [f"wrong: {j} is {s}" for j, s in states.items() if s != "succeeded"]
            found += [f"twice: {name!r}" for name in taken_twice(spool)]
            spool.stop()
        made = spool.device.started
        found += [f"twice: {job}" for job in sorted({job for job in made if made.count(job) > 1})]
    finally:
        spool.stop()
    made_good = {folder.name for folder in spool.home.outbox.glob("good*")}
    dropped_good = {f"good-{number}" for number in range(3 * odd.GOOD)}
    return found + [f"wrong: {job} is extra" for job in sorted(made_good - dropped_good)]


def taken_twice(spool: Spool) -> list[str]:
    """The names of the files of which more than one job was made: each name was dropped once."""
    assert spool.daemon is not None
    query = "SELECT source_name FROM job GROUP BY source_name, source_mtime_ns HAVING count(*) > 1"
    return [text_of(os.fsdecode(row[0])) for row in spool.daemon.ledger._rows(query)]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given minutes is given none."""
    for name in ("_EMPTY_SECONDS", "_UNREADABLE_SECONDS"):
        monkeypatch.setattr(f"runner.spool.inbox.settle.{name}", 0.0)
    monkeypatch.setattr("runner.spool.inbox.control._UNKNOWN_SECONDS", 0.0)


@pytest.mark.skipif(odd.why_not() is not None, reason=odd.why_not() or "")
@pytest.mark.parametrize("seed", range(4))
def test_good_specs_are_made_beside_every_odd_drop_and_those_are_answered_or_named(
    tmp_path: Path, seed: int
) -> None:
    assert play(tmp_path / "home", seed, _EACH) == []
