"""Maintenance windows: a table of moments, and every change of clocks that hypothesis finds."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.delta.maintenance import (
    LENGTH_MINUTES_MAX,
    MINUTES_PER_DAY,
    Schedule,
    Window,
)

SAT, SUN, WED = 5, 6, 2
BERLIN = ZoneInfo("Europe/Berlin")
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",  # half an hour off
    "Australia/Lord_Howe",  # changes by half an hour
    "Africa/Casablanca",  # winter time in Ramadan
    "Pacific/Apia",  # had no 30 December 2011
    "America/Santiago",  # changes at midnight: that day has no 00:00
]


def window(days: set[int], start: str, minutes: int) -> Window:
    return Window(frozenset(days), time.fromisoformat(start), minutes)


def schedule(*windows: Window, zone: str = "UTC") -> Schedule:
    return Schedule(windows, ZoneInfo(zone), zone)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# 2026-01-03 is a Saturday. Berlin leaves winter time on 29 March, summer time on 25 October.
OVER_MIDNIGHT = window({SAT}, "23:30", 60)


@pytest.mark.parametrize(
    "one, zone, now, closes, opens",
    [
        # over midnight, in the zone's own weekday
        (OVER_MIDNIGHT, "UTC", "2026-01-03T23:29:59", None, "2026-01-03T23:30"),
        (OVER_MIDNIGHT, "UTC", "2026-01-03T23:30", "2026-01-04T00:30", "2026-01-10T23:30"),
        (OVER_MIDNIGHT, "UTC", "2026-01-04T00:29:59", "2026-01-04T00:30", "2026-01-10T23:30"),
        (OVER_MIDNIGHT, "UTC", "2026-01-04T00:30", None, "2026-01-10T23:30"),
        (OVER_MIDNIGHT, "Europe/Berlin", "2026-01-03T22:30", "2026-01-03T23:30", None),
        (OVER_MIDNIGHT, "Europe/Berlin", "2026-07-04T21:30", "2026-07-04T22:30", None),
        # into the week after
        (window({SUN}, "23:00", 120), "UTC", "2026-01-05T00:30", "2026-01-05T01:00", None),
        # 02:30 does not exist on 29 March: it opens at 03:30, which is 01:30 UTC, and is as long
        (window({SUN}, "02:30", 60), "Europe/Berlin", "2026-03-29T01:29", None, "2026-03-29T01:30"),
        (window({SUN}, "02:30", 60), "Europe/Berlin", "2026-03-29T01:30", "2026-03-29T02:30", None),
        # 02:30 comes twice on 25 October: it opens at the first, 00:30 UTC, and not again
        (window({SUN}, "02:30", 30), "Europe/Berlin", "2026-10-25T00:30", "2026-10-25T01:00", None),
        (window({SUN}, "02:30", 30), "Europe/Berlin", "2026-10-25T01:30", None, "2026-11-01T01:30"),
        # across the change: 60 minutes are 60 minutes
        (window({SUN}, "01:30", 60), "Europe/Berlin", "2026-03-29T01:29", "2026-03-29T01:30", None),
        (window({SUN}, "01:30", 60), "Europe/Berlin", "2026-03-29T01:30", None, None),
        # longer than a day, and the whole week
        (window({SAT}, "08:00", 36 * 60), "UTC", "2026-01-04T19:59", "2026-01-04T20:00", None),
        (window({WED}, "01:00", LENGTH_MINUTES_MAX), "UTC", "2026-01-06T12:00", "2026-01-07T01:00", None),
    ],
)  # fmt: skip
def test_moments(one: Window, zone: str, now: str, closes: str | None, opens: str | None) -> None:
    found = schedule(one, zone=zone).open_at(utc(now))
    assert (found and found.end) == (closes and utc(closes))
    if opens is not None:
        following = schedule(one, zone=zone).next_after(utc(now))
        assert following is not None
        assert following.begin == utc(opens)


def test_of_several_the_longest_counts() -> None:
    both = schedule(window({SAT}, "20:00", 60), window({SAT}, "20:30", 60))
    found = both.open_at(utc("2026-01-03T20:45"))
    assert found is not None
    assert found.end == utc("2026-01-03T21:30")


def test_no_windows() -> None:
    assert Schedule().open_at(utc("2026-01-03T20:45")) is None
    assert Schedule().next_after(utc("2026-01-03T20:45")) is None


@pytest.mark.parametrize(
    "one, words",
    [
        (OVER_MIDNIGHT, "Sat 23:30-00:30"),
        (window({SUN, SAT}, "01:00", 30), "Sat,Sun 01:00-01:30"),
        (window(set(range(7)), "00:00", 1439), "daily 00:00-23:59"),
        (window({SAT}, "08:00", 36 * 60), "Sat 08:00 for 36 h"),
    ],
)
def test_words(one: Window, words: str) -> None:
    assert str(one) == words


windows = st.builds(
    Window,
    st.frozensets(st.integers(0, 6), min_size=1),
    st.builds(time, st.integers(0, 23), st.sampled_from([0, 15, 30, 59])),
    st.integers(1, LENGTH_MINUTES_MAX),
)
moments = st.datetimes(datetime(2011, 1, 1), datetime(2037, 1, 1)).map(
    lambda moment: moment.replace(tzinfo=UTC, microsecond=0)
)


@given(windows, st.sampled_from(ZONES), moments)
@settings(max_examples=150, deadline=None)
def test_every_day_has_its_window_once_and_as_long_as_it_says(
    one: Window, zone: str, now: datetime
) -> None:
    """Whatever clocks do: counted over two weeks, from what the calendar says."""
    made = schedule(one, zone=zone)
    first = now.astimezone(made.zone).date() - timedelta(days=2)
    days = [first + timedelta(days=n) for n in range(5)]
    openings = sorted({(found.begin, found.end) for found in made.openings(now)})
    for begin, end in openings:
        assert end - begin == timedelta(minutes=one.length_minutes)
    wanted = [day for day in days if day.weekday() in one.days]
    for day in wanted:
        noon = datetime.combine(day, time(12), made.zone).astimezone(UTC)
        near = [b for b, _ in openings if abs((b - noon).total_seconds()) <= 14 * 3600]
        shown = [b.astimezone(made.zone) for b in near]
        # At the time of day that it says, or, where that does not exist, past the gap.
        opened = [
            b for b in shown if b.date() == day and timedelta() <= _past(b, one.start) <= _GAP
        ]
        whole_day_missing = _missing(day, made.zone)
        assert len(opened) == 1 or whole_day_missing, (day, shown)


_GAP = timedelta(hours=1)


def _past(shown: datetime, start: time) -> timedelta:
    return shown.replace(tzinfo=None) - datetime.combine(shown.date(), start)


def _missing(day: object, zone: object) -> bool:
    return str(day) == "2011-12-30" and str(zone) == "Pacific/Apia"


@given(st.lists(windows, min_size=1, max_size=3), st.sampled_from(ZONES), moments)
@settings(max_examples=150, deadline=None)
def test_open_and_next_agree(some: list[Window], zone: str, now: datetime) -> None:
    made = schedule(*some, zone=zone)
    following = made.next_after(now)
    assert following is not None
    assert now < following.begin <= now + timedelta(days=8)
    assert made.open_at(following.begin) is not None
    current = made.open_at(now)
    if current is None:
        second = timedelta(seconds=1)
        assert made.open_at(following.begin - second) is None
        middle = now + (following.begin - now) / 2
        assert made.open_at(middle) is None
    else:
        assert current.begin <= now < current.end
        assert (current.end - now) <= timedelta(minutes=max(one.length_minutes for one in some))
        last = made.open_at(current.end - timedelta(seconds=1))
        assert last is not None


def test_a_day_is_a_day() -> None:
    assert MINUTES_PER_DAY * 7 == LENGTH_MINUTES_MAX
