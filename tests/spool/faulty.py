"""A disk that refuses chosen effects until it is told to stop."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable
from typing import Any

from runner.spool.disk.disk import Disk, Place


class FaultyDisk(Disk):
    """Fails the effects whose path matches, until told to stop."""

    def __init__(self, effect: str, pattern: str, number: int, *, broken: bool = True) -> None:
        super().__init__()
        self.effect, self.pattern, self.number = effect, re.compile(pattern), number
        self.broken = broken
        self.failed = 0
        self.on_failure: Callable[[], None] = lambda: None

    def before(self, effect: str, path: Place, **details: Any) -> None:
        if self.broken and effect == self.effect and self.pattern.search(str(path)):
            self.failed += 1
            self.on_failure()
            if effect == "commit":
                # What SQLite makes of such a number.
                raise sqlite3.OperationalError("database or disk is full")
            raise OSError(self.number, os.strerror(self.number), str(path))
