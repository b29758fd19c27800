"""What happens to a file in the inbox."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from runner.spool.disk.platform import can_probe_writers
from runner.spool.store.outbox import Outbox
from tests.spool.conftest import SPEC, Spool


def test_a_dropped_spec_ends_with_status_picture_sidecar_thumbnail_page_and_receipt(
    spool: Spool,
) -> None:
    spool.drop("hero.yaml")
    status = spool.end("hero")
    assert status["state"] == "succeeded"
    assert status["source"] == {
        "name": "hero.yaml",
        "sha256": hashlib.sha256(SPEC.encode()).hexdigest(),
        "bytes": len(SPEC),
    }
    folder = spool.home.job("hero")
    for name in ("spec.yaml", "hero-0001.png", "hero-0001.json", "thumbs/hero-0001.webp"):
        assert (folder / name).is_file(), name
    assert (folder / "index.html").is_file()
    assert (folder / "spec.yaml").read_text(encoding="utf-8") == SPEC
    assert spool.receipt("hero.yaml")["job"] == "hero"
    assert spool.receipt("hero.yaml")["outcome"] == "accepted"
    assert not (spool.home.inbox / "hero.yaml").exists()


def test_the_output_entry_names_the_files_and_their_hash(spool: Spool) -> None:
    spool.drop("hero.yaml")
    (output,) = spool.end("hero")["outputs"]
    picture = spool.home.job("hero") / output["file"]
    assert output["sha256"] == hashlib.sha256(picture.read_bytes()).hexdigest()
    assert (spool.home.job("hero") / output["sidecar"]).is_file()
    assert (spool.home.job("hero") / output["thumbnail"]).is_file()
    assert (output["seed"], output["width"], output["height"]) == (7, 64, 64)


def test_a_file_in_the_inbox_before_the_start_is_taken(idle_spool: Spool) -> None:
    idle_spool.drop("early.yaml")
    idle_spool.start()
    assert idle_spool.end("early")["state"] == "succeeded"


@pytest.mark.parametrize("year", [1902, 2300, 2440])
def test_a_spec_is_run_whatever_date_its_file_has(idle_spool: Spool, year: int) -> None:
    """Seen red: after 2262 there are more nanoseconds than SQLite counts."""
    file = idle_spool.drop("hero.yaml")
    date = datetime(year, 1, 1, tzinfo=UTC).timestamp()
    os.utime(file, (date, date))
    if file.stat().st_mtime != date:
        pytest.skip(f"this file system knows no year {year}")
    idle_spool.start()
    assert idle_spool.end("hero")["state"] == "succeeded"


def test_a_bad_spec_is_rejected_with_every_error_at_once(spool: Spool) -> None:
    spool.drop("bad.yaml", "kind: text2img\nprompt: x\nstpes: 4\nsteps: 5000\nmodel: tiny\n")
    status = spool.end("bad")
    assert (status["state"], status["reason"]) == ("rejected", "SchemaInvalid")
    places = {(error["line"], error["path"]) for error in status["errors"]}
    assert places == {(3, "stpes"), (4, "steps")}
    assert "did you mean 'steps'" in json.dumps(status["errors"])
    assert spool.receipt("bad.yaml")["outcome"] == "rejected"


def test_a_spec_that_its_model_cannot_do_is_rejected_before_any_work(spool: Spool) -> None:
    spool.drop("big.yaml", SPEC + "width: 1024\nheight: 1024\n")
    status = spool.end("big")
    assert (status["state"], status["reason"]) == ("rejected", "SchemaInvalid")
    assert status["errors"][0]["line"] in (5, 6)
    assert spool.device.started == []


def test_a_rejected_job_does_not_hold_its_id(spool: Spool) -> None:
    spool.drop("hero.yaml", "kind: text2img\n")
    assert spool.end("hero")["state"] == "rejected"
    spool.drop("hero.yaml")
    spool.until(lambda: spool.status("hero").get("state") == "succeeded")
    assert not spool.home.job("hero-2").exists()


def test_a_stem_in_use_gets_a_number(spool: Spool) -> None:
    for expected in ("hero", "hero-2", "hero-3"):
        spool.drop("hero.yaml")
        assert spool.end(expected)["state"] == "succeeded"
        assert spool.receipt("hero.yaml")["job"] == expected


def test_the_same_bytes_under_an_explicit_id_are_absorbed(spool: Spool) -> None:
    text = SPEC + "id: mine\n"
    spool.drop("one.yaml", text)
    first = spool.end("mine")
    spool.drop("two.yaml", text)
    spool.gone("two.yaml")
    assert spool.receipt("two.yaml") | {"at": ""} == {
        "schema": 1,
        "name": "two.yaml",
        "sha256": first["source"]["sha256"],
        "job": "mine",
        "outcome": "absorbed",
        "at": "",
    }
    assert spool.status("mine") == first
    assert spool.device.started == [("mine", 1)]


def test_other_bytes_under_a_used_id_are_rejected_and_the_first_job_stands(spool: Spool) -> None:
    spool.drop("one.yaml", SPEC + "id: mine\n")
    first = spool.end("mine")
    other = SPEC + "id: MINE\nsteps: 5\n"
    spool.drop("two.yaml", other)
    spool.gone("two.yaml")
    job = spool.receipt("two.yaml")["job"]
    assert job == f"MINE.conflict-{hashlib.sha256(other.encode()).hexdigest()[:8]}"
    assert spool.status(job)["reason"] == "IdConflict"
    assert spool.status("mine") == first


def test_a_folder_that_no_job_made_is_never_written_into(spool: Spool) -> None:
    (spool.home.outbox / "hero").mkdir()
    (spool.home.outbox / "hero" / "mine.txt").write_text("mine", encoding="utf-8")
    spool.drop("hero.yaml")
    spool.end("hero-2")
    spool.drop("named.yaml", SPEC + "id: hero\n")
    spool.gone("named.yaml")
    assert spool.status(spool.receipt("named.yaml")["job"])["reason"] == "IdConflict"
    assert os.listdir(spool.home.outbox / "hero") == ["mine.txt"]


def test_names_of_editors_sync_tools_and_the_readme_are_ignored(spool: Spool) -> None:
    names = (".hidden.yaml", "~x.yaml", "x.yaml~", "README.md", "x.yaml.swp", "4913", "x.part")
    for name in names:
        (spool.home.inbox / name).write_text(SPEC, encoding="utf-8")
    spool.drop("last.yaml")
    spool.end("last")
    assert {path.name for path in spool.home.inbox.iterdir()} >= set(names)
    assert [path.name for path in spool.home.outbox.glob("*/status.json")] == ["status.json"]


def test_a_copy_that_onedrive_makes_is_rejected_once_its_original_has_come(spool: Spool) -> None:
    spool.drop("other-DESKTOP-AB12CD3.yaml")
    spool.drop("hero.yaml")
    assert spool.receipt("other-DESKTOP-AB12CD3.yaml")["outcome"] == "accepted"
    spool.gone("hero.yaml")
    spool.drop("hero-DESKTOP-AB12CD3.yaml")
    job = spool.receipt("hero-DESKTOP-AB12CD3.yaml")["job"]
    assert spool.status(job)["reason"] == "SyncConflictCopy"


def test_a_conflict_copy_of_a_sync_tool_is_rejected(spool: Spool) -> None:
    name = "hero.sync-conflict-20261123-101112-ABCDEFG.yaml"
    spool.drop(name)
    spool.gone(name)
    assert spool.status(spool.receipt(name)["job"])["reason"] == "SyncConflictCopy"


def test_a_file_being_written_is_not_taken_before_its_writer_closes_it(spool: Spool) -> None:
    if not can_probe_writers(spool.home.inbox):
        pytest.skip("this file system cannot say who has a file open for writing")
    path = spool.home.inbox / "slow.yaml"
    with path.open("w", encoding="utf-8") as file:
        file.write(SPEC)
        file.flush()
        # Valid as it stands and unchanged for many times the settling time.
        spool.drop("other.yaml")
        spool.end("other")
        for _ in range(20):
            assert spool.daemon is not None
            spool.daemon.step(0.02)
        assert path.exists()
        file.write("steps: 5\n")
    assert spool.end("slow")["state"] == "succeeded"
    sidecar = json.loads((spool.home.job("slow") / "slow-0001.json").read_bytes())
    assert sidecar["steps"] == 5


def test_a_symlink_is_not_followed(spool: Spool, tmp_path: Path) -> None:
    secret = tmp_path / "secret.yaml"
    secret.write_text("kind: top secret\n", encoding="utf-8")
    (spool.home.inbox / "link.yaml").symlink_to(secret)
    spool.gone("link.yaml")
    status = spool.status("link")
    assert status["reason"] == "NotARegularFile"
    assert "top secret" not in json.dumps(status)
    assert secret.exists()


def test_a_fifo_does_not_block_the_intake(spool: Spool) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no FIFOs")
    os.mkfifo(spool.home.inbox / "pipe.yaml")
    spool.gone("pipe.yaml")
    assert spool.status("pipe")["reason"] == "NotARegularFile"


def test_a_spec_that_is_too_large_is_rejected_unread(spool: Spool) -> None:
    spool.drop("large.yaml", SPEC + "# " + "x" * 300_000 + "\n")
    assert spool.end("large")["reason"] == "TooLarge"


def test_keys_of_the_caller_are_echoed_in_the_status(spool: Spool) -> None:
    spool.drop("mine.yaml", SPEC + "x_ticket: {number: 12}\ntags: [night, red]\n")
    status = spool.end("mine")
    assert status["x_ticket"] == {"number": 12}
    assert status["tags"] == ["night", "red"]


def test_drops_of_one_moment_are_taken_in_natural_order(idle_spool: Spool) -> None:
    for number in (10, 2, 1):
        idle_spool.drop(f"job{number}.yaml")
    idle_spool.start()
    idle_spool.over("job1", "job2", "job10")
    assert [job for job, _ in idle_spool.device.started] == ["job1", "job2", "job10"]


def test_a_replaced_inbox_is_noticed(spool: Spool) -> None:
    spool.home.inbox.rename(spool.home.root / "away")
    spool.home.inbox.mkdir()
    spool.drop("after.yaml")
    assert spool.end("after")["state"] == "succeeded"


def test_the_folders_of_rejected_drops_are_bounded_and_the_oldest_go(idle_spool: Spool) -> None:
    """Seen red: they stayed for ever."""
    spool = Spool(idle_spool.home.root, rejected_kept=3)
    spool.start()
    spool.drop("good.yaml")
    for number in range(6):
        spool.drop(f"bad{number}.yaml", f"kind: nothing\nx_n: {number}\n")
        if number == 0:
            spool.end("bad0")
            (spool.home.inbox / "bad0.keep").touch()
            spool.until(lambda: spool.status("bad0").get("kept"))
        spool.until(lambda n=number: not (spool.home.inbox / f"bad{n}.yaml").exists())
    spool.until(lambda: not spool.home.job("bad2").exists())
    assert spool.end("good")["state"] == "succeeded"
    there = sorted(folder.name for folder in spool.home.outbox.glob("bad*"))
    assert there == ["bad0", "bad3", "bad4", "bad5"]
    spool.stop()


def test_a_rejected_folder_that_cannot_be_removed_makes_no_drop_a_job_twice(
    idle_spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: the batch was taken again, as other jobs."""
    spool = Spool(idle_spool.home.root, rejected_kept=0)

    def refuse(outbox: Outbox, job_id: str) -> None:
        raise PermissionError(errno.EPERM, "another's file lies in it", job_id)

    monkeypatch.setattr(Outbox, "clear_job", refuse)
    for number in range(3):
        spool.drop(f"bad{number}.yaml", f"kind: nothing\nx_n: {number}\n")
        spool.drop(f"good{number}.yaml", SPEC + f"x_n: {number}\n")
    spool.start()
    spool.over(*(f"{name}{n}" for name in ("bad", "good") for n in range(3)))
    spool.stop()
    assert len(list(spool.home.outbox.glob("*/status.json"))) == 6


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_the_umask_of_the_settings_holds_for_all_that_the_runner_writes(idle_spool: Spool) -> None:
    before = os.umask(0o022)
    try:
        spool = Spool(idle_spool.home.root, umask="027")
        spool.start()
        spool.drop("hero.yaml")
        spool.end("hero")
        spool.stop()
    finally:
        os.umask(before)
    folder = spool.home.job("hero")
    assert [file for file in [folder, *folder.rglob("*")] if file.stat().st_mode & 0o027] == []
