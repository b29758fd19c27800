"""A disk that refuses chosen operations until it is told to stop."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable
from typing import Any

from runner.spool.disk.disk import Disk, StrPath


def sqlite_full() -> sqlite3.OperationalError:
    """What SQLite raises where its disk has no room."""
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    return error


class FaultyDisk(Disk):
    """Fails the operations whose path matches, until told to stop."""

    def __init__(self, operation: str, pattern: str, number: int, *, broken: bool = True) -> None:
        super().__init__()
        self.operation, self.pattern, self.number = operation, re.compile(pattern), number
        self.broken = broken
        self.failed = 0
        self.on_failure: Callable[[], None] = lambda: None

    def before(self, operation: str, path: StrPath, **details: Any) -> None:
        # A file is written under a random name first.
        path = details.get("target", path)
        if self.broken and operation == self.operation and self.pattern.search(str(path)):
            self.failed += 1
            self.on_failure()
            if operation == "commit":
                raise sqlite_full()
            raise OSError(self.number, os.strerror(self.number), str(path))
