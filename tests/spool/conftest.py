"""A home with a daemon in this process, turned by hand."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from runner.daemon.daemon import Daemon
from runner.settings import Home, Settings
from runner.spool.disk.disk import Disk
from runner.wire import read_json
from tests.spool.composing import write_many
from tests.spool.device import FlatColours

SPEC = "kind: text2img\nmodel: tiny\nprompt: a red circle on a blue background\nseed: 7\n"
_DEADLINE = 50.0


class Spool:
    """One home, its daemon and its device; drops files and reads what comes out."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.home = Home(root, Settings(**{"settle_seconds": 0.05, **settings}))
        self.home.prepare()
        self.device = FlatColours()
        self.daemon: Daemon | None = None
        self.history: dict[str, list[str]] = {}

    def start(self, disk: Disk | None = None) -> None:
        """Start a daemon on the home."""
        self.daemon = Daemon(self.home, self.device, disk=disk)
        self.daemon.open()

    def stop(self) -> None:
        """Stop the daemon as SIGTERM would."""
        if self.daemon is not None:
            self.daemon.close()
            self.daemon = None

    def restart(self) -> None:
        """Stop, and start again with a fresh device."""
        self.stop()
        self.device = FlatColours()
        self.start()

    def drop(self, name: str, text: str | bytes = SPEC) -> Path:
        """Rename a file into the inbox, as a careful caller does."""
        data = text.encode() if isinstance(text, str) else text
        aside = self.home.inbox / ".tmp" / f"{name}-{time.monotonic_ns()}"
        aside.parent.mkdir(exist_ok=True)
        aside.write_bytes(data)
        target = self.home.inbox / name
        os.replace(aside, target)
        return target

    def until(self, condition: Callable[[], Any]) -> Any:
        """Turn the worker until a condition holds; its value."""
        deadline = time.monotonic() + _DEADLINE
        while not (value := condition()):
            assert time.monotonic() < deadline, f"never happened; statuses: {self._states()}"
            assert self.daemon is not None
            self.daemon.step(0.02)
        return value

    def status(self, job: str) -> dict[str, Any]:
        """The status file of a job; empty while there is none."""
        return read_json(self.home.job(job) / "status.json") or {}

    def is_over(self, job: str) -> bool:
        """Whether a job's status is final."""
        return self.status(job).get("state") in ("succeeded", "failed", "cancelled", "rejected")

    def over(self, *jobs: str) -> list[dict[str, Any]]:
        """Turn until these jobs are over; their statuses."""
        self.until(lambda: all(self.is_over(job) for job in jobs))
        return [self.status(job) for job in jobs]

    def end(self, job: str) -> dict[str, Any]:
        """Turn until one job is over; its status."""
        return self.over(job)[0]

    def receipt(self, name: str) -> dict[str, Any]:
        """The receipt of a dropped file, once that file has left the inbox."""
        self.gone(name)
        return json.loads((self.home.drops / f"{name}.json").read_bytes())

    def gone(self, name: str) -> None:
        """Turn until a file has left the inbox."""
        self.until(lambda: not (self.home.inbox / name).exists())

    def pictures(self, job: str) -> Sequence[str]:
        """The names of a job's pictures."""
        return sorted(path.name for path in self.home.job(job).glob(f"{job}-*.png"))

    def _states(self) -> dict[str, Any]:
        return {
            path.parent.name: json.loads(path.read_bytes())["state"]
            for path in self.home.outbox.glob("*/status.json")
        }


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    """A started spool in an empty home."""
    made = Spool(tmp_path / "home")
    made.start()
    yield made
    made.stop()


@pytest.fixture
def idle_spool(tmp_path: Path) -> Iterator[Spool]:
    """A home whose daemon the test starts itself."""
    made = Spool(tmp_path / "home")
    yield made
    made.stop()


@pytest.fixture
def packed(spool: Spool) -> Spool:
    """A started spool in a home with a pack of ten thousand prompts."""
    write_many(spool.home.prompts)
    return spool
