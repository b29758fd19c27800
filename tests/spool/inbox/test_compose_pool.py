"""Plans aside: while the prompts of a large `compose` are made, everything else goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from runner.spool.inbox.assess import Assessment
from runner.spool.inbox.compose_pool import ComposePool, PendingDrop, may_compose
from runner.spool.inbox.compose_process import ComposeProcess
from runner.spool.inbox.settle import Drop, drop_at
from tests.daemon.columns import daemon_of
from tests.spool.composing import LARGE, SMALL, write_many
from tests.spool.conftest import SPEC, Spool
from tests.spool.deaths import die, start_again
from tests.spool.inbox.test_control import cancel


class Held:
    """Planners that answer when told to, as if their work took long."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.free = threading.Event()
        self._judge = ComposeProcess.assess

    def __call__(self, planner: ComposeProcess, drop: Drop, *rest: Any) -> Assessment:
        self.asked.append(drop.name)
        assert self.free.wait(60)
        return self._judge(planner, drop, *rest)


@pytest.fixture
def held(packed: Spool, monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """Planners held up until the test lets them go."""
    made = Held()
    with monkeypatch.context() as patch:
        patch.setattr(ComposeProcess, "assess", lambda planner, *order: made(planner, *order))
        yield made
        made.free.set()


def asides(spool: Spool) -> list[PendingDrop]:
    """What is being planned."""
    assert spool.daemon is not None
    return list(spool.daemon.intake._compose_pool)


def answered(spool: Spool, job: str) -> bool:
    """Whether a job is there and may have its turn."""
    assert spool.daemon is not None
    record = spool.daemon.ledger.newest(job)
    return record is not None and spool.daemon.ledger.is_answered(record.seq)


def planners() -> list[psutil.Process]:
    """The processes that plan for this one."""
    found = []
    for child in psutil.Process().children():
        try:
            words = " ".join(child.cmdline())
        except psutil.Error:  # it ended while it was looked at
            continue
        if "multiprocessing.spawn" in words:
            found.append(child)
    return found


def start_planning(spool: Spool, name: str = "big.yaml", text: str = LARGE) -> None:
    """Drop a spec and turn until it is being planned."""
    spool.drop(name, text)
    spool.until(lambda: any(aside.drop.name == name for aside in asides(spool)))


def test_while_ten_thousand_prompts_are_planned_other_drops_are_accepted_and_run(
    packed: Spool,
) -> None:
    start_planning(packed)
    packed.until(planners)
    packed.drop("plain.yaml")
    assert packed.end("plain")["state"] == "succeeded"
    packed.drop("small.yaml", SMALL)
    assert packed.end("small")["images"]["done"] == 2
    assert (packed.home.inbox / "big.yaml").exists() and not packed.status("big")
    cancel(packed, "big.yaml")
    status = packed.end("big")
    assert (status["state"], status["images"]["total"]) == ("cancelled", 0)
    assert "drop the spec again" in status["message"]
    assert packed.receipt("big.yaml")["outcome"] == "accepted"
    assert not {job for job, _ in packed.device.started} - {"plain", "small"}
    packed.until(lambda: not planners())


def test_two_specs_are_planned_at_once_and_the_third_has_its_turn_after_them(
    packed: Spool, held: Held
) -> None:
    for name in ("a.yaml", "b.yaml", "c.yaml"):
        start_planning(packed, name, SMALL)
    packed.until(lambda: sorted(held.asked) == ["a.yaml", "b.yaml"])
    assert sum(thread.name.startswith("compose ") for thread in threading.enumerate()) == 2
    held.free.set()
    assert [status["state"] for status in packed.over("a", "b", "c")] == ["succeeded"] * 3
    packed.until(lambda: not planners())
    packed.drop("d.yaml", SMALL)
    assert packed.end("d")["state"] == "succeeded"


def test_a_thread_that_ends_its_process_shares_its_name_with_no_other(
    packed: Spool, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: two were `compose 2`, and of the one that went on nobody knew."""
    slow, close = threading.Event(), ComposeProcess.__exit__

    def closing(process: ComposeProcess, *error: Any) -> None:
        assert slow.wait(60)
        close(process, *error)

    monkeypatch.setattr(ComposeProcess, "__exit__", closing)
    still = daemon_of(packed).home.threads.still
    for name in ("a.yaml", "b.yaml"):
        start_planning(packed, name, SMALL)
    packed.until(lambda: len(held.asked) == 2)
    held.free.set()
    # Both threads have nothing more to do, and end slowly.
    packed.over("a", "b")
    packed.until(lambda: daemon_of(packed).intake._compose_pool._threads == 0)
    held.free.clear()
    for name in ("c.yaml", "d.yaml"):
        start_planning(packed, name, SMALL)
    packed.until(lambda: len(held.asked) == 4)
    names = [thread.name for thread in threading.enumerate() if "compose" in thread.name]
    assert len(names) == len(set(names)) == 4
    slow.set()
    packed.until(lambda: len([name for name in still() if "compose" in name]) == 2)
    held.free.set()
    assert [status["state"] for status in packed.over("c", "d")] == ["succeeded"] * 2


@pytest.mark.parametrize("name", ["big.yaml", "big"])
def test_a_cancel_by_file_or_by_id_stops_a_plan_at_once(
    packed: Spool, held: Held, name: str
) -> None:
    start_planning(packed)
    cancel(packed, name)
    assert packed.end("big")["state"] == "cancelled"
    held.free.set()
    packed.drop("next.yaml", SMALL)
    assert packed.end("next")["state"] == "succeeded"
    assert packed.status("big")["state"] == "cancelled"


def test_a_cancel_that_came_before_a_spec_with_compose_keeps_it_from_being_planned(
    packed: Spool, held: Held
) -> None:
    (packed.home.inbox / "big.cancel").touch()
    packed.drop("big.yaml", LARGE)
    assert packed.end("big")["state"] == "cancelled"
    assert held.asked == []


def test_a_cancelled_plan_holds_no_id_and_its_spec_can_be_dropped_again(
    packed: Spool, held: Held
) -> None:
    text = SMALL + "id: mine\n"
    start_planning(packed, text=text)
    cancel(packed, "mine")
    assert packed.end("mine")["state"] == "cancelled"
    (packed.home.inbox / "mine.retry").touch()
    assert packed.receipt("mine.retry")["outcome"] == "rejected"
    held.free.set()
    packed.drop("again.yaml", text)
    packed.until(lambda: packed.status("mine").get("state") == "succeeded")
    assert packed.receipt("again.yaml")["outcome"] == "accepted"


def test_what_is_planned_aside_keeps_its_place_among_equals(packed: Spool, held: Held) -> None:
    packed.device.by_hand = True
    packed.drop("busy.yaml")
    packed.until(lambda: packed.device.task)
    start_planning(packed, "first.yaml", SMALL)
    packed.drop("second.yaml")
    packed.until(lambda: answered(packed, "second"))
    held.free.set()
    packed.until(lambda: answered(packed, "first"))
    packed.device.by_hand = False
    packed.device.finish()
    packed.over("busy", "first", "second")
    assert [job for job, _ in packed.device.started] == ["busy", "first", "first", "second"]


def test_a_spec_removed_while_it_is_planned_leaves_nothing(packed: Spool, held: Held) -> None:
    start_planning(packed)
    (packed.home.inbox / "big.yaml").unlink()
    assert packed.daemon is not None
    packed.daemon.intake.wake.set()
    packed.until(lambda: not asides(packed))
    held.free.set()
    packed.drop("next.yaml", SMALL)
    packed.end("next")
    assert not packed.home.job("big").exists()


def test_a_spec_replaced_while_it_is_planned_is_planned_as_it_is_now(
    packed: Spool, held: Held
) -> None:
    start_planning(packed)
    packed.drop("big.yaml", SMALL)
    packed.until(lambda: held.asked == ["big.yaml"] * 2)
    held.free.set()
    status = packed.end("big")
    assert (status["state"], status["images"]["total"]) == ("succeeded", 2)
    assert not packed.home.job("big-2").exists()


def test_a_runner_that_dies_while_it_plans_loses_nothing(packed: Spool, held: Held) -> None:
    start_planning(packed, text=SMALL)
    die(packed)
    assert (packed.home.inbox / "big.yaml").exists()
    held.free.set()
    start_again(packed)
    assert packed.end("big")["images"]["done"] == 2
    assert not packed.home.job("big-2").exists()


def test_a_spec_that_no_thread_can_plan_now_is_planned_when_one_can(
    packed: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[str] = []
    start = threading.Thread.start

    def reluctant(thread: threading.Thread) -> None:
        if thread.name.startswith("compose ") and not refused:
            refused.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", reluctant)
    packed.drop("small.yaml", SMALL)
    assert packed.end("small")["images"]["done"] == 2
    assert refused


def test_a_plan_that_breaks_the_rules_is_rejected_like_any_spec(packed: Spool) -> None:
    packed.drop("dark.yaml", SMALL.replace("variables: v1", "variables: v1, extra: a moon"))
    status = packed.end("dark")
    assert (status["state"], status["reason"]) == ("rejected", "PromptForbidden")
    packed.drop("lost.yaml", SMALL.replace("pack: many", "pack: none"))
    assert packed.end("lost")["reason"] == "PackMissing"
    packed.drop("wrong.yaml", SMALL + "stpes: 4\n")
    assert packed.end("wrong")["errors"][0]["path"] == "stpes"


def test_a_cancel_waits_for_its_spec_as_long_as_any_is_planned(packed: Spool, held: Held) -> None:
    start_planning(packed, text=SMALL + "id: mine\n")
    assert packed.daemon is not None
    controls = packed.daemon.intake.controls
    (packed.home.inbox / "other.cancel").touch()
    for moment in (1000.0, 1061.0):
        controls.obey(["other.cancel"], moment, composing=True)
    assert controls.awaits("other", "whatever.yaml")


def test_a_drain_ends_with_the_plan_it_waited_for(tmp_path: Path) -> None:
    # Nothing but the plan's end wakes this one.
    spool = Spool(tmp_path / "home", rescan_seconds=3600.0)
    write_many(spool.home.prompts)
    spool.drop("small.yaml", SMALL)
    spool.start()
    assert spool.daemon is not None
    assert spool.daemon.drain().counts["succeeded"] == 1
    spool.stop()


@pytest.mark.parametrize(
    "text, may",
    [
        (LARGE, True),
        ('{"kind": "text2img", "compose": {}}', True),
        ("{kind: text2img,compose: {}}", True),
        (SPEC, False),
        ("prompt: a composed picture, recompose: it\n", False),
    ],
)
def test_only_a_spec_that_has_the_key_may_compose(text: str, may: bool) -> None:
    assert may_compose(Drop("x.yaml", text.encode(), ())) == may


@pytest.mark.parametrize("change", [Path.unlink, Path.touch])
def test_a_drop_is_forgotten_when_its_file_is_gone_or_has_changed(
    packed: Spool, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    monkeypatch.setattr("runner.spool.inbox.compose_pool._MOST_PROCESSES", 0)
    assert packed.daemon is not None
    pool = ComposePool(packed.home, packed.daemon.intake._catalogue, threading.Event())
    file = packed.home.inbox / ".tmp" / "x.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(SMALL, encoding="utf-8")
    pending = PendingDrop(drop_at(file, "x.yaml"), Assessment(), 1)
    pool.begin(pending)
    assert pool.find(file) is pending and len(pool) == 1
    change(file)
    assert pool.find(file) is None and len(pool) == 0 and pending.given_up
