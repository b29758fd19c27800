"""The watch on the inbox: wakes the intake, and does nothing else.

Events are hints; the folder is the truth. A handler that raised would end watchdog's thread, so
the one here only sets a flag; a watch that died or looks at another folder is found by `tend`,
which is called on a timer and arms it again. Nothing here reads or decides.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any

from watchdog.events import (
    FileClosedEvent,
    FileCreatedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from runner.spool.disk.platform import own_file

_MOST_NAMES = 10_000
# Not our own opening, reading and removing, which would be five events a spec.
_HEARD = (FileCreatedEvent, FileModifiedEvent, FileMovedEvent, FileClosedEvent)
_WATCHDOG_LOG = "watchdog.observers"
_TRY_SECONDS = 60.0
_TRY_AGAIN_SECONDS = 5.0
_HEARD_WITHIN_SECONDS = 2.0
_MOST_SILENT = 3


class _Waker(FileSystemEventHandler):
    def __init__(self, wake: threading.Event) -> None:
        self._wake = wake
        self.renamed_in: set[str] = set()
        self.heard = 0

    def on_any_event(self, event: FileSystemEvent) -> None:
        self.heard += 1
        name = os.path.basename(os.fsdecode(event.dest_path or event.src_path))
        if name.startswith(".") or event.is_directory:
            # Our own doing for the most part: waking for it would never end.
            return
        if event.event_type == "moved" and len(self.renamed_in) < _MOST_NAMES:
            self.renamed_in.add(name)
        self._wake.set()


class _Overflow(logging.Handler):
    """watchdog tells of a full queue, whose events are lost, only in its log."""

    def __init__(self, wake: threading.Event) -> None:
        super().__init__(logging.WARNING)
        self._wake = wake

    def emit(self, record: logging.LogRecord) -> None:
        if "overflow" in record.getMessage():
            self._wake.set()


class Watcher:
    """Watches one folder, not its subfolders, and sets `wake` when anything in it moves."""

    def __init__(self, folder: Path, wake: threading.Event) -> None:
        self._folder = folder
        self._wake = wake
        self._handler = _Waker(wake)
        self._overflow = _Overflow(wake)
        self._observer: BaseObserver | None = None
        self._watched: tuple[int, int] | None = None
        # The trial: a file of our own, and whether its event came.
        self._tried_at = float("-inf")
        self._heard_before: int | None = None
        self._silent = 0

    @property
    def mode(self) -> str:
        """`events` while the system tells of changes, `polling` while only the timer looks."""
        return "events" if self._alive() and self._silent < _MOST_SILENT else "polling"

    def tend(self, moment: float) -> None:
        """Arm the watch, again when it died or the folder was replaced; try whether it hears.

        Network file systems and containers take a watch and then say nothing.
        """
        try:
            status = os.stat(self._folder)
        except OSError:
            self.stop()
            return
        if not self._alive() or self._watched != (status.st_dev, status.st_ino):
            self.stop()
            self._arm((status.st_dev, status.st_ino))
        self._try(moment)

    def _arm(self, watched: tuple[int, int]) -> None:
        observer = Observer(**_full_events())
        try:
            observer.schedule(
                self._handler, str(self._folder), recursive=False, event_filter=list(_HEARD)
            )
            observer.start()
        except OSError:
            # Out of watches, or a file system that has none: the timer still looks.
            return
        logging.getLogger(_WATCHDOG_LOG).addHandler(self._overflow)
        self._observer, self._watched = observer, watched
        self._tried_at, self._heard_before, self._silent = float("-inf"), None, 0
        self._wake.set()

    def _try(self, moment: float) -> None:
        if self._observer is None:
            return
        if self._heard_before is not None:
            if self._handler.heard != self._heard_before:
                self._silent, self._heard_before = 0, None
            elif moment - self._tried_at >= _HEARD_WITHIN_SECONDS:
                self._silent, self._heard_before = self._silent + 1, None
        seconds = _TRY_AGAIN_SECONDS if self._silent else _TRY_SECONDS
        if self._heard_before is None and moment - self._tried_at >= seconds:
            self._tried_at, self._heard_before = moment, self._handler.heard
            with contextlib.suppress(OSError), own_file(self._folder):
                pass

    def take_renamed_in(self) -> set[str]:
        """Names that arrived by rename since the last call: complete, nobody writes them."""
        names, self._handler.renamed_in = self._handler.renamed_in, set()
        return names

    def stop(self) -> None:
        """End the watch."""
        if self._observer is not None:
            observer, self._observer = self._observer, None
            logging.getLogger(_WATCHDOG_LOG).removeHandler(self._overflow)
            observer.stop()
            if observer.is_alive():
                observer.join(timeout=5)

    def _alive(self) -> bool:
        observer = self._observer
        return (
            observer is not None
            and observer.is_alive()
            and all(emitter.is_alive() for emitter in observer.emitters)
        )


def _full_events() -> dict[str, Any]:
    # Only inotify can tell a rename-in (`moved` from nowhere) from a plain creation, when asked.
    return {"generate_full_events": True} if sys.platform == "linux" else {}
