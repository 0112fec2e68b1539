"""Token buckets: what runs in, what is forgotten."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.server import buckets
from slipstream.server.buckets import Buckets


def test_a_burst_then_the_rate():
    one = Buckets(2.0, 3)
    assert [one.take("a", 100.0) for _ in range(3)] == [0, 0, 0]
    assert one.take("a", 100.0) == pytest.approx(0.5)
    assert one.take("a", 100.25) == pytest.approx(0.25)  # asking costs nothing
    assert one.take("a", 100.5) == 0
    assert one.take("a", 100.5) > 0
    assert one.take("b", 100.5) == 0


def test_no_limit():
    assert not any(Buckets(0, 1).take("a", 1.0) for _ in range(100))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 3), max_size=80), st.floats(0.1, 9), st.integers(1, 9))
def test_never_more_than_the_burst_and_the_rate(gaps, per_s, burst):
    one, now, taken = Buckets(per_s, burst), 1000.0, []
    for gap in gaps:
        now += gap
        if not one.take("a", now):
            taken.append(now)
    for begin in range(len(taken)):
        for end in range(begin, len(taken)):
            count = end - begin + 1
            assert count <= burst + per_s * (taken[end] - taken[begin]) + 1e-3


def test_who_waits_is_remembered_longest(monkeypatch):
    monkeypatch.setattr(buckets, "BUCKETS_MAX", 10)
    one = Buckets(1.0, 5)
    for _ in range(5):
        one.take("flood", 0.0)
    for number in range(100):
        one.take(number, 0.0)
        assert len(one) <= 10
    assert one.take("flood", 0.5) > 0
    for number in range(12):
        one.take(number, 100.0)
    assert one.take("flood", 100.0) == 0
