"""The watch on the inbox: wakes the intake, and does nothing else.

Events are hints; the folder is the truth. A handler that raised would end watchdog's thread, so
the one here only sets a flag; a watch that died or looks at another folder is found by `tend`,
which is called on a timer and arms it again. Nothing here reads or decides.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

_MOST_NAMES = 10_000


class _Waker(FileSystemEventHandler):
    def __init__(self, wake: threading.Event) -> None:
        self._wake = wake
        self.renamed_in: set[str] = set()

    def on_any_event(self, event: FileSystemEvent) -> None:
        # `opened` and `closed_no_write` are our own reading: waking for them would never end.
        if event.event_type in ("opened", "closed_no_write") or event.is_directory:
            return
        if event.event_type == "moved" and event.dest_path and len(self.renamed_in) < _MOST_NAMES:
            self.renamed_in.add(os.path.basename(os.fsdecode(event.dest_path)))
        self._wake.set()


class Watcher:
    """Watches one folder, not its subfolders, and sets `wake` when anything in it moves."""

    def __init__(self, folder: Path, wake: threading.Event) -> None:
        self._folder = folder
        self._wake = wake
        self._handler = _Waker(wake)
        self._observer: BaseObserver | None = None
        self._watched: tuple[int, int] | None = None

    @property
    def mode(self) -> str:
        """`events` while the system tells of changes, `polling` while only the timer looks."""
        return "events" if self._alive() else "polling"

    def tend(self) -> None:
        """Arm the watch, or arm it again when it died or the folder was replaced."""
        try:
            status = os.stat(self._folder)
        except OSError:
            self.stop()
            return
        if self._alive() and self._watched == (status.st_dev, status.st_ino):
            return
        self.stop()
        observer = Observer(**_full_events())
        try:
            observer.schedule(self._handler, str(self._folder), recursive=False)
            observer.start()
        except OSError:
            # Out of watches, or a file system that has none: the timer still looks.
            return
        self._observer = observer
        self._watched = (status.st_dev, status.st_ino)
        self._wake.set()

    def take_renamed_in(self) -> set[str]:
        """Names that arrived by rename since the last call: complete, nobody writes them."""
        names, self._handler.renamed_in = self._handler.renamed_in, set()
        return names

    def stop(self) -> None:
        """End the watch."""
        if self._observer is not None:
            observer, self._observer = self._observer, None
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
