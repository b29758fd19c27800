"""A home that any earlier version left, killed in mid work, is opened and its jobs go on."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

from runner.errors import LedgerNewer
from runner.gallery.store import FOLDER, Gallery
from runner.spool.disk.disk import Disk
from runner.spool.store import migrations
from runner.spool.store.database import is_damaged
from runner.spool.store.ledger import Ledger
from runner.spool.store.migrations import LATEST
from tests.spool.conftest import SPEC, Spool

HOMES = Path(__file__).parent / "homes"
NAMES = sorted(file.parent.parent.name for file in HOMES.glob("*/data/*.sqlite"))


def dump(file: Path) -> list[str]:
    """All that a database holds, as statements; a copy may have the indexes in another order."""
    with closing(sqlite3.connect(file)) as connection:
        return sorted(connection.iterdump())


@pytest.fixture
def left(tmp_path: Path) -> Iterator[Callable[[str], Spool]]:
    """Makes a copy of a home, not yet started."""
    made = []

    def copy(name: str) -> Spool:
        shutil.copytree(HOMES / name, tmp_path / "home")
        made.append(Spool(tmp_path / "home"))
        return made[-1]

    yield copy
    for spool in made:
        spool.stop()


def test_what_was_over_keeps_its_status_byte_for_byte_and_the_rest_goes_on(
    left: Callable[[str], Spool],
) -> None:
    spool = left("as-found")
    over = ("done", "fails", "bad", "gone")
    before = {job: (spool.home.job(job) / "status.json").read_bytes() for job in over}
    Image.new("RGB", (64, 64), "red").save(spool.home.inbox / "late.png")
    spool.start()
    cut, waits, composed, *others = spool.over("cut", "waits", "pack", "next", "stopped")
    assert (cut["state"], cut["attempt"], cut["images"]["done"]) == ("succeeded", 2, 4)
    assert (composed["state"], composed["images"]["done"]) == ("succeeded", 2)
    assert [status["state"] for status in (waits, *others)] == ["succeeded"] * 3
    assert ("cut", 1) not in spool.device.started
    later = spool.status("later")
    assert (later["state"], later["reason"]) == ("queued", "OutsideWindow")
    after = {job: (spool.home.job(job) / "status.json").read_bytes() for job in over}
    assert after == before


def test_a_home_of_the_second_schema_goes_on_where_it_was_killed(
    left: Callable[[str], Spool],
) -> None:
    spool = left("facts")
    before = (spool.home.job("done") / "status.json").read_bytes()
    spool.start()
    states = [(each["state"], each["images"]["done"]) for each in spool.over("cut", "next")]
    assert states == [("succeeded", 2), ("succeeded", 1)]
    assert spool.device.started == [("cut", 2), ("next", 1)]
    assert (spool.home.job("done") / "status.json").read_bytes() == before


def test_a_home_of_the_third_schema_goes_on_and_finds_its_files_however_they_are_spelled(
    left: Callable[[str], Spool],
) -> None:
    spool = left("walls")
    spool.start()
    states = [(each["state"], each["images"]["done"]) for each in spool.over("Cut", "Next")]
    assert states == [("succeeded", 2), ("succeeded", 1)]
    assert spool.device.started == [("Cut", 1), ("Cut", 2), ("Next", 1)]
    daemon = spool.daemon
    assert daemon is not None
    for name, job in (
        ("DONE.yaml", "Done"), ("CAFE\u0301.yaml", "caf"), (os.fsdecode(b"\xff.yaml"), "job"),
    ):  # fmt: skip
        record = daemon.ledger.newest_of_file(name)
        assert record is not None and record.id == job
    assert [fault["file"] for fault in daemon.faults.listed()] == ["outbox/broken"]


def test_a_home_of_the_fourth_schema_goes_on_and_reads_the_pictures_that_it_had_counted(
    left: Callable[[str], Spool],
) -> None:
    spool = left("uncounted")
    torn = spool.home.job("cut") / "cut-0002.png"
    os.truncate(torn, torn.stat().st_size // 2)
    before = (spool.home.job("done") / "status.json").read_bytes()
    spool.start()
    states = [(each["state"], each["images"]["done"]) for each in spool.over("cut", "next")]
    assert states == [("succeeded", 3), ("succeeded", 1)]
    assert spool.device.started == [("cut", 2), ("cut", 3), ("next", 1)]
    assert (spool.home.job("done") / "status.json").read_bytes() == before


def test_a_home_of_the_fourth_schema_goes_on_and_forgets_what_is_gone_when_it_is_asked_to(
    left: Callable[[str], Spool],
) -> None:
    spool = left("names")
    (spool.home.inbox / "runner.clean").touch()
    spool.start()
    states = [(each["state"], each["images"]["done"]) for each in spool.over("cut", "next")]
    assert states == [("succeeded", 2), ("succeeded", 1)]
    assert spool.device.started == [("cut", 2), ("next", 1)]
    spool.gone("runner.clean")
    daemon = spool.daemon
    assert daemon is not None
    # The kept one stays, though its folder is gone.
    assert {record.id for record in daemon.ledger.latest(9)} == {"done", "stays", "cut", "next"}
    receipts = {file.name.removesuffix(".yaml.json") for file in spool.home.drops.iterdir()}
    assert receipts == {"done", "stays", "cut", "next"}


def test_a_home_of_the_sixth_schema_goes_on_and_its_pictures_are_found_again(
    left: Callable[[str], Spool],
) -> None:
    spool = left("counted")
    before = (spool.home.job("done") / "status.json").read_bytes()
    spool.start()
    counted = [each["images"] for each in spool.over("cut", "next")]
    assert [(each["done"], each["reused"]) for each in counted] == [(2, 0), (1, 0)]
    assert spool.device.started == [("cut", 2), ("next", 1)]
    assert (spool.home.job("done") / "status.json").read_bytes() == before
    spool.drop("again.yaml", SPEC.replace("seed: 7", "seed: 1") + "reuse: true\n")
    assert spool.end("again")["images"]["reused"] == 1
    told = json.loads((spool.home.job("again") / "again-0001.json").read_bytes())
    assert told["result"]["reused_from"] == {"job": "cut", "file": "cut-0001.png"}


def test_a_home_of_the_seventh_schema_goes_on_and_so_does_its_gallery(
    left: Callable[[str], Spool],
) -> None:
    spool = left("reused")
    over = ("done", "copied", "bad", "kept")
    before = {job: (spool.home.job(job) / "status.json").read_bytes() for job in over}
    spool.start()
    counted = [each["images"] for each in spool.over("cut", "next")]
    assert [(each["done"], each["reused"]) for each in counted] == [(2, 0), (1, 0)]
    assert spool.device.started == [("cut", 2), ("next", 1)]
    assert {job: (spool.home.job(job) / "status.json").read_bytes() for job in over} == before
    gallery = Gallery(spool.home.data / FOLDER)
    spool.until(lambda: len(gallery) == 6)
    assert gallery.get("copied-0001")
    gallery.close()


def test_a_home_of_the_eighth_schema_goes_on_and_a_retry_has_no_warning_of_the_run_before(
    left: Callable[[str], Spool],
) -> None:
    spool = left("warned")
    spool.start()
    assert spool.end("cut")["images"]["done"] == 2
    assert spool.device.started == [("cut", 2)]
    assert len(spool.status("vary")["warnings"]) == 1
    for name in ("good.png", "bad.png"):
        Image.new("RGB", (64, 64), "red").save(spool.home.inbox / name)
    spool.drop("vary.retry", "")
    again = spool.end("vary-2")
    assert (again["state"], again["warnings"]) == ("succeeded", [])


def test_what_was_cut_short_is_ended_answered_published_and_run_as_it_would_have_been(
    left: Callable[[str], Spool],
) -> None:
    spool = left("cut-short")
    spool.start()
    cancelled, dropped, *others = spool.over("run", "dropped", "held", "answered", "pack")
    assert (cancelled["state"], cancelled["images"]["done"]) == ("cancelled", 1)
    assert (spool.home.job("run") / "index.html").exists()
    assert (dropped["state"], dropped["message"]) == ("cancelled", cancelled["message"])
    assert [status["state"] for status in others] == ["succeeded"] * 3
    assert others[2]["images"]["done"] == 2
    assert spool.receipt("answered.yaml")["outcome"] == "accepted"
    assert spool.device.started == [("held", 1), ("answered", 1), ("pack", 1), ("pack", 2)]
    spool.drop("new.yaml")
    assert spool.end("new")["state"] == "succeeded"
    assert spool.daemon is not None
    newest = spool.daemon.ledger.newest("new")
    # Places up to 8 were reserved: a job that was being composed may still come with one.
    assert newest is not None and newest.seq == 9


def test_there_is_a_home_of_this_version() -> None:
    """Whoever adds a migration keeps one of the version before."""
    numbers = set()
    for name in NAMES:
        with open(HOMES / name / "data" / "ledger.sqlite", "rb") as file:
            numbers.add(int.from_bytes(file.read(64)[60:], "big"))
    assert LATEST in numbers


def test_every_migration_has_a_number_of_its_own_and_none_is_left_out() -> None:
    """Two files of one number: the first would never run."""
    files = Path(migrations.__file__).with_name("schema").glob("*.sql")
    assert sorted(int(file.name.split("_")[0]) for file in files) == [*range(1, LATEST + 1)]


@pytest.mark.parametrize("name", NAMES)
def test_an_earlier_ledger_gets_the_schema_of_a_new_one_and_is_kept_as_a_copy_until_it_is_closed(
    name: str, tmp_path: Path
) -> None:
    file = Path(shutil.copy(HOMES / name / "data" / "ledger.sqlite", tmp_path))
    before = dump(file)
    with closing(sqlite3.connect(file)) as connection:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
    ledger = Ledger(file, Disk())
    new = Ledger(tmp_path / "new.sqlite", Disk())
    query = "SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY 1, 2"
    assert [*map(tuple, ledger._rows(query))] == [*map(tuple, new._rows(query))]
    copy = file.with_name(f"ledger.sqlite.v{version}")
    # One of this version is not changed.
    assert dump(copy if version < LATEST else file) == before
    new.close()
    ledger.close()
    assert not copy.exists()


def test_a_ledger_of_a_newer_version_is_refused_with_a_sentence_and_not_touched(
    left: Callable[[str], Spool],
) -> None:
    spool = left("as-found")
    file = spool.home.data / "ledger.sqlite"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(f"PRAGMA user_version = {LATEST + 1}")
    before = {path: path.read_bytes() for path in spool.home.root.rglob("*") if path.is_file()}
    with pytest.raises(LedgerNewer, match="use that version, or move the file away"):
        spool.start()
    after = {path: path.read_bytes() for path in spool.home.root.rglob("*") if path.is_file()}
    assert {path: after.get(path) for path in before} == before
    assert not list(file.parent.glob("*damaged*")) and not list(file.parent.glob("*.v*"))
    spool.daemon = None


def test_a_file_without_a_number_that_has_other_columns_is_refused_and_not_rebuilt(
    tmp_path: Path,
) -> None:
    file = tmp_path / "ledger.sqlite"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE job (seq INTEGER PRIMARY KEY, name TEXT)")
    with pytest.raises(LedgerNewer):
        is_damaged(file)
    with pytest.raises(LedgerNewer):
        Ledger(file, Disk())
