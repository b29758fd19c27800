"""Free ids: as the contract numbers them, and found without asking for each number again."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest

from runner.job import State
from runner.spool.inbox.ids import Ids
from runner.spool.store.names import is_safe_id
from tests.spool.conftest import Spool
from tests.spool.store.test_queries import job


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every id that is looked up."""
    asked: list[str] = []
    take = Ids.take
    monkeypatch.setattr(Ids, "take", lambda ids, job: asked.append(job) or take(ids, job))
    return asked


def free_ids(spool: Spool) -> Ids:
    assert spool.daemon is not None
    return Ids(spool.daemon.spool)


def test_files_whose_names_are_not_latin_are_numbered_and_each_asks_for_three_ids_at_most(
    spool: Spool, counted: list[str]
) -> None:
    """Seen red: 60 files asked for 1,830 ids, and 3,000 were not all taken after two minutes."""
    names = [f"{chr(0x4E00 + n)}.yaml" for n in range(60)]
    for name in names:
        spool.drop(name)
    spool.gone(names[-1])
    jobs = {spool.receipt(name)["job"] for name in names}
    assert jobs == {"job", *(f"job-{n}" for n in range(2, 61))}
    assert len(counted) <= 3 * len(names)


def test_a_new_process_goes_on_behind_the_numbers_of_the_ledger(
    spool: Spool, counted: list[str]
) -> None:
    assert spool.daemon is not None
    ledger = spool.daemon.ledger
    for name in ("job", *(f"job-{n}" for n in range(2, 500)), "job-20261128", "job-x"):
        job(ledger, name)
    ids = free_ids(spool)
    assert ids.free("job") == "job-500"
    job(ledger, "job-500")
    assert ids.free("job") == "job-501"
    assert len(counted) <= 6
    # A rejected job holds no id, and an id of another stem is none of this one's numbers.
    job(ledger, "cat")
    job(ledger, "cat-2", state=State.REJECTED)
    job(ledger, "cat-x-2")
    assert free_ids(spool).free("cat") == "cat-3", "its answer is not published yet"
    rejected = ledger.newest("cat-2")
    assert rejected is not None
    ledger.published([rejected])
    assert free_ids(spool).free("cat") == "cat-2"


def test_a_free_number_is_found_in_few_queries_however_many_are_used(spool: Spool) -> None:
    """Seen red: a new process read all of them, and tried one after another behind a gap."""
    assert spool.daemon is not None
    ledger = spool.daemon.ledger
    with ledger.transaction():
        for name in ("job", *(f"job-{n}" for n in range(2, 2000))):
            job(ledger, name)
    asked: list[str] = []
    ledger._connection.set_trace_callback(asked.append)
    try:
        assert free_ids(spool).free("job") == "job-2000"
        assert len(asked) < 40
        # Numbers that were forgotten come again.
        forgotten = ledger.newest("job-2")
        assert forgotten is not None
        ledger.forget(forgotten.seq)
        assert free_ids(spool).free("job") == "job-2"
        # A folder that is nobody's stands in the way.
        spool.home.job("job-2").mkdir()
        asked.clear()
        assert free_ids(spool).free("job") == "job-2000"
        assert len(asked) < 40
    finally:
        ledger._connection.set_trace_callback(None)


def test_a_number_never_makes_an_id_too_long(spool: Spool) -> None:
    """Seen red: the retry of a job whose id has 100 characters had an id of 102."""
    assert spool.daemon is not None
    for name in ("x" * 100, "y" * 96):
        job(spool.daemon.ledger, name)
        for first in (1, 2):
            assert is_safe_id(free_ids(spool).free(name, first=first))


def test_the_folder_of_a_job_that_was_away_is_never_removed(spool: Spool) -> None:
    """It may have come back between two looks, with its pictures."""
    spool.drop("hero.yaml")
    spool.end("hero")
    daemon = spool.daemon
    assert daemon is not None
    # The status is there a moment before the ledger knows that it is.
    spool.until(lambda: (hero := daemon.ledger.newest("hero")) and hero.is_shown)
    folder, ids = spool.home.job("hero"), daemon.intake._ids
    aside = folder.rename(folder.with_name("aside"))
    forget = daemon.ledger.forget

    def then_it_comes_back(*given: Any, **named: Any) -> None:
        forget(*given, **named)
        aside.rename(folder)

    with mock.patch.object(daemon.ledger, "forget", then_it_comes_back):
        assert ids.holder("hero") is None
    assert (folder / "hero-0001.png").is_file()
