"""Bursts of drops, lost events, and an inbox that is replaced: the folder is the truth."""

from __future__ import annotations

import gc
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from runner.spool.watcher import Watcher, _Waker
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
    return [record.id for record in spool.daemon.ledger.select("1 = 1")]


def _empty(spool: Spool) -> bool:
    return not any(name.endswith(".yaml") for name in os.listdir(spool.home.inbox))


def _mib() -> float:
    gc.collect()
    return psutil.Process().memory_info().rss / 2**20


def test_a_burst_while_running_is_taken_whole_in_order_and_in_flat_memory(quick: Spool) -> None:
    assert quick.daemon is not None
    quick.drop("runner.pause", "")
    quick.until(lambda: quick.daemon is not None and quick.daemon.intake.controls.paused)
    _burst(quick, range(500))
    quick.until(lambda: _empty(quick))
    before = _mib()
    # The burst comes in the middle of one look, which must not see half of it.
    with quick.daemon.ledger.transaction():
        quick.drop("job500.yaml", SPEC)
        _burst(quick, range(501, MANY))
    quick.until(lambda: _empty(quick))
    growth = _mib() - before
    assert _accepted(quick)[500:] == [f"job{number}" for number in range(500, MANY)]
    assert sorted(_accepted(quick)[:500]) == sorted(f"job{number}" for number in range(500))
    assert len(list(quick.home.drops.glob("*.json"))) == MANY
    assert len(list(quick.home.outbox.glob("*/status.json"))) == MANY
    assert growth < MOST_GROWTH_MIB, f"{growth:.0f} MiB more"
