"""Starting again after the last runner ended: jobs go on, and nothing is made or taken twice."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.clock import now
from runner.spool.disk.platform import pid_space, signature_of
from runner.spool.inbox.settle import Drop
from runner.spool.store import outbox
from tests.daemon.columns import daemon_of
from tests.spool.conftest import SPEC, Spool
from tests.spool.deaths import die, start_again
from tests.spool.faulty import refused

BULK = SPEC.replace("seed: 7", "seeds: {start: 1, count: 4}")


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


def truncate(picture: Path) -> None:
    os.truncate(picture, picture.stat().st_size // 2)


def overwrite(picture: Path) -> None:
    picture.write_bytes(bytes(picture.stat().st_size))


def name_another_hash(picture: Path) -> None:
    sidecar = picture.with_suffix(".json")
    value = json.loads(sidecar.read_bytes())
    value["result"]["sha256"] = "0" * 64
    sidecar.write_text(json.dumps(value), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "read", "made"),
    [
        (lambda picture: None, [], [4]),
        (lambda picture: os.utime(picture), [2], [4]),
        (truncate, [2], [2, 4]),
        (overwrite, [2], [2, 4]),
        (name_another_hash, [2], [2, 4]),
        (Path.unlink, [2], [2, 4]),
    ],
    ids=["none", "touched", "truncated", "overwritten", "of another hash", "gone"],
)
def test_a_start_after_a_kill_reads_only_pictures_that_are_not_as_they_were_counted(
    spool: Spool, monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], object], read: list[int], made: list[int],
) -> None:  # fmt: skip
    """Seen red: all of them were read, eleven seconds for nine thousand."""
    spool.device.by_hand = True
    spool.drop("hero.yaml", BULK)
    for number in (2, 3, 4):
        spool.until(lambda: spool.device.task)
        spool.device.finish()
        spool.until(lambda n=number: spool.device.task and spool.device.task.index == n)
    spool.until(lambda: len(daemon_of(spool).ledger.images(1)) == 3)
    die(spool)
    change(spool.home.job("hero") / "hero-0002.png")
    opened = []
    read_file = outbox.read_file
    monkeypatch.setattr(
        outbox, "read_file", lambda file: opened.append(int(file.stem[-4:])) or read_file(file)
    )
    start_again(spool)
    assert opened == read
    assert spool.end("hero")["images"]["done"] == 4
    assert spool.device.started == [("hero", number) for number in made]


def test_the_revision_rises_across_a_kill(spool: Spool) -> None:
    spool.device.by_hand = True
    spool.drop("hero.yaml")
    spool.until(lambda: spool.device.task)
    before = spool.until(lambda: spool.status("hero").get("revision"))
    die(spool)
    start_again(spool)
    assert spool.end("hero")["revision"] > before


def test_the_revision_rises_although_a_power_loss_took_back_what_was_published_last(
    spool: Spool, tmp_path: Path
) -> None:
    """The ledger is again as it was before the first image, and the status never came to the disk.

    Seen red without a margin above the revision that the ledger has left.
    """
    ledger = spool.home.data / "ledger.sqlite"
    spool.device.by_hand = True
    spool.drop("hero.yaml", BULK.replace("count: 4", "count: 8"))
    spool.until(lambda: spool.device.task and spool.status("hero"))
    with contextlib.closing(sqlite3.connect(ledger)) as source:
        with contextlib.closing(sqlite3.connect(tmp_path / "earlier")) as earlier:
            source.backup(earlier)
    for number in range(2, 9):
        seen = spool.status("hero")["revision"]
        spool.device.finish()
        spool.until(lambda n=number: spool.device.task and spool.device.task.index == n)
        spool.until(lambda n=seen: spool.status("hero")["revision"] > n)
    seen = spool.status("hero")["revision"]
    die(spool)
    for file in spool.home.data.glob("ledger.sqlite*"):
        file.unlink()
    (tmp_path / "earlier").rename(ledger)
    (spool.home.job("hero") / "status.json").unlink()
    start_again(spool)
    assert spool.until(lambda: spool.status("hero"))["revision"] > seen
    assert spool.end("hero")["images"]["done"] == 8
    assert spool.device.started == [("hero", 8)]


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
        connection.execute("INSERT INTO unanswered VALUES (?, 1)", (drop.identity,))
    start_again(spool)
    spool.gone("hero.yaml")
    assert spool.status("hero")["source"]["sha256"] == record.source_sha256
    assert not spool.home.job("hero-2").exists()
    assert spool.device.started == []


def test_files_that_a_dead_runner_was_writing_aside_are_swept(spool: Spool) -> None:
    die(spool)
    left = spool.home.outbox / ".runner.json.1-2.writing"
    left.write_bytes(b"half")
    start_again(spool)
    assert not left.exists()


def test_a_folder_that_cannot_be_listed_ends_no_start(
    spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    """Seen red: the runner did not begin."""
    die(spool)
    with refused(spool.home.drops, reads=["listdir"]):
        start_again(spool)
    assert f"{spool.home.drops} is left out: {os.strerror(errno.EIO)}" in caplog.text


def test_what_a_power_loss_left_of_the_status_of_a_queued_job_is_swept(spool: Spool) -> None:
    spool.device.by_hand = True
    spool.drop("hero.yaml")
    spool.drop("next.yaml")
    spool.until(lambda: spool.device.task and spool.status("next"))
    die(spool)
    left = spool.home.job("next") / ".status.json.1-2.writing"
    left.write_bytes(b"half")
    start_again(spool)
    assert not left.exists()


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


@pytest.mark.parametrize("folder", ["outbox", "inbox", "data"])
def test_a_start_leaves_what_another_process_is_writing_until_that_has_ended(
    idle_spool: Spool, folder: str
) -> None:
    """Seen red: a page that a command was just writing went away under it."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        file = idle_spool.home.root / folder / f".{other.pid}-{pid_space()}01234567.writing"
        ours = file.with_name(f".{os.getpid()}-{pid_space()}01234567.writing")
        file.parent.mkdir(parents=True, exist_ok=True)
        older = file.with_name(f".{other.pid}-{pid_space()}76543210.writing")
        for each in (file, ours, older):
            each.touch()
        # From before the machine was started again: the number was another process's.
        os.utime(older, (0, 0))
        idle_spool.start()
        idle_spool.until(lambda: not (ours.exists() or older.exists()))
        idle_spool.stop()
        assert file.exists()
        other.kill()
    idle_spool.start()
    idle_spool.until(lambda: not file.exists())


def test_a_start_leaves_what_a_process_elsewhere_may_be_writing_for_an_hour(
    idle_spool: Spool,
) -> None:
    """Seen red: its number meant another process here, or none, and its file went."""
    elsewhere = f"{int(pid_space(), 16) ^ 1:06x}"
    new = idle_spool.home.outbox / f".{os.getpid()}-{elsewhere}01234567.writing"
    old = idle_spool.home.outbox / f".{os.getpid()}-{elsewhere}76543210.writing"
    for each in (new, old):
        each.touch()
    os.utime(old, (now() - 3601, now() - 3601))
    idle_spool.start()
    assert new.exists() and not old.exists()


def test_a_temporary_file_that_gets_its_name_while_a_start_looks_at_it_costs_nothing(
    idle_spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: a file that did not exist was set aside for as long as the runner ran."""
    file = idle_spool.home.outbox / f".1-{int(pid_space(), 16) ^ 1:06x}01234567.writing"
    page = idle_spool.home.outbox / "page.html"
    file.touch()
    lstat = os.lstat

    def late(path: Any, **given: Any) -> os.stat_result:
        if str(path) == str(file) and file.exists():
            file.rename(page)
        return lstat(path, **given)

    monkeypatch.setattr(os, "lstat", late)
    idle_spool.start()
    assert page.exists() and not daemon_of(idle_spool).faults.listed()
