"""Times in the form that fluxdrop's files use, and the two clocks that the runner reads.

Waiting is measured with the monotonic clock only: the wall clock jumps.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any


def timestamp(seconds: float | None = None) -> str:
    """A moment as RFC 3339 in UTC with milliseconds, now unless given."""
    moment = datetime.fromtimestamp(time.time() if seconds is None else seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def now() -> float:
    """The wall clock, in seconds since the epoch: only for what callers name by date and hour."""
    return time.time()


def monotonic() -> float:
    """The clock for every wait and every duration, in seconds."""
    return time.monotonic()


def ready_at(spec: Mapping[str, Any], wall: float) -> float:
    """The first moment from `wall` on at which a spec's `window` and `not_before` let it run."""
    if "window" not in spec and "not_before" not in spec:
        return wall
    from specs.times import next_opening

    moment = datetime.fromtimestamp(wall, UTC)
    opening = next_opening(moment, spec.get("window"), spec.get("not_before"))
    # A date is rounded to microseconds: counted back it may lie behind the moment it was made from.
    return wall if opening <= moment else opening.timestamp()
