"""Faults of one file or one job: it is skipped and listed, and the others go on.

Without this, one odd file would fail the scan of the whole inbox, every time. Nothing is lost: a
file stays where it is and is tried again when it changes, and after pauses that grow to a minute,
because some faults are temporary. Errors that concern the whole home, such as a full disk or a
locked ledger, are raised: callers wait until they are over.
"""

import errno
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from runner.clock import monotonic, timestamp
from runner.errors import JobFailed
from runner.files import is_there, text_of
from runner.settings import Home
from runner.spool.disk.disk import concerns_all
from runner.spool.disk.platform import signature_of
from runner.wire import Fault

log = logging.getLogger(__name__)
T = TypeVar("T")

BAD_NAME = {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ}
_MOST_LISTED = 20
_LONGEST_MESSAGE = 1000
_LONGEST_PAUSE = 60.0


@dataclass(frozen=True)
class _Faulty:
    fault: Fault
    signature: tuple[int, ...]
    pause: float
    again_at: float


class Faults:
    """The files and jobs of one home that are at fault by themselves."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._faulty: dict[Path, _Faulty] = {}

    def __len__(self) -> int:
        return len(self._faulty)

    def listed(self) -> list[Fault]:
        """The newest 20 faults, the oldest of them first, as the health file lists them."""
        return [faulty.fault for faulty in list(self._faulty.values())[-_MOST_LISTED:]]

    @property
    def note(self) -> str | None:
        """One sentence that names the listed faults; None where there is none."""
        named = [f"{fault['file']}: {fault['message']}" for fault in self.listed()]
        others = len(self._faulty) - len(named)
        if others > 0:
            named.append(f"and {others} before these")
        return f"set aside: {'; '.join(named)}" if named else None

    def __contains__(self, file: Path) -> bool:
        """Whether a file or the folder of a job was at fault when it was last tried."""
        return file in self._faulty

    def below(self, folder: Path) -> list[Path]:
        """The folder of a job and what is in it, as far as they are at fault."""
        return [f for f in list(self._faulty) if f == folder or folder in f.parents]

    def seconds_left(self, file: Path) -> float:
        """For how long a file is to be left alone; 0.0 unless it is at fault and unchanged."""
        faulty = self._faulty.get(file)
        if faulty is None or faulty.signature != self._signature(file):
            return 0.0
        return max(faulty.again_at - monotonic(), 0.0)

    @property
    def seconds_to_next_try(self) -> float:
        """The seconds until a skipped file or job may be tried again; infinite without any."""
        left = (faulty.again_at - monotonic() for faulty in list(self._faulty.values()))
        return min((seconds for seconds in left if seconds > 0), default=float("inf"))

    def forget_gone(self) -> bool:
        """Forget files that are no longer in the inbox; whether there were any."""
        inbox = self._home.inbox
        gone = [f for f in list(self._faulty) if inbox in f.parents and not is_there(f)]
        for file in gone:
            del self._faulty[file]
        return bool(gone)

    def forget(self, file: Path, *, below: bool = False) -> None:
        """Forget the fault of a file or of the folder of a job: it worked this time."""
        if self._faulty:
            for each in self.below(file) if below else [file]:
                self._faulty.pop(each, None)

    @contextmanager
    def isolated(self, file: Path) -> Iterator[None]:
        """Add a file, or the folder of a job, to the faults where the block raises.

        Raises only what concerns the whole home.
        """
        try:
            yield
        except Exception as error:  # noqa: BLE001 whatever it is, the others must go on
            self.add(file, error)

    def all_or_each(
        self, items: Sequence[T], act: Callable[[Sequence[T]], None],
        on_failure: Callable[[T, Exception], None],
    ) -> None:  # fmt: skip
        """Act on all items at once; where that raises, on each half, down to single items.

        An item that raises alone is passed to `on_failure`. `act` must be safe to repeat. Raises
        only what concerns the whole home.
        """
        try:
            act(items)
        except Exception as error:  # noqa: BLE001 as above
            self.raise_common(error)
            if len(items) == 1:
                on_failure(items[0], error)
                return
            middle = len(items) // 2
            for half in (items[:middle], items[middle:]):
                self.all_or_each(half, act, on_failure)

    def add(self, file: Path, error: Exception) -> None:
        """Skip a file or the folder of a job for a while. Raises what concerns the whole home."""
        self.raise_common(error)
        before, signature = self._faulty.get(file), self._signature(file)
        in_inbox = self._home.inbox in file.parents
        root = self._home.inbox if in_inbox else self._home.outbox
        path = f"{'inbox' if in_inbox else 'outbox'}/{file.relative_to(root).as_posix()}"
        name = text_of(path)
        reason, message = _reason_and_message(error, is_utf8=name == path)
        if culprit := self._culprit(error, file):
            message = f"{culprit}: {message}"
        message = message[:_LONGEST_MESSAGE]
        since, pause = timestamp(), 1.0
        if before is not None and before.signature == signature:
            since, pause = before.fault["since"], min(before.pause * 2, _LONGEST_PAUSE)
        if before is None or before.fault["message"] != message:
            log.error(
                "%r is set aside, the others go on: %s", name, message,
                exc_info=None if isinstance(error, (OSError, JobFailed)) else error,
            )  # fmt: skip
        fault = Fault(file=name, reason=reason, message=message, since=since)
        if before is not None and before.fault["since"] != since:
            # It is a new one, and the newest are listed.
            del self._faulty[file]
        self._faulty[file] = _Faulty(fault, signature, pause, monotonic() + pause)

    def _signature(self, file: Path) -> tuple[int, ...]:
        """What changes when a file was mended; of what lies in the outbox, that of its job."""
        try:
            if self._home.outbox not in file.parents:
                return signature_of(os.lstat(file))
            # Its times, and what it holds, change with each try to write into it.
            job = file.relative_to(self._home.outbox).parts[0]
            status = os.lstat(self._home.outbox / job)
        except OSError:
            return ()
        return (status.st_dev, status.st_ino, status.st_mode, status.st_uid, status.st_gid)

    def _culprit(self, error: Exception, file: Path) -> str | None:
        """The file or folder that an error is about, where that is not the one at fault."""
        name = (error.filename2 or error.filename) if isinstance(error, OSError) else None
        if not isinstance(name, str | bytes):  # that of an open file is its number
            return None
        named = Path(os.fsdecode(name))
        if named.name.startswith("."):
            # A name of ours on the way to the one at fault, another one each time.
            named = named.parent
        if named in (file, file.parent):
            return None
        for word, root in (("inbox", self._home.inbox), ("outbox", self._home.outbox)):
            if named.is_relative_to(root):
                return text_of(f"{word}/{named.relative_to(root).as_posix()}")
        return None

    def raise_common(self, error: Exception) -> None:
        """Raise an error that concerns the whole home, not one file."""
        common = concerns_all(error)
        if isinstance(error, OSError) and not common:
            folders = (self._home.inbox, self._home.outbox, self._home.data)
            common = not all(os.access(folder, os.W_OK) for folder in folders)
        if common:
            raise error


def _reason_and_message(error: Exception, *, is_utf8: bool) -> tuple[str, str]:
    if not is_utf8:
        return "BadName", "its name is not UTF-8: rename it"
    if isinstance(error, OSError):
        text = error.strerror or str(error)
        if error.errno == errno.EISDIR:
            return "NotARegularFile", "a folder, not a file: rename or remove it"
        if error.errno in BAD_NAME:
            return "BadName", f"{text}: give it another name"
        return "Unwritable", f"{text}: see that the runner's user may change it, or remove it"
    if isinstance(error, JobFailed):
        return error.reason, str(error)
    return "Internal", f"{type(error).__name__}: a mistake of fluxdrop, see the runner's log"
