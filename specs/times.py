"""Hours and moments in specs: `window` and `not_before`, read as the local wall clock says.

Only what the clock shows at a moment is ever asked, never which moment a time of day means: where
the clock changes, there are two or none. Moments are aware, those returned in UTC. `zone` stands
for the machine's own zone where it is None; tests pass one. Never sleeps and never asks for the
time: `now` is given.
"""

import re
from datetime import UTC, datetime, time, timedelta, tzinfo

_DAY = timedelta(days=1)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
# Windows knows its own zone's offset between these alone; no rule of today reaches further anyway.
_FIRST, _LAST = datetime(1970, 1, 2, tzinfo=UTC), datetime(3000, 1, 1, tzinfo=UTC)


def parse_window(window: str) -> tuple[time, time]:
    """The opening and the closing of "23:00-07:00"; ValueError if it is not one.

    A closing "24:00" is midnight, so both are midnight for "00:00-24:00", the whole day.
    """
    opening, closing = (part.strip() for part in window.partition("-")[::2])
    if len(opening) != 5 or len(closing) != 5:
        raise ValueError('write the hours as "23:00-07:00"')
    start = time.fromisoformat(opening)
    end = time() if closing == "24:00" else time.fromisoformat(closing)
    if start == end and closing != "24:00":
        raise ValueError("it opens and closes at the same minute: write 00:00-24:00 for all hours")
    return start, end


def parse_moment(text: str, zone: tzinfo | None = None) -> datetime:
    """A date and time by RFC 3339; without an offset, when the local clock first shows it or more.

    Raises ValueError for what is not one, or lies (in UTC) outside the years 1970 to 9000: near the
    ends of the calendar another zone's clock would show a date that does not exist.
    """
    moment = datetime.fromisoformat(text.upper().replace(" ", "T"))
    if 1969 <= moment.year <= 9001:
        moment = moment.astimezone(UTC) if moment.tzinfo else _reached(moment, zone)
        if 1970 <= moment.year <= 9000:
            return moment
    raise ValueError("it lies outside the years 1970 to 9000: write one like 2026-12-24T22:00")


def parse_duration(text: str) -> float | None:
    """The seconds of "90s", "30m", "2h", "30d" or "8w"; None if it is not one."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw])", text.strip())
    return float(match[1]) * _SECONDS[match[2]] if match else None


def in_window(window: str, now: datetime, zone: tzinfo | None = None) -> bool:
    """Whether `now` lies within the hours; the closing minute no longer does."""
    start, end = parse_window(window)
    clock = _shown(now.astimezone(UTC), zone).time()
    if start < end:
        return start <= clock < end
    return clock >= start or clock < end


def next_opening(
    now: datetime,
    window: str | None = None,
    not_before: str | None = None,
    zone: tzinfo | None = None,
) -> datetime:
    """The first moment from `now` on that both `window` and `not_before` allow."""
    moment = now.astimezone(UTC)
    if not_before is not None:
        moment = max(moment, parse_moment(not_before, zone))
    while window is not None and not in_window(window, moment, zone):
        shown = _shown(moment, zone)
        ahead = datetime.combine(shown.date(), parse_window(window)[0]) - shown
        moment = _later(moment, ahead % _DAY, zone)
    return moment


def _reached(wall: datetime, zone: tzinfo | None) -> datetime:
    """The first moment at which the clock shows `wall` or more."""
    moment = wall.replace(tzinfo=UTC) - _DAY  # no clock is a day ahead of UTC
    while (ahead := wall - _shown(moment, zone)) > timedelta():
        moment = _later(moment, ahead, zone)
    return moment


def _later(moment: datetime, wait: timedelta, zone: tzinfo | None) -> datetime:
    """The moment so much later, or the one at which the clock changes if that comes first."""
    end, offset = moment + wait, _offset(moment, zone)
    if _offset(end, zone) == offset:
        return end
    while end - moment > timedelta(seconds=1):
        middle = moment + (end - moment) / 2
        if _offset(middle, zone) == offset:
            moment = middle
        else:
            end = middle
    return end.replace(microsecond=0)


def _shown(moment: datetime, zone: tzinfo | None) -> datetime:
    """What the clock shows at a moment, without an offset."""
    return (moment + _offset(moment, zone)).replace(tzinfo=None)


def _offset(moment: datetime, zone: tzinfo | None) -> timedelta:
    offset = min(max(moment, _FIRST), _LAST).astimezone(zone).utcoffset()
    assert offset is not None, "an aware moment"
    return offset
