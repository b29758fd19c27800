"""The ledger made again from the outbox."""

from __future__ import annotations

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
