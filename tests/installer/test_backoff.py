"""Delays between attempts, and what Retry-After says."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.delta.limits import RETRY_AFTER_MAX_S
from slipstream.installer.backoff import Backoff, parse_retry_after

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("", None),
        ("0", 0.0),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("3600", 3600.0),
        ("3601", RETRY_AFTER_MAX_S),
        ("9" * 5000, RETRY_AFTER_MAX_S),
        ("-1", None),
        ("1.5", None),
        ("٣", None),
        ("soon", None),
        ("Thu, 01 Jan 2026 00:01:00 GMT", 60.0),
        ("Thursday, 01-Jan-26 00:01:00 GMT", 60.0),
        ("Thu Jan  1 00:01:00 2026", 60.0),
        ("Wed, 31 Dec 2025 00:00:00 GMT", 0.0),
        ("Fri, 01 Jan 2027 00:00:00 GMT", RETRY_AFTER_MAX_S),
        ("Thu, 99 Jan 2026 00:01:00 GMT", None),
    ],
)
def test_retry_after(text: str | None, seconds: float | None) -> None:
    assert parse_retry_after(text, NOW) == seconds


@given(st.text(max_size=60))
def test_any_retry_after_is_bounded(text: str) -> None:
    seconds = parse_retry_after(text, NOW)
    assert seconds is None or 0 <= seconds <= RETRY_AFTER_MAX_S


def delays(backoff: Backoff, wish: float | None = None) -> list[float]:
    found = []
    while (delay := backoff.next_delay_s(wish)) is not None:
        found.append(delay)
    return found


def test_delays_double_up_to_the_cap() -> None:
    backoff = Backoff(lambda: 0.5, attempts_max=7, delay_first_s=1, delay_max_s=10)
    assert delays(backoff) == [0.5, 1, 2, 4, 5, 5]


def test_jitter_is_full() -> None:
    assert delays(Backoff(lambda: 0.0)) == [0.0] * 7


def test_a_wish_is_a_minimum_and_too_long_a_one_ends_it() -> None:
    assert delays(Backoff(lambda: 0.5, attempts_max=4, delay_first_s=1), 1.5) == [1.5, 1.5, 2]
    assert delays(Backoff(lambda: 0.5, delay_max_s=10), 11) == []


def test_progress_starts_the_count_anew_but_not_the_total() -> None:
    backoff = Backoff(lambda: 0.5, attempts_max=3, total_max=10, delay_first_s=1)
    count = 0
    while backoff.next_delay_s() == 0.5:
        backoff.progressed()
        count += 1
    assert count == 9
    assert backoff.failed == 10
