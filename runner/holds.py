"""Why no image may begin: somebody paused the runner, or a disk is nearly full or read-only.

What is rendered needs a place, and so do the ledger and the statuses that say what became of it.
Halting a little before the end of a disk keeps all of that possible, and a night's queue does not
fail job by job because a share was away. Never changes anything.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass

from runner.errors import DiskFull
from runner.settings import Home

LEAST_FREE_BYTES = 64 << 20
"""Four large pictures, and what the ledger and the statuses of a busy hour take."""


@dataclass(frozen=True)
class Hold:
    """The reason word and the sentence for jobs that have to wait."""

    reason: str
    message: str


PAUSED = Hold("Paused", "paused: `fluxdrop resume`, or removing inbox/runner.pause, ends it")


def disk_hold(home: Home) -> Hold | None:
    """What keeps a disk of the home from taking another image; None where nothing does."""
    for folder in (home.outbox, home.data):
        try:
            free = shutil.disk_usage(folder).free
        except OSError:
            # Not there: it is made again, or whoever writes there says what is wrong.
            continue
        if free < LEAST_FREE_BYTES:
            message = f"the disk of {folder} has {free >> 20} MiB left: free some, and jobs go on"
            return Hold(DiskFull.reason, message)
        if not os.access(folder, os.W_OK):
            message = f"{folder} cannot be written: make it writable again, and jobs go on"
            return Hold("Unwritable", message)
    return None
