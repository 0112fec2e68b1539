"""bsdiff.py: scripts make the target, work is bounded on any input."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.delta.bsdiff import Alignment, Segment, SourceIndex, cut, write_script
from slipstream.delta.bspatch import apply_diff


def _bytes(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


CANDIDATES = 8
AHEAD_BYTES = 64


def _align(source: bytes, target: bytes) -> Alignment:
    index = SourceIndex(_bytes(source))
    return index.align(_bytes(target), candidates=CANDIDATES, gain_ahead_bytes=AHEAD_BYTES)


def _round_trip(source: bytes, target: bytes) -> int:
    alignment = _align(source, target)
    end = 0
    for segment in alignment.segments:
        assert segment.size > 0
        assert segment.target >= end
        assert 0 <= segment.source <= len(source) - segment.size
        end = segment.target + segment.size
    assert end <= len(target)
    script = write_script(alignment.segments, _bytes(source), _bytes(target))
    assert apply_diff(script.control, script.diff, script.extra, source, len(target)) == target
    return alignment.steps


def _fibonacci(size: int) -> bytes:
    first, second = b"a", b"ab"
    while len(second) < size:
        first, second = second, second + first
    return second[:size]


def _random(size: int, letters: int = 256, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).integers(0, letters, size, dtype=np.uint8).tobytes()


def _table(size: int, seed: int) -> bytes:
    """24-byte rows that share most bytes: the shape of relocation tables."""
    rows = np.zeros((size // 24, 6), "<u4")
    rows[:, 0] = np.arange(len(rows)) * 8 + seed
    rows[:, 3] = np.random.default_rng(0).integers(0, 50, len(rows))
    return rows.tobytes()


# name: (source, target) for a size
WORST = {
    "zeros": lambda n: (bytes(n), bytes(2 * n)),
    "zeros and one": lambda n: (bytes(n), bytes(n // 2) + b"\1" + bytes(n)),
    "period 1": lambda n: (b"\xff" * n, b"\xff" * n),
    "period 2": lambda n: (b"ab" * (n // 2), b"ba" * n),
    "period 3": lambda n: (b"abc" * (n // 3), b"acb" * (n // 3) + b"abc" * (n // 3)),
    "period 7": lambda n: (b"abcdefg" * (n // 7), b"gabcdef" * (n // 5)),
    "period 7 with faults": lambda n: (
        b"abcdefg" * (n // 7),
        (b"abcdefg" * 13 + b"x") * (n // 92),
    ),
    "Fibonacci": lambda n: (_fibonacci(n), _fibonacci(2 * n)[::-1]),
    "two letters": lambda n: (_random(n, 2), _random(n, 2, seed=2)),
    "random": lambda n: (_random(n), _random(n, seed=2)),
    "every other byte": lambda n: (
        _random(n),
        np.where(np.arange(n) % 2, _bytes(_random(n)), 0).astype(np.uint8).tobytes(),
    ),
    "reversed blocks": lambda n: (
        _random(n),
        b"".join(_random(n)[at : at + 20] for at in range(n - 20, -1, -20)),
    ),
    "table": lambda n: (_table(n, 0), _table(n, 8)),
}


@pytest.mark.parametrize("name", WORST)
def test_work_grows_with_the_size_on_worst_cases(name: str) -> None:
    steps = {}
    for size in (10_000, 20_000, 40_000, 80_000):
        source, target = WORST[name](size)
        steps[size] = _round_trip(source, target) / (len(target) + 1)
    # Compared bytes per target byte, none of which grows with the size: where the open diagonal
    # misses, each candidate's match and AHEAD_BYTES on two diagonals; a match is compared again at
    # each of at most 8 misses that it covers.
    assert max(steps.values()) < 9 * (CANDIDATES + 1) + 2 * AHEAD_BYTES + 8, steps
    assert steps[80_000] < 1.5 * steps[10_000] + 1, steps


@pytest.mark.parametrize("source_size", [0, 1, 11, 12, 500])
@pytest.mark.parametrize("target_size", [0, 1, 11, 12, 500])
def test_any_sizes(source_size: int, target_size: int) -> None:
    _round_trip(_random(source_size, 4), _random(target_size, 4, seed=3))
    _round_trip(_random(source_size, 4), _random(target_size, 4))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_round_trip_of_edited_bytes(data: st.DataObject) -> None:
    source = data.draw(st.binary(max_size=300)) * data.draw(st.integers(1, 4))
    target = b""
    for _ in range(data.draw(st.integers(0, 6))):
        first = data.draw(st.integers(0, len(source)))
        target += source[first : first + data.draw(st.integers(0, 200))]
        target += data.draw(st.binary(max_size=20))
    _round_trip(source, target)


def test_a_shifted_file_is_two_segments_and_one_insertion() -> None:
    source = _random(20_000)
    target = source[:8000] + b"inserted bytes" + source[8000:]
    segments = _align(source, bytes(target)).segments
    assert segments == (Segment(0, 0, 8000), Segment(8014, 8000, 12_000))


def test_scattered_changes_stay_on_one_diagonal() -> None:
    source = bytearray(_random(20_000))
    target = bytearray(source)
    for at in range(0, 20_000, 40):
        target[at] ^= 0x55
    assert _align(bytes(source), bytes(target)).segments == (Segment(0, 0, 20_000),)


def test_cut_keeps_what_lies_inside() -> None:
    segments = (Segment(10, 100, 20), Segment(40, 500, 20))
    assert cut(segments, 0, 10) == ()
    assert cut(segments, 15, 45) == (Segment(0, 105, 15), Segment(25, 500, 5))
    assert cut(segments, 60, 90) == ()
