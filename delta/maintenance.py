"""Maintenance windows: when they open, when they close. Pure: the moment is an argument.

A window opens on its weekdays at a time of day in a time zone, and stays open for a length. Where
clocks change, RFC 5545 (3.3.5) decides, so that no window is ever missed and none opens twice: a
time that does not exist is taken with the offset before the change (02:30 becomes 03:30 on the
day that has no 02:30), of a time that exists twice the first is taken. The length is time that
passes, whatever clocks show.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo

from slipstream.delta.errors import UsageError

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MINUTES_PER_DAY = 24 * 60
LENGTH_MINUTES_MAX = 7 * MINUTES_PER_DAY  # then it is always open


@dataclass(frozen=True, slots=True)
class Window:
    """Opens on `days` (0 is Monday) at `start`, local time, for `length_minutes`."""

    days: frozenset[int]
    start: time
    length_minutes: int

    def __str__(self) -> str:
        """Such as "Sat,Sun 23:30-00:30"; longer than a day: "Sat 08:00 for 36 h"."""
        days = "daily" if len(self.days) == 7 else ",".join(DAYS[day] for day in sorted(self.days))
        minutes = self.start.hour * 60 + self.start.minute + self.length_minutes
        if self.length_minutes >= MINUTES_PER_DAY:
            return f"{days} {self.start:%H:%M} for {self.length_minutes / 60:g} h"
        return f"{days} {self.start:%H:%M}-{minutes // 60 % 24:02}:{minutes % 60:02}"


@dataclass(frozen=True, slots=True)
class Opening:
    """One time that a window opens: `begin` inclusive, `end` exclusive, both in UTC."""

    begin: datetime
    end: datetime
    window: Window


@dataclass(frozen=True, slots=True)
class Schedule:
    """Windows in one time zone. Without any there is nothing to wait for."""

    windows: tuple[Window, ...] = ()
    zone: tzinfo = UTC
    zone_name: str = "UTC"

    def openings(self, now: datetime) -> Iterator[Opening]:
        """All openings that `now` may lie in, and those of the eight days to come."""
        today = now.astimezone(self.zone).date()
        for window in self.windows:
            before = -(-window.length_minutes // MINUTES_PER_DAY) + 1
            for days in range(-before, 9):
                date = today + timedelta(days=days)
                if date.weekday() not in window.days:
                    continue
                # fold=0: the first of two; in a gap the offset before it (PEP 495).
                begin = datetime.combine(date, window.start, self.zone).astimezone(UTC)
                yield Opening(begin, begin + timedelta(minutes=window.length_minutes), window)

    def open_at(self, now: datetime) -> Opening | None:
        """The opening that `now` lies in; of several the one that ends last."""
        found = [one for one in self.openings(now) if one.begin <= now < one.end]
        return max(found, key=lambda one: one.end, default=None)

    def next_after(self, now: datetime) -> Opening | None:
        """The next time that a window opens after `now`; None without windows."""
        found = [one for one in self.openings(now) if one.begin > now]
        return min(found, key=lambda one: one.begin, default=None)


_WINDOW = re.compile(
    r"(?:(?P<days>daily|[A-Z][a-z]{2}(?:,[A-Z][a-z]{2})*) )?"
    r"(?P<hour>\d\d):(?P<minute>\d\d)(?:-(?P<end_hour>\d\d):(?P<end_minute>\d\d)"
    r"| for (?P<hours>\d{1,3}) h)"
)


def parse_window(text: str) -> Window:
    """A window as str() writes it: "Sat,Sun 23:30-00:30", "22:00-06:00", "Sat 08:00 for 36 h".

    An end that is not after the start is on the next day. Raises UsageError.
    """
    found = _WINDOW.fullmatch(text.strip())
    if found is not None:
        days = frozenset(DAYS) if found["days"] in (None, "daily") else found["days"].split(",")
        hour, minute = int(found["hour"]), int(found["minute"])
        if found["hours"] is not None:
            length = int(found["hours"]) * 60
        else:
            end = int(found["end_hour"]) * 60 + int(found["end_minute"])
            length = (end - hour * 60 - minute) % MINUTES_PER_DAY or MINUTES_PER_DAY
        in_day = hour < 24 and minute < 60 and int(found["end_hour"] or 0) < 24
        in_day = in_day and int(found["end_minute"] or 0) < 60
        if set(days) <= set(DAYS) and in_day and 0 < length <= LENGTH_MINUTES_MAX:
            numbers = frozenset(DAYS.index(day) for day in days)
            return Window(numbers, time(hour, minute), length)
    raise UsageError(
        "not a maintenance window",
        expected='such as "Sat,Sun 02:00-04:00" or "daily 22:00-06:00"',
        got=repr(text),
    )
