"""unfold.py and partition.py: whatever is opened, windows and frames make the image again."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.delta.byterange import ByteRange
from slipstream.delta.decode import FrameDecoder
from slipstream.delta.digest import Digest
from slipstream.delta.encode import EncodedFrame, encode_window
from slipstream.delta.limits import KIB, MIB
from slipstream.delta.match import Run, RunKind
from slipstream.delta.payload import dump_index, parse_index
from slipstream.delta.profile import PROFILES
from slipstream.delta.unfold import Window, overlay, unfold
from tests.delta.opened_images import BASE, OpenedImage, pattern

E, C, Z = RunKind.EQUAL, RunKind.CHANGED, RunKind.ZERO
FAST = PROFILES["fast"]


def _windows(image: OpenedImage, window: int, long_window: int) -> tuple[list[Window], bytes]:
    """The windows of all of an image, and the work space."""
    outer, inner, space = image.opened()
    run = Run(C, 0, len(image.image))
    return list(unfold(run, outer, inner, BASE, window, lambda _: long_window)), space


def _check(image: OpenedImage, windows: list[Window], space: bytes) -> int:
    """Windows follow one another, and frames of them make the image; how many frames."""
    frames: list[EncodedFrame] = []
    position = 0
    for window in windows:
        assert window.target.offset == position
        assert window.target.size == window.partition.target_size
        position = window.target.end
        content = b"".join(space[one.offset : one.end] for one in window.content)
        assert len(content) == window.partition.content_size
        frames += encode_window(content, window.target.offset, window.partition, b"", (), FAST)
    assert position == len(image.image)
    placed = []
    body = b""
    for one in frames:
        place = ByteRange(len(body), len(one.encoded))
        placed.append(replace(one.frame, encoded=place))
        body += one.encoded
    target = bytes(image.image)
    index = parse_index(dump_index(0, None, len(target), Digest.of(target), placed))
    made = bytearray(len(target))
    with FrameDecoder(index, lambda *_: b"", lambda at, size: bytes(made[at : at + size])) as feed:
        for number, frame in enumerate(index.frames):
            encoded = body[frame.encoded.offset : frame.encoded.end]
            for piece in feed.feed(number, encoded):
                made[piece.offset : piece.offset + len(piece.data)] = piece.data
    assert made == target
    return len(frames)


def test_plain_bytes_are_cut_into_windows() -> None:
    image = OpenedImage()
    image.add_plain(pattern(1, 1_000_000))
    windows, space = _windows(image, 300 * KIB, MIB)
    assert len(windows) == 4
    assert max(one.partition.content_size for one in windows) <= 300 * KIB
    assert not any(one.partition.frame_parts for one in windows)
    _check(image, windows, space)


def test_blocks_are_not_cut() -> None:
    image = OpenedImage()
    image.add_plain(b"header")
    for number in range(20):
        image.add_block(pattern(number, 100_000))
    image.add_plain(b"footer" * 100)
    windows, space = _windows(image, 256 * KIB, MIB)
    assert len(windows) == 10
    assert sum(part.recipe is not None for one in windows for part in one.partition.parts) == 20
    _check(image, windows, space)


def test_a_block_larger_than_a_window_has_one_of_its_own() -> None:
    image = OpenedImage()
    image.add_plain(pattern(2, 50_000))
    image.add_block(pattern(1, 900_000))
    image.add_plain(pattern(3, 50_000))
    windows, space = _windows(image, 256 * KIB, MIB)
    assert max(one.partition.content_size for one in windows) == 900_000
    _check(image, windows, space)


def test_a_long_stream_goes_over_several_frames() -> None:
    image = OpenedImage()
    image.add_plain(b"before")
    image.add_file(pattern(1, 3 * MIB), 0)
    image.add_plain(b"behind")
    windows, space = _windows(image, MIB, 512 * KIB)
    long = [one for one in windows if one.partition.long_part is not None]
    assert len(long) >= 6
    assert max(one.partition.content_size for one in long) <= 512 * KIB
    parts = [part for one in windows for part in one.partition.parts if part.recipe]
    assert [part.begins for part in parts] == [True] + [False] * (len(parts) - 1)
    assert [part.ends for part in parts] == [False] * (len(parts) - 1) + [True]
    _check(image, windows, space)


@pytest.mark.parametrize("block_bytes", [700, 5_000, 100_000])
def test_a_file_in_blocks_is_packed_twice(block_bytes: int) -> None:
    image = OpenedImage()
    image.add_file(pattern(1, 300_000), block_bytes)
    windows, space = _windows(image, MIB, MIB)
    assert windows[0].partition.frame_outer
    assert sum(one.partition.content_size for one in windows) > 300_000
    _check(image, windows, space)


@pytest.mark.parametrize("tail_first", [False, True])
def test_a_file_is_packed_for_each_place_that_it_has(tail_first: bool) -> None:
    image = OpenedImage()
    image.add_plain(b"superblock")
    contents = [pattern(seed, 30_000) for seed in range(5)]
    for content in contents:
        image.add_file_apart(content, 900, tail_first=tail_first)
    windows, space = _windows(image, 300 * KIB, MIB)
    packed = sum(part.recipe is not None for one in windows for part in one.partition.parts)
    assert packed == 2 * len(contents)
    # Nothing that a recipe makes is said once more as it is packed.
    plain = sum(part.size for one in windows for part in one.partition.parts if not part.recipe)
    assert plain == len(b"superblock") + len(contents) * (10 + 2 * len(b"inode" * 13))
    _check(image, windows, space)


def test_the_short_end_of_a_file_in_a_place_of_its_own_is_not_packed_for() -> None:
    image = OpenedImage()
    image.add_file_apart(pattern(1, 30_000), 40, tail_first=False)
    windows, space = _windows(image, 300 * KIB, MIB)
    assert sum(part.recipe is not None for one in windows for part in one.partition.parts) == 1
    _check(image, windows, space)


def test_a_file_with_others_between_its_blocks_stays_packed() -> None:
    image = OpenedImage()
    image.add_file(pattern(1, 200_000), 500, between=b"x")
    windows, space = _windows(image, MIB, MIB)
    assert not any(one.partition.frame_outer for one in windows)
    _check(image, windows, space)


_PIECES = st.one_of(
    st.tuples(st.just("plain"), st.integers(1, 400_000), st.just(0)),
    st.tuples(st.just("block"), st.integers(1, 400_000), st.just(0)),
    st.tuples(
        st.just("file"),
        st.sampled_from([100, 50_000, 700_000, 1_400_000, 2_500_000]),
        st.sampled_from([0, 600, 3_000, 40_000]),
    ),
)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(_PIECES, min_size=1, max_size=7),
    st.sampled_from([128 * KIB, 512 * KIB, MIB]),
    st.sampled_from([128 * KIB, 512 * KIB]),
)
def test_any_image_is_made_again(
    pieces: list[tuple[str, int, int]], window: int, long_window: int
) -> None:
    image = OpenedImage()
    for seed, (kind, size, block_bytes) in enumerate(pieces):
        data = pattern(seed, size)
        if kind == "plain":
            image.add_plain(data)
        elif kind == "block":
            image.add_block(data)
        else:
            image.add_file(data, block_bytes)
    windows, space = _windows(image, window, long_window)
    _check(image, windows, space)


def test_blocks_are_found_by_where_they_begin() -> None:
    image = OpenedImage()
    for number in range(5):
        image.add_block(pattern(number, 1000))
    outer, _, _ = image.opened()
    places = [one.packed[0] for one in outer.blocks]
    assert list(outer.within(ByteRange(places[1].offset, places[1].size))) == [outer.blocks[1]]
    assert list(outer.within(ByteRange(places[1].offset + 1, places[1].size))) == [outer.blocks[2]]
    fewer = outer.without([ByteRange(outer.blocks[3].content.end - 1, 1)])
    assert list(fewer.blocks) == [*outer.blocks[:3], outer.blocks[4]]
    assert not outer.without([ByteRange(0, 1 << 40)]).blocks


@pytest.mark.parametrize(
    ("runs", "marks", "expected"),
    [
        ([Run(E, 0, 10, 5)], [], [Run(E, 0, 10, 5)]),
        (
            [Run(E, 0, 10, 5)],
            [Run(C, 3, 4)],
            [Run(E, 0, 3, 5), Run(C, 3, 4), Run(E, 7, 3, 12)],
        ),
        ([Run(Z, 0, 10)], [Run(C, 0, 10)], [Run(C, 0, 10)]),
        ([Run(C, 0, 4), Run(E, 4, 6, 0)], [Run(C, 4, 1)], [Run(C, 0, 5), Run(E, 5, 5, 1)]),
        (
            [Run(E, 0, 4, 0), Run(Z, 4, 4), Run(E, 8, 4, 8)],
            [Run(E, 2, 8, 100)],
            [Run(E, 0, 2, 0), Run(E, 2, 8, 100), Run(E, 10, 2, 10)],
        ),
        ([Run(E, 0, 4, 0)], [Run(E, 4, 4, 4)], [Run(E, 0, 8, 0)]),  # behind all, and it goes on
    ],
)
def test_overlay(runs: list[Run], marks: list[Run], expected: list[Run]) -> None:
    assert overlay(runs, marks) == expected


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([E, C, Z]), st.integers(1, 20)), max_size=8),
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from([E, C]), st.integers(1, 9)), max_size=6),
)
def test_overlay_says_of_each_byte_what_the_last_word_is(
    parts: list[tuple[RunKind, int]], gaps: list[tuple[int, RunKind, int]]
) -> None:
    runs, position = [], 0
    for kind, size in parts:
        runs.append(Run(kind, position, size, 1000 + 7 * position if kind is E else 0))
        position += size
    marks, at = [], 0
    for gap, kind, size in gaps:
        if at + gap + size > position:
            break
        marks.append(Run(kind, at + gap, size, 5000 + 3 * at if kind is E else 0))
        at += gap + size
    merged = overlay(runs, marks)
    expected = _bytes_of(runs) | _bytes_of(marks)
    assert _bytes_of(merged) == expected
    assert [run.target for run in merged[1:]] == [run.end for run in merged[:-1]]


def _bytes_of(runs: list[Run]) -> dict[int, tuple[RunKind, int]]:
    return {
        run.target + n: (run.kind, run.source + n if run.kind is E else 0)
        for run in runs
        for n in range(run.size)
    }
