"""The hub's cache as a place to put files: laid out and locked as huggingface_hub does it.

So both may use it at the same time. huggingface_hub's own download begins a file anew after every
break and checks no hash; here a file goes on where it broke off, and gets its name only when its
content is known to be right. A branch's name moves to a new commit only when all of it is here.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from threading import Event

from runner.engine.hub.transfer import Interrupted, OnBytes, Remote, Transfer, hash_of, size_of
from runner.errors import ModelMissing

__all__ = ["Interrupted", "OnBytes", "Remote", "Store"]

_LOCK_SECONDS = 3.0


class Store:
    """The place of one repository's commit in the cache.

    `again` is the command that repeats the download, for what is said when it fails.
    """

    def __init__(self, base: Path, commit: str, *, again: str) -> None:
        self.base = base
        self.commit = commit
        self.folder = base / "snapshots" / commit
        self._again = again

    def has(self, remote: Remote) -> bool:
        """Whether the file is here with its full length."""
        return size_of(self.folder / remote.name) == remote.size

    def here(self, remote: Remote) -> int:
        """How many bytes of the file need not come through the network any more."""
        blob = self._blob(remote)
        if self.has(remote) or size_of(blob) == remote.size or self._elsewhere(remote):
            return remote.size
        return min(max(size_of(_partial(blob)), 0), remote.size)

    def is_sound(self, remote: Remote) -> bool:
        """Whether the file's content is the hub's, byte by byte; reads all of it."""
        return bool(hash_of(self.folder / remote.name, remote).hexdigest() == remote.etag)

    def discard(self, remote: Remote) -> None:
        """Take a file that is wrong out of the cache."""
        for wrong in (self.folder / remote.name, self._blob(remote)):
            wrong.unlink(missing_ok=True)

    def remember(self, revision: str) -> None:
        """Let a branch or tag mean this commit; done last, so that jobs see whole models only."""
        if revision == self.commit:
            return
        file = self.base / "refs" / revision
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_name(f".{file.name}.{os.getpid()}")
        aside.write_text(self.commit, encoding="utf-8")
        aside.replace(file)

    def fetch(
        self, remote: Remote, url: str, headers: Mapping[str, str], stop: Event, on_bytes: OnBytes
    ) -> None:
        """Bring one file here. Raises Interrupted once `stop` is set, and the hub's errors."""
        from filelock import Timeout
        from huggingface_hub.utils import WeakFileLock

        blob = self._blob(remote)
        lock = self.base.parent / ".locks" / self.base.name / f"{remote.etag}.lock"
        for needed in (blob, lock):
            needed.parent.mkdir(parents=True, exist_ok=True)
        try:
            with WeakFileLock(lock, timeout=_LOCK_SECONDS):
                self._bring(remote, blob, url, headers, stop, on_bytes)
        except Timeout as error:
            raise ModelMissing(
                f"another process is fetching {remote.name} already: when it is done, run"
                f" `{self._again}` again"
            ) from error

    def _bring(
        self,
        remote: Remote,
        blob: Path,
        url: str,
        headers: Mapping[str, str],
        stop: Event,
        on_bytes: OnBytes,
    ) -> None:
        if size_of(blob) == remote.size:
            on_bytes(remote.size)
        elif same := self._elsewhere(remote):
            _link_or_copy(same, blob)
            on_bytes(remote.size)
        else:
            Transfer(remote, _partial(blob), url, headers, stop, on_bytes).run(self._again)
            _partial(blob).replace(blob)
        _point(self.folder / remote.name, blob)

    def _blob(self, remote: Remote) -> Path:
        return self.base / "blobs" / remote.etag

    def _elsewhere(self, remote: Remote) -> Path | None:
        """The same content in another repository: FLUX.1's all have the same text encoders."""
        if not remote.is_large:
            return None
        found = self.base.parent.glob(f"models--*/blobs/{remote.etag}")
        return next((each for each in found if size_of(each) == remote.size), None)


def _partial(blob: Path) -> Path:
    return blob.with_name(f"{blob.name}.incomplete")


def _link_or_copy(source: Path, target: Path) -> None:
    """The same content under another name, at best without taking room twice."""
    target.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        aside = target.with_name(f"{target.name}.{os.getpid()}.copy")
        try:
            shutil.copyfile(source, aside)
            aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)


def _point(pointer: Path, blob: Path) -> None:
    """Give a blob its place in the snapshot: a link, or the file itself where links cannot be."""
    pointer.parent.mkdir(parents=True, exist_ok=True)
    pointer.unlink(missing_ok=True)
    try:
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    except (OSError, NotImplementedError):
        blob.replace(pointer)
