"""Faults of one file or one job: it is set aside and named, and the others go on.

Without this, one odd file would be a fault of the whole inbox, met again at every look. Nothing is
lost: a file stays where it lies, and is tried again when it changes, and after pauses that grow to
a minute, because some faults pass. Never takes a fault of the whole place, such as a full disk or a
locked ledger, for one of a single file: that is raised on, and waited out by whoever looks.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from runner.clock import monotonic, timestamp
from runner.settings import Home
from runner.spool.disk.disk import concerns_all
from runner.spool.disk.platform import signature_of
from runner.wire import Fault

log = logging.getLogger(__name__)
T = TypeVar("T")

_BAD_NAME = {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ}
_MOST_TOLD = 20
_LONGEST_PAUSE = 60.0


@dataclass(frozen=True)
class _SetAside:
    fault: Fault
    signature: tuple[int, ...]
    pause: float
    again_at: float


class Faults:
    """The files and jobs of one home that are at fault by themselves."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._found: dict[Path, _SetAside] = {}

    def told(self) -> list[Fault]:
        """The faults for people and programs that look from outside, the oldest 20."""
        return [each.fault for each in list(self._found.values())[:_MOST_TOLD]]

    @property
    def note(self) -> str | None:
        """One sentence that names them all; None where there is none."""
        named = "; ".join(f"{fault['file']}: {fault['message']}" for fault in self.told())
        return f"set aside: {named}" if named else None

    def seconds_left(self, file: Path) -> float:
        """For how long a file is to be left alone; 0.0 unless it is at fault and unchanged."""
        found = self._found.get(file)
        if found is None or found.signature != _signature(file):
            return 0.0
        return max(found.again_at - monotonic(), 0.0)

    @property
    def seconds_to_next_try(self) -> float:
        """The seconds until something that is set aside may be tried again."""
        left = (each.again_at - monotonic() for each in list(self._found.values()))
        return min((seconds for seconds in left if seconds > 0), default=float("inf"))

    def forget_gone(self) -> bool:
        """Forget files that somebody took out of the inbox; whether there were any."""
        inbox = self._home.inbox
        gone = [f for f in list(self._found) if inbox in f.parents and not os.path.lexists(f)]
        for file in gone:
            del self._found[file]
        return bool(gone)

    def forget(self, file: Path) -> None:
        """What was at fault is well again."""
        self._found.pop(file, None)

    @contextmanager
    def apart(self, file: Path) -> Iterator[None]:
        """Set a file, or the folder of a job, aside where the block raises.

        Raises only what concerns the whole place.
        """
        try:
            yield
        except Exception as error:  # noqa: BLE001 whatever it is, the others must go on
            self.add(file, error)

    def all_or_each(
        self, items: Sequence[T], act: Callable[[Sequence[T]], None],
        stumble: Callable[[T, Exception], None],
    ) -> None:  # fmt: skip
        """Act on all at once; where that raises, on each half, until `stumble` gets the one.

        `act` must be safe to do twice. Raises only what concerns the whole place.
        """
        try:
            act(items)
        except Exception as error:  # noqa: BLE001 as above
            self.raise_common(error)
            if len(items) == 1:
                stumble(items[0], error)
                return
            middle = len(items) // 2
            for half in (items[:middle], items[middle:]):
                self.all_or_each(half, act, stumble)

    def add(self, file: Path, error: Exception) -> None:
        """Set a file or the folder of a job aside. Raises what concerns the whole place."""
        self.raise_common(error)
        before, signature = self._found.get(file), _signature(file)
        home = self._home
        word, root = (
            ("inbox", home.inbox) if home.inbox in file.parents else ("outbox", home.outbox)
        )
        plain = f"{word}/{file.relative_to(root).as_posix()}"
        name = os.fsencode(plain).decode(errors="backslashreplace")
        reason, message = _said(error, is_utf8=name == plain)
        since, pause = timestamp(), 1.0
        if before is not None:
            since = before.fault["since"]
            if before.signature == signature:
                pause = min(before.pause * 2, _LONGEST_PAUSE)
        if before is None or before.fault["message"] != message:
            log.error(
                "%r is set aside, the others go on: %s", name, message,
                exc_info=error if reason == "Internal" else None,
            )  # fmt: skip
        fault = Fault(file=name, reason=reason, message=message, since=since)
        self._found[file] = _SetAside(fault, signature, pause, monotonic() + pause)

    def raise_common(self, error: Exception) -> None:
        """Raise an error that concerns the whole place, not one file."""
        common = concerns_all(error)
        if isinstance(error, OSError) and not common:
            places = (self._home.inbox, self._home.outbox, self._home.data)
            common = not all(os.access(place, os.W_OK) for place in places)
        if common:
            raise error


def _signature(file: Path) -> tuple[int, ...]:
    try:
        return signature_of(os.lstat(file))
    except OSError:
        return ()


def _said(error: Exception, *, is_utf8: bool) -> tuple[str, str]:
    """The reason word and the sentence for a fault."""
    if not is_utf8:
        return "BadName", "its name is not UTF-8: rename it"
    if isinstance(error, OSError):
        said = error.strerror or str(error)
        if error.errno in _BAD_NAME:
            return "BadName", f"{said}: give it another name"
        return "Unwritable", f"{said}: see that the runner's user may change it, or remove it"
    return "Internal", f"{type(error).__name__}: a mistake of fluxdrop, see the runner's log"
