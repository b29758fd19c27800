"""The ledger made again from the outbox."""

from __future__ import annotations

import json
from typing import Any

import pytest
from PIL import Image

from runner.spool.startup import rebuild
from tests.crash.scenario import EDIT
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

    def enter_two(status: dict[str, Any], *given: Any) -> None:
        if len(entered) == 2:
            raise KeyboardInterrupt
        entered.append(status["id"])
        enter(status, *given)

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
        true = rebuild.reconcile_images

        def stumble(record: Any, *given: Any, **how: Any) -> None:
            if record.id == "odd":
                raise ZeroDivisionError("a bug")
            true(record, *given, **how)

        monkeypatch.setattr(rebuild, "reconcile_images", stumble)
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
