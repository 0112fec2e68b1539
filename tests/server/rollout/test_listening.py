"""How far back so much listening goes, by hand and against counting every second."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.server.rollout.listening import Span, since


@pytest.mark.parametrize(
    ("spans", "length_s", "expected"),
    [
        ((), 10, None),
        ((Span(100, 200),), 10, 190),
        ((Span(100, 200),), 100, 100),
        ((Span(100, 200),), 101, None),
        ((Span(195, 200), Span(100, 150)), 20, 135),  # 5 now, 15 before the outage
        ((Span(200, 200), Span(100, 150)), 20, 130),  # just back: nothing was heard yet
        ((Span(150, 900),), 20, 180),  # a clock that was set back
    ],
)
def test_by_hand(spans: tuple[Span, ...], length_s: int, expected: int | None) -> None:
    assert since(spans, 200, length_s) == expected


@given(
    lengths=st.lists(st.tuples(st.integers(1, 30), st.integers(0, 30)), max_size=6),
    length_s=st.integers(1, 200),
)
def test_as_many_seconds_were_listened_to(lengths: list[tuple[int, int]], length_s: int) -> None:
    at, spans = 1000, []
    for gap, listened in lengths:
        at += gap
        spans.append(Span(at, at + listened))
        at += listened
    spans.reverse()
    heard = [second for span in spans for second in range(span.begin, span.until)]

    found = since(spans, at, length_s)

    if len(heard) < length_s:
        assert found is None
    else:
        assert found is not None
        assert sum(second >= found for second in heard) == length_s
