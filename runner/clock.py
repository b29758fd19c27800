"""Times in the form that fluxdrop's files use, and the two clocks that the runner reads.

Waiting is measured with the monotonic clock only: the wall clock jumps.
"""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

# The worker ticks every two seconds.
_LATE_SECONDS = 5.0


def timestamp(seconds: float | None = None) -> str:
    """A moment as RFC 3339 in UTC with milliseconds, now unless given."""
    moment = datetime.fromtimestamp(time.time() if seconds is None else seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def local_time(seconds: float) -> str:
    """A moment for people, by this machine's own hours, to which windows belong."""
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M %Z")


def now() -> float:
    """The wall clock, in seconds since the epoch: only for what callers name by date and hour."""
    return time.time()


def monotonic() -> float:
    """The clock for every wait and every duration, in seconds."""
    return time.monotonic()


class AwakeClock:
    """The monotonic clock without the time in which this process stood still.

    A laptop's lid and SIGSTOP are no reason to take an image for hung. Where somebody calls `tick`
    every few seconds, what is longer between two calls does not count.
    """

    def __init__(self) -> None:
        self._ticked: float | None = None
        self._asleep = 0.0

    def tick(self) -> None:
        """Say that the process runs."""
        moment = monotonic()
        if self._ticked is not None:
            self._asleep += max(0.0, moment - self._ticked - _LATE_SECONDS)
        self._ticked = moment

    def __call__(self) -> float:
        moment = monotonic()
        if self._ticked is not None:
            moment = min(moment, self._ticked + _LATE_SECONDS)
        return moment - self._asleep


def ready_at(spec: Mapping[str, Any], wall: float) -> float:
    """The first moment from `wall` on at which a spec's `window` and `not_before` let it run."""
    if "window" not in spec and "not_before" not in spec:
        return wall
    from specs.times import next_opening

    moment = datetime.fromtimestamp(wall, UTC)
    opening = next_opening(moment, spec.get("window"), spec.get("not_before"))
    # A date is rounded to microseconds: counted back it may lie behind the moment it was made from.
    return wall if opening <= moment else opening.timestamp()
