"""Large pictures are encoded beside the writer, and nothing else is different for it."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from runner import exit_codes
from runner.daemon import saving, sidecar, writer
from runner.daemon.sidecar import FinishedImage
from runner.spool.disk.disk import Disk, StrPath
from tests.daemon.columns import daemon_of
from tests.spool.conftest import SPEC, Spool
from tests.spool.device import FlatColours

LARGE = 256
FOUR = SPEC.replace("seed: 7", "seeds: {start: 1, count: 4}")
_SOON = 10.0


@pytest.fixture
def large(idle_spool: Spool, monkeypatch: pytest.MonkeyPatch) -> Spool:
    """A home on a machine of two cores, whose device makes large pictures."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    idle_spool.device = FlatColours(side=LARGE)
    return idle_spool


@pytest.fixture
def encoding(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have a function called with the number of each picture, where that is encoded."""

    def have(act: Callable[[int], object]) -> None:
        def sidecar_of(image: FinishedImage, file: str) -> dict[str, Any]:
            act(image.rendered.task.index)
            return sidecar.sidecar_of(image, file)

        # The first thing that is done to encode it.
        monkeypatch.setattr(saving, "sidecar_of", sidecar_of)

    return have


class Ordered(Disk):
    """Keeps the names of the job's files in the order in which they appear."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def before(self, operation: str, path: StrPath, **details: Any) -> None:
        if operation == "rename":
            self.names.append(os.path.basename(path))


def encoders_alive() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("encoder")]


def test_two_large_pictures_are_encoded_at_once_and_come_out_in_order(
    large: Spool, encoding: Callable[..., None]
) -> None:
    both, second_done = threading.Barrier(2), threading.Event()

    def meet(index: int) -> None:
        both.wait(_SOON)
        if index % 2:
            # The one that began first is ready last.
            second_done.wait(0.1)
        else:
            second_done.set()

    encoding(meet)
    disk = Ordered()
    large.start(disk)
    large.drop("hero.yaml", FOUR)
    status = large.end("hero")
    assert status["images"]["done"] == 4, status
    for suffix in ("png", "json"):
        files = [f"hero-{n:04}.{suffix}" for n in range(1, 5)]
        assert [name for name in disk.names if name in files] == files
    folder = large.home.job("hero")
    made = [
        json.loads((folder / f"hero-{n:04}.json").read_bytes())["result"]["created_at"]
        for n in range(1, 5)
    ]
    assert made == sorted(made)


@pytest.mark.parametrize(("side", "beside"), [(64, False), (LARGE - 1, False), (LARGE, True)])
def test_a_picture_is_encoded_by_the_writer_where_handing_it_over_would_cost_more(
    large: Spool, encoding: Callable[..., None], side: int, beside: bool
) -> None:
    names = []
    encoding(lambda index: names.append(threading.current_thread().name))
    large.device.side = side
    large.start()
    large.drop("hero.yaml")
    assert large.end("hero")["images"]["done"] == 1
    (name,) = names
    assert name.startswith("encoder") is beside and (name == "writer") is not beside


def test_a_large_picture_that_cannot_be_encoded_fails_and_the_others_do_not(
    large: Spool, encoding: Callable[..., None]
) -> None:
    def stumble(index: int) -> None:
        if index == 2:
            raise ZeroDivisionError("a bug")

    encoding(stumble)
    large.start()
    large.drop("hero.yaml", FOUR)
    status = large.end("hero")
    assert (status["images"]["done"], status["images"]["failed"]) == (3, 1)
    assert "ZeroDivisionError" in status["message"], status
    assert large.pictures("hero") == [f"hero-{n:04}.png" for n in (1, 3, 4)]


def test_a_mistake_that_would_end_a_thread_while_it_encodes_ends_the_runner(
    large: Spool, encoding: Callable[..., None]
) -> None:
    def end(index: int) -> None:
        raise SystemExit("a mistake")

    encoding(end)
    large.start()
    large.drop("hero.yaml", FOUR)
    daemon = daemon_of(large)
    large.until(lambda: daemon.worker.exit_code)
    assert daemon.worker.exit_code == exit_codes.BROKEN
    assert daemon.home.threads.broken == "its thread writer ended by a mistake (SystemExit)"
    large.stop()
    assert not encoders_alive()


def test_where_no_thread_can_be_started_a_large_picture_is_encoded_by_the_writer(
    large: Spool, encoding: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pool: ThreadPoolExecutor) -> None:
        raise RuntimeError("can't start new thread")

    names = Counter[str]()
    encoding(lambda index: names.update([threading.current_thread().name]))
    monkeypatch.setattr(ThreadPoolExecutor, "_adjust_thread_count", refuse)
    large.start()
    large.drop("hero.yaml", FOUR)
    assert large.end("hero")["images"]["done"] == 4
    assert names == {"writer": 4}


def test_a_failed_write_encodes_no_large_picture_twice(
    large: Spool, encoding: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer tries each picture of the group alone."""
    indices, last_begun = Counter[int](), threading.Event()

    def count(index: int) -> None:
        indices[index] += 1
        if index == 1:
            # The next group has the others.
            last_begun.wait(_SOON)

    encoding(count)
    large.device.on_start = lambda task: last_begun.set() if task.index == 4 else None
    large.start()
    outbox = daemon_of(large).spool.outbox
    publish = outbox.publish_images
    refused = []

    def refuse_once(images: Any) -> None:
        if len(images) > 1:
            refused.append(len(images))
            raise OSError("a group of them")
        publish(images)

    monkeypatch.setattr(outbox, "publish_images", refuse_once)
    large.drop("hero.yaml", FOUR)
    assert large.end("hero")["images"]["done"] == 4
    assert refused, "no two pictures were in one group"
    assert set(indices.values()) == {1}


def test_while_large_pictures_wait_no_more_are_made_than_the_memory_may_hold(
    large: Spool, encoding: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_MOST_PIXELS", 2 * LARGE**2)
    go_on = threading.Event()
    encoding(lambda index: go_on.wait(_SOON))
    large.start()
    large.drop("hero.yaml", FOUR.replace("count: 4", "count: 9"))
    # One group is being written, and the next one is full.
    large.until(lambda: daemon_of(large).writer.is_full)
    for _ in range(20):
        daemon_of(large).step(0.0)
    assert len(large.device.started) <= 4
    go_on.set()
    assert large.end("hero")["images"]["done"] == 9


def test_threads_that_encode_start_with_the_first_large_picture_and_end_with_the_runner(
    large: Spool,
) -> None:
    large.start()
    large.device.side = 64
    large.drop("small.yaml")
    large.end("small")
    assert not encoders_alive()
    large.device.side = LARGE
    large.drop("hero.yaml", FOUR)
    large.end("hero")
    assert 1 <= len(encoders_alive()) <= 2
    large.stop()
    assert not encoders_alive()


def test_pictures_that_are_being_encoded_when_the_runner_stops_are_saved_first(
    large: Spool, encoding: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def wait(index: int) -> None:
        begun.set()
        go_on.wait(_SOON)

    encoding(wait)
    large.start()
    large.drop("hero.yaml", FOUR)
    large.until(lambda: begun.is_set() and len(large.device.started) == 4)
    ours = daemon_of(large).writer
    close = ours.close
    monkeypatch.setattr(ours, "close", lambda: (go_on.set(), close()))
    large.stop()
    assert len(large.pictures("hero")) == 4
    large.restart()
    assert large.end("hero")["images"]["done"] == 4
    assert large.device.started == [], "one was made twice"
