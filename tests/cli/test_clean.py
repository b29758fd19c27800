"""`clean` and the ledger: what is removed is forgotten, by the runner or where none runs."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runner import client, reading
from runner.cli import clean
from runner.errors import UsageProblem
from runner.gallery.store import FOLDER, Gallery
from runner.retention import Job, choose, remove, survey
from runner.settings import Home
from runner.spool.disk.disk import Disk
from runner.spool.disk.locks import home_lock
from runner.spool.inbox import forgetting
from runner.spool.store.ledger import Ledger
from tests.cli.here import Here
from tests.daemon.columns import daemon_of
from tests.gallery.samples import put_json, status
from tests.spool.conftest import Spool
from tests.spool.faulty import refused, sqlite_full

pytestmark = pytest.mark.timeout(120)
ALL = ("clean", "--older-than", "0m", "--yes")


@pytest.fixture
def used(here: Here) -> Here:
    """A home in which a runner, which has stopped, made `a`, `b` and `c`."""
    spool = Spool(here.home)
    spool.start()
    for job in "abc":
        spool.drop(f"{job}.yaml")
    spool.over(*"abc")
    spool.stop()
    return here


def finished(home: Home) -> list[Job]:
    limits = {"gb": 0}
    return choose(survey(home, limits, print), limits)


def known(home: Path) -> set[str]:
    with closing(sqlite3.connect(home / "data" / "ledger.sqlite")) as connection:
        return {row[0] for row in connection.execute("SELECT id FROM job")}


def test_where_no_runner_has_the_home_clean_itself_forgets_what_it_removed(used: Here) -> None:
    """Seen red: the ledger kept every row for ever."""
    done = used(*ALL)
    assert (done.code, "removed 3 finished jobs" in done.err) == (0, True)
    assert known(used.home) == set() and not (used.home / "inbox" / "runner.clean").exists()


def test_without_a_runner_status_does_not_show_what_was_removed(used: Here) -> None:
    """Seen red: it showed the last summary of the runner, for ever."""
    assert "3 succeeded" in used("status").out
    shutil.rmtree(used.home / "outbox" / "a")
    said = used("status").out
    assert "wrote its summary: 3 succeeded" in said and {
        line[:1] for line in said.splitlines()[1:]
    } == {"b", "c"}
    used(*ALL)
    assert used("status").out.strip() == "no runner is running; no jobs yet"


def test_retention_is_a_dry_run_first_and_removes_only_what_the_setting_says(used: Here) -> None:
    for without in (("--retention",), ("--retention", "--keep", "1")):
        assert used("clean", *without).code == 2
    (used.home / "fluxdrop.yaml").write_text("retention: {count: 2}\n", encoding="utf-8")
    done = used("clean", "--retention")
    assert done.out.split()[-1] == "a" and "nothing was removed" in done.err
    assert known(used.home) == {"a", "b", "c"}
    assert used("clean", "--retention", "--yes").code == 0 and known(used.home) == {"b", "c"}


def test_clean_that_is_only_asked_what_would_go_forgets_nothing(used: Here) -> None:
    shutil.rmtree(used.home / "outbox" / "a")
    used("clean", "--older-than", "0m")
    assert known(used.home) == {"a", "b", "c"}


def test_what_was_removed_by_hand_is_forgotten_by_the_next_clean_though_it_removes_nothing(
    used: Here,
) -> None:
    shutil.rmtree(used.home / "outbox" / "a")
    done = used("clean", "--older-than", "7d", "--yes")
    assert done.code == 0 and known(used.home) == {"b", "c"}


def test_clean_of_a_home_without_a_ledger_makes_none(used: Here) -> None:
    (used.home / "data" / "ledger.sqlite").unlink()
    assert used(*ALL).code == 0 and not (used.home / "data" / "ledger.sqlite").exists()


def test_a_runner_that_has_the_home_is_asked_to_forget_and_goes_on(here: Here) -> None:
    spool = Spool(here.home)
    spool.start()
    spool.drop("a.yaml")
    spool.end("a")
    spool.until(lambda: not daemon_of(spool).ledger.behind())
    assert here(*ALL).code == 0 and not spool.home.job("a").exists()
    spool.gone("runner.clean")
    assert daemon_of(spool).ledger.newest("a") is None
    spool.drop("a.yaml")
    assert spool.end("a")["state"] == "succeeded"
    spool.stop()


def test_a_home_that_is_locked_gets_the_request_for_whoever_has_it(used: Here) -> None:
    lock = home_lock(Home(used.home))
    lock.acquire()
    assert used(*ALL).code == 0
    lock.release()
    assert (used.home / "inbox" / "runner.clean").exists() and known(used.home) == {"a", "b", "c"}


def test_the_next_clean_obeys_the_request_that_no_runner_came_for(used: Here) -> None:
    shutil.rmtree(used.home / "outbox" / "a")
    client.clean(Home(used.home))
    used("clean", "--older-than", "7d", "--yes")
    assert known(used.home) == {"b", "c"} and not os.listdir(used.home / "inbox") == [
        "runner.clean"
    ]
    assert not (used.home / "inbox" / "runner.clean").exists()


def test_a_runner_that_was_killed_is_recovered_from_by_the_next_one_all_the_same(
    here: Here,
) -> None:
    spool = Spool(here.home)
    spool.start()
    spool.drop("a.yaml")
    spool.end("a")
    spool.until(lambda: not daemon_of(spool).ledger.behind())
    spool.device.by_hand = True
    spool.drop("b.yaml")
    spool.until(lambda: spool.device.task)
    # As a kill leaves it.
    killed = shutil.copytree(here.home, here.home.with_name("killed"))
    spool.device.by_hand = False
    spool.device.finish()
    spool.stop()
    again = Spool(killed)
    there = Here(killed, here._capsys)
    assert there(*ALL).code == 0 and known(killed) == {"b"}
    again.start()
    status = again.end("b")
    assert (status["state"], status["attempt"]) == ("succeeded", 2)
    again.stop()


@pytest.mark.parametrize("at", ["the gallery", "the folder"])  # the folder comes first
def test_a_clean_that_was_killed_is_finished_by_the_next(
    used: Here, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """Seen red: the gallery's rows of the folder that had left its name stayed for ever."""
    used("gallery", "rebuild")
    left, home = 2 if at == "the folder" else 0, Home(used.home)

    def killed(*given: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*((Gallery, "remove") if at == "the gallery" else (shutil, "rmtree")), killed)
        with pytest.raises(KeyboardInterrupt):
            remove(home, Disk(home.outbox), finished(home))
    assert bool(list((used.home / "outbox").glob(".removing-*"))) is (at == "the folder")
    used("clean", "--older-than", "7d", "--yes")
    assert not list((used.home / "outbox").glob(".removing-*"))
    assert used("gallery", "search", "--json").json["total"] == left
    assert len(known(used.home)) == left


def test_a_clean_that_was_killed_while_it_forgets_is_finished_by_the_next(
    used: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget, home = Ledger.forget, Home(used.home)

    def killed(ledger: Ledger, *seqs: int, seen: bool = False) -> None:
        if len(known(used.home)) == 2:
            raise KeyboardInterrupt
        forget(ledger, *seqs, seen=seen)

    with monkeypatch.context() as patch:
        patch.setattr(forgetting, "_JOBS", 1)
        patch.setattr(Ledger, "forget", killed)
        with pytest.raises(KeyboardInterrupt):
            remove(home, Disk(home.outbox), finished(home))
            clean.forget(home)
    assert len(known(used.home)) == 2
    assert used("clean", "--older-than", "7d", "--yes").code == 0 and known(used.home) == set()


def test_a_gallery_that_cannot_be_written_now_is_said_and_the_next_clean_takes_its_rows(
    used: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    used("gallery", "rebuild")

    def no_room(gallery: Gallery, *rows: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Gallery, "remove", no_room)
        done = used(*ALL)
    assert done.code == 1 and "the gallery still has pictures that are gone" in done.err
    assert known(used.home) == set() and not used.home.joinpath("outbox", "a").exists()
    assert used(*ALL).code == 0
    assert used("gallery", "search", "--json").json["total"] == 0


def test_jobs_that_were_moved_away_by_hand_leave_the_gallery_too(used: Here) -> None:
    """Seen red: a search found pictures for ever that nobody had any more."""
    used("gallery", "rebuild")
    os.replace(used.home / "outbox" / "a", used.home / "elsewhere")
    assert used("clean", "--older-than", "7d", "--yes").code == 0
    assert used("gallery", "search", "--json").json["total"] == 2


def test_an_outbox_of_another_name_has_no_row_of_what_stays_removed(used: Here) -> None:
    """Seen red: every row went, for their paths begin with `outbox/`."""
    used("gallery", "rebuild")
    (used.home / "outbox").rename(used.home / "pictures")
    (used.home / "fluxdrop.yaml").write_text("outbox: pictures\n", encoding="utf-8")
    shutil.rmtree(used.home / "pictures" / "a")
    assert used("clean", "--older-than", "7d", "--yes").code == 0
    assert used("gallery", "search", "--json").json["total"] == 2


@pytest.mark.parametrize("read", [errno.EIO, errno.EACCES])
def test_a_spec_that_cannot_be_read_keeps_everything_and_is_named(used: Here, read: int) -> None:
    """Seen red: the pictures that it named were deleted."""
    spec = used.home / "inbox" / "next.yaml"
    spec.write_text("kind: img2img\nimage: outbox/a/a-0001.png\n", encoding="utf-8")
    with refused(spec, read):
        done = used(*ALL)
    assert done.code == 2 and f"cannot read {spec}" in done.err and "Traceback" not in done.err
    assert known(used.home) == {"a", "b", "c"} and (used.home / "outbox" / "a").is_dir()
    used(*ALL)
    assert [job for job in "abc" if (used.home / "outbox" / job).exists()] == ["a"]


def test_a_status_that_cannot_be_read_leaves_that_job_out_and_is_named_once(used: Here) -> None:
    """Seen red: it ended the command."""
    file = used.home / "outbox" / "b" / "status.json"
    (used.home / "outbox" / "b" / "spec.yaml").write_text("image: outbox/c/c-0001.png")
    with refused(file):
        done = used(*ALL)
        page = used("gallery", "page")
    assert done.code == 0 and "removed 1 finished jobs" in done.err
    assert (done.err + page.err).count(f"{file} is left out: {os.strerror(errno.EIO)}") == 1
    # It may be running, and need what its spec names.
    assert [job for job in "abc" if (used.home / "outbox" / job).exists()] == ["b", "c"]
    assert page.code == 0 and "Traceback" not in page.err
    assert used(*ALL).code == 0


def test_a_status_that_cannot_be_read_any_more_keeps_its_job(
    used: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(home: Home, job: str) -> dict[str, Any]:
        if job == "b":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return status(home, job)

    status = client.status
    monkeypatch.setattr(client, "status", unreadable)
    done = used(*ALL)
    assert done.code == 1 and "b could not be removed: " in done.err
    assert known(used.home) == {"b"}


def test_an_outbox_that_is_away_has_no_job_forgotten(used: Here) -> None:
    """Seen red: every finished job was forgotten."""
    outbox, elsewhere = used.home / "outbox", used.home / "renamed"
    used("gallery", "rebuild")
    outbox.rename(elsewhere)
    for put in (lambda: None, outbox.mkdir):
        put()
        done = used(*ALL)
        assert done.code == 2 and "the outbox is not there: " in done.err
    assert known(used.home) == {"a", "b", "c"}
    outbox.rmdir()
    elsewhere.rename(outbox)
    assert used("gallery", "search", "--json").json["total"] == 3


def test_an_outbox_that_leaves_while_clean_forgets_has_no_job_forgotten(
    used: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox, elsewhere = used.home / "outbox", used.home / "renamed"
    over = Ledger.over

    def leaving(ledger: Ledger, *, after: int, limit: int) -> Any:
        if outbox.exists():
            outbox.rename(elsewhere)
        return over(ledger, after=after, limit=limit)

    monkeypatch.setattr(Ledger, "over", leaving)
    done = used("clean", "--older-than", "7d", "--yes")
    assert done.code == 1 and "is not the folder that" in done.err
    assert known(used.home) == {"a", "b", "c"}


def test_what_is_forgotten_is_said_to_be_though_the_file_cannot_become_smaller(
    used: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: it was told as not forgotten yet."""
    before = Disk.before

    def full(disk: Disk, operation: str, path: Any, **details: Any) -> None:
        if operation == "statement":
            raise sqlite_full()
        before(disk, operation, path, **details)

    monkeypatch.setattr(Disk, "before", full)
    done = used(*ALL)
    assert done.code == 1 and "what is gone is forgotten, but" in done.err
    assert known(used.home) == set() and "not forgotten yet" not in done.err


def test_an_inbox_that_cannot_be_written_costs_no_other_part_of_the_answer(
    used: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: the jobs that were removed were told nowhere."""

    def unwritable(home: Home) -> None:
        raise UsageProblem("cannot write into the inbox")

    monkeypatch.setattr(client, "clean", unwritable)
    lock = home_lock(Home(used.home))
    lock.acquire()
    done = used(*ALL, "--json")
    lock.release()
    assert done.code == 1 and len(done.json["jobs"]) == 3
    assert done.json["left"] == ["what is gone is not forgotten yet: cannot write into the inbox"]


def test_a_link_in_the_place_of_what_a_clean_left_is_not_followed(used: Here) -> None:
    elsewhere = used.home / "elsewhere"
    os.replace(used.home / "outbox" / "a", elsewhere)
    (used.home / "outbox" / ".removing-a").symlink_to(elsewhere, target_is_directory=True)
    assert used("clean", "--older-than", "7d", "--yes").code == 0
    assert (elsewhere / "a-0001.png").is_file() and (elsewhere / "thumbs").is_dir()


def test_what_a_clean_left_in_the_gallery_is_not_the_next_jobs_of_that_id(
    used: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    used("gallery", "rebuild")
    home = Home(used.home)
    os.replace(home.job("a"), home.outbox / ".removing-a")
    spool = Spool(used.home)
    spool.start()
    spool.drop("a.yaml")
    spool.end("a")
    spool.stop()
    used("clean", "--older-than", "7d", "--yes")
    assert Gallery(home.data / FOLDER).get("a-0001") is not None
    assert used("gallery", "search", "--json").json["total"] == 3
    assert not (home.outbox / ".removing-a").exists() and home.job("a").is_dir()


def test_a_ledger_that_cannot_be_written_now_is_said_and_the_next_clean_forgets(
    used: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Disk.before

    def full(disk: Disk, operation: str, path: Any, **details: Any) -> None:
        if operation == "commit":
            raise sqlite_full()
        before(disk, operation, path, **details)

    with monkeypatch.context() as patch:
        patch.setattr(Disk, "before", full)
        done = used(*ALL)
    assert done.code == 1 and "what is gone is not forgotten yet" in done.err
    assert known(used.home) == {"a", "b", "c"} and "removed 3" in done.err
    assert used(*ALL).code == 0 and known(used.home) == set()


def test_clean_without_a_runner_makes_a_ledger_of_an_earlier_version_small(
    used: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: 15 MB for no job at all."""
    file = used.home / "data" / "ledger.sqlite"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA auto_vacuum = NONE")
        connection.execute("VACUUM")
        query = "UPDATE job SET spec = zeroblob(1000000)"
        connection.execute(query)
        connection.commit()
    assert file.stat().st_size > 3_000_000
    used(*ALL)
    assert file.stat().st_size < 300_000
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)


def test_clean_never_holds_more_than_one_status(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: 455 MB for 50,000 jobs."""
    held, most = set(), []

    class Counted(dict[str, Any]):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            held.add(id(self))
            most.append(len(held))

        def __del__(self) -> None:
            held.discard(id(self))

    for n in range(9):
        folder = here.home / "outbox" / f"j{n}"
        folder.mkdir(parents=True)
        put_json(folder / "status.json", status(1, job=folder.name))
    read: Callable[[Path], dict[str, Any] | None] = reading.status
    monkeypatch.setattr(reading, "status", lambda file: Counted(read(file) or {}))
    monkeypatch.setattr(clean, "write_outbox_page", lambda home: "")
    assert here(*ALL).code == 0 and len(most) > 18
    # The next one is read before the last one is let go.
    assert max(most) <= 2


def test_a_clean_while_another_forgets_leaves_its_request_lying(
    used: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other may be past what this one has removed."""
    forget = Ledger.forget

    def meanwhile(ledger: Ledger, *seqs: int, seen: bool = False) -> None:
        forget(ledger, *seqs, seen=seen)
        client.clean(Home(used.home))

    monkeypatch.setattr(Ledger, "forget", meanwhile)
    monkeypatch.setattr(forgetting, "_JOBS", 1)
    used(*ALL)
    assert (used.home / "inbox" / "runner.clean").exists()
