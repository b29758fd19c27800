"""The exit codes of fluxdrop's processes; 70, 86 and 87 are for its supervisor.

69, 70 and 75 are EX_UNAVAILABLE, EX_SOFTWARE and EX_TEMPFAIL of sysexits.h.
"""

import signal

DONE = 0
FAILED = 1
"""A job failed or was rejected, or a check found something."""
WRONG_USAGE = 2
RUNNER_NEEDED = 69
"""The command needs a running runner."""
BROKEN = 70
"""A runner ends with this when one of its threads ended by a mistake: see its log."""
RUNNER_BUSY = 75
"""Another runner holds this home or this GPU."""
DEVICE_LOST = 86
"""A runner ends with this when its GPU is lost."""
HUNG = 87
"""A runner ends with this when an image hangs, or when it cannot stop without its supervisor."""
INTERRUPTED = 130
"""Ctrl-C."""

LAST_END = "FLUXDROP_LAST_END"
"""The variable in which the supervisor tells a runner how the one before it ended."""

ENDS = {
    DEVICE_LOST: "the GPU was lost",
    HUNG: "an image hung",
    BROKEN: "a thread of it ended",
}

NOT_RESTARTED = frozenset({DONE, WRONG_USAGE, RUNNER_NEEDED, RUNNER_BUSY, INTERRUPTED})
"""A runner that ends with one of these is not started again."""


def cause_of(code: int) -> str:
    """How a process ended, as part of a sentence; a code below 0 is that of a signal."""
    if code >= 0:
        return ENDS.get(code, f"exit code {code}")
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
