"""The bytes of one file from the hub, from wherever an earlier try ended to the last one.

A partial file is always a true beginning or is thrown away: it is only ever appended to, and the
hash of the whole has to be the one that the hub promised. Waits for nothing longer than a few
tries of the hub's own time limit, and stops between two blocks when it is asked to.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from runner.engine.hub.explain import is_passing
from runner.errors import ModelMissing

OnBytes = Callable[[int], None]

_BLOCK = 2**20
_TRIES = 3


class Interrupted(Exception):
    """The transfer was asked to stop; what has come stays."""


class CutShort(Exception):
    """The server ended its answer before the end of the file."""


@dataclass(frozen=True)
class Remote:
    """A file as the hub lists it; `etag` is the hash of its content, SHA-256 or Git's."""

    name: str
    size: int
    etag: str

    @property
    def is_large(self) -> bool:
        """Whether the hash is a SHA-256, which equal content has in every repository."""
        return len(self.etag) == 64

    def digest(self) -> Any:
        """A hash that must come out as `etag` once it has read the whole content."""
        if self.is_large:
            return hashlib.sha256()
        return hashlib.sha1(f"blob {self.size}\0".encode(), usedforsecurity=False)


class Transfer:
    """One file on its way into `partial`; `on_bytes` is told of every byte, of lost ones too."""

    def __init__(
        self,
        remote: Remote,
        partial: Path,
        url: str,
        headers: Mapping[str, str],
        stop: Event,
        on_bytes: OnBytes,
    ) -> None:
        self._remote = remote
        self._partial = partial
        self._url = url
        self._headers = headers
        self._stop = stop
        self._on_bytes = on_bytes
        self._here = 0
        self._digest = remote.digest()

    def run(self, again: str) -> None:
        """Go on until all is there and its hash is right.

        Raises Interrupted, ModelMissing where the content stays wrong, and the hub's own errors.
        """
        for is_last in (False, True):
            self._take_up()
            self._go_on()
            if self._digest.hexdigest() == self._remote.etag:
                return
            self._begin_anew()
            if is_last:
                raise ModelMissing(
                    f"what came as {self._remote.name} is not what the hub promised; a proxy may"
                    f" have changed it on the way: run `{again}` again"
                )

    def _take_up(self) -> None:
        """Read what an earlier try left."""
        if size_of(self._partial) > self._remote.size:
            self._partial.unlink()
        if size_of(self._partial) > 0:
            self._digest = hash_of(self._partial, self._remote, self._stop)
            self._here = size_of(self._partial)
            self._on_bytes(self._here)

    def _begin_anew(self) -> None:
        self._partial.unlink(missing_ok=True)
        self._on_bytes(-self._here)
        self._here, self._digest = 0, self._remote.digest()

    def _go_on(self) -> None:
        tries = 0
        while self._here < self._remote.size or not self._partial.exists():
            before = self._here
            try:
                self._stream()
                if self._here < self._remote.size:
                    raise CutShort
            except Exception as error:
                tries = 1 if self._here > before else tries + 1
                if tries >= _TRIES or not is_passing(error):
                    raise
                if self._stop.wait(2.0 ** (tries - 2)):
                    raise Interrupted from error

    def _stream(self) -> None:
        from huggingface_hub import constants
        from huggingface_hub.utils import get_session, hf_raise_for_status

        headers = {**self._headers, "Accept-Encoding": "identity"}
        if self._here:
            headers["Range"] = f"bytes={self._here}-"
        limit = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with get_session().stream(
            "GET", self._url, headers=headers, timeout=limit, follow_redirects=True
        ) as answer:
            if answer.status_code >= 400:
                answer.read()
            if answer.status_code == 416:
                self._begin_anew()
                return
            hf_raise_for_status(answer)
            if self._here and answer.status_code == 200:
                self._begin_anew()
            # Unbuffered: what has come is in the file, whatever ends this process.
            with self._partial.open("ab", buffering=0) as file:
                for block in answer.iter_bytes():
                    self._keep(file, block)
                os.fsync(file.fileno())

    def _keep(self, file: Any, block: bytes) -> None:
        if self._stop.is_set():
            raise Interrupted
        block = block[: self._remote.size - self._here]
        while block:
            written = file.write(block)
            self._digest.update(block[:written])
            self._here += written
            self._on_bytes(written)
            block = block[written:]


def size_of(file: Path) -> int:
    """The length of a file; -1 where there is none."""
    try:
        return file.stat().st_size
    except OSError:
        return -1


def hash_of(file: Path, remote: Remote, stop: Event | None = None) -> Any:
    """The digest of a file's content. Raises Interrupted once `stop` is set."""
    digest = remote.digest()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            if stop is not None and stop.is_set():
                raise Interrupted
            digest.update(block)
    return digest
