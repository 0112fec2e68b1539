"""windows.py: pieces cover the target exactly, whatever the runs."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.delta.anchors import Pairs
from slipstream.delta.byterange import ByteRange
from slipstream.delta.frame import FrameKind, Part
from slipstream.delta.limits import CHUNK_BYTES, FRAME_TARGET_BYTES_MAX, KIB, MIB
from slipstream.delta.match import Run, RunKind
from slipstream.delta.partition import Partition
from slipstream.delta.profile import PROFILES
from slipstream.delta.readable import Readable
from slipstream.delta.unfold import Window
from slipstream.delta.windows import (
    Piece,
    SourceFinder,
    plan_full,
    plan_pieces,
    settle,
    unclaimed_source,
)

E, C, Z = RunKind.EQUAL, RunKind.CHANGED, RunKind.ZERO
SOURCE_BYTES = 64 * MIB
COPY_BYTES = 5 * MIB
PROFILE = replace(PROFILES["balanced"], source_bytes=6 * MIB)
NO_PAIRS = Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float64))


def _runs(*parts: tuple[RunKind, int]) -> list[Run]:
    """Runs of (kind, KiB) one behind the other; equal ones stand 1 MiB further in the source."""
    runs, position = [], 0
    for kind, size in parts:
        runs.append(Run(kind, position, size * KIB, position + MIB if kind is E else 0))
        position += size * KIB
    return runs


def _windows_of(run: Run) -> list[Window]:
    """Plain windows of at most 2 MiB."""
    windows = []
    for first in range(run.target, run.end, 2 * MIB):
        place = ByteRange(first, min(2 * MIB, run.end - first))
        content = (ByteRange(SOURCE_BYTES + first, place.size),)
        windows.append(Window(place, content, Partition((Part(place.size, place.size),))))
    return windows


def _finder(runs: list[Run], pairs: Pairs = NO_PAIRS) -> SourceFinder:
    """Without opened blocks, and without files."""
    readable = Readable(SOURCE_BYTES, (), {}, frozenset(), lambda _: 0)
    return SourceFinder(runs, pairs, lambda _: (), readable, PROFILE)


def _plan(runs: list[Run], target_size: int, pairs: Pairs = NO_PAIRS) -> list[Piece]:
    settled = settle(runs, target_size, 64 * KIB)
    return list(plan_pieces(settled, _windows_of, _finder(runs, pairs), COPY_BYTES))


def _check_cover(pieces: list[Piece], target_size: int) -> None:
    position = 0
    for piece in pieces:
        assert piece.target.offset == position
        assert 0 < piece.target.size <= FRAME_TARGET_BYTES_MAX
        if piece.kind is FrameKind.COPY:
            assert piece.target.size <= COPY_BYTES
            assert all(source.end <= SOURCE_BYTES for source in piece.sources)
            assert sum(source.size for source in piece.sources) == piece.target.size
        if piece.kind is FrameKind.DIFF:
            assert sum(source.size for source in piece.sources) <= 6 * MIB
            # of the target whole chunks that are made
            made = piece.target.offset // CHUNK_BYTES * CHUNK_BYTES
            assert all(source.end <= SOURCE_BYTES + made for source in piece.sources)
        position = piece.target.end
    assert position == target_size


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([E, C, Z]), st.integers(1, 9000)), max_size=12),
    st.integers(0, 1023),
)
def test_pieces_cover_the_target(parts: list[tuple[RunKind, int]], tail: int) -> None:
    runs = _runs(*parts)
    size = sum(run.size for run in runs) + tail
    _check_cover(_plan(runs, size), size)
    _check_cover(list(plan_full(runs, size, 64 * KIB)), size)


@pytest.mark.parametrize(
    ("parts", "kinds"),
    [
        ([(E, 100)], [E]),
        ([(C, 1), (E, 4), (C, 1)], [C]),  # a short copy is coded along
        ([(C, 1), (E, 30), (Z, 40), (C, 1)], [C, E, Z, C]),  # long enough together
        ([(C, 1), (E, 4)], [C, E]),  # at an end of the image there is nothing to join
        ([(E, 4), (C, 1)], [E, C]),
        ([(C, 1), (Z, 4), (C, 1), (E, 4), (C, 1)], [C]),
    ],
)
def test_settle(parts: list[tuple[RunKind, int]], kinds: list[RunKind]) -> None:
    runs = _runs(*parts)
    assert [run.kind for run in settle(runs, runs[-1].end, 64 * KIB)] == kinds


def test_the_last_partial_grain_is_changed() -> None:
    assert settle(_runs((E, 1)), 1500, KIB)[-1] == Run(C, 1024, 476)


def test_neighbouring_copies_share_a_frame() -> None:
    runs = [Run(E, 0, MIB, 5 * MIB), Run(E, MIB, MIB, 0)]
    (piece,) = _plan(runs, 2 * MIB)
    assert piece.sources == (ByteRange(5 * MIB, MIB), ByteRange(0, MIB))


def test_zeros_hold_no_more_than_copies() -> None:
    zeros = Run(RunKind.ZERO, 0, 5 * MIB)
    pieces = list(plan_pieces([zeros], _windows_of, _finder([]), MIB))
    assert [one.target.size for one in pieces] == [2 * MIB, 2 * MIB, MIB]
    (full,) = plan_full([zeros], zeros.size, 1)
    assert full.target.size == zeros.size


def test_a_changed_stretch_looks_where_its_neighbours_stand() -> None:
    runs = _runs((E, 4096), (C, 64), (E, 4096))
    piece = _plan(runs, runs[-1].end)[1]
    assert piece.kind is FrameKind.DIFF
    (source,) = piece.sources
    assert source.offset <= 5 * MIB
    assert source.end >= 5 * MIB + 64 * KIB
    assert source.size <= 128 * KIB


def test_a_window_is_aligned_with_twice_its_size_of_source() -> None:
    at = np.arange(0, 60 * MIB, 128)  # every source bucket is as likely as the next
    pairs = Pairs(np.full(len(at), SOURCE_BYTES + MIB), at, np.ones(len(at)))
    for size, expected in ((64, 256 * KIB), (1024, 2 * MIB), (2048, 4 * MIB)):
        runs = [Run(C, MIB, size * KIB)]
        piece = next(plan_pieces(runs, _windows_of, _finder(runs, pairs), COPY_BYTES))
        found = sum(source.size for source in piece.sources)
        assert expected - 32 * KIB <= found <= expected


def test_files_that_are_alike_are_sources_without_one_anchor() -> None:
    runs = [Run(C, 0, MIB)]
    readable = Readable(SOURCE_BYTES, (), {}, frozenset(), lambda _: 0)
    like = ByteRange(40 * MIB, 900 * KIB)
    finder = SourceFinder(runs, NO_PAIRS, lambda _: [like], readable, PROFILE)
    (window,) = _windows_of(runs[0])
    (found,), before = finder.sources(window)
    assert before == ()
    assert found.offset <= like.offset
    assert found.end >= like.end
    assert found.size <= like.size + 64 * KIB


def test_without_a_source_and_at_the_beginning_there_is_nothing_to_read() -> None:
    readable = Readable(0, (), {}, frozenset(), lambda _: 0)
    finder = SourceFinder([], NO_PAIRS, lambda _: (), readable, replace(PROFILE, source_bytes=MIB))
    (window,) = _windows_of(Run(C, 0, 1000))
    assert finder.sources(window) == ((), ())


def test_what_is_made_of_the_target_is_a_source() -> None:
    """The same file twice in the target: the second is made from the first."""
    runs = [Run(C, 0, 4 * MIB)]
    first, second = SOURCE_BYTES + MIB, SOURCE_BYTES + 3 * MIB
    step = np.arange(0, MIB, 128)
    pairs = Pairs(second + step, first + step, np.ones(len(step)))
    pieces = _plan(runs, 4 * MIB, pairs)
    assert pieces[0].sources == ()
    assert sum(source.size for source in pieces[1].sources) >= MIB
    assert pieces[1].sources[0].offset <= first


def _before(pairs: Pairs, room: int, target: int = 30 * MIB) -> tuple[ByteRange, ...]:
    """What a window of profile `small` may repeat besides its sources."""
    readable = Readable(SOURCE_BYTES, (), {}, frozenset(), lambda _: room)
    finder = SourceFinder([], pairs, lambda _: (), readable, PROFILES["small"])
    (window,) = _windows_of(Run(C, target, MIB))
    sources, before = finder.sources(window)
    assert not any(one.overlaps(other) for one in before for other in sources)
    return before


def test_what_is_mostly_new_may_repeat_what_was_made_last() -> None:
    end = SOURCE_BYTES + 30 * MIB
    assert _before(NO_PAIRS, room=1 << 40) == (ByteRange(end - 14 * MIB, 14 * MIB),)
    # As much as there is memory for, twice over; and no more than is made.
    assert _before(NO_PAIRS, room=8 * MIB) == (ByteRange(end - 4 * MIB, 4 * MIB),)
    assert _before(NO_PAIRS, room=0) == ()
    made = ByteRange(SOURCE_BYTES - 12 * MIB, 14 * MIB)  # the end of the source, before it
    assert _before(NO_PAIRS, room=1 << 40, target=2 * MIB) == (made,)


def test_parts_that_stand_close_together_have_the_same_before_them() -> None:
    readable = Readable(SOURCE_BYTES, (), {}, frozenset(), lambda _: 1 << 40)
    finder = SourceFinder([], NO_PAIRS, lambda _: (), readable, PROFILES["small"])
    begin = SOURCE_BYTES + 30 * MIB
    content = tuple(ByteRange(begin + 9000 * number, 8192) for number in range(128))
    size = 128 * 8192
    place = ByteRange(30 * MIB, size)
    _, before = finder.sources(Window(place, content, Partition((Part(size, size),))))
    assert before == (ByteRange(begin - 14 * MIB, 14 * MIB),)
    # Of a short window no more than 16 times itself.
    place, content = ByteRange(30 * MIB, 4096), (ByteRange(begin, 4096),)
    _, before = finder.sources(Window(place, content, Partition((Part(4096, 4096),))))
    assert sum(one.size for one in before) == 64 * KIB


def test_what_stands_in_the_source_needs_nothing_else() -> None:
    step = np.arange(0, MIB, 128)
    at = SOURCE_BYTES + 30 * MIB + step
    assert _before(Pairs(at, step, np.ones(len(step))), room=1 << 40) == ()
    some = slice(0, len(step) // 4)
    known = Pairs(at[some], step[some], np.ones(len(step) // 4))
    assert sum(one.size for one in _before(known, room=1 << 40)) > 10 * MIB


def test_full_payloads_follow_chunks() -> None:
    runs = _runs((C, 100), (Z, 1024), (C, 1000))
    pieces = list(plan_full(runs, runs[-1].end, 64 * KIB))
    assert [piece.kind for piece in pieces][:2] == [FrameKind.DATA, FrameKind.ZERO]
    for piece in pieces[2:]:
        assert piece.target.offset // CHUNK_BYTES == (piece.target.end - 1) // CHUNK_BYTES


def test_source_that_copies_use_is_not_searched() -> None:
    settled = [Run(C, 0, MIB), Run(E, MIB, 10 * MIB, 0), Run(E, 11 * MIB, 10 * MIB, 11 * MIB)]
    found = unclaimed_source(settled, 21 * MIB)
    assert found == [ByteRange(10 * MIB - 64 * KIB, MIB + 128 * KIB)]
    assert unclaimed_source([], 0) == []
