"""When anybody listened to the fleet. Pure.

A device that says nothing while no server is there is not silent: silence is counted in time that was
listened to. So an outage, or a clock that is set forward, gives nobody up.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds since 1970, both ends included."""

    begin: int
    until: int


def since(spans: Sequence[Span], now: int, length_s: int) -> int | None:
    """The moment from which on, up to `now`, `length_s` were listened to; None: there was not so much.

    `spans` newest first, not overlapping. What was said before that moment was said long enough ago.
    """
    left = length_s
    for span in spans:
        heard = max(0, min(span.until, now) - span.begin)
        if heard >= left:
            return min(span.until, now) - left
        left -= heard
    return None
