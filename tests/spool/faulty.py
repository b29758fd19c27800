"""A disk that refuses chosen operations until it is told to stop, and reads that are refused."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from runner.spool.disk.disk import Disk, StrPath


def sqlite_full() -> sqlite3.OperationalError:
    """What SQLite raises where its disk has no room."""
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    return error


READS = ("open", "stat", "lstat", "listdir", "scandir")


@contextmanager
def refused(
    path: Path, number: int = errno.EIO, times: int = 1 << 30, reads: Sequence[str] = READS
) -> Iterator[Callable[[], int]]:
    """The system refuses the first reads of one file or folder; gives how many more it will."""
    left = times

    def of(read: Callable[..., Any]) -> Callable[..., Any]:
        def refusing(*given: Any, **named: Any) -> Any:
            nonlocal left
            if left and given and not isinstance(given[0], int) and Path(given[0]) == path:
                left -= 1
                raise OSError(number, os.strerror(number), os.fspath(path))
            return read(*given, **named)

        return refusing

    with mock.patch.multiple(os, **{name: of(getattr(os, name)) for name in reads}):
        yield lambda: left


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
