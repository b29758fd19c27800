"""The ledger made again from the outbox."""

from __future__ import annotations

import itertools
import json
import tracemalloc
from typing import Any
from unittest import mock

import pytest
from PIL import Image

from runner import files
from runner.catalogue import RegistryCatalogue
from runner.spool.disk.disk import Disk
from runner.spool.startup import rebuild
from runner.spool.startup.opening import open_spool
from runner.spool.store import outbox
from runner.spool.store.ledger import Ledger
from runner.spool.store.spool import Spool as Parts
from tests.crash.scenario import EDIT
from tests.spool.composing import SMALL
from tests.spool.conftest import SPEC, Spool
from tests.spool.deaths import die
from tests.spool.device import FlatColours


def lose(spool: Spool, how: str) -> None:
    """Kill the daemon and take or spoil its ledger."""
    die(spool)
    file = spool.home.data / "ledger.sqlite"
    for name in ("ledger.sqlite-wal", "ledger.sqlite-shm"):
        (spool.home.data / name).unlink(missing_ok=True)
    if how == "gone":
        file.unlink()
    else:
        data = bytearray(file.read_bytes())
        data[: len(data) // 2] = b"x" * (len(data) // 2)
        file.write_bytes(data)
    spool.device = FlatColours()


@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_finished_jobs_keep_their_ids_and_their_statuses(spool: Spool, how: str) -> None:
    text = SPEC + "id: hero\n"
    spool.drop("hero.yaml", text)
    before = spool.end("hero")
    lose(spool, how)
    spool.start()
    spool.drop("same.yaml", text)
    assert spool.receipt("same.yaml")["outcome"] == "absorbed"
    spool.drop("other.yaml", text + "steps: 3\n")
    spool.gone("other.yaml")
    assert spool.status(spool.receipt("other.yaml")["job"])["reason"] == "IdConflict"
    assert spool.status("hero") == before
    assert spool.device.started == []


@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_an_unfinished_job_goes_on_at_its_first_missing_image_with_its_seeds(
    spool: Spool, how: str
) -> None:
    spool.device.by_hand = True
    spool.drop("hero.yaml", SPEC.replace("seed: 7", "count: 4"))
    spool.until(lambda: spool.device.task)
    spool.device.finish()
    spool.until(lambda: spool.device.task and spool.device.task.index == 2)
    lose(spool, how)
    spool.start()
    status = spool.end("hero")
    assert status["state"] == "succeeded"
    assert spool.device.started == [("hero", 2), ("hero", 3), ("hero", 4)]
    seeds = [output["seed"] for output in status["outputs"]]
    assert seeds == [seeds[0] + n for n in range(4)]


def test_a_finished_job_can_be_run_again_with_its_inputs_and_seeds_after_the_ledger_was_lost(
    spool: Spool,
) -> None:
    """Seen red: it failed `Internal`, for its record had no spec."""
    image = spool.home.inbox / "cat.png"
    Image.new("RGB", (64, 64), "red").save(image)
    spool.drop("edit.yaml", EDIT.replace("seed: 3\n", "count: 2\n") + "image: cat.png\n")
    before = spool.end("edit")
    lose(spool, "gone")
    image.unlink()
    spool.start()
    spool.drop("edit.retry", "")
    after = spool.end("edit-2")
    assert after["state"] == "succeeded"
    assert [o["seed"] for o in after["outputs"]] == [o["seed"] for o in before["outputs"]]


def opened_again(spool: Spool) -> Parts:
    """The home opened without a ledger; without a daemon, for that reads sidecars too."""
    lose(spool, "gone")
    return open_spool(spool.home, Disk(), RegistryCatalogue(spool.home.settings, spool.home.data))


def test_a_finished_job_is_what_its_status_says_and_nothing_else_of_it_is_read(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: every picture was read, and of failed images nothing was known any more."""
    monkeypatch.setattr(outbox, "_MOST_OUTPUTS", 2)
    spool.device.failing["hero", 2] = ("OutOfMemory", "too large")
    spool.drop("hero.yaml", f"{SPEC.replace('seed: 7', 'count: 5')}tags: [red]\nx_ours: [1]\n")
    spool.drop("bad.yaml", "kind: text2img\nx_ours: 2\n")
    spool.over("hero", "bad")
    lost = {name: spool.status(name) for name in ("hero", "bad")}
    opened = []
    open_regular = files.open_regular
    monkeypatch.setattr(
        files, "open_regular", lambda file: opened.append(file.name) or open_regular(file)
    )
    parts = opened_again(spool)
    try:
        assert set(opened) == {"status.json"}
        for name, status in lost.items():
            record = parts.ledger.newest(name)
            assert record is not None
            later = {"revision": status["revision"] + 1, "updated_at": mock.ANY}
            assert parts.outbox.status(record) == {**status, **later}
    finally:
        parts.ledger.close()


def test_a_composed_job_can_be_run_again_after_the_ledger_was_lost(packed: Spool) -> None:
    packed.drop("pair.yaml", SMALL)
    before = packed.end("pair")
    lose(packed, "gone")
    packed.start()
    packed.drop("pair.retry", "")
    after = packed.end("pair-2")
    assert (after["state"], after["images"]) == ("succeeded", before["images"])
    sidecars = [packed.home.job(job) / f"{job}-0002.json" for job in ("pair", "pair-2")]
    prompts = {json.loads(file.read_bytes())["prompt"] for file in sidecars}
    assert len(prompts) == 1


def write_many_statuses(spool: Spool, number: int) -> int:
    """Finished jobs with long warnings; the bytes of their statuses."""
    spool.drop("hero.yaml")
    status = spool.end("hero")
    for n in range(number):
        folder = spool.home.job(f"job-{n}")
        folder.mkdir()
        one = {**status, "id": folder.name, "outputs": [], "warnings": [str(n) * 20_000]}
        (folder / "status.json").write_text(json.dumps(one), encoding="utf-8")
    return sum(file.stat().st_size for file in spool.home.outbox.glob("*/status.json"))


def test_the_memory_never_holds_all_the_statuses(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: it held all of them from the first to the last."""
    size = write_many_statuses(spool, 100)
    held = []

    def enter_and_measure(*given: Any) -> None:
        enter(*given)
        held.append(tracemalloc.get_traced_memory()[0])

    enter = rebuild._enter
    monkeypatch.setattr(rebuild, "_enter", enter_and_measure)
    tracemalloc.start()
    try:
        opened_again(spool).ledger.close()
    finally:
        tracemalloc.stop()
    assert len(held) == 101
    assert max(held) < size / 10


def test_the_log_says_how_far_the_making_is(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_many_statuses(spool, 3)
    times = itertools.count(step=3.0)
    monkeypatch.setattr(rebuild, "monotonic", lambda: next(times))
    with caplog.at_level("INFO", logger=rebuild.__name__):
        opened_again(spool).ledger.close()
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "making the ledger again from 4 jobs",
        *(f"{number} of 4 jobs are in the ledger again" for number in (2, 4)),
    ]


def test_a_retry_of_what_would_be_rejected_now_is_refused_after_the_ledger_was_lost(
    spool: Spool,
) -> None:
    spool.drop("hero.yaml")
    spool.end("hero")
    lose(spool, "gone")
    (spool.home.job("hero") / "spec.yaml").write_text("kind: nothing\n", encoding="utf-8")
    spool.start()
    spool.drop("hero.retry", "")
    assert spool.receipt("hero.retry")["outcome"] == "rejected"
    assert not spool.home.job("hero-2").exists()


def test_a_making_that_was_cut_short_is_done_again_from_the_start(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("a", "b", "c")
    for name in names:
        spool.drop(f"{name}.yaml")
    spool.over(*names)
    lose(spool, "gone")
    entered: list[str] = []

    def enter_two(job_id: str, *given: Any) -> None:
        if len(entered) == 2:
            raise KeyboardInterrupt
        entered.append(job_id)
        enter(job_id, *given)

    enter = rebuild._enter
    with monkeypatch.context() as patch:
        patch.setattr(rebuild, "_enter", enter_two)
        with pytest.raises(KeyboardInterrupt):
            spool.start()
    spool.start()
    assert spool.daemon is not None
    assert spool.daemon.ledger.counts()["succeeded"] == 3


def test_a_damaged_ledger_is_kept_for_whoever_wants_to_look(spool: Spool) -> None:
    lose(spool, "damaged")
    spool.start()
    assert list(spool.home.data.glob("ledger.sqlite.damaged-*"))


def named(spool: Spool) -> dict[str, str]:
    """What the health file says of each file at fault."""
    health = spool.until(lambda: spool.home.health.exists() and spool.home.health.read_bytes())
    return {fault["file"]: fault["message"] for fault in json.loads(health)["faults"]}


@pytest.mark.parametrize("how", ["a mistake of ours", "a status that is none", "a torn status"])
def test_a_job_that_cannot_be_entered_again_is_named_at_every_start_and_the_others_go_on(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Seen red: no start, or the job was gone without a word."""
    for name in ("odd", "good"):
        spool.drop(f"{name}.yaml")
    spool.over("odd", "good")
    lose(spool, "gone")
    status = spool.home.job("odd") / "status.json"
    if how == "a torn status":
        status.write_text('{"id": "odd', encoding="utf-8")
    elif how == "a status that is none":
        status.write_text('{"id": "odd", "state": ["no"], "source": 3}', encoding="utf-8")
    else:
        made = Ledger.made

        def stumble(ledger: Ledger, seq: int, *given: Any, **how: Any) -> None:
            if ledger.get(seq).id == "odd" and how:
                raise ZeroDivisionError("a bug")
            made(ledger, seq, *given, **how)

        monkeypatch.setattr(Ledger, "made", stumble)
    for _ in range(2):
        spool.start()
        assert "the ledger was lost" in spool.until(lambda: named(spool).get("outbox/odd"))
        assert spool.status("good")["state"] == "succeeded"
        assert spool.daemon is not None
        assert spool.daemon.ledger.newest("odd") is None
        spool.stop()
    spool.start()
    spool.drop("odd.yaml")
    assert spool.end("odd-2")["state"] == "succeeded"


@pytest.mark.parametrize("ledger", ["lost", "there"])
def test_a_picture_whose_sidecar_is_damaged_is_kept_under_a_name_that_is_told(
    spool: Spool, ledger: str
) -> None:
    """Seen red: it was deleted."""
    spool.device.by_hand = True
    spool.drop("hero.yaml", SPEC.replace("seed: 7", "seeds: [3, 4]"))
    spool.until(lambda: spool.device.task)
    spool.device.finish()
    spool.until(lambda: spool.device.task and spool.device.task.index == 2)
    folder = spool.home.job("hero")
    spool.until(lambda: (folder / "hero-0001.json").exists())
    picture = (folder / "hero-0001.png").read_bytes()
    for time in ("first", "second"):
        if ledger == "lost":
            lose(spool, "gone")
        else:
            spool.until(lambda: spool.daemon.ledger.images(1))  # type: ignore[union-attr]
            die(spool)
        (folder / "hero-0001.json").write_text("{", encoding="utf-8")
        spool.device = FlatColours(by_hand=time == "first")
        spool.start()
        if time == "first":
            spool.until(lambda: spool.device.task and spool.device.task.index == 1)
            spool.device.finish()
            spool.until(lambda: spool.device.task and spool.device.task.index == 2)
    status = spool.end("hero")
    assert (status["state"], status["images"]["done"]) == ("succeeded", 2)
    assert (folder / "kept-hero-0001.png").read_bytes() == picture
    assert (folder / "kept-hero-0001-2.png").is_file()
    assert any("kept-hero-0001-2.png" in warning for warning in status["warnings"])
