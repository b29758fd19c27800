"""Folders of derived weights that outlive the process: each is whole, or it does not exist.

    data/quantised/<fingerprint of the source>-nf4/…

A folder is written under a hidden name, synced, and renamed, so that neither a kill nor another
process leaves half of one. A folder that is not as it was written is deleted and made again; users
may delete one at any time. Never reads what the files mean.
"""

import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from runner.engine.hub.sources import read_json
from runner.engine.weights import fingerprint

log = logging.getLogger(__name__)

_LABEL = ".label.json"
_SPARE_BYTES = 2**30


class KeptFolder:
    """One folder that can be made again from its source, a file or a folder.

    `recipe` is the version of how it is made; a folder made by another one counts as absent.
    """

    def __init__(self, store: Path, source: Path, precision: str, recipe: int) -> None:
        self.folder = store / f"{fingerprint.of(source)[:16]}-{precision}"
        self._recipe = recipe

    def is_whole(self) -> bool:
        """Whether every file is there as it was written (large ones are compared at both ends)."""
        label = read_json(self.folder / _LABEL)
        return label is not None and label == self._label(self.folder)

    def make(self, size: int, write: Callable[[Path], None]) -> bool:
        """Let `write` fill the folder; False where the disk has no room for `size` bytes.

        False too, with nothing left behind, where writing fails with an OSError. What a killed
        process left of the folder is deleted first.
        """
        store = self.folder.parent
        for leftover in (self.folder, *store.glob(f".{self.folder.name}.*")):
            shutil.rmtree(leftover, ignore_errors=True)
        store.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(store).free
        if free < size + _SPARE_BYTES:
            log.warning(
                "%.1f GiB are free in %s and %.1f GiB are needed to keep quantised weights: "
                "they are made again at every start until there is room",
                free / 2**30, store, (size + _SPARE_BYTES) / 2**30,
            )  # fmt: skip
            return False
        aside = store / f".{self.folder.name}.{uuid.uuid4().hex}"
        try:
            aside.mkdir()
            write(aside)
            (aside / _LABEL).write_text(json.dumps(self._label(aside)), encoding="utf-8")
            for path in (aside, *aside.rglob("*")):
                _sync(path)
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
        return {"schema": 1, "recipe": self._recipe, "content": fingerprint.of(folder)}


def _sync(path: Path) -> None:
    """Wait until a file or a folder is on the disk; Windows cannot do that for folders."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
