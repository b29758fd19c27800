"""What the ends of a process cost a job: who is charged, when an image or a load is given up.

In all of this each end of a job is told once: `told` looks after every test here,
in `test_requests.py` and in `test_interruptions.py`.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.daemon.daemon import Daemon
from runner.executor import Progressed
from runner.exit_codes import LAST_END
from runner.job import Phase
from runner.spool.disk.disk import Disk, StrPath
from runner.spool.store.ledger import MOST_LOSSES
from tests.daemon import columns
from tests.daemon.columns import Column, daemon_of, each, in_flight, losses
from tests.daemon.test_batches import FourAtOnce
from tests.spool.conftest import SPEC, Spool
from tests.spool.deaths import die, start_again
from tests.spool.device import FlatColours

SIX = SPEC.replace("seed: 7", "seeds: {start: 1, count: 6}")
EIGHT = SPEC.replace("seed: 7", "seeds: {start: 1, count: 8}")


@pytest.fixture(autouse=True)
def killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the supervisor tells each runner of the one before it."""
    monkeypatch.setenv(LAST_END, "killed by SIGKILL")


def hold_at(spool: Spool, number: int) -> None:
    """Have the device answer by itself, but for this image."""
    spool.device.on_start = lambda task: setattr(spool.device, "by_hand", task.index == number)


def is_in_mid_image(spool: Spool, number: int) -> bool:
    """Whether this image is in flight and the ledger knows that it is being made."""
    device, told = spool.device, in_flight(spool).get(number)
    if told in ("starting", "begun"):
        device.step()
    return device.task is not None and device.task.index == number and told == "denoising"


def start_by_hand(spool: Spool) -> None:
    """Start a runner whose device waits to be told, on one job."""
    spool.device.by_hand = True
    spool.start()
    spool.drop("hero.yaml")


def answer_and_succeed(spool: Spool) -> None:
    """Let the device answer, with which the job is over."""
    spool.until(lambda: spool.device.task)
    spool.device.finish()
    assert spool.end("hero")["state"] == "succeeded"


def test_five_kills_with_progress_between_them_fail_nothing(told: Spool) -> None:
    hold_at(told, 2)
    told.start()
    told.drop("hero.yaml", EIGHT)
    for number, following in zip((2, 3, 5, 6, 8), (3, 5, 6, 8, 0), strict=True):
        told.until(lambda n=number: is_in_mid_image(told, n))
        die(told)
        told.device = FlatColours()
        hold_at(told, following)
        told.start()
        assert losses(told) == [(number, "denoising", "killed by SIGKILL")]
    status = told.end("hero")
    assert (status["state"], status["images"]["done"], status["attempt"]) == ("succeeded", 8, 6)
    assert losses(told) == []


class Waiting(Disk):
    """A disk on which some files are each not written before it is told to go on."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names
        self.reached, self.go = threading.Event(), threading.Semaphore(0)

    def before(self, operation: str, path: StrPath, **details: Any) -> None:
        if operation == "write" and any(name in str(details["target"]) for name in self.names):
            self.reached.set()
            self.go.acquire(timeout=60)


@pytest.fixture
def disk() -> Iterator[Waiting]:
    """A disk on which the picture of the third image waits to be written."""
    made = Waiting("hero-0003.png")
    yield made
    made.go.release()


def killed_now(spool: Spool, root: Path) -> Spool:
    """Another home, as a kill of the runner at this moment would leave this one."""
    with daemon_of(spool).ledger.transaction(durable=False):
        shutil.copytree(spool.home.root, root)
    return Spool(root)


@pytest.mark.parametrize("unsaved", [False, True], ids=["alone", "one before it unsaved"])
def test_one_image_that_ends_the_process_fails_alone_after_exactly_three_kills(
    told: Spool, tmp_path: Path, disk: Waiting, *, unsaved: bool
) -> None:
    spool = told
    hold_at(spool, 3)
    spool.start(disk if unsaved else None)
    spool.drop("hero.yaml", SIX)
    spool.until(lambda: is_in_mid_image(spool, 3) and len(in_flight(spool)) == 1)
    hold_at(spool, 4)
    spool.device.finish()
    if unsaved:
        # Its phase is told with the next status, which waits for the picture before.
        spool.until(lambda: disk.reached.is_set() and in_flight(spool).get(4) == "begun")
        assert in_flight(spool).keys() == {3, 4}
        spool = killed_now(spool, tmp_path / "killed")
        disk.go.release()
    else:
        spool.until(lambda: is_in_mid_image(spool, 4))
        die(spool)
    kills = 1
    try:
        while True:
            spool.device = FlatColours()
            hold_at(spool, 4)
            spool.start()
            spool.until(lambda: spool.is_over("hero") or is_in_mid_image(spool, 4))
            if spool.is_over("hero"):
                break
            die(spool)
            kills += 1
        assert kills == MOST_LOSSES
        status = spool.status("hero")
        assert (status["state"], status["reason"]) == ("failed", "CrashLoop")
        assert status["images"] == {"total": 6, "done": 5, "failed": 1, "skipped": 0, "reused": 0}
        assert [output["seed"] for output in status["outputs"]] == [1, 2, 3, 5, 6]
        assert "1 of 6 images" in status["message"]
        first = f"gpu0, {'begun' if unsaved else 'denoising'}: killed by SIGKILL"
        later = "gpu0, denoising: killed by SIGKILL"
        assert f"({first}; {later}; {later})" in status["message"]
        spool.until(lambda: ended(spool) == ["hero"])
    finally:
        spool.stop()


def test_what_may_end_the_process_waits_until_all_before_it_is_written_and_so_does_what_follows(
    told: Spool,
) -> None:
    hold_at(told, 2)
    told.start()
    told.drop("hero.yaml", SIX)
    told.until(lambda: is_in_mid_image(told, 2) and told.pictures("hero"))
    die(told)
    (told.home.job("hero") / "hero-0001.png").unlink()
    told.device = FlatColours()
    disk = Waiting("-0001.png", "-0002.png")
    told.start(disk)
    try:
        for number in (1, 2):
            told.until(disk.reached.is_set)
            for _ in range(5):
                daemon_of(told).step(0.0)
            assert told.device.started == [("hero", n) for n in range(1, number + 1)]
            disk.reached.clear()
            disk.go.release()
        status = told.end("hero")
        assert (status["state"], status["images"]["done"]) == ("succeeded", 6)
    finally:
        disk.go.release(2)


def ended(spool: Spool) -> list[str]:
    """The ids of all jobs of whose end the ledger tells, in order."""
    return [event.id for event in daemon_of(spool).ledger.events_for("nobody", 99)]


class Poisoned(FourAtOnce):
    """Up to four at once; whatever has the second image in hand gets no answer."""

    def start(self, slot: str, tasks: Any) -> None:
        self.by_hand = any(task.index == 2 for task in tasks)
        super().start(slot, tasks)

    def step(self, step: int = 1) -> None:
        for task in self.hand:
            self.events.put(Progressed("gpu0", task, Phase.DENOISING, step, task.steps))


def test_of_a_batch_only_the_image_that_ends_the_process_fails(told: Spool) -> None:
    told.device = Poisoned()
    told.start()
    told.drop("hero.yaml", SPEC.replace("seed: 7", "seeds: {start: 1, count: 4}"))
    goes = []
    for kills in range(1, MOST_LOSSES + 1):
        told.until(lambda: told.device.hand)  # type: ignore[attr-defined]
        told.device.step()
        told.until(lambda: set(in_flight(told).values()) == {"denoising"})
        die(told)
        goes += told.device.goes  # type: ignore[attr-defined]
        told.device = Poisoned()
        told.start()
        suspects = daemon_of(told).ledger.suspect_images(1)
        assert suspects == {1: {1, 2, 3, 4}, 2: {2, 3, 4}, 3: {3, 4}}[kills]
    status = told.end("hero")
    # The first go shows who may be the culprit; from then on each is made alone.
    assert goes + told.device.goes == [[1, 2, 3, 4], [1], [2], [2], [3], [4]]  # type: ignore[attr-defined]
    assert (status["state"], status["reason"]) == ("failed", "CrashLoop")
    assert status["images"] == {"total": 4, "done": 3, "failed": 1, "skipped": 0, "reused": 0}
    assert [output["seed"] for output in status["outputs"]] == [1, 3, 4]


def test_ten_stops_in_mid_image_charge_nobody(told: Spool) -> None:
    start_by_hand(told)
    for _ in range(10):
        told.until(lambda: is_in_mid_image(told, 1))
        told.stop()
        told.device = FlatColours(by_hand=True)
        told.start()
        assert losses(told) == []
    told.device.by_hand = False
    status = told.end("hero")
    assert (status["state"], status["attempt"]) == ("succeeded", 1)


def test_kills_after_a_stop_was_asked_charge_nobody(told: Spool) -> None:
    start_by_hand(told)
    for _ in range(MOST_LOSSES + 1):
        told.until(lambda: is_in_mid_image(told, 1))
        daemon_of(told).ledger.stopping()
        die(told)
        told.device = FlatColours(by_hand=True)
        told.start()
        assert losses(told) == []
    told.device.by_hand = False
    status = told.end("hero")
    assert (status["state"], status["attempt"]) == ("succeeded", 1)


# -- loads -------------------------------------------------------------------------------------


def die_in(spool: Spool, *phases: Phase) -> None:
    """Report these phases of the first image, end the process in the last, and start again."""
    spool.until(lambda: spool.device.task)
    assert spool.device.task is not None
    for phase in phases:
        spool.device.events.put(Progressed("gpu0", spool.device.task, phase))
    if phases:
        spool.until(lambda: phases[-1] in in_flight(spool).values())
    die(spool)
    spool.device = FlatColours(by_hand=True)
    spool.start()


def test_three_deaths_while_one_model_loads_fail_the_job_and_the_next_one_tries_again(
    told: Spool,
) -> None:
    told.device.by_hand = True
    told.start()
    told.drop("hero.yaml", SIX)
    for kills in range(1, MOST_LOSSES + 1):
        die_in(told, Phase.LOADING)
        assert told.status("hero").get("reason") is None or kills == MOST_LOSSES
        # No image is charged, so that none is made alone.
        assert daemon_of(told).ledger.suspect_images(1) == frozenset()
    status = told.end("hero")
    assert (status["state"], status["reason"]) == ("failed", "CrashLoop")
    assert "loading tiny ended its process 3 times" in status["message"]
    assert status["message"].count("gpu0, loading: killed by SIGKILL") == 3
    assert status["images"] == {"total": 6, "done": 0, "failed": 0, "skipped": 0, "reused": 0}
    told.drop("next.yaml")
    die_in(told, Phase.LOADING)
    assert daemon_of(told).ledger.get(2).state == "queued"
    told.device.by_hand = False
    assert told.end("next")["state"] == "succeeded"


def test_a_load_that_completes_clears_the_deaths_before_it(told: Spool) -> None:
    start_by_hand(told)
    for _ in range(MOST_LOSSES - 1):
        die_in(told, Phase.LOADING)
    assert [phase for _, phase, _ in losses(told)] == ["loading"] * (MOST_LOSSES - 1)
    die_in(told, Phase.LOADING, Phase.DENOISING)
    assert [phase for _, phase, _ in losses(told)] == ["denoising"]
    for _ in range(MOST_LOSSES - 1):
        die_in(told, Phase.LOADING)
    assert not told.is_over("hero")
    answer_and_succeed(told)


def test_a_death_is_charged_though_a_completed_load_has_cleared_an_earlier_one(
    told: Spool,
) -> None:
    start_by_hand(told)
    die_in(told, Phase.LOADING)
    die_in(told)
    # Nothing was heard of the image: it is suspected, and not charged.
    die_in(told, Phase.LOADING, Phase.DENOISING)
    assert [phase for _, phase, _ in losses(told)] == ["starting", "denoising"]
    die_in(told, Phase.LOADING)
    die_in(told, Phase.LOADING, Phase.DENOISING)
    assert [phase for _, phase, _ in losses(told)] == ["starting", "denoising", "denoising"]
    answer_and_succeed(told)


def test_a_completed_load_clears_no_death_of_another_kind(told: Spool) -> None:
    start_by_hand(told)
    die_in(told, Phase.LOADING)
    die_in(told, Phase.LOADING, Phase.ENCODING)
    die_in(told, Phase.LOADING, Phase.ENCODING, Phase.LOADING, Phase.DENOISING)
    assert [phase for _, phase, _ in losses(told)] == ["encoding", "denoising"]
    answer_and_succeed(told)


def test_ends_before_anything_was_heard_of_an_image_fail_nothing(told: Spool) -> None:
    start_by_hand(told)
    for _ in range(MOST_LOSSES + 1):
        die_in(told)
    told.until(lambda: told.device.task)
    assert told.device.task is not None and told.device.task.suspect
    told.device.finish()
    assert told.end("hero")["state"] == "succeeded"


# -- told once ---------------------------------------------------------------------------------


def unpublished(spool: Spool, patch: pytest.MonkeyPatch) -> Callable[[], object]:
    """Succeeded, and its status does not say so yet."""
    disk = columns.FaultyDisk("write", r"hero/(status|index)", columns.errno.EIO, broken=False)
    spool.device.on_start = lambda task: setattr(disk, "broken", True)
    spool.start(disk)
    spool.drop("hero.yaml")
    spool.until(lambda: any(record.is_final for record in daemon_of(spool).ledger.behind()))
    return lambda: setattr(disk, "broken", False)


@each([*columns.UNFINISHED, unpublished, columns.over])
def test_an_end_is_told_once_whenever_a_kill_comes_and_only_when_its_status_says_so(
    told: Spool, monkeypatch: pytest.MonkeyPatch, column: Column
) -> None:
    column(told, monkeypatch)
    assert ended(told) == (["hero"] if column is columns.over else [])
    die(told)
    monkeypatch.undo()
    (told.home.inbox / "runner.pause").unlink(missing_ok=True)
    start_again(told)
    told.drop("next.yaml")
    told.over("hero", "next")
    told.until(lambda: len(ended(told)) >= 2)
    assert sorted(ended(told)) == ["hero", "next"]
    told.stop()
    with Daemon(told.home, FlatColours()) as daemon:
        assert len(daemon.ledger.events_for("nobody", 99)) == 2


@pytest.mark.parametrize(
    "before",
    [(Phase.PREPROCESSING,), (Phase.LOADING, Phase.ENCODING)],
    ids=["preprocessing", "encoding"],
)
def test_what_is_done_before_a_load_does_not_clear_the_deaths_of_earlier_ones(
    told: Spool, before: tuple[Phase, ...]
) -> None:
    start_by_hand(told)
    for _ in range(3):
        die_in(told, *before, Phase.LOADING)
    status = told.end("hero")
    assert (status["state"], status["reason"]) == ("failed", "CrashLoop")


def test_one_death_while_a_batch_loads_its_model_counts_as_one(told: Spool) -> None:
    told.device = FourAtOnce()
    told.device.by_hand = True
    told.start()
    told.drop("hero.yaml", SPEC.replace("seed: 7", "seeds: {start: 1, count: 4}"))
    told.until(lambda: told.device.hand)
    told.device.events.put(Progressed("gpu0", told.device.hand[0], Phase.LOADING))
    told.until(lambda: "loading" in in_flight(told).values())
    die(told)
    told.device = FourAtOnce()
    told.start()
    assert told.end("hero")["state"] == "succeeded"
