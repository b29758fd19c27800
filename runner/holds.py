"""The holds: why jobs wait, the reason word and sentence of each, and the check of the disks.

Some hold one job (inputs, hours), some the whole runner (a pause, a disk). A disk stops the runner
a little before it is full, for rendered images, the ledger and the statuses still need room; and a
night's queue must not fail job by job because a share was away. Never changes anything.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from runner.clock import local_time
from runner.errors import DiskFull
from runner.settings import Home
from runner.wire import Lent

LEAST_FREE_BYTES = 64 << 20
"""Four large pictures, and what the ledger and the statuses of a busy hour take."""

WAITING_FOR_INPUT = "WaitingForInput"
"""The word of a job whose input images are not all there; its sentence names one of them."""


@dataclass(frozen=True)
class Hold:
    """The reason word, if a status shows one, and the sentence for a job that has to wait.

    `lent` says to whom the device is lent meanwhile. A drain waits for one that `passes` by itself.
    One that is `wanted` was asked for, and is no trouble.
    """

    reason: str | None
    message: str
    lent: Lent | None = None
    passes: bool = True
    wanted: bool = False


PAUSED = Hold(
    "Paused",
    "paused: `fluxdrop resume`, or removing inbox/runner.pause, ends it",
    passes=False,
    wanted=True,
)
LENT = Hold("Lent", "the device is lent to another program: `fluxdrop status` says until when")
PREEMPTED = Hold("Preempted", "another job has the next turn")
STOPPING = Hold(None, "continues when the runner starts again")
RUNNER_ENDED = Hold(None, "continues after the runner ended")
HOURS_OVER = Hold("OutsideWindow", "waits for its window to open again")
UNWRITABLE = Hold("Unwritable", "its folder cannot be written: see `faults` in runner.json")
NOT_SAVED = Hold(None, "makes again what found no room, or could not be copied")


def outside_hours(opening: float) -> Hold:
    """The hold of a job that may run from `opening` on, in seconds since the epoch."""
    return Hold(HOURS_OVER.reason, f"waits for its hour, {local_time(opening)}")


def disk_hold(home: Home, *folders: Path) -> Hold | None:
    """Why the disks of these folders cannot take another image; None where they can.

    Without `folders`, those of the outbox and of `data/`.
    """
    away = home.places.away()
    if away is not None:
        return Hold("Unwritable", away)
    for folder in folders or (home.outbox, home.data):
        try:
            free = shutil.disk_usage(folder).free
        except FileNotFoundError:
            # The code that writes there makes it, or says what is wrong.
            continue
        except OSError as error:
            message = f"{folder} does not answer ({error.strerror}): connect it, and jobs go on"
            return Hold("Unwritable", message)
        if not os.access(folder, os.W_OK):
            message = f"{folder} cannot be written: make it writable again, and jobs go on"
            return Hold("Unwritable", message)
        if free < LEAST_FREE_BYTES:
            message = f"the disk of {folder} has {free >> 20} MiB left: free some, and jobs go on"
            return Hold(DiskFull.reason, message)
    return None
