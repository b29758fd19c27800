"""Downloads one file from the hub, and resumes where an earlier attempt ended.

A partial file is a true beginning of the file or is deleted: it is only appended to, and the hash
of all bytes has to be the one that the hub lists. Waits at most for a few of huggingface_hub's own
time limits, and stops between two blocks once it is asked to.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from runner.engine.hub.explain import is_passing
from runner.errors import ModelMissing
from runner.files import is_absent

OnBytes = Callable[[int], None]

_TRIES = 3


class Interrupted(Exception):
    """The transfer was stopped; the bytes that have come are kept."""


class CutShort(Exception):
    """The server ended its response before the end of the file."""


@dataclass(frozen=True)
class Remote:
    """A file as the hub lists it: its size in bytes, and in `etag` its SHA-256 or Git's hash."""

    name: str
    size: int
    etag: str

    @property
    def is_large(self) -> bool:
        """Whether the hub stores the file by its SHA-256, as it does with large ones."""
        return len(self.etag) == 64

    def digest(self) -> Any:
        """A new hash object, whose digest is `etag` once it has been given the whole content."""
        if self.is_large:
            return hashlib.sha256()
        return hashlib.sha1(f"blob {self.size}\0".encode(), usedforsecurity=False)


@dataclass
class Transfer:
    """The download of one file into `partial`.

    `on_bytes` is called with the number of bytes that were found or came, negative for bytes that
    have to be fetched again.
    """

    remote: Remote
    partial: Path
    url: str
    headers: Mapping[str, str]
    stop: Event
    on_bytes: OnBytes

    def __post_init__(self) -> None:
        self._here = 0
        self._digest = self.remote.digest()

    def run(self, again: str) -> None:
        """Download until all bytes are here and their hash is right.

        Raises Interrupted, ModelMissing where the content stays wrong, and the hub's own errors.
        """
        for _ in range(2):
            self._resume()
            self._download()
            if self._digest.hexdigest() == self.remote.etag:
                return
            self._start_over()
        raise ModelMissing(
            f"what came as {self.remote.name} is not what the hub promised; a proxy may"
            f" have changed it on the way: run `{again}` again"
        )

    def _resume(self) -> None:
        """Count and hash the bytes that an earlier attempt left."""
        if size_of(self.partial) > self.remote.size:
            self.partial.unlink()
        if size_of(self.partial) > 0:
            self._digest = hash_of(self.partial, self.remote, self.stop)
            self._here = size_of(self.partial)
            self.on_bytes(self._here)

    def _start_over(self) -> None:
        self.partial.unlink(missing_ok=True)
        self.on_bytes(-self._here)
        self._here, self._digest = 0, self.remote.digest()

    def _download(self) -> None:
        """Make requests until all bytes are here; retries at most twice without new bytes."""
        tries = 0
        while self._here < self.remote.size or not self.partial.exists():
            before = self._here
            try:
                self._stream()
                if self._here < self.remote.size:
                    raise CutShort
            except Exception as error:
                tries = 1 if self._here > before else tries + 1
                if tries >= _TRIES or not is_passing(error):
                    raise
                if self.stop.wait(2.0 ** (tries - 2)):
                    raise Interrupted from error

    def _stream(self) -> None:
        from huggingface_hub import constants
        from huggingface_hub.utils import get_session, hf_raise_for_status

        headers = {**self.headers, "Accept-Encoding": "identity"}
        if self._here:
            headers["Range"] = f"bytes={self._here}-"
        limit = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with get_session().stream(
            "GET", self.url, headers=headers, timeout=limit, follow_redirects=True
        ) as response:
            if response.status_code >= 400:
                response.read()
            if response.status_code == 416:
                self._start_over()
                return
            hf_raise_for_status(response)
            if self._here and response.status_code == 200:
                self._start_over()
            # Unbuffered: bytes that have come are in the file, whatever ends this process.
            with self.partial.open("ab", buffering=0) as file:
                for block in response.iter_bytes():
                    self._append(file, block)
                os.fsync(file.fileno())

    def _append(self, file: Any, block: bytes) -> None:
        if self.stop.is_set():
            raise Interrupted
        block = block[: self.remote.size - self._here]
        while block:
            written = file.write(block)
            self._digest.update(block[:written])
            self._here += written
            self.on_bytes(written)
            block = block[written:]


def size_of(file: Path) -> int:
    """The length of a file; -1 where there is none."""
    try:
        return file.stat().st_size
    except OSError as error:
        if is_absent(error):
            return -1
        raise


def hash_of(file: Path, remote: Remote, stop: Event | None = None) -> Any:
    """The hash object of a file's content. Raises Interrupted once `stop` is set."""
    digest = remote.digest()
    with file.open("rb") as stream:
        while block := stream.read(2**20):
            if stop is not None and stop.is_set():
                raise Interrupted
            digest.update(block)
    return digest
