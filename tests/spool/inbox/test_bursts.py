"""Bursts of drops, lost events, and an inbox that is replaced: the folder is the truth."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from runner.spool.inbox.watcher import Watcher, _Waker
from tests.spool.conftest import SPEC, Spool

MANY = 5000
MOST_GROWTH_MIB = 48
"""What 4,500 waiting jobs may add to the process: the queue is on the disk, not in memory."""


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Spool]:
    """A spool that looks again every quarter of a second, whatever it hears."""
    made = Spool(tmp_path / "home", rescan_seconds=0.25)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def roomy(tmp_path: Path) -> Iterator[Spool]:
    """The same, in memory where there is room: many thousand files are removed in the end."""
    memory = Path("/dev/shm")
    there = memory.is_dir() and shutil.disk_usage(memory).free > 2**30
    with tempfile.TemporaryDirectory(dir=memory if there else tmp_path) as root:
        made = Spool(Path(root) / "home", rescan_seconds=0.25)
        made.start()
        yield made
        made.stop()


@pytest.fixture
def deaf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spool]:
    """The same, with a watch that says nothing, as on a network share."""
    monkeypatch.setattr(_Waker, "on_any_event", lambda waker, event: None)
    made = Spool(tmp_path / "home", rescan_seconds=0.25)
    made.start()
    yield made
    made.stop()


def _burst(spool: Spool, numbers: range) -> None:
    for number in numbers:
        spool.drop(f"job{number}.yaml", SPEC)


def _watcher(spool: Spool) -> Watcher:
    assert spool.daemon is not None
    return spool.daemon.intake.watcher


def _accepted(spool: Spool) -> list[str]:
    """The ids of all jobs in the order of their acceptance."""
    assert spool.daemon is not None
    return [record.id for record in reversed(spool.daemon.ledger.latest(limit=1_000_000))]


def _empty(spool: Spool) -> bool:
    return not any(name.endswith(".yaml") for name in os.listdir(spool.home.inbox))


def _mib() -> float:
    gc.collect()
    return psutil.Process().memory_info().rss / 2**20


def test_a_burst_while_running_is_taken_whole_in_order_and_in_flat_memory(roomy: Spool) -> None:
    assert roomy.daemon is not None
    roomy.drop("runner.pause", "")
    roomy.until(lambda: roomy.daemon is not None and roomy.daemon.intake.controls.paused)
    _burst(roomy, range(500))
    roomy.until(lambda: _empty(roomy))
    before = _mib()
    # The burst comes in the middle of one look, which must not see half of it.
    with roomy.daemon.ledger.transaction():
        roomy.drop("job500.yaml", SPEC)
        _burst(roomy, range(501, MANY))
    roomy.until(lambda: _empty(roomy))
    growth = _mib() - before
    assert _accepted(roomy)[500:] == [f"job{number}" for number in range(500, MANY)]
    assert sorted(_accepted(roomy)[:500]) == sorted(f"job{number}" for number in range(500))
    assert len(list(roomy.home.drops.glob("*.json"))) == MANY
    assert len(list(roomy.home.outbox.glob("*/status.json"))) == MANY
    assert growth < MOST_GROWTH_MIB, f"{growth:.0f} MiB more"


def test_a_burst_of_which_no_event_was_heard_loses_nothing(
    quick: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        # What the kernel does when its queue is full: it drops the events and goes on.
        patch.setattr(_Waker, "on_any_event", lambda waker, event: None)
        _burst(quick, range(300))
        quick.until(lambda: _empty(quick))
    assert sorted(_accepted(quick)) == sorted(f"job{number}" for number in range(300))


def test_a_watch_that_says_nothing_still_gets_its_specs_by_the_timer(deaf: Spool) -> None:
    deaf.drop("renamed.yaml")
    (deaf.home.inbox / "written.yaml").write_text(SPEC, encoding="utf-8")
    assert [status["state"] for status in deaf.over("renamed", "written")] == ["succeeded"] * 2


def test_a_dead_watch_is_armed_again_and_what_came_meanwhile_is_taken(quick: Spool) -> None:
    quick.until(lambda: _watcher(quick).mode == "events")
    observer = _watcher(quick)._observer
    assert observer is not None
    observer.stop()
    observer.join()
    quick.drop("meanwhile.yaml")
    assert quick.end("meanwhile")["state"] == "succeeded"
    quick.until(lambda: _watcher(quick).mode == "events")
    assert _watcher(quick)._observer is not observer


def test_a_handler_that_raises_costs_the_watch_and_no_spec(
    quick: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    died = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda arguments: died.set())

    def fail(waker: _Waker, event: object) -> None:
        raise RuntimeError("a mistake in a handler")

    with monkeypatch.context() as patch:
        patch.setattr(_Waker, "on_any_event", fail)
        quick.drop("first.yaml")
        quick.until(died.is_set)
        quick.end("first")
    quick.until(lambda: _watcher(quick).mode == "events")
    quick.drop("second.yaml")
    assert quick.end("second")["state"] == "succeeded"


def _away(inbox: Path) -> None:
    inbox.rename(inbox.with_name("away"))
    inbox.mkdir()


def _anew(inbox: Path) -> None:
    shutil.rmtree(inbox)
    inbox.mkdir()


def _another(inbox: Path) -> None:
    other = inbox.with_name("other")
    other.mkdir()
    (other / "within.yaml").write_text(SPEC, encoding="utf-8")
    inbox.rename(inbox.with_name("away"))
    other.rename(inbox)


@pytest.mark.parametrize("replace", (_away, _anew, _another))
def test_a_replaced_inbox_is_watched_again(quick: Spool, replace: Callable[[Path], None]) -> None:
    quick.drop("before.yaml")
    quick.end("before")
    replace(quick.home.inbox)
    quick.drop("after.yaml")
    assert quick.end("after")["state"] == "succeeded"
    if replace is _another:
        assert quick.end("within")["state"] == "succeeded"
    now = quick.home.inbox.stat()
    quick.until(lambda: _watcher(quick)._watched == (now.st_dev, now.st_ino))
    quick.until(lambda: _watcher(quick).mode == "events")


def test_an_inbox_that_is_gone_for_a_while_is_waited_for(quick: Spool) -> None:
    quick.home.inbox.rename(quick.home.root / "away")
    quick.until(lambda: _watcher(quick).mode == "polling")
    (quick.home.root / "away").rename(quick.home.inbox)
    quick.drop("after.yaml")
    assert quick.end("after")["state"] == "succeeded"
