"""`inbox/runner.clean`: the runner forgets jobs whose folders are gone, and their receipts."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner import client
from runner.clock import now, timestamp
from runner.errors import PlaceAway
from runner.spool.inbox import forgetting
from runner.spool.inbox.forgetting import forget_gone
from runner.spool.store.ledger import Ledger
from tests.spool.composing import SMALL
from tests.spool.conftest import SPEC, Spool
from tests.spool.faulty import refused

_TABLES = ("job", "image", "composed", "loss", "unanswered")


def ledger_of(spool: Spool) -> Ledger:
    assert spool.daemon is not None
    return spool.daemon.ledger


def known(spool: Spool) -> list[str]:
    """The ids of the jobs that the ledger has, the oldest first."""
    return [row["id"] for row in ledger_of(spool)._rows("SELECT id FROM job ORDER BY seq")]


def rows_of(spool: Spool, seq: int) -> dict[str, int]:
    """How many rows the ledger has of a job, but for none, by table."""
    query = "SELECT count(*) FROM {} WHERE seq = ?"
    counts = {t: ledger_of(spool)._rows(query.format(t), seq)[0][0] for t in _TABLES}
    return {table: count for table, count in counts.items() if count}


def made(spool: Spool, *jobs: str) -> None:
    """Make these jobs, in this order."""
    for job in jobs:
        spool.drop(f"{job}.yaml")
        spool.gone(f"{job}.yaml")
    shown(spool, *jobs)


def shown(spool: Spool, *jobs: str) -> None:
    """Wait until the ledger knows that their ends are shown."""
    spool.over(*jobs)
    spool.until(lambda: not ledger_of(spool).behind())


def take_away(spool: Spool, *jobs: str) -> None:
    for job in jobs:
        shutil.rmtree(spool.home.job(job))


def clean(spool: Spool) -> None:
    client.clean(spool.home)
    spool.gone("runner.clean")


def date_back(spool: Spool, name: str, days: float) -> Path:
    """Date a receipt back, as if it had been written so long ago; its file."""
    file = spool.home.drops / f"{name}.json"
    file.write_text(
        json.dumps({**json.loads(file.read_bytes()), "at": timestamp(now() - days * 86_400)})
    )
    return file


def test_a_finished_job_whose_folder_is_gone_is_forgotten_with_all_its_rows(spool: Spool) -> None:
    made(spool, "hero", "stays")
    record = ledger_of(spool).newest("hero")
    assert record is not None and rows_of(spool, record.seq) == {"job": 1, "image": 1}
    take_away(spool, "hero")
    clean(spool)
    assert known(spool) == ["stays"] and rows_of(spool, record.seq) == {}
    assert spool.home.job("stays").is_dir()


@pytest.mark.parametrize("what", ["a receipt", "a folder"])
def test_what_cannot_be_read_is_named_and_the_others_are_forgotten(
    spool: Spool, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """Seen red: one receipt had the request begun anew for ever."""
    made(spool, "a", "b", "c")
    take_away(spool, "a", "b", "c")
    old = [date_back(spool, f"{job}.yaml", 2) for job in "abc"]
    place = old[0] if what == "a receipt" else spool.home.job("a")
    with refused(place):
        clean(spool)
    assert known(spool) == ([] if what == "a receipt" else ["a"])
    assert [file for file in old if file.exists()] == old[:1]
    assert caplog.text.count(f"{place} is left out: {os.strerror(errno.EIO)}") >= 1
    clean(spool)
    assert known(spool) == [] and not old[0].exists()


def test_too_many_open_files_are_waited_out(spool: Spool) -> None:
    """Of one receipt they tell nothing."""
    made(spool, "a")
    take_away(spool, "a")
    old = date_back(spool, "a.yaml", 2)
    with refused(old, errno.EMFILE, times=3):
        clean(spool)
    assert known(spool) == [] and not old.exists()


def test_without_the_file_nothing_is_forgotten(spool: Spool) -> None:
    made(spool, "hero")
    take_away(spool, "hero")
    made(spool, "other")
    assert known(spool) == ["hero", "other"]


def test_a_rejected_and_a_cancelled_job_are_forgotten_too(spool: Spool) -> None:
    spool.drop("bad.yaml", "kind: text2img\n")
    (spool.home.inbox / "runner.pause").touch()
    spool.drop("off.yaml")
    spool.until(lambda: spool.status("off"))
    (spool.home.inbox / "off.cancel").touch()
    shown(spool, "bad", "off")
    take_away(spool, "bad", "off")
    clean(spool)
    assert known(spool) == []


def test_the_prompts_of_a_composed_job_are_forgotten_with_it(packed: Spool) -> None:
    packed.drop("pack.yaml", SMALL)
    shown(packed, "pack")
    record = ledger_of(packed).newest("pack")
    assert record is not None and "composed" in rows_of(packed, record.seq)
    take_away(packed, "pack")
    clean(packed)
    assert rows_of(packed, record.seq) == {}


def test_a_job_that_is_queued_or_running_is_never_forgotten_for_its_folder(spool: Spool) -> None:
    spool.device.by_hand = True
    spool.drop("runs.yaml")
    spool.until(lambda: spool.device.task)
    spool.drop("waits.yaml")
    spool.until(lambda: spool.status("waits"))
    take_away(spool, "runs", "waits")
    clean(spool)
    assert known(spool) == ["runs", "waits"]
    spool.device.by_hand = False
    spool.device.finish()
    spool.over("runs", "waits")


def test_a_job_whose_end_is_not_shown_yet_is_not_forgotten(spool: Spool) -> None:
    made(spool, "hero")
    take_away(spool, "hero")
    record = ledger_of(spool).newest("hero")
    assert record is not None and spool.daemon is not None
    with ledger_of(spool).transaction():
        ledger_of(spool)._run("UPDATE job SET shown = 0 WHERE seq = ?", record.seq)
    assert list(forget_gone(spool.daemon.spool)) == [True] and known(spool) == ["hero"]


def test_a_kept_job_stays_also_where_its_folder_was_moved_away(spool: Spool) -> None:
    made(spool, "hero")
    (spool.home.inbox / "hero.keep").touch()
    spool.gone("hero.keep")
    spool.home.job("hero").rename(spool.home.root / "hero")
    receipt = date_back(spool, "hero.yaml", 400)
    clean(spool)
    assert known(spool) == ["hero"] and receipt.exists()


def test_a_retry_of_a_forgotten_job_is_refused_as_of_an_unknown_one(spool: Spool) -> None:
    made(spool, "hero")
    take_away(spool, "hero")
    clean(spool)
    (spool.home.inbox / "hero.retry").touch()
    assert spool.daemon is not None
    controls = spool.daemon.intake.controls
    spool.until(lambda: "hero.retry" in controls._unknown)
    controls._unknown["hero.retry"] = (-1000.0, 0, "")
    receipt = spool.receipt("hero.retry")
    assert (receipt["outcome"], receipt["job"], receipt["sha256"]) == ("rejected", "hero", "")
    assert known(spool) == []


def test_the_id_of_a_forgotten_job_goes_to_the_next_drop_that_wants_it(spool: Spool) -> None:
    made(spool, "hero")
    take_away(spool, "hero")
    clean(spool)
    spool.drop("hero.yaml", SPEC + "steps: 5\n")
    assert spool.end("hero")["state"] == "succeeded" and known(spool) == ["hero"]


def test_a_job_of_that_id_that_comes_while_the_old_one_is_forgotten_stays(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are dropped and asked for before the next scan: the scan obeys, and then takes it."""
    made(spool, "hero", "other")
    (spool.home.inbox / "runner.pause").touch()
    spool.stop()
    take_away(spool, "hero", "other")
    client.clean(spool.home)
    spool.drop("hero.yaml", SPEC + "id: hero\nsteps: 5\n")
    spool.start()
    spool.gone("runner.clean")
    spool.until(lambda: spool.status("hero"))
    (spool.home.inbox / "runner.pause").unlink()
    assert spool.end("hero")["state"] == "succeeded"
    clean(spool)
    assert known(spool) == ["hero"]


def test_jobs_are_forgotten_a_batch_a_scan_and_drops_are_taken_between(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(spool, *"abcdef")
    monkeypatch.setattr(forgetting, "_JOBS", 2)
    left: list[int] = []
    forget = Ledger.forget

    def counting(ledger: Ledger, *seqs: int, seen: bool = False) -> None:
        forget(ledger, *seqs, seen=seen)
        left.append(len(known(spool)))
        if len(left) == 1:
            # Complete by its last line: the event of the rename may come after the next scan.
            spool.drop("urgent.yaml", f"{SPEC}...\n")

    monkeypatch.setattr(Ledger, "forget", counting)
    take_away(spool, *"abcdef")
    clean(spool)
    # What came after the first batch is a job before the third.
    assert left[:3] == [4, 2, 1]
    assert spool.end("urgent")["state"] == "succeeded" and known(spool) == ["urgent"]


def test_a_job_of_many_images_is_a_batch_of_its_own(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgetting, "_IMAGES", 1)
    made(spool, "a", "b", "c")
    take_away(spool, "a", "b", "c")
    assert spool.daemon is not None
    batches = forget_gone(spool.daemon.spool)
    for left in (["b", "c"], ["c"], []):
        next(batches)
        assert known(spool) == left


def test_a_file_that_comes_meanwhile_has_all_of_it_done_again(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: what had gone behind the place that was reached was left for the next clean."""
    made(spool, *"abcd")
    monkeypatch.setattr(forgetting, "_JOBS", 2)
    forget = Ledger.forget
    passed: list[tuple[int, ...]] = []

    def more_goes(ledger: Ledger, *seqs: int, seen: bool = False) -> None:
        forget(ledger, *seqs, seen=seen)
        passed.append(seqs)
        if len(passed) == 1:
            take_away(spool, "a")
            client.clean(spool.home)

    monkeypatch.setattr(Ledger, "forget", more_goes)
    take_away(spool, "b", "c")
    clean(spool)
    assert known(spool) == ["d"]


def test_what_a_kill_broke_off_is_finished_by_the_next_runner(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(spool, *"abcd")
    monkeypatch.setattr(forgetting, "_JOBS", 1)
    forget, broken = Ledger.forget, []

    def dying(ledger: Ledger, *seqs: int, seen: bool = False) -> None:
        if len(known(spool)) == 2:
            broken.append(seqs)
            raise PlaceAway("as a kill would, it ends here")
        forget(ledger, *seqs, seen=seen)

    take_away(spool, *"abcd")
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "forget", dying)
        client.clean(spool.home)
        spool.until(lambda: broken)
        spool.stop()
        assert (spool.home.inbox / "runner.clean").exists()
    spool.start()
    spool.gone("runner.clean")
    assert known(spool) == []


def test_a_drain_ends_only_when_all_of_it_is_forgotten(
    idle_spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: it left after two scans, and each night began at the first job again."""
    idle_spool.start()
    made(idle_spool, *"abcdef")
    take_away(idle_spool, *"abcdef")
    idle_spool.stop()
    monkeypatch.setattr(forgetting, "_JOBS", 1)
    client.clean(idle_spool.home)
    idle_spool.start()
    assert idle_spool.daemon is not None
    outcome = idle_spool.daemon.drain()
    # Seen red: it counted -6 jobs that succeeded.
    assert (outcome.all_well, set(outcome.counts.values())) == (True, {0})
    assert known(idle_spool) == [] and not (idle_spool.home.inbox / "runner.clean").exists()


def test_nothing_is_forgotten_where_the_outbox_goes_away_while_it_is_looked_at(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(spool, "hero")
    assert spool.daemon is not None
    parts, outbox, aside = spool.daemon.spool, spool.home.outbox, spool.home.root / "aside"
    over = Ledger.over

    def then_unmounted(ledger: Ledger, **which: int) -> object:
        found = over(ledger, **which)
        if outbox.exists():
            outbox.rename(aside)
        return found

    monkeypatch.setattr(Ledger, "over", then_unmounted)
    with pytest.raises(PlaceAway):
        list(forget_gone(parts))
    monkeypatch.undo()
    aside.rename(outbox)
    assert known(spool) == ["hero"]


def test_receipts_of_jobs_that_are_gone_go_after_a_day(spool: Spool) -> None:
    made(spool, "hero", "new", "stays")
    spool.drop("bad.yaml", "kind: text2img\n")
    spool.end("bad")
    (spool.home.inbox / "bad.retry").touch()
    spool.gone("bad.retry")
    take_away(spool, "hero", "new", "bad")
    old = [date_back(spool, name, 1.1) for name in ("hero.yaml", "bad.yaml", "bad.retry")]
    kept = [date_back(spool, "stays.yaml", 400), date_back(spool, "new.yaml", 0.9)]
    clean(spool)
    assert not any(map(Path.exists, old)) and all(map(Path.exists, kept))
    assert known(spool) == ["stays"]


def test_the_receipt_of_a_refused_request_goes_though_what_it_names_is_no_id(spool: Spool) -> None:
    made(spool, "hero")
    file = spool.home.drops / "odd.retry.json"
    answer = json.loads((spool.home.drops / "hero.yaml.json").read_bytes())
    file.write_text(json.dumps({**answer, "job": "../outbox/hero", "name": "odd.retry"}))
    date_back(spool, "odd.retry", 2)
    clean(spool)
    assert not file.exists()


def test_what_is_no_receipt_is_left_alone_among_the_receipts(spool: Spool) -> None:
    mine = [spool.home.drops / name for name in ("notes.txt", "mine.json", "folder")]
    mine[0].write_text("mine")
    mine[1].write_text("[1, 2]")
    mine[2].mkdir()
    clean(spool)
    assert all(map(Path.exists, mine))


def test_receipts_are_read_a_batch_a_scan(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "_RECEIPTS", 10)
    made(spool, "hero")
    answer = (spool.home.drops / "hero.yaml.json").read_bytes()
    for n in range(35):
        (spool.home.drops / f"{n}.yaml.json").write_bytes(answer)
    assert spool.daemon is not None
    assert len(list(forget_gone(spool.daemon.spool))) == 1 + 4


@pytest.fixture
def synced(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(tmp_path / "home", synced_inbox=True)
    made.start()
    yield made
    made.stop()


def test_a_synced_delivery_of_a_forgotten_job_is_absorbed_and_nothing_runs(synced: Spool) -> None:
    file = synced.drop("hero.yaml")
    times = file.stat()
    shown(synced, "hero")
    take_away(synced, "hero")
    clean(synced)
    assert known(synced) == []
    aside = synced.home.inbox / ".tmp" / "again"
    aside.write_text(SPEC)
    os.utime(aside, ns=(times.st_atime_ns, times.st_mtime_ns))
    os.replace(aside, synced.home.inbox / "hero.yaml")
    receipt = synced.receipt("hero.yaml")
    assert (receipt["outcome"], receipt["job"]) == ("absorbed", "hero")
    assert known(synced) == [] and not synced.home.job("hero").exists()
    assert synced.device.started == [("hero", 1)]
    # Another time of change: somebody wants it again.
    synced.drop("hero.yaml")
    assert synced.receipt("hero.yaml")["outcome"] == "accepted"
    synced.end("hero")


def test_other_files_named_like_it_are_no_requests(spool: Spool) -> None:
    made(spool, "hero")
    take_away(spool, "hero")
    others = [spool.home.inbox / name for name in ("runner.cleaned", "Runner.clean", "x.clean")]
    for file in others:
        file.touch()
    made(spool, "next")
    assert known(spool) == ["hero", "next"] and all(map(Path.exists, others))


def test_the_ledger_gives_its_free_pages_back_while_the_runner_is_idle(spool: Spool) -> None:
    spool.drop("large.yaml", SPEC + f"notes: {'x' * 200_000}\n")
    shown(spool, "large")
    ledger = ledger_of(spool)
    with ledger.transaction():
        ledger._run("UPDATE job SET spec = zeroblob(4000000)")
    take_away(spool, "large")
    clean(spool)
    free = ledger._rows("PRAGMA freelist_count")[0][0]
    assert free > 600
    spool.until(lambda: ledger._rows("PRAGMA freelist_count")[0][0] <= 256)
    spool.drop("next.yaml")
    assert spool.end("next")["state"] == "succeeded"
