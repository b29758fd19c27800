"""Hours and moments in specs: `window` and `not_before`, read as the local wall clock says.

Moments inside are always aware. `zone` stands for the machine's own zone where it is None; tests
pass one. Never sleeps and never asks for the time: `now` is given.
"""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta, tzinfo

_DAYS_AHEAD = 8


def parse_window(window: str) -> tuple[time, time]:
    """The opening and the closing of "23:00-07:00"; ValueError if it is not one."""
    opening, _, closing = window.partition("-")
    if len(opening) != 5 or len(closing) != 5:
        raise ValueError('write the hours as "23:00-07:00"')
    start, end = time.fromisoformat(opening), time.fromisoformat(closing)
    if start == end:
        raise ValueError("it opens and closes at the same minute: leave it out to allow all hours")
    return start, end


def parse_moment(text: str, zone: tzinfo | None = None) -> datetime:
    """A date and time by RFC 3339, local where it has no offset.

    Raises ValueError for what is not one, or lies (in UTC) outside the years 1970 to 9000: near the
    ends of the calendar another zone's clock would show a date that does not exist.
    """
    moment = datetime.fromisoformat(text.upper().replace(" ", "T"))
    try:
        moment = moment if moment.tzinfo else _aware(moment, zone)
        is_near = 1970 <= moment.astimezone(UTC).year <= 9000
    except OverflowError:
        is_near = False
    if not is_near:
        raise ValueError("it lies outside the years 1970 to 9000: write one like 2026-12-24T22:00")
    return moment


def in_window(window: str, now: datetime, zone: tzinfo | None = None) -> bool:
    """Whether `now` lies within the hours; the closing minute no longer does."""
    start, end = parse_window(window)
    clock = now.astimezone(zone).time()
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
    # Compared in UTC: two moments of one zone compare by their clocks, whatever the season.
    now = now.astimezone(UTC)
    if not_before is not None:
        now = max(now, parse_moment(not_before, zone).astimezone(UTC))
    if window is None or in_window(window, now, zone):
        return now.astimezone(zone)
    opening = parse_window(window)[0]
    today = now.astimezone(zone).date()
    for day in range(_DAYS_AHEAD):
        for moment in _moments(datetime.combine(today + timedelta(days=day), opening), zone):
            if moment >= now and in_window(window, moment, zone):
                return moment.astimezone(zone)
    # Only a zone that skips these hours every day of a week gets here; there is none.
    raise ValueError(f"the window {window} never opens")


def _aware(wall: datetime, zone: tzinfo | None) -> datetime:
    return wall.astimezone() if zone is None else wall.replace(tzinfo=zone)


def _moments(wall: datetime, zone: tzinfo | None) -> list[datetime]:
    """When the clock shows `wall`, in UTC: twice in autumn's hour; in spring's gap, its end."""
    first, second = (_aware(wall.replace(fold=fold), zone).astimezone(UTC) for fold in (0, 1))
    if first <= second:
        return [first, second]
    # In the gap fold 0 reads the old offset and lands behind it, fold 1 before it.
    minutes = int((first - second) / timedelta(minutes=1))
    steps = (second + timedelta(minutes=minute) for minute in range(minutes + 1))
    return [step for step in steps if step.astimezone(zone).replace(tzinfo=None) >= wall][:1]
