"""Watches the inbox and wakes the intake, which reads the folder itself.

A handler that raised would end watchdog's thread, so the one here only sets a flag. `tend`, which
is called on a timer, starts a new watch where one has died or its folder was replaced.
"""

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
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from runner.spool.disk.platform import own_file
from runner.spool.store.names import PAUSE_NAME

_MOST_NAMES = 10_000
# Not the intake's own opening and reading, which would be four events a spec.
_EVENTS = (
    FileCreatedEvent, FileModifiedEvent, FileMovedEvent, FileClosedEvent, FileDeletedEvent
)  # fmt: skip
_WATCHDOG_LOG = "watchdog.observers"
_TRY_SECONDS = 60.0
_TRY_AGAIN_SECONDS = 5.0
_EVENT_WITHIN_SECONDS = 2.0
_MOST_MISSED = 3


class _Waker(FileSystemEventHandler):
    def __init__(self, wake: threading.Event) -> None:
        self._wake = wake
        self.renamed_in: set[str] = set()
        self.events = 0

    def on_any_event(self, event: FileSystemEvent) -> None:
        self.events += 1
        name = os.path.basename(os.fsdecode(event.dest_path or event.src_path))
        removed = isinstance(event, FileDeletedEvent) and name != PAUSE_NAME
        if removed or name.startswith("."):
            # Mostly caused by the intake itself, which would wake itself for ever. Of all that is
            # removed only the end of a pause asks for something.
            return
        # Only a rename has one, and none if it led out of the folder.
        if event.dest_path and len(self.renamed_in) < _MOST_NAMES:
            self.renamed_in.add(name)
        self._wake.set()


class _Overflow(logging.Handler):
    """Wakes the intake when watchdog logs that its queue was full, its only sign of lost events."""

    def __init__(self, wake: threading.Event) -> None:
        super().__init__(logging.WARNING)
        self._wake = wake

    def emit(self, record: logging.LogRecord) -> None:
        if "overflow" in record.getMessage():
            self._wake.set()


class Watcher:
    """Watches one folder, not its subfolders, and sets `wake` when a file in it changes."""

    def __init__(self, folder: Path, wake: threading.Event) -> None:
        self._folder = folder
        self._wake = wake
        self._handler = _Waker(wake)
        self._overflow = _Overflow(wake)
        self._observer: BaseObserver | None = None
        self._watched: tuple[int, int] | None = None
        # A trial creates a file, and checks whether its event came.
        self._tried_at = float("-inf")
        self._events_before: int | None = None
        self._missed = 0

    @property
    def mode(self) -> str:
        """`events` while the system reports changes, `polling` while only timers cause scans."""
        return "events" if self._alive() and self._missed < _MOST_MISSED else "polling"

    def tend(self, moment: float) -> None:
        """Start the watch, again when it died or the folder was replaced, and try it.

        Network file systems and containers accept a watch and may then report nothing.
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
        # Only inotify can tell a rename into the folder from a creation, when asked for all events.
        options: dict[str, Any] = {"generate_full_events": True} if sys.platform == "linux" else {}
        observer = Observer(**options)
        try:
            observer.schedule(
                self._handler, str(self._folder), recursive=False, event_filter=list(_EVENTS)
            )
            observer.start()
        except OSError:
            # Out of watches, or a file system that has none: timers still wake the intake.
            return
        logging.getLogger(_WATCHDOG_LOG).addHandler(self._overflow)
        self._observer, self._watched = observer, watched
        self._tried_at, self._events_before, self._missed = float("-inf"), None, 0
        self._wake.set()

    def _try(self, moment: float) -> None:
        if self._observer is None:
            return
        if self._events_before is not None:
            if self._handler.events != self._events_before:
                self._missed, self._events_before = 0, None
            elif moment - self._tried_at >= _EVENT_WITHIN_SECONDS:
                self._missed, self._events_before = self._missed + 1, None
        seconds = _TRY_AGAIN_SECONDS if self._missed else _TRY_SECONDS
        if self._events_before is None and moment - self._tried_at >= seconds:
            self._tried_at, self._events_before = moment, self._handler.events
            with contextlib.suppress(OSError), own_file(self._folder):
                pass

    def take_renamed_in(self) -> set[str]:
        """The names of files that arrived by rename, and so complete, since the last call."""
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
