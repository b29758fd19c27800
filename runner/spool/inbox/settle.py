"""Settling: whether a file of the inbox is completely written.

Time is measured by the monotonic clock from the first check that found a file as it is now, never
by its modification time, which copies and sync tools set to any value. A file is complete at once
when it arrived by rename, ends with YAML's end marker, or is one complete JSON object.
"""

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from runner.files import open_regular, text_of
from runner.settings import Settings
from runner.spool.disk.platform import has_writer, may_be_private, signature_of
from runner.spool.inbox.inputs import PRIVATE
from specs.document import MAX_BYTES
from specs.read import ends_with_marker, is_whole_json_object

_EMPTY_SECONDS = 600.0
_UNREADABLE_SECONDS = 60.0
_STRICT_SECONDS = 60.0
# A careful writer links a file to its name, and then removes the first name.
_LINKED_SECONDS = 2.0


@dataclass(frozen=True)
class Drop:
    """A settled file of the inbox with its exact bytes.

    `refused` is (reason, message) for what cannot be a spec, whatever it contains; then `data` is
    empty.
    """

    name: str
    data: bytes
    signature: tuple[int, ...]
    refused: tuple[str, str] | None = None

    @cached_property
    def sha256(self) -> str:
        """The hash of the bytes; empty where they were not read."""
        return "" if self.refused else hashlib.sha256(self.data).hexdigest()

    @property
    def size(self) -> int:
        """The size of the file in bytes."""
        return self.signature[2] if self.signature else 0

    @property
    def mtime_ns(self) -> int:
        """The modification time in nanoseconds, a part of `identity`, within SQLite's 64 bits."""
        return max(-(2**63), min(self.signature[3], 2**63 - 1)) if self.signature else 0

    @cached_property
    def identity(self) -> str:
        """What distinguishes this drop from a later one, even after a restart of the machine.

        Without device and inode numbers, which not every file system keeps.
        """
        return f"{self.size}|{self.mtime_ns}|{self.sha256}|{text_of(self.name)}"


def drop_at(path: Path, name: str, *, read: bool = True) -> Drop:
    """The file at `path` as a drop of that name, with its bytes if they are `read` and it can be a
    spec.

    Raises FileNotFoundError, and OSError where it cannot be read but for its permissions.
    """
    status, data = os.lstat(path), None
    if read and stat.S_ISREG(status.st_mode):
        # Another file may be there by now.
        with contextlib.suppress(PermissionError), os.fdopen(open_regular(path), "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_size <= MAX_BYTES and not may_be_private(status):
                data = file.read(MAX_BYTES)
    return Drop(name, data or b"", signature_of(status), ("", "") if data is None else None)


@dataclass
class _FileState:
    signature: tuple[int, ...]
    unchanged_since: float
    renamed_in: bool = False
    waits_because: str = ""


class Settler:
    """Remembers how long each file has been unchanged."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._states: dict[str, _FileState] = {}

    def keep_only(self, names: set[str]) -> None:
        """Forget files that are no longer there."""
        self.forget(self._states.keys() - names)

    def forget(self, names: Iterable[str]) -> None:
        """Forget files that were acknowledged; until then, a settled file stays settled."""
        for name in names:
            self._states.pop(name, None)

    def waiting(self) -> dict[str, str]:
        """The files that may take long to settle, each with what is the matter with it."""
        return {name: s.waits_because for name, s in self._states.items() if s.waits_because}

    def check(self, path: Path, now: float, *, renamed_in: bool = False) -> Drop | float | None:
        """A Drop when the file has settled, else the seconds to wait, or None when it is gone."""
        try:
            handle = open_regular(path)
        except FileNotFoundError:
            self._states.pop(path.name, None)
            return None
        except OSError as error:
            return self._unreadable(path, now, error)
        try:
            status = os.fstat(handle)
            signature = signature_of(status)
            state = self._state(path.name, signature, now)
            # Only the first check after a rename knows of it.
            state.renamed_in |= renamed_in
            state.waits_because = "" if status.st_size else "is empty"
            if not status.st_size:
                return self._wait_or_refuse(
                    path, state, now, _EMPTY_SECONDS, "BadYaml", "the file is empty: write a spec"
                )
            if may_be_private(status):
                why = "NotARegularFile", f"this is {PRIVATE}: drop a copy"
                return self._wait_or_refuse(path, state, now, _LINKED_SECONDS, *why)
            writer = has_writer(handle)
            with open(handle, "rb", closefd=False) as file:
                data = file.read(MAX_BYTES)
            if signature_of(os.fstat(handle)) != signature:
                return self.settings.settle_seconds
        except OSError as error:
            return self._unreadable(path, now, error)
        finally:
            os.close(handle)
        settings = self.settings
        is_whole = is_whole_json_object if path.name.lower().endswith(".json") else ends_with_marker
        if not ((state.renamed_in and not writer) or is_whole(data)):
            if writer:
                state.unchanged_since = now
                state.waits_because = "is open for writing in another program"
            seconds = settings.settle_seconds_unknown if writer is None else settings.settle_seconds
            left = state.unchanged_since + seconds - now
            if left > 0:
                return left
            if settings.strict:
                return self._wait_or_refuse(
                    path, state, now, _STRICT_SECONDS, "Incomplete",
                    "with `strict` on, a spec is complete when it was renamed into the inbox or "
                    "ends with a line `...`: add that line",
                )  # fmt: skip
        if status.st_size > MAX_BYTES:
            message = (
                f"a spec has at most {MAX_BYTES >> 10} KiB, this file has {status.st_size} bytes"
            )
            return Drop(path.name, b"", signature, ("TooLarge", message))
        return Drop(path.name, data, signature)

    def hold(self, drop: Drop, table: str, now: float) -> Drop | float:
        """What to do with a settled spec whose table is not there: wait as for an image."""
        state = self._state(drop.name, drop.signature, now)
        state.waits_because = f"waits for its table {table}"
        seconds = self.settings.input_wait_seconds
        message = f"{table} did not arrive within {seconds:.0f} seconds: bring it, then the spec"
        path = Path(drop.name)
        return self._wait_or_refuse(path, state, now, seconds, "InputMissing", message)

    def _state(self, name: str, signature: tuple[int, ...], now: float) -> _FileState:
        state = self._states.get(name)
        if state is None or state.signature != signature:
            state = self._states[name] = _FileState(signature, now)
        return state

    def _unreadable(self, path: Path, now: float, error: OSError) -> Drop | float | None:
        # As `drop_at` has it, or a file that cannot be removed would be another one each time.
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return None
        state = self._state(path.name, signature_of(status), now)
        if not stat.S_ISREG(status.st_mode):
            message = "a spec must be a plain file, not a link or a device"
            return Drop(path.name, b"", state.signature, ("NotARegularFile", message))
        message = f"the file cannot be read ({error.strerror}): let the runner's user read it"
        state.waits_because = f"cannot be read ({error.strerror})"
        return self._wait_or_refuse(path, state, now, _UNREADABLE_SECONDS, "Unreadable", message)

    def _wait_or_refuse(
        self, path: Path, state: _FileState, now: float, seconds: float, reason: str, message: str
    ) -> Drop | float:
        left = state.unchanged_since + seconds - now
        if left > 0:
            return min(left, self.settings.rescan_seconds)
        self._states.pop(path.name, None)
        return Drop(path.name, b"", state.signature, (reason, message))
