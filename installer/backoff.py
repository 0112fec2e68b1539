"""How long the device puts up with a bad link: delays between attempts, and when to stop.

Pure: no clock, no sleep; randomness is an argument. Not a rate limiter for the server's sake:
the jitter is what keeps a fleet from coming back in step after an outage.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from slipstream.delta.limits import (
    RETRY_AFTER_MAX_S,
    RETRY_ATTEMPTS_MAX,
    RETRY_DELAY_FIRST_S,
    RETRY_DELAY_MAX_S,
)


class Backoff:
    """Consecutive failed attempts of one transfer, and the delay before the next.

    `chance` gives floats in [0, 1). `total_max` bounds all attempts, because a server that
    grants one byte a connection makes progress for ever.
    """

    def __init__(
        self,
        chance: Callable[[], float],
        *,
        attempts_max: int = RETRY_ATTEMPTS_MAX,
        total_max: int | None = None,
        delay_first_s: float = RETRY_DELAY_FIRST_S,
        delay_max_s: float = RETRY_DELAY_MAX_S,
    ) -> None:
        self._chance = chance
        self._attempts_max = attempts_max
        self._total_max = total_max
        self._delay_first_s = delay_first_s
        self._delay_max_s = delay_max_s
        self.fruitless = 0
        self.failed = 0

    def progressed(self) -> None:
        """The last attempt brought at least one new byte."""
        self.fruitless = 0

    def next_delay_s(self, wish_s: float | None = None) -> float | None:
        """Note a failed attempt; seconds to wait before the next, None when the budget is spent.

        Full jitter: uniform in [0, min(cap, first * 2^n)), with n failures without progress
        before this one. A server's wish is a minimum. A wish above the cap ends the transfer:
        the caller does better to come back than to hold everything open for so long.
        """
        self.failed += 1
        exponent = self.fruitless
        self.fruitless += 1
        if self.fruitless >= self._attempts_max:
            return None
        if self._total_max is not None and self.failed >= self._total_max:
            return None
        if wish_s is not None and wish_s > self._delay_max_s:
            return None
        # The exponent is bounded by attempts_max, so the power is small.
        ceiling = min(self._delay_max_s, self._delay_first_s * 2.0**exponent)
        return max(wish_s or 0.0, ceiling * self._chance())


def parse_retry_after(text: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for (RFC 9110, 10.2.3), within the cap.

    None where there is none or it does not parse: then our own delay holds. `now` is aware; a
    date in the past means no wait.
    """
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        # int() of thousands of digits is refused by Python itself with ValueError.
        return RETRY_AFTER_MAX_S if len(text) > 9 else min(float(text), RETRY_AFTER_MAX_S)
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return min(max((when - now).total_seconds(), 0.0), RETRY_AFTER_MAX_S)
