"""Folders of derived weights that outlive the process: each is whole, or it does not exist.

    data/quantised/<hash of the source>-nf4/…

A folder is written under a hidden name, synced, and renamed, so that neither a kill nor another
process leaves half of one. A folder that is not as it was written is deleted and made again; users
may delete one at any time. Never reads what the files mean.
"""

import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from runner.engine.hub.sources import read_json

log = logging.getLogger(__name__)

_LABEL = ".label.json"
_SCHEMA = 2
"""Of labels: 1 was that of folders named by a hash of samples of their source."""
_SAMPLE = 2**20
_SPARE_BYTES = 2**30


class KeptFolder:
    """One folder that can be made again from its source, a file or a folder.

    `mark` is the hash of the source's content, and `recipe` the version of how the folder is made:
    one made by another recipe counts as absent.
    """

    def __init__(self, store: Path, source: Path, mark: str, precision: str, recipe: int) -> None:
        self.folder = store / f"{mark[:16]}-{precision}"
        self._recipe = recipe
        self._source = str(source)
        self._seen = self._identity()

    def is_whole(self) -> bool:
        """Whether every file is there as it was written (large ones are compared at both ends)."""
        label = read_json(self.folder / _LABEL)
        return isinstance(label, dict) and self._label(self.folder).items() <= label.items()

    def make(self, size: int, write: Callable[[Path], None]) -> bool:
        """Let `write` fill the folder; False where the disk has no room for `size` bytes.

        False too, with nothing left behind, where the store or a file cannot be made. What a killed
        process left of the folder is deleted first, and what is of no more use. One process at a
        time: what another has made since this object was is as good.
        """
        store = self.folder.parent
        with _alone(store.with_name(f".{store.name}.lock")):
            if self._identity() != self._seen and self.is_whole():
                return True
            return self._make(store, size, write)

    def _make(self, store: Path, size: int, write: Callable[[Path], None]) -> bool:
        from safetensors import SafetensorError

        for leftover in (self.folder, *store.glob(f".{self.folder.name}.*"), *self._outdated()):
            shutil.rmtree(leftover, ignore_errors=True)
        aside = store / f".{self.folder.name}.{uuid.uuid4().hex}"
        try:
            store.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(store).free
            if free < size + _SPARE_BYTES:
                log.warning(
                    "%.1f GiB are free in %s and %.1f GiB are needed to keep what is made of "
                    "weights: it is made again at every start until there is room",
                    free / 2**30, store, (size + _SPARE_BYTES) / 2**30,
                )  # fmt: skip
                return False
            aside.mkdir()
            write(aside)
            label = {**self._label(aside), "source": self._source}
            (aside / _LABEL).write_text(json.dumps(label), encoding="utf-8")
            for path in (aside, *aside.rglob("*")):
                _sync(path)
            aside.rename(self.folder)
            _sync(store)
            return True
        except (OSError, SafetensorError) as error:
            log.warning("what is made of weights is not kept in %s: %s", store, error)
            return False
        finally:
            shutil.rmtree(aside, ignore_errors=True)  # nothing, once it has its name

    def _identity(self) -> tuple[int, int] | None:
        """Which folder is there."""
        try:
            status = (self.folder / _LABEL).stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns

    def _outdated(self) -> Iterator[Path]:
        """The folders of an older schema, and of what the source was before it was changed."""
        for folder in self.folder.parent.glob("*-*"):
            label = read_json(folder / _LABEL)
            if isinstance(label, dict):
                precisions = (each.name.partition("-")[2] for each in (folder, self.folder))
                is_older = label.get("source") == self._source and len(set(precisions)) == 1
                if is_older or label.get("schema") != _SCHEMA:
                    yield folder

    def _label(self, folder: Path) -> dict[str, object]:
        return {"schema": _SCHEMA, "recipe": self._recipe, "content": _content(folder)}


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Hold a lock meanwhile, where the file system has locks."""
    from filelock import FileLock

    with ExitStack() as held:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(file))
        except (OSError, NotImplementedError) as error:
            log.warning("%s cannot be locked: %s", file, error)
        yield


def _content(folder: Path) -> str:
    """A hash of all files below a folder, of large ones of both ends: it need not be identity."""
    total = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not file.name.startswith("."):
            size = file.stat().st_size
            total.update(f"{file.relative_to(folder).as_posix()}\0{size}\0".encode())
            with file.open("rb") as stream:
                total.update(stream.read(_SAMPLE))
                stream.seek(max(size - _SAMPLE, 0))
                total.update(stream.read())
    return total.hexdigest()


def _sync(path: Path) -> None:
    """Wait until a file or a folder is on the disk; Windows cannot do that for folders."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
