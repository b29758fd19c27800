"""Three ways of taking specs out of a folder: this runner, and the two that most programs use.

The other two are as small as they can be, read and validate specs as this runner does, and ignore
the same names; they differ from it only in how they tell that a file is complete.
"""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from runner.daemon.daemon import Daemon
from runner.job import FINAL_STATES
from runner.settings import Home, Settings
from runner.spool.store.names import is_spec
from specs.errors import SpecInvalid
from specs.read import read
from specs.validate import validate
from tests.spool.device import FlatColours
from tests.spool.writers import FORMS


@dataclass(frozen=True)
class Taken:
    """One file that was taken: what was read, whether it was run, and the sidecar of its image."""

    name: str
    data: bytes
    ran: bool
    sidecar: dict[str, Any] | None = None


class Taker:
    """Takes specs out of an inbox, its own way; used within `with`."""

    inbox: Path
    taken: list[Taken]

    def __init__(self, root: Path) -> None:
        self.inbox = root / "inbox"
        self.inbox.mkdir(parents=True)
        self.taken = []
        self._stop = threading.Event()

    def work(self) -> None:
        """Go on for a moment."""
        self._stop.wait(0.02)

    def is_done(self, last: str) -> bool:
        """Whether everything was looked at, the file that came last included."""
        return any(taken.name == last for taken in self.taken)

    def _take(self, path: Path) -> None:
        try:
            data = path.read_bytes()
            path.unlink()
        except FileNotFoundError:
            return
        try:
            validate(read(data, json=path.suffix == ".json"))
        except SpecInvalid:
            self.taken.append(Taken(path.name, data, ran=False))
        else:
            self.taken.append(Taken(path.name, data, ran=True))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()


class SizeStable(Taker):
    """Takes a file whose size has not changed for a second."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._seen: dict[Path, tuple[int, float]] = {}

    def work(self) -> None:
        self._stop.wait(0.1)
        now = time.monotonic()
        for path in [path for path in self.inbox.iterdir() if is_spec(path.name)]:
            try:
                size = path.stat().st_size
            except FileNotFoundError:
                continue
            known, since = self._seen.get(path, (-1, now))
            if size != known:
                self._seen[path] = (size, now)
            elif now - since >= 1.0:
                self._take(path)
                del self._seen[path]


class OnClose(Taker, FileSystemEventHandler):
    """Takes a file as soon as somebody who had it open for writing has closed it."""

    def __enter__(self) -> Self:
        self._observer = Observer()
        self._observer.schedule(self, str(self.inbox), recursive=False)
        self._observer.start()
        return self

    def on_closed(self, event: FileSystemEvent) -> None:
        path = Path(os.fsdecode(event.src_path))
        if is_spec(path.name):
            self._take(path)

    def __exit__(self, *exc: object) -> None:
        self._observer.stop()
        self._observer.join()


class Runner(Taker):
    """This runner, whole, rendering flat colours."""

    settings = Settings()

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._home = Home(root, self.settings)
        self._home.prepare()
        self._daemon = Daemon(self._home, FlatColours())

    def work(self) -> None:
        self._daemon.step(0.02)

    def is_done(self, last: str) -> bool:
        if any(is_spec(name) for name in os.listdir(self.inbox)):
            return False
        self.taken = [self._result(path) for path in self._home.outbox.glob("*/status.json")]
        return all(taken.name for taken in self.taken)

    def _result(self, file: Path) -> Taken:
        status = json.loads(file.read_bytes())
        if status["state"] not in FINAL_STATES:
            return Taken("", b"", ran=False)
        data = (file.parent / f"spec{Path(status['source']['name']).suffix}").read_bytes()
        sidecar = file.parent / f"{status['id']}-0001.json"
        ran = status["state"] != "rejected"
        name = status["source"]["name"]
        return Taken(name, data, ran, json.loads(sidecar.read_bytes()) if ran else None)

    def __enter__(self) -> Self:
        self._daemon.open()
        return self

    def __exit__(self, *exc: object) -> None:
        self._daemon.close()


class StrictRunner(Runner):
    """This runner with `strict` on."""

    settings = Settings(strict=True)


TAKERS: dict[str, tuple[type[Taker], tuple[str, ...]]] = {
    "fluxdrop": (Runner, FORMS),
    "fluxdrop, strict": (StrictRunner, ("marked", "json")),
    "size stable for 1 s": (SizeStable, FORMS),
    "on close alone": (OnClose, FORMS),
}
