"""Hours and moments: midnight, summer time, and offsets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from specs.times import in_window, next_opening, parse_moment, parse_window

BERLIN = ZoneInfo("Europe/Berlin")

CHANGES = {
    "Europe/London": ("2026-03-29", "2026-10-25"),
    "Europe/Berlin": ("2026-03-29", "2026-10-25"),
    "America/New_York": ("2026-03-08", "2026-11-01"),
    "America/St_Johns": ("2026-03-08", "2026-11-01"),
    "America/Santiago": ("2026-09-06", "2026-04-05"),  # at midnight
    "Africa/Cairo": ("2026-04-24", "2026-10-30"),  # at midnight, on Fridays
    "Asia/Beirut": ("2026-03-29", "2026-10-25"),  # at midnight
    "Australia/Lord_Howe": ("2026-10-04", "2026-04-05"),  # by half an hour
    "Pacific/Auckland": ("2026-09-27", "2026-04-05"),
}
"""Zones, and the days of a year on which their clocks go forward and back."""

WINDOWS = (
    "01:30-02:10", "02:15-02:45", "02:00-03:00", "23:30-00:30", "00:00-00:10", "23:00-07:00",
    "22:00-24:00", "09:00 - 17:00",
)  # fmt: skip


def local(text: str, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold)


@pytest.mark.parametrize(
    "window, clock, inside",
    [
        ("23:00-07:00", "23:00", True), ("23:00-07:00", "22:59", False),
        ("23:00-07:00", "00:00", True), ("23:00-07:00", "06:59", True),
        ("23:00-07:00", "07:00", False), ("23:00-07:00", "12:00", False),
        ("09:00-17:30", "09:00", True), ("09:00-17:30", "17:29", True),
        ("09:00-17:30", "17:30", False), ("09:00-17:30", "08:59", False),
        ("00:00-23:59", "00:00", True), ("00:00-23:59", "23:59", False),
        ("12:00-00:00", "23:59", True), ("12:00-00:00", "00:00", False),
        ("22:00-24:00", "23:59", True), ("22:00-24:00", "00:00", False),
        ("00:00-24:00", "00:00", True), ("00:00-24:00", "23:59", True),
        ("23:00 - 07:00", "23:00", True), ("23:00 - 07:00", "07:00", False),
    ],
)  # fmt: skip
def test_a_window_opens_and_closes_on_the_minute(window: str, clock: str, inside: bool) -> None:
    now = local(f"2026-11-23T{clock}")
    assert in_window(window, now, BERLIN) is inside
    assert in_window(window, now.astimezone(UTC), BERLIN) is inside


@pytest.mark.parametrize(
    "now, opening",
    [
        ("2026-11-23T12:00", "2026-11-23T23:00"),
        ("2026-11-23T23:30", "2026-11-23T23:30"),
        ("2026-11-24T03:00", "2026-11-24T03:00"),
        ("2026-11-24T07:00", "2026-11-24T23:00"),
    ],
)
def test_the_next_opening_is_now_or_later_the_same_day(now: str, opening: str) -> None:
    assert next_opening(local(now), "23:00-07:00", zone=BERLIN) == local(opening)


def test_not_before_and_window_hold_together() -> None:
    now = local("2026-11-23T23:30")
    until = "2026-11-24T09:00:00+01:00"
    assert next_opening(now, None, until, BERLIN) == local("2026-11-24T09:00")
    assert next_opening(now, "23:00-07:00", until, BERLIN) == local("2026-11-24T23:00")
    assert next_opening(now, "23:00-07:00", "2020-01-01T00:00Z", BERLIN) == now
    assert next_opening(now, zone=BERLIN) == now


def test_in_spring_a_window_inside_the_missing_hour_opens_at_its_end_or_another_day() -> None:
    # 29 March 2026: 02:00 becomes 03:00.
    now = local("2026-03-29T00:30")
    opening = next_opening(now, "02:30-05:00", zone=BERLIN)
    assert opening == local("2026-03-29T03:00") and in_window("02:30-05:00", opening, BERLIN)
    assert next_opening(now, "02:15-02:45", zone=BERLIN) == local("2026-03-30T02:15")


def test_in_autumn_the_hour_that_comes_twice_opens_twice() -> None:
    # 25 October 2026: 03:00 becomes 02:00.
    first, second = local("2026-10-25T02:15"), local("2026-10-25T02:15", fold=1)
    assert second.astimezone(UTC) - first.astimezone(UTC) == timedelta(hours=1)
    before = local("2026-10-25T01:00")
    assert next_opening(before, "02:15-02:45", zone=BERLIN) == first.astimezone(UTC)
    between = first.astimezone(UTC) + timedelta(minutes=40)
    again = next_opening(between, "02:15-02:45", zone=BERLIN)
    assert again == second.astimezone(UTC)


def test_in_autumn_a_window_that_has_closed_opens_again_where_the_clock_goes_back_into_it() -> None:
    # 25 October 2026 at 01:00 UTC: 03:00 becomes 02:00, which 01:30-02:10 had left at 02:10.
    opening = next_opening(local("2026-10-25T02:20"), "01:30-02:10", zone=BERLIN)
    assert opening == datetime(2026, 10, 25, 1, tzinfo=UTC)


def test_a_moment_in_the_missing_hour_is_its_end_and_one_that_comes_twice_the_first() -> None:
    assert parse_moment("2026-03-29T02:30", BERLIN) == datetime(2026, 3, 29, 1, tzinfo=UTC)
    assert parse_moment("2026-10-25T02:30", BERLIN) == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert parse_moment("2026-10-25T03:30", BERLIN) == datetime(2026, 10, 25, 2, 30, tzinfo=UTC)
    apia = ZoneInfo("Pacific/Apia")  # which left out a day
    assert parse_moment("2011-12-30T12:00", apia) == datetime(2011, 12, 30, 10, tzinfo=UTC)


@pytest.fixture(params=["given", "machine"])
def zone_of(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, ZoneInfo | None]]:
    """How a test names a zone: by giving it, or by making it the machine's own."""
    if request.param == "given":
        yield {name: ZoneInfo(name) for name in CHANGES}
        return
    if not hasattr(time, "tzset"):
        pytest.skip("this system cannot give one process another zone")

    class Own(dict[str, ZoneInfo | None]):
        def __missing__(self, name: str) -> None:
            monkeypatch.setenv("TZ", name)
            time.tzset()

    yield Own()
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("name", CHANGES)
def test_around_each_change_of_a_clock_every_minute_has_the_opening_that_the_clock_shows(
    name: str, zone_of: dict[str, ZoneInfo | None]
) -> None:
    """Looked up minute by minute in what a clock of that zone shows.

    Seen red in London, Berlin, Lord Howe and Auckland with times of day made into moments: by
    `astimezone` of a date without an offset, and by `ZoneInfo`.
    """
    zone, clock = zone_of[name], ZoneInfo(name)
    for day in map(date.fromisoformat, CHANGES[name]):
        noon = datetime(day.year, day.month, day.day, 12, tzinfo=clock).astimezone(UTC)
        minutes = [noon + timedelta(minutes=n) for n in range(-1500, 3000)]
        shown = [f"{minute.astimezone(clock):%H:%M}" for minute in minutes]
        for window in WINDOWS:
            start, end = window.replace(" ", "").split("-")
            crosses = start > end
            openings: list[datetime] = []
            following = minutes[-1]
            for minute, text in zip(reversed(minutes), reversed(shown), strict=True):
                in_hours = start <= text or text < end if crosses else start <= text < end
                following = minute if in_hours else following
                openings.append(following)
            for minute, opening in list(zip(minutes, reversed(openings), strict=True))[:1560]:
                assert next_opening(minute, window, zone=zone) == opening, (window, minute)


def test_every_hour_of_a_year_has_an_opening_that_is_in_the_window() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for hours in range(0, 366 * 24, 7):
        now = start + timedelta(hours=hours)
        for window in ("23:00-07:00", "02:30-03:10", "09:00-17:00"):
            opening = next_opening(now, window, zone=BERLIN)
            assert opening >= now and in_window(window, opening, BERLIN)
            assert opening - now <= timedelta(hours=49)


@pytest.mark.parametrize(
    "text, moment",
    [
        ("2026-11-23T22:00:00Z", datetime(2026, 11, 23, 22, tzinfo=UTC)),
        ("2026-11-23t22:00:00.5z", datetime(2026, 11, 23, 22, 0, 0, 500_000, tzinfo=UTC)),
        ("2026-11-23T22:00+01:00", datetime(2026, 11, 23, 21, tzinfo=UTC)),
        ("2026-11-23 22:00", datetime(2026, 11, 23, 21, tzinfo=UTC)),
        ("2026-07-01T22:00:00", datetime(2026, 7, 1, 20, tzinfo=UTC)),
    ],
)
def test_a_moment_has_an_offset_or_is_local(text: str, moment: datetime) -> None:
    assert parse_moment(text, BERLIN) == moment


def test_without_a_zone_the_machines_own_is_used() -> None:
    now = datetime.now(UTC)
    assert parse_moment("2026-11-23T22:00").utcoffset() is not None
    assert next_opening(now, "00:00-23:59") >= now
    assert in_window("00:00-23:59", now) in (True, False)


@pytest.mark.parametrize("text", ["", "x", "2026-02-30T00:00", "2026-01-01T00:00+99:00"])
def test_what_is_no_moment_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        parse_moment(text)


@pytest.mark.parametrize(
    "text",
    [
        "9999-12-31T23:59:59-14:00", "9999-12-31T23:59:59", "9001-01-01T00:00Z",
        "1969-12-31T23:59Z", "0001-01-01T00:00:00+23:59", "1970-01-01T00:00+01:00",
        "0001-01-01T00:00",
    ],
)  # fmt: skip
def test_a_moment_outside_1970_to_9000_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match="outside the years 1970 to 9000: write one like"):
        parse_moment(text, BERLIN)


def test_moments_up_to_the_ends_of_the_years_can_be_waited_for() -> None:
    for text in ("1970-01-01T00:00Z", "9000-12-31T23:59:59Z"):
        assert next_opening(local("2026-11-23T12:00"), "23:00-07:00", text, BERLIN)


@pytest.mark.parametrize("window", ["", "23-07", "7:00-9:00", "24:00-07:00", "22:00-24:01"])
def test_what_is_no_window_is_a_value_error(window: str) -> None:
    with pytest.raises(ValueError):
        parse_window(window)


@pytest.mark.parametrize("window", ["22:00-22:00", "00:00-00:00"])
def test_a_window_of_no_minute_is_refused_with_what_to_write_for_all_hours(window: str) -> None:
    with pytest.raises(ValueError, match="write 00:00-24:00 for all hours"):
        parse_window(window)


@pytest.mark.parametrize("text", ["1970-01-01T12:00", "3500-07-01T12:00", "9000-12-30T12:00"])
def test_a_moment_that_the_system_has_no_rules_for_is_still_one(
    text: str, zone_of: dict[str, ZoneInfo | None]
) -> None:
    """Windows refuses to say what its clock shows before 1970 and after 3000."""
    moment = parse_moment(text, zone_of["Europe/Berlin"])
    assert abs(moment - datetime.fromisoformat(text).replace(tzinfo=UTC)) <= timedelta(hours=2)
    assert next_opening(moment, "23:00-07:00", zone=zone_of["Europe/Berlin"]) > moment
