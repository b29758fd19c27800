"""Folders of weights that were made here and are kept: each is whole, or it is not there.

    data/quantised/<fingerprint of the source>-nf4/…

A folder is written aside, brought to the disk, and renamed, so that neither a kill nor another
process leaves half of one. Knows nothing of what is in it; a folder that is not as it was written
is thrown away and made again. Anybody may delete one at any time.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from runner.engine.weights import fingerprint

log = logging.getLogger(__name__)

_LABEL = ".label.json"
_SPARE = 2**30


class Kept:
    """One folder that can be made again from its source.

    `recipe` says how it is made; a folder made by another recipe does not count.
    """

    def __init__(self, store: Path, source: Path, precision: str, recipe: int) -> None:
        mark = fingerprint.of_folder if source.is_dir() else fingerprint.of_file
        self.folder = store / f"{mark(source)[:16]}-{precision}"
        self._recipe = recipe

    def is_whole(self) -> bool:
        """Whether every file is there as it was written (of large ones, both ends)."""
        try:
            label = json.loads((self.folder / _LABEL).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return label == self._label(self.folder)

    def remove(self) -> None:
        """Throw the folder away, and what a killed process left of it."""
        for leftover in (self.folder, *self.folder.parent.glob(f".{self.folder.name}.*")):
            shutil.rmtree(leftover, ignore_errors=True)

    def make(self, size: int, write: Callable[[Path], None]) -> bool:
        """Have the folder written; False where this disk has no room for so many bytes.

        A disk that fills up all the same is no error either: nothing is left behind then.
        """
        self.remove()
        store = self.folder.parent
        store.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(store).free
        if free < size + _SPARE:
            log.warning(
                "%.1f GiB are free in %s and %.1f GiB are needed to keep quantised weights: "
                "they are made again at every start until there is room",
                free / 2**30, store, (size + _SPARE) / 2**30,
            )  # fmt: skip
            return False
        aside = store / f".{self.folder.name}.{uuid.uuid4().hex}"
        try:
            aside.mkdir()
            write(aside)
            (aside / _LABEL).write_text(json.dumps(self._label(aside)), encoding="utf-8")
            _bring_to_disk(aside)
            aside.rename(self.folder)
            _sync(store)
        except OSError as error:
            shutil.rmtree(aside, ignore_errors=True)
            if self.is_whole():  # another process was quicker, which is as good
                return True
            log.warning("quantised weights are not kept in %s: %s", store, error.strerror)
            return False
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        return True

    def _label(self, folder: Path) -> dict[str, object]:
        return {"schema": 1, "recipe": self._recipe, "content": fingerprint.of_folder(folder)}


def _bring_to_disk(folder: Path) -> None:
    for place, _, names in os.walk(folder):
        for name in names:
            _sync(Path(place) / name)
        _sync(Path(place))


def _sync(path: Path) -> None:
    """Wait until a file or a folder is on the disk, where the system can do that for it."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
