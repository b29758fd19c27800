"""Writes files into the hub's cache, laid out and locked as huggingface_hub does it.

So both may use it at the same time. huggingface_hub's own download starts a file again after every
break and checks no hash; here a download is resumed, and a file gets its name only when its hash
is right. A branch points to a new commit only when all files of that commit are here.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from threading import Event
from urllib.parse import quote

from runner.engine.hub.transfer import OnBytes, Remote, Transfer, hash_of, size_of
from runner.errors import ModelMissing


class CachedCommit:
    """One commit of a repository in the cache.

    `base` is the repository's folder and `folder` the commit's snapshot. Files come from below
    `url`, asked for with `headers`; `again` is the command that repeats the download, for error
    messages.
    """

    def __init__(
        self, base: Path, commit: str, *, url: str, headers: Mapping[str, str], again: str
    ) -> None:
        self.base = base
        self.commit = commit
        self.folder = base / "snapshots" / commit
        self._url, self._headers, self._again = url, headers, again

    def has(self, remote: Remote) -> bool:
        """Whether the snapshot has the file with its full length."""
        return size_of(self.folder / remote.name) == remote.size

    def here(self, remote: Remote) -> int:
        """How many bytes of the file need not be fetched any more."""
        blob = self._blob(remote)
        if self.has(remote) or size_of(blob) == remote.size or self._elsewhere(remote):
            return remote.size
        return min(max(size_of(_partial(blob)), 0), remote.size)

    def discard_wrong(self, remote: Remote) -> None:
        """Remove a file that has its full length and not the hub's hash; reads all of it."""
        file = self.folder / remote.name
        if self.has(remote) and hash_of(file, remote).hexdigest() != remote.etag:
            file.unlink(missing_ok=True)
            self._blob(remote).unlink(missing_ok=True)

    def point_revision(self, revision: str) -> None:
        """Point a branch or tag to this commit; done last, so that jobs find whole models only."""
        if revision == self.commit:
            return
        file = self.base / "refs" / revision
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_name(f".{file.name}.{os.getpid()}")
        aside.write_text(self.commit, encoding="utf-8")
        aside.replace(file)

    def fetch(self, remote: Remote, *, stop: Event, on_bytes: OnBytes) -> None:
        """Fetch one file, or link it from another repository of the cache that has it.

        `on_bytes` is called with numbers of bytes that add up to the file's size. Raises
        Interrupted once `stop` is set, ModelMissing where another process is fetching the file or
        its content stays wrong, and the hub's errors.
        """
        from filelock import Timeout
        from huggingface_hub.utils import WeakFileLock

        blob = self._blob(remote)
        lock = self.base.parent / ".locks" / self.base.name / f"{remote.etag}.lock"
        for path in (blob, lock):
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with WeakFileLock(lock, timeout=3.0):
                if size_of(blob) == remote.size:
                    on_bytes(remote.size)
                elif same := self._elsewhere(remote):
                    _link_or_copy(same, blob)
                    on_bytes(remote.size)
                else:
                    partial, url = _partial(blob), f"{self._url}/{quote(remote.name)}"
                    Transfer(remote, partial, url, self._headers, stop, on_bytes).run(self._again)
                    partial.replace(blob)
                _link_into_snapshot(self.folder / remote.name, blob)
        except Timeout as error:
            raise ModelMissing(
                f"another process is fetching {remote.name} already: when it is done, run"
                f" `{self._again}` again"
            ) from error

    def _blob(self, remote: Remote) -> Path:
        return self.base / "blobs" / remote.etag

    def _elsewhere(self, remote: Remote) -> Path | None:
        """The same content in another repository: all FLUX.1 models have the same text encoders."""
        if not remote.is_large:
            return None
        blobs = self.base.parent.glob(f"models--*/blobs/{remote.etag}")
        return next((blob for blob in blobs if size_of(blob) == remote.size), None)


def _partial(blob: Path) -> Path:
    return blob.with_name(f"{blob.name}.incomplete")


def _link_or_copy(source: Path, target: Path) -> None:
    """Give `target` the content of `source`: by a hard link, or a copy where links fail."""
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


def _link_into_snapshot(file: Path, blob: Path) -> None:
    """Make `file` a link to the blob, or the blob itself where symbolic links are not possible."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    try:
        file.symlink_to(os.path.relpath(blob, file.parent))
    except (OSError, NotImplementedError):
        blob.replace(file)
