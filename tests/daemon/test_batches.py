"""A slot that makes several images at once: each is committed, failed or stopped for itself."""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from runner.daemon.tasks import InFlight, TaskBuilder
from runner.executor import Slot, StoppedEarly
from runner.task import ImageTask
from tests.daemon.columns import daemon_of
from tests.spool.conftest import SPEC, Spool
from tests.spool.device import FlatColours

TEN = SPEC.replace("seed: 7", "seeds: {start: 1, count: 10}")


class FourAtOnce(FlatColours):
    """Flat colours, up to four in one go."""

    def __init__(self) -> None:
        super().__init__()
        self.hand: list[ImageTask] = []
        self.goes: list[list[int]] = []

    def slots(self) -> Sequence[Slot]:
        models = tuple(sorted(self.models))
        return (Slot("gpu0", bool(self.hand), models, batch_size=4, empty=not models),)

    def start(self, slot: str, tasks: Sequence[ImageTask]) -> None:
        assert not self.hand, "the slot is busy"
        self.hand = list(tasks)
        self.goes.append([task.index for task in tasks])
        self.on_start(tasks[0])
        if not self.by_hand:
            self.finish_all()

    def finish_all(self) -> None:
        hand, self.hand = self.hand, []
        for self.task in hand:
            self.finish()

    def stop(self, slot: str) -> None:
        hand, self.hand = self.hand, []
        for task in hand:
            self.events.put(StoppedEarly("gpu0", task))


class Counted(OrderedDict[int, None]):
    """The images to come; notes each that is looked at."""

    seen: list[int]

    def __iter__(self) -> Iterator[int]:
        for number in super().__iter__():
            self.seen.append(number)
            yield number


def test_a_batch_looks_at_few_more_images_than_it_takes(idle_spool: Spool) -> None:
    """Seen red: for each batch, all images to come were copied."""
    idle_spool.device.by_hand = True
    idle_spool.start()
    idle_spool.drop("hero.yaml", SPEC.replace("seed: 7", "seeds: {start: 1, count: 40}"))
    idle_spool.until(lambda: idle_spool.device.task)
    (job,) = daemon_of(idle_spool).worker._jobs.values()
    numbers = Counted(job.numbers)
    numbers.seen = []
    job.numbers = numbers
    idle_spool.device.by_hand = False
    idle_spool.device.finish()
    idle_spool.end("hero")
    assert len(numbers.seen) < 5 * 40


@pytest.fixture
def four(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "home")
    spool.device = FourAtOnce()
    spool.start()
    yield spool
    spool.stop()


def test_images_alike_go_together_and_every_one_is_there(four: Spool) -> None:
    four.drop("hero.yaml", TEN)
    status = four.end("hero")
    assert (status["state"], status["images"]["done"]) == ("succeeded", 10)
    assert [each["seed"] for each in status["outputs"]] == list(range(1, 11))
    assert four.device.goes == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]  # type: ignore[attr-defined]


def test_images_that_differ_in_more_than_prompt_and_seed_go_apart(four: Spool) -> None:
    matrix = "matrix: {prompt: [a red circle, a blue star], steps: [2, 3]}\n"
    four.drop("hero.yaml", f"kind: text2img\nmodel: tiny\nseed: 7\n{matrix}")
    assert four.end("hero")["state"] == "succeeded"
    assert four.device.goes == [[1], [2], [3], [4]]  # type: ignore[attr-defined]


def test_one_failing_image_of_several_costs_only_itself(four: Spool) -> None:
    four.device.failing["hero", 2] = ("NotFinite", "no picture")
    four.drop("hero.yaml", TEN)
    status = four.end("hero")
    assert status["state"] == "failed"
    assert (status["images"]["done"], status["images"]["failed"]) == (9, 1)
    assert len(four.pictures("hero")) == 9


def test_a_cancel_stops_all_that_are_in_flight(four: Spool) -> None:
    device = four.device
    device.by_hand = True
    four.drop("hero.yaml", TEN)
    four.until(lambda: device.hand)  # type: ignore[attr-defined]
    four.drop("hero.cancel", b"")
    status = four.end("hero")
    assert (status["state"], status["images"]["done"]) == ("cancelled", 0)
    assert four.pictures("hero") == []


def test_stopping_the_runner_puts_all_that_are_in_flight_back(four: Spool) -> None:
    device = four.device
    device.by_hand = True
    four.drop("hero.yaml", TEN)
    four.until(lambda: device.hand)  # type: ignore[attr-defined]
    device.finish_all()  # type: ignore[attr-defined]
    four.until(lambda: device.hand)  # type: ignore[attr-defined]
    four.stop()
    assert four.status("hero")["state"] == "queued"
    four.device = FourAtOnce()
    four.start()
    assert four.end("hero")["images"]["done"] == 10
    assert four.device.goes == [[5, 6, 7, 8], [9, 10]]  # type: ignore[attr-defined]


def test_a_higher_priority_waits_for_what_is_in_flight_and_no_longer(four: Spool) -> None:
    device = four.device
    device.by_hand = True
    four.drop("slow.yaml", TEN)
    four.until(lambda: device.hand)  # type: ignore[attr-defined]
    four.drop("urgent.yaml", SPEC + "priority: 5\n")
    four.gone("urgent.yaml")
    device.finish_all()  # type: ignore[attr-defined]
    four.until(lambda: device.hand)  # type: ignore[attr-defined]
    assert device.hand[0].job == "urgent"  # type: ignore[attr-defined]
    device.by_hand = False
    device.finish_all()  # type: ignore[attr-defined]
    four.over("urgent", "slow")
    assert four.status("slow")["images"]["done"] == 10


def refusing(monkeypatch: pytest.MonkeyPatch, number: int, *, times: int) -> None:
    """The task of the third image is refused so often."""
    build, left = TaskBuilder.build, times

    def refused(builder: TaskBuilder, record: Any, composed: Any, image: int) -> InFlight:
        nonlocal left
        if image == 3 and left:
            left -= 1
            raise OSError(number, os.strerror(number), "style.safetensors")
        return build(builder, record, composed, image)

    monkeypatch.setattr(TaskBuilder, "build", refused)


def test_what_concerns_all_costs_no_image_of_a_batch_that_is_being_built(
    four: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: too many open files failed an image as a bug of fluxdrop."""
    refusing(monkeypatch, errno.EMFILE, times=2)
    four.drop("hero.yaml", TEN)
    status = four.end("hero")
    assert (status["state"], status["images"]["done"], status["errors"]) == ("succeeded", 10, [])


def test_what_an_image_needs_and_cannot_be_read_fails_that_image_alone_in_its_own_words(
    four: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(monkeypatch, errno.EIO, times=1)
    four.drop("hero.yaml", TEN)
    status = four.end("hero")
    assert (status["images"]["done"], status["images"]["failed"]) == (9, 1)
    assert status["reason"] == "InputBad" and "style.safetensors" in status["message"]
    assert os.strerror(errno.EIO) in status["message"] and "bug" not in status["message"]
