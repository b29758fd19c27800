"""What `inbox/runner.lend` says, by which the device is lent to another program.

All who may drop specs may write it. Read by the runner and by `fluxdrop lend`; never changes it.
"""

import json
import os
import platform
from pathlib import Path

from runner.clock import timestamp
from runner.errors import InputBad
from runner.files import read_file
from runner.holds import LENT, Hold
from runner.reading import checked
from runner.spool.disk.platform import is_dead, pid_space
from runner.wire import Lent
from specs.times import parse_moment

_MOST_BYTES = 4096
ENDLESS: Lent = {
    "until": None, "pid": None, "host": None, "space": None, "since": None, "now": False
}  # fmt: skip
"""What an empty file says."""


def lent_to(pid: int | None, until: float | None = None, *, now: bool = False) -> Lent:
    """What a file says that is written now, for this process or another one beside it."""
    here = {"pid": pid, "host": platform.node(), "space": pid_space()} if pid else {}
    end = None if until is None else timestamp(until)
    return ENDLESS | {"until": end, "since": timestamp(), "now": now} | here  # type: ignore[return-value]


def read(file: Path) -> Lent:
    """What a file says. Raises OSError, and InputBad where it is neither empty nor such JSON."""
    data = read_file(file, _MOST_BYTES)
    if not data.strip():
        return ENDLESS
    try:
        found = checked(json.loads(data), Lent)
        if found is None or (found["pid"] is not None and found["pid"] < 1):
            raise ValueError("of another type")
        if found["pid"] is not None and found["since"] is None:
            found["since"] = timestamp(os.stat(file, follow_symlinks=False).st_mtime)
        for moment in filter(None, (found["since"], found["until"])):
            time_of(moment)
    except (ValueError, OverflowError, RecursionError):
        raise InputBad(
            "it is neither empty nor JSON like"
            ' {"until": "2026-12-24T22:00:00Z", "pid": 4711, "host": "name"}: remove it or mend it;'
            " the device is lent until then"
        ) from None
    return {key: found[key] for key in ENDLESS}  # type: ignore[return-value]


def time_of(moment: str) -> float:
    """A date and time in seconds since the epoch. Raises ValueError."""
    return parse_moment(moment).timestamp()


def is_over(lent: Lent, wall: float) -> bool:
    """Whether its time is over, or its process has ended, as far as that can be known here."""
    if lent["until"] and time_of(lent["until"]) <= wall:
        return True
    pid = _holder(lent)
    return pid is not None and is_dead(pid, time_of(str(lent["since"])))


def _holder(lent: Lent) -> int | None:
    """The process that has it, where it can be asked whether that runs."""
    is_here = lent["host"] in (None, platform.node()) and lent["space"] in (None, pid_space())
    return lent["pid"] if is_here else None


def hold_of(lent: Lent) -> Hold:
    """Why jobs wait meanwhile."""
    pid = _holder(lent)
    ends = [end for end in (lent["until"], pid and f"process {pid} ends") if end]
    return Hold(
        LENT.reason,
        f"the device is lent until {' or '.join(ends) or 'it is taken back'}:"
        " `fluxdrop lend --end`, or removing inbox/runner.lend, takes it back",
        lent=lent,
        passes=bool(ends),
        wanted=True,
    )
