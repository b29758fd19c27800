"""Several slots: whose images each gets, and what the loss of one costs.

As in `test_attempts.py`, each end of a job is told once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from runner.clock import now
from runner.errors import LedgerUnusable
from runner.executor import Progressed, Rendered, Slot, SlotLost, SlotState
from runner.job import Phase
from runner.wire import read_json
from tests.daemon.columns import daemon_of, in_flight, losses
from tests.spool.conftest import SPEC, Spool
from tests.spool.deaths import die
from tests.spool.device import SeveralSlots

FOUR = SPEC.replace("seed: 7", "seeds: {start: 1, count: 4}")
TWENTY = SPEC.replace("seed: 7", "seeds: {start: 1, count: 20}")


@pytest.fixture
def two(told: Spool) -> Iterator[Spool]:
    """A started spool whose device has the slots `a` and `b`, which answer when told to."""
    told.device = SeveralSlots("a", "b")  # type: ignore[assignment]
    told.start()
    yield told


def device_of(spool: Spool) -> SeveralSlots:
    device: Any = spool.device
    assert isinstance(device, SeveralSlots)
    return device


def until_at_work(spool: Spool, **images: tuple[str, int]) -> None:
    """Turn until the slots have these images, and no others."""
    spool.until(lambda: device_of(spool).at_work == images)


def finish(spool: Spool, slot: str) -> None:
    """Let a slot answer, and wait until its picture is written."""
    task = device_of(spool)[slot].task
    assert task is not None
    device_of(spool)[slot].finish()
    picture = spool.home.job(task.job) / f"{task.job}-{task.index:04d}.json"
    spool.until(picture.exists)


def test_the_images_of_one_job_go_to_every_slot(two: Spool) -> None:
    two.drop("hero.yaml", FOUR)
    until_at_work(two, a=("hero", 1), b=("hero", 2))
    finish(two, "b")
    until_at_work(two, a=("hero", 1), b=("hero", 3))
    two.until(lambda: set(in_flight(two)) == {1, 3})


def test_outputs_stay_sorted_by_number_when_images_finish_out_of_order(two: Spool) -> None:
    two.drop("hero.yaml", FOUR)
    until_at_work(two, a=("hero", 1), b=("hero", 2))
    for number in (3, 4):
        finish(two, "b")
        until_at_work(two, a=("hero", 1), b=("hero", number))
    finish(two, "b")
    status = two.until(lambda: (s := two.status("hero"))["images"]["done"] == 3 and s)
    assert (status["state"], [o["seed"] for o in status["outputs"]]) == ("running", [2, 3, 4])
    finish(two, "a")
    status = two.end("hero")
    assert [output["seed"] for output in status["outputs"]] == [1, 2, 3, 4]


def test_a_lost_slot_costs_its_image_one_attempt_and_no_other_anything(two: Spool) -> None:
    two.drop("hero.yaml", FOUR)
    until_at_work(two, a=("hero", 1), b=("hero", 2))
    for slot in ("a", "b"):
        device_of(two)[slot].step()
    two.until(lambda: in_flight(two) == {1: "denoising", 2: "denoising"})
    device_of(two).lose("b")
    two.until(lambda: losses(two))
    assert losses(two) == [(2, "denoising", "killed by SIGKILL")]
    until_at_work(two, a=("hero", 1), b=("hero", 2))
    two.until(lambda: two.status("hero")["state"] == "running")
    device_of(two).by_themselves()
    status = two.end("hero")
    assert (status["state"], status["attempt"], status["images"]["done"]) == ("succeeded", 1, 4)
    assert losses(two) == []


def test_a_lost_machine_charges_nobody(two: Spool) -> None:
    two.drop("hero.yaml", FOUR)
    until_at_work(two, a=("hero", 1), b=("hero", 2))
    for _ in range(4):
        for slot in ("a", "b"):
            device_of(two)[slot].step()
        two.until(lambda: in_flight(two) == {1: "denoising", 2: "denoising"})
        device_of(two).lose("a", "the machine does not answer", charged=False)
        two.until(lambda: 1 not in in_flight(two) or in_flight(two)[1] != "denoising")
        until_at_work(two, a=("hero", 1), b=("hero", 2))
    assert losses(two) == []
    device_of(two).by_themselves()
    assert two.end("hero")["images"]["done"] == 4


def test_an_image_that_ended_three_slots_is_failed_alone_with_the_evidence(two: Spool) -> None:
    two.drop("hero.yaml", FOUR)
    until_at_work(two, a=("hero", 1), b=("hero", 2))
    finish(two, "b")
    until_at_work(two, a=("hero", 1), b=("hero", 3))
    for slot, why in (("a", "killed by SIGSEGV"), ("a", "exit code 3"), ("a", "the image hung")):
        two.until(lambda: device_of(two).at_work.get("a") == ("hero", 1))
        device_of(two)[slot].step()
        two.until(lambda: in_flight(two).get(1) == "denoising")
        device_of(two).lose(slot, why)
        two.until(lambda: in_flight(two).get(1) != "denoising")
    until_at_work(two, a=("hero", 4), b=("hero", 3))
    device_of(two).by_themselves()
    status = two.end("hero")
    assert (status["state"], status["reason"]) == ("failed", "CrashLoop")
    assert status["images"] == {"total": 4, "done": 3, "failed": 1, "skipped": 0, "reused": 0}
    for evidence in ("a, denoising: killed by SIGSEGV", "exit code 3", "the image hung"):
        assert evidence in status["message"]


def test_three_dead_loads_of_a_slot_fail_the_job_and_the_next_one_goes_on(two: Spool) -> None:
    device_of(two).states["b"] = SlotState.LOST
    two.drop("hero.yaml", FOUR)
    until_at_work(two, a=("hero", 1))
    two.drop("next.yaml")
    for _ in range(3):
        until_at_work(two, a=("hero", 1))
        slot = device_of(two)["a"]
        assert slot.task is not None
        device_of(two).events.put(Progressed("a", slot.task, Phase.LOADING))
        two.until(lambda: in_flight(two) == {1: "loading"})
        device_of(two).lose("a")
        two.until(lambda: in_flight(two).get(1) != "loading")
    status = two.end("hero")
    assert (status["state"], status["reason"]) == ("failed", "CrashLoop")
    assert status["images"]["failed"] == 0
    device_of(two).by_themselves()
    assert two.end("next")["state"] == "succeeded"


def test_what_a_lost_slot_answers_late_is_not_heard(two: Spool) -> None:
    two.drop("hero.yaml", FOUR)
    until_at_work(two, a=("hero", 1), b=("hero", 2))
    task = device_of(two)["b"].task
    assert task is not None
    late = Rendered("b", task, Image.new("RGB", (64, 64)), 0.01, {"device": "late"})
    device_of(two).lose("b", charged=False)
    two.until(lambda: device_of(two).at_work.get("b") == ("hero", 2))
    finish(two, "b")
    device_of(two).events.put(late)
    device_of(two).by_themselves()
    assert two.end("hero")["state"] == "succeeded"
    sidecar = read_json(two.home.job("hero") / "hero-0002.json")
    assert sidecar is not None and sidecar["result"]["device"] == "none"


def test_an_image_that_a_slot_stops_by_itself_is_made_again(two: Spool) -> None:
    two.drop("hero.yaml", FOUR)
    until_at_work(two, a=("hero", 1), b=("hero", 2))
    for _ in range(5):
        device_of(two).stop("a")
        daemon_of(two).step(0.0)
        until_at_work(two, a=("hero", 1), b=("hero", 2))
    device_of(two).by_themselves()
    status = two.end("hero")
    assert (status["state"], status["attempt"]) == ("succeeded", 1)


def test_a_slot_that_is_lost_twice_at_once_is_charged_once(two: Spool) -> None:
    two.drop("hero.yaml", FOUR)
    until_at_work(two, a=("hero", 1), b=("hero", 2))
    device_of(two)["a"].step()
    two.until(lambda: in_flight(two).get(1) == "denoising")
    for _ in range(2):
        device_of(two).events.put(SlotLost("a", "killed by SIGKILL"))
    device_of(two)["a"].task = None
    two.until(lambda: losses(two))
    assert losses(two) == [(1, "denoising", "killed by SIGKILL")]
    device_of(two).by_themselves()
    assert two.end("hero")["state"] == "succeeded"


def test_each_slot_goes_on_with_the_model_that_it_has_loaded(two: Spool) -> None:
    two.drop("one.yaml")
    until_at_work(two, a=("one", 1))
    two.drop("dev.yaml", SPEC.replace("tiny", "klein"))
    until_at_work(two, a=("one", 1), b=("dev", 1))
    for name, model in (("more", "klein"), ("again", "tiny")):
        two.drop(f"{name}.yaml", SPEC.replace("tiny", model))
        two.until(lambda name=name: two.status(name))
    # Before that no slot takes them.
    two.until(lambda: not daemon_of(two).ledger.unanswered())
    finish(two, "a")
    until_at_work(two, a=("again", 1), b=("dev", 1))
    finish(two, "b")
    until_at_work(two, a=("again", 1), b=("more", 1))
    device_of(two).by_themselves()
    assert {each["state"] for each in two.over("one", "dev", "more", "again")} == {"succeeded"}


def test_an_idle_slot_takes_another_model_rather_than_wait(two: Spool) -> None:
    two.drop("one.yaml")
    until_at_work(two, a=("one", 1))
    two.drop("two.yaml", SPEC.replace("tiny", "klein"))
    until_at_work(two, a=("one", 1), b=("two", 1))
    two.drop("three.yaml")
    finish(two, "b")
    until_at_work(two, a=("one", 1), b=("three", 1))


def test_a_higher_priority_gets_each_slot_at_the_end_of_its_image(two: Spool) -> None:
    two.drop("hero.yaml", TWENTY)
    until_at_work(two, a=("hero", 1), b=("hero", 2))
    two.drop("urgent.yaml", FOUR + "priority: 5\n")
    two.until(lambda: daemon_of(two).ledger.ready(now(), 1))
    finish(two, "a")
    until_at_work(two, a=("urgent", 1), b=("hero", 2))
    two.until(lambda: two.status("hero")["state"] == "running")
    finish(two, "b")
    until_at_work(two, a=("urgent", 1), b=("urgent", 2))
    status = two.until(lambda: (s := two.status("hero"))["state"] == "queued" and s)
    assert (status["reason"], status["images"]["done"]) == ("Preempted", 2)
    for slot in ("a", "b"):
        finish(two, slot)
    until_at_work(two, a=("urgent", 3), b=("urgent", 4))
    finish(two, "a")
    until_at_work(two, a=("hero", 3), b=("urgent", 4))
    device_of(two).by_themselves()
    assert [each["attempt"] for each in two.over("urgent", "hero")] == [1, 1]


def test_a_cancel_stops_a_job_on_every_slot(two: Spool) -> None:
    two.drop("hero.yaml", TWENTY)
    until_at_work(two, a=("hero", 1), b=("hero", 2))
    (two.home.inbox / "hero.cancel").touch()
    status = two.end("hero")
    assert (status["state"], status["images"]["done"]) == ("cancelled", 0)
    assert in_flight(two) == {} and losses(two) == []


def test_a_paused_job_is_put_back_once_the_last_slot_has_answered(two: Spool) -> None:
    two.drop("hero.yaml", TWENTY)
    until_at_work(two, a=("hero", 1), b=("hero", 2))
    pause = two.home.inbox / "runner.pause"
    pause.touch()
    two.until(lambda: daemon_of(two).worker.hold)
    finish(two, "a")
    for _ in range(3):
        daemon_of(two).step(0.0)
    two.until(lambda: two.status("hero")["state"] == "running")
    assert set(device_of(two).at_work) == {"b"}
    finish(two, "b")
    two.until(lambda: two.status("hero")["reason"] == "Paused")
    pause.unlink()
    device_of(two).by_themselves()
    status = two.end("hero")
    assert (status["attempt"], status["images"]["done"]) == (1, 20)


def test_a_slot_that_hangs_is_made_again_and_the_runner_goes_on(
    two: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    two.drop("hero.yaml", FOUR)
    until_at_work(two, a=("hero", 1), b=("hero", 2))
    device_of(two)["a"].step()
    two.until(lambda: in_flight(two).get(1) == "denoising")
    with monkeypatch.context() as patch:
        patch.setattr(
            "runner.daemon.active_job.Dispatch.is_hung", lambda each, moment: 1 in each.images
        )
        two.until(lambda: losses(two))
    assert losses(two) == [(1, "denoising", "the image hung")]
    assert daemon_of(two).worker.exit_code is None
    device_of(two).by_themselves()
    assert two.end("hero")["state"] == "succeeded"


def test_a_slot_that_is_not_ready_is_given_nothing(two: Spool) -> None:
    device_of(two).states["a"] = SlotState.STARTING
    two.drop("hero.yaml", FOUR)
    until_at_work(two, b=("hero", 1))
    device_of(two).states["a"] = SlotState.READY
    until_at_work(two, a=("hero", 2), b=("hero", 1))


def test_a_job_whose_only_slot_is_made_again_stays_running(two: Spool) -> None:
    device_of(two).states["b"] = SlotState.LOST
    two.drop("hero.yaml", FOUR)
    until_at_work(two, a=("hero", 1))
    two.until(lambda: two.status("hero")["state"] == "running")
    device_of(two).states["a"] = SlotState.STARTING
    device_of(two).lose("a")
    two.until(lambda: in_flight(two) == {})
    for _ in range(3):
        daemon_of(two).step(0.0)
    assert two.status("hero")["state"] == "running"
    device_of(two).states.clear()
    device_of(two).by_themselves()
    assert two.end("hero")["attempt"] == 1


def test_no_slot_takes_in_one_go_what_several_could_share(
    two: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes: list[list[int]] = []

    def start(slot: str, tasks: Any) -> None:
        goes.append([task.index for task in tasks])
        device = device_of(two)[slot]
        for device.task in tasks:
            device.finish()

    device = device_of(two)
    slots = type(device).slots
    monkeypatch.setattr(device, "start", start)
    monkeypatch.setattr(
        device, "slots", lambda: [replace(each, batch_size=8) for each in slots(device)]
    )
    two.drop("hero.yaml", FOUR)
    assert two.end("hero")["images"]["done"] == 4
    assert goes == [[1, 2], [3], [4]]


def test_the_health_file_says_what_each_slot_does(two: Spool) -> None:
    two.drop("hero.yaml", FOUR)
    until_at_work(two, a=("hero", 1), b=("hero", 2))
    device_of(two)["b"].step(3)

    def health() -> list[dict[str, Any]]:
        return (read_json(two.home.health) or {}).get("slots", [])

    two.until(lambda: [each["step"] for each in health()] == [0, 3])
    assert [
        (each["name"], each["model"], each["job"], each["image"], each["state"])
        for each in health()
    ] == [("a", "tiny", "hero", 1, "working"), ("b", "tiny", "hero", 2, "working")]
    device_of(two).by_themselves()
    two.end("hero")
    two.until(lambda: {each["state"] for each in health()} == {"idle"})


def test_the_end_of_the_runner_is_charged_to_what_it_held_itself(
    two: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: an image of each slot was charged, which had no part in it."""
    two.drop("hero.yaml", FOUR)
    until_at_work(two, a=("hero", 1), b=("hero", 2))
    for slot in ("a", "b"):
        device_of(two)[slot].step()
    two.until(lambda: in_flight(two) == {1: "denoising", 2: "denoising"})
    with monkeypatch.context() as patch:
        # What it was writing as it ended.
        patch.setattr(daemon_of(two).writer, "save", lambda image: None)
        device_of(two)["a"].finish()
        two.until(lambda: in_flight(two).get(1) == "saving")
        die(two)
    two.device = SeveralSlots("a", "b")  # type: ignore[assignment]
    two.start()
    assert losses(two) == [(1, "saving", "the process ended")]
    device_of(two).by_themselves()
    assert two.end("hero")["images"]["done"] == 4


def test_slots_that_end_at_once_as_they_load_count_as_one_dead_load(told: Spool) -> None:
    told.device = SeveralSlots("a", "b", "c")  # type: ignore[assignment]
    told.start()
    told.drop("hero.yaml", FOUR)
    until_at_work(told, a=("hero", 1), b=("hero", 2), c=("hero", 3))
    for slot in "abc":
        task = device_of(told)[slot].task
        assert task is not None
        device_of(told).events.put(Progressed(slot, task, Phase.LOADING))
    told.until(lambda: in_flight(told) == {1: "loading", 2: "loading", 3: "loading"})
    for slot in "abc":
        device_of(told).lose(slot)
    told.until(lambda: len(losses(told)) == 3)
    device_of(told).by_themselves()
    assert told.end("hero")["state"] == "succeeded"


def test_a_job_whose_slot_stays_away_gives_others_their_turn_and_goes_on(
    two: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    two.drop("hero.yaml", TWENTY)
    until_at_work(two, a=("hero", 1), b=("hero", 2))
    two.drop("other.yaml", SPEC.replace("tiny", "klein") + "priority: 5\n")
    two.until(lambda: daemon_of(two).ledger.ready(now(), 1))
    finish(two, "a")
    until_at_work(two, a=("other", 1), b=("hero", 2))
    device_of(two).states["b"] = SlotState.STARTING
    device_of(two).lose("b", charged=False)
    two.until(lambda: set(in_flight(two)) == {1})
    assert "hero" in {record.id for record in daemon_of(two).ledger.running()}
    monkeypatch.setattr("runner.daemon.worker._SOON_SECONDS", 0.0)
    two.until(lambda: two.status("hero")["reason"] == "Preempted")
    device_of(two).by_themselves()
    assert {each["state"] for each in two.over("hero", "other")} == {"succeeded"}


def test_a_job_without_any_slot_stays_running(two: Spool) -> None:
    """Seen red: `Preempted`, as if others had the next turn."""
    device_of(two).states["b"] = SlotState.LOST
    two.drop("hero.yaml", FOUR)
    until_at_work(two, a=("hero", 1))
    two.until(lambda: two.status("hero")["state"] == "running")
    device_of(two).states["a"] = SlotState.SUSPECT
    device_of(two).lose("a", charged=False)
    two.until(lambda: in_flight(two) == {})
    for _ in range(3):
        daemon_of(two).step(0.0)
    two.until(lambda: not daemon_of(two).writer.waiting)
    assert two.status("hero")["state"] == "running"
    device_of(two).states.clear()
    device_of(two).by_themselves()
    assert two.end("hero")["attempt"] == 1


def test_a_loss_that_cannot_be_recorded_is_not_taken_for_a_hang(
    two: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    two.drop("hero.yaml", FOUR + "timeout: 1\n")
    until_at_work(two, a=("hero", 1), b=("hero", 2))
    device_of(two)["a"].step()
    two.until(lambda: in_flight(two).get(1) == "denoising")
    monkeypatch.setattr("runner.daemon.worker._LOOK_SECONDS", 0.0)
    abandoned: list[str] = []
    device = device_of(two)
    monkeypatch.setattr(device, "abandon", lambda slot, why: bool(abandoned.append(slot)) or True)
    with monkeypatch.context() as patch:
        patch.setattr(
            "runner.daemon.active_job.Dispatch.is_hung", lambda each, moment: 1 in each.images
        )
        patch.setattr(daemon_of(two).ledger, "lost", refuse)
        device.lose("a")
        for _ in range(3):
            daemon_of(two).step(0.0)
        assert in_flight(two).get(1) == "denoising" and not abandoned
    two.until(lambda: losses(two))
    device.by_themselves()
    assert two.end("hero")["state"] == "succeeded"


def refuse(*given: Any) -> None:
    raise LedgerUnusable("the disk is full")


def test_a_slot_that_gets_no_images_is_told_in_the_health_file_in_the_log_and_by_a_drain(
    two: Spool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Seen red: a drain without a slot waited in silence, and `note` was null."""
    device, said = device_of(two), []
    slots = [
        Slot("a", False, state=SlotState.STARTING, note="made again: exit code 3"),
        Slot("b", False, state=SlotState.LOST),
    ]
    monkeypatch.setattr(device, "slots", lambda: slots)
    two.drop("hero.yaml", FOUR)
    two.until(lambda: (read_json(two.home.health) or {}).get("note"))
    health = read_json(two.home.health) or {}
    assert health["note"] == "no slot is ready (a: made again: exit code 3)"
    assert health["slots"][0]["note"] == "made again: exit code 3"
    assert [text for text in caplog.messages if "slot a" in text] == [
        "the slot a: made again: exit code 3"
    ]

    def notify(text: str) -> None:
        said.append(text)
        daemon_of(two).ask_to_stop()

    daemon_of(two).drain(notify=notify)
    assert said == ["slot a: made again: exit code 3"]
    monkeypatch.undo()


def test_a_drain_to_which_no_slot_comes_ends_with_a_note(
    two: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    device_of(two).states.update(a=SlotState.STARTING, b=SlotState.LOST)
    two.drop("hero.yaml", FOUR)
    monkeypatch.setattr("runner.daemon.daemon._SLOTLESS_SECONDS", 0.3)
    outcome = daemon_of(two).drain()
    assert outcome.note == "no slot is ready" and not outcome.all_well
    two.until(lambda: two.status("hero")["state"] == "queued")


def test_what_another_slot_makes_is_not_made_twice_and_what_comes_after_it_goes_first(
    two: Spool,
) -> None:
    """Seen red: `a` and `b` made the same picture."""
    (two.home.inbox / "rows.csv").write_text("prompt,seed\na,5\na,5\nb,6\na,5\n")
    two.drop("hero.yaml", "kind: text2img\nmodel: tiny\ntable: rows.csv\nreuse: true\n")
    until_at_work(two, a=("hero", 1), b=("hero", 3))
    finish(two, "b")
    until_at_work(two, a=("hero", 1))
    finish(two, "a")
    counted = two.end("hero")["images"]
    assert (counted["done"], counted["reused"]) == (4, 2)
