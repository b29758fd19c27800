"""Brings the job `hero` into each state in which a request can find it.

Each function starts a daemon, returns once the job is there, and gives back what lets it go on. The
job has three images.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from runner.daemon import writer
from runner.daemon.daemon import Daemon
from tests.spool.conftest import SPEC, Spool
from tests.spool.faulty import FaultyDisk
from tests.spool.inbox.test_inputs import EDIT, png

BULK = SPEC.replace("seed: 7", "seeds: {start: 1, count: 3}")
Go = Callable[[], object]
Column = Callable[[Spool, pytest.MonkeyPatch], Go]


def daemon_of(spool: Spool) -> Daemon:
    """The daemon, which is there."""
    assert spool.daemon is not None
    return spool.daemon


def in_flight(spool: Spool) -> dict[int, str]:
    """The phases of the images in flight, by number, as the ledger has them."""
    rows = daemon_of(spool).ledger._rows("SELECT number, phase FROM in_flight")
    return {row["number"]: row["phase"] for row in rows}


def losses(spool: Spool) -> list[tuple[int, str, str]]:
    """The number, phase and cause of every loss that the ledger has."""
    rows = daemon_of(spool).ledger._rows("SELECT number, phase, why FROM loss")
    return [tuple(row) for row in rows]


def unanswered(spool: Spool, patch: pytest.MonkeyPatch) -> Go:
    """Queued; its status is there, and its file is still in the inbox."""
    disk = FaultyDisk("rename", r"drops/hero", errno.EIO)
    spool.start(disk)
    spool.drop("hero.yaml", BULK)
    spool.until(lambda: disk.failed and spool.status("hero"))
    return lambda: setattr(disk, "broken", False)


def ready(spool: Spool, patch: pytest.MonkeyPatch) -> Go:
    """Queued behind the job `busy`, which has the device."""
    spool.device.by_hand = True
    spool.start()
    spool.drop("busy.yaml")
    spool.until(lambda: spool.device.task)
    _drop(spool, BULK)
    return lambda: _answer(spool)


def paused(spool: Spool, patch: pytest.MonkeyPatch) -> Go:
    """Queued, and the runner is paused."""
    pause = spool.home.inbox / "runner.pause"
    pause.touch()
    spool.start()
    _drop(spool, BULK)
    return pause.unlink


def outside_hours(spool: Spool, patch: pytest.MonkeyPatch) -> Go:
    """Queued for a far moment."""
    spool.start()
    _drop(spool, BULK + 'not_before: "2999-01-01T00:00:00Z"\n')
    return lambda: None


def without_input(spool: Spool, patch: pytest.MonkeyPatch) -> Go:
    """Queued, and an image that its spec names is not there."""
    spool.start()
    _drop(spool, EDIT.format(image="cat.png"))
    return lambda: (spool.home.inbox / "cat.png").write_bytes(png())


def between_images(spool: Spool, patch: pytest.MonkeyPatch) -> Go:
    """Running, its first image saved; the next one waits because the writer is full."""
    spool.device.by_hand = True
    spool.start()
    spool.drop("hero.yaml", BULK)
    spool.until(lambda: spool.device.task)
    most = writer._MOST_WAITING
    patch.setattr(writer, "_MOST_WAITING", 0)
    spool.device.finish()
    spool.until(lambda: not in_flight(spool) and spool.status("hero")["state"] == "running")

    def go() -> None:
        spool.device.by_hand = False
        patch.setattr(writer, "_MOST_WAITING", most)

    return go


def in_mid_image(spool: Spool, patch: pytest.MonkeyPatch) -> Go:
    """Running, its first image saved and the second one in flight."""
    spool.device.by_hand = True
    spool.start()
    spool.drop("hero.yaml", BULK)
    spool.until(lambda: spool.device.task)
    spool.device.finish()
    spool.until(lambda: spool.device.task and spool.device.task.index == 2)
    spool.device.step()
    spool.until(
        lambda: in_flight(spool) == {2: "denoising"} and spool.status("hero")["state"] == "running"
    )
    return lambda: _answer(spool)


def over(spool: Spool, patch: pytest.MonkeyPatch) -> Go:
    """Succeeded."""
    spool.start()
    spool.drop("hero.yaml", BULK)
    spool.end("hero")
    # The ledger knows a little later that the status says so.
    spool.until(lambda: daemon_of(spool).ledger.get(1).is_shown)
    return lambda: None


HELD_OR_READY = [ready, paused, outside_hours, without_input]
UNFINISHED = [unanswered, paused, between_images, in_mid_image]


def each(columns: list[Column]) -> Any:
    """Run a test once for each of these states."""
    names = [column.__name__ for column in columns]
    return pytest.mark.parametrize("column", columns, ids=names)


def _drop(spool: Spool, text: str) -> None:
    spool.drop("hero.yaml", text)
    spool.gone("hero.yaml")
    # Only a job whose file has left for good may begin.
    spool.until(lambda: daemon_of(spool).ledger.is_answered(_seq(spool)))


def _seq(spool: Spool) -> int:
    record = daemon_of(spool).ledger.newest("hero")
    assert record is not None
    return record.seq


def _answer(spool: Spool) -> None:
    spool.device.by_hand = False
    spool.device.finish()
