"""Why no image may begin: somebody paused the runner, or a disk is nearly full.

What is rendered needs a place, and so do the ledger and the statuses that say what became of it.
Halting a little before the end of a disk keeps all of that possible. Never removes anything.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from runner.errors import DiskFull
from runner.settings import Home

LEAST_FREE_BYTES = 64 << 20
"""Four large pictures, and what the ledger and the statuses of a busy hour take."""


@dataclass(frozen=True)
class Halt:
    """The reason word and the sentence for jobs that have to wait."""

    reason: str
    message: str


PAUSED = Halt("Paused", "paused: `fluxdrop resume`, or removing inbox/runner.pause, ends it")


def shortage(home: Home) -> Halt | None:
    """The halt where a disk of the home has too little room for another image; else None."""
    for folder in (home.outbox, home.data):
        try:
            free = shutil.disk_usage(folder).free
        except OSError:
            # Whoever writes there next finds out, and says it better.
            continue
        if free < LEAST_FREE_BYTES:
            message = f"the disk of {folder} has {free >> 20} MiB left: free some, and jobs go on"
            return Halt(DiskFull.reason, message)
    return None
