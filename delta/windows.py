"""The plan of a delta: which stretches of the target become which frames (build machine).

Pure: runs of equal grains and pairs of anchors in, pieces out. A piece is one zero frame, one
copy frame, or a window that encode.py turns into one or several coded frames.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from slipstream.delta.anchors import (
    ANCHOR_DISTANCE_BYTES,
    BUCKET_BYTES,
    Pairs,
    choose_sources,
    clip,
)
from slipstream.delta.byterange import ByteRange, merge_ranges, outside
from slipstream.delta.frame import FrameKind
from slipstream.delta.limits import CHUNK_BYTES, FRAME_TARGET_BYTES_MAX, KIB
from slipstream.delta.match import Run, RunKind
from slipstream.delta.moved import MovedSource
from slipstream.delta.partition import Partition
from slipstream.delta.profile import Profile
from slipstream.delta.readable import Readable
from slipstream.delta.unfold import Window

COPY_SOURCES_MAX = 256  # extents of one copy frame: keeps rows short, and reads in bounds
_REACH_BYTES = 64 * KIB  # source bytes beside unclaimed ones that may resemble a changed file
# Source bytes for each byte of a window, within the profile's budget. 99, 2, 1.5 for one give 1004.5,
# 1000.0, 1045.7 KB for every third window of a Debian pair: more is slower and brings false matches.
_SOURCE_FACTOR = 2
_SOURCE_BYTES_MIN = 256 * KIB
# Votes per bucket. An equal bucket has BUCKET_BYTES / 128 anchors; a guess counts less than one.
_EQUAL_WEIGHT = BUCKET_BYTES / ANCHOR_DISTANCE_BYTES
_NEIGHBOUR_WEIGHT = 0.25
_BEFORE_FACTOR = 16  # bytes that one of content may repeat: a device reads, and unpacks, them all
_KNOWN = 0.5  # of a window's anchors: with fewer it is mostly new
_SIMILAR_WEIGHT = 2.0  # the paired file counts as two anchors in each bucket


class Piece(NamedTuple):
    """A stretch of the target and what to make of it.

    `kind` is ZERO, COPY (with its sources), DATA, or DIFF, which stands for any coded frames.
    `content` says where the content of coded frames stands in the work space, `partition` what
    becomes of it; `before` are further bytes that are made by then, where little of the content
    is known otherwise.
    """

    kind: FrameKind
    target: ByteRange
    sources: tuple[ByteRange, ...] = ()
    content: tuple[ByteRange, ...] = ()
    partition: Partition | None = None
    before: tuple[ByteRange, ...] = ()


def settle(runs: Sequence[Run], target_size: int, absorb_bytes: int) -> list[Run]:
    """Runs over the whole target; those not worth a frame of their own are CHANGED.

    Equal and zero runs between two changed ones become part of them when they are shorter than
    `absorb_bytes` together: a frame costs about 60 bytes, equal bytes inside a diff nothing.
    """
    covered = runs[-1].end if runs else 0
    whole = list(runs)
    if covered < target_size:  # the last bytes, less than a grain
        whole.append(Run(RunKind.CHANGED, covered, target_size - covered))
    settled: list[Run] = []
    held: list[Run] = []  # not changed, since the last changed run
    for run in whole:
        if run.kind is not RunKind.CHANGED:
            held.append(run)
            continue
        first = run.target
        if held and settled and settled[-1].kind is RunKind.CHANGED:
            if run.target - held[0].target < absorb_bytes:
                first = settled.pop().target
            else:
                settled += held
        else:
            settled += held
            if settled and settled[-1].kind is RunKind.CHANGED:
                first = settled.pop().target
        held = []
        settled.append(Run(RunKind.CHANGED, first, run.end - first))
    return settled + held


def unclaimed_source(settled: Sequence[Run], source_size: int) -> list[ByteRange]:
    """Source ranges that no equal run uses, with what stands beside them: rising."""
    used = sorted(
        (run.source, run.source + run.size) for run in settled if run.kind is RunKind.EQUAL
    )
    free: list[tuple[int, int]] = []
    position = 0
    for low, high in [*used, (source_size, source_size)]:
        if low > position:
            first, end = max(0, position - _REACH_BYTES), min(source_size, low + _REACH_BYTES)
            if free and first <= free[-1][1]:
                free[-1] = (free[-1][0], end)
            else:
                free.append((first, end))
        position = max(position, high)
    return [ByteRange(low, high - low) for low, high in free]


def plan_pieces(
    settled: Sequence[Run],
    windows_of: Callable[[Run], Iterable[Window]],
    finder: "SourceFinder",
    copy_bytes: int,
) -> Iterator[Piece]:
    """Pieces that cover the target in order; `windows_of` gives the windows of a CHANGED run, and
    `copy_bytes` is the longest copy, which a device holds twice; zeros may be twice as many."""
    copies: list[Run] = []
    for run in settled:
        if run.kind is RunKind.EQUAL:
            copies.append(run)
            continue
        yield from _copy_pieces(copies, copy_bytes)
        copies = []
        if run.kind is RunKind.ZERO:
            yield from _zero_pieces(
                run.target, run.size, min(FRAME_TARGET_BYTES_MAX, 2 * copy_bytes)
            )
        else:
            for window in windows_of(run):
                sources, before = finder.sources(window)
                yield Piece(
                    *(FrameKind.DIFF, window.target, sources, window.content),
                    window.partition,
                    before,
                )
    yield from _copy_pieces(copies, copy_bytes)


def plan_full(runs: Sequence[Run], target_size: int, zero_bytes_min: int) -> Iterator[Piece]:
    """Pieces of a full payload: long zero runs, and data in chunks."""
    position = 0
    for run in runs:
        if run.kind is RunKind.ZERO and run.size >= zero_bytes_min:
            yield from _data_pieces(position, run.target)
            yield from _zero_pieces(run.target, run.size, FRAME_TARGET_BYTES_MAX)
            position = run.end
    yield from _data_pieces(position, target_size)


def _data_pieces(first: int, end: int) -> Iterator[Piece]:
    while first < end:
        # Up to a chunk's border: a device that has a chunk already skips whole frames.
        stop = min(end, (first // CHUNK_BYTES + 1) * CHUNK_BYTES)
        yield Piece(FrameKind.DATA, ByteRange(first, stop - first))
        first = stop


def _zero_pieces(first: int, size: int, most: int) -> Iterator[Piece]:
    for done in range(0, size, most):
        part = ByteRange(first + done, min(most, size - done))
        yield Piece(FrameKind.ZERO, part)


def _copy_pieces(copies: Sequence[Run], copy_bytes: int) -> Iterator[Piece]:
    """Neighbouring equal runs as copy frames, each of several extents."""
    extents: list[ByteRange] = []
    first = size = 0
    for run in copies:
        done = 0
        while done < run.size:
            if size == copy_bytes or len(extents) == COPY_SOURCES_MAX:
                yield Piece(FrameKind.COPY, ByteRange(first, size), tuple(extents))
                extents, size = [], 0
            if not extents:
                first = run.target + done
            part = min(run.size - done, copy_bytes - size)
            extents.append(ByteRange(run.source + done, part))
            size += part
            done += part
    if extents:
        yield Piece(FrameKind.COPY, ByteRange(first, size), tuple(extents))


class SourceFinder:
    """Picks source extents for windows, which are asked for in target order."""

    def __init__(
        self,
        runs: Sequence[Run],
        pairs: Pairs,
        similar: Callable[[ByteRange], Iterable[ByteRange]],
        readable: Readable,
        profile: Profile,
        moved: MovedSource | None = None,
    ) -> None:
        """`runs` are the grains' runs before settling, `similar` gives for content the like of it
        by files, `readable` says what a frame may read. All of them, and `pairs`, know modules by
        where they stand; those of `moved` are read there instead."""
        self._equal = [run for run in runs if run.kind is RunKind.EQUAL]
        self._starts = np.array([run.target for run in self._equal], dtype=np.int64)
        self._pairs = pairs
        self._similar = similar
        self._readable = readable
        self._profile = profile
        self._moved = MovedSource() if moved is None else moved

    def sources(self, window: Window) -> tuple[tuple[ByteRange, ...], tuple[ByteRange, ...]]:
        """Extents for one window, and those before it where little of it is known: each rising, not
        overlapping, together within what the profile allows."""
        hints = self._neighbours(window.target)
        # Merged: the metadata of a file system stand between all files, and would speak too often.
        similar = merge_ranges(one for part in window.content for one in self._similar(part))
        hints += [(one, _SIMILAR_WEIGHT) for one in similar]
        size = window.partition.content_size
        budget = min(self._profile.source_bytes, max(_SOURCE_BYTES_MIN, _SOURCE_FACTOR * size))
        areas = self._readable.areas(window)
        if not areas:  # no source, and nothing of the target is made yet
            return (), ()
        votes = self._pairs.within(window.content).inside(areas)
        held = [(part, weight) for one, weight in hints for part in clip((one,), areas)]
        chosen = choose_sources(votes, held, areas[-1].end, budget)
        sources = self._take(clip(chosen, areas), areas)
        most = min(self._profile.prefix_bytes, _BEFORE_FACTOR * size)
        most -= sum(one.size for one in sources)
        known = len(np.unique(votes.targets)) * ANCHOR_DISTANCE_BYTES
        if most <= 0 or known > _KNOWN * size:
            return sources, ()
        before = self._readable.before(window, areas, most)
        return sources, tuple(part for one in before for part in outside(one, sources))

    def _take(
        self, chosen: tuple[ByteRange, ...], areas: Sequence[ByteRange]
    ) -> tuple[ByteRange, ...]:
        """The extents that a frame reads: what was chosen, moved where it can be."""
        blocks = self._moved.whole(chosen, areas)
        if not blocks:
            return self._readable.take(chosen)
        places = (place for block in blocks for place in block.places)
        taken = self._readable.take(tuple(merge_ranges((*chosen, *places))))
        return self._moved.translated(clip(chosen, taken), self._moved.whole(chosen, taken))

    def _neighbours(self, target: ByteRange) -> list[tuple[ByteRange, float]]:
        hints: list[tuple[ByteRange, float]] = []
        first = max(0, int(np.searchsorted(self._starts, target.offset, side="right")) - 1)
        end = int(np.searchsorted(self._starts, target.end))
        for index in range(max(0, first), min(end + 1, len(self._equal))):
            run = self._equal[index]
            low, high = max(run.target, target.offset), min(run.end, target.end)
            if low < high:  # equal bytes inside the window
                place = ByteRange(run.source + low - run.target, high - low)
                hints.append((place, _EQUAL_WEIGHT))
            shifted = target.offset + run.source - run.target
            if index in {first, end} and shifted >= 0:  # the file goes on as its neighbour does
                hints.append((ByteRange(shifted, target.size), _NEIGHBOUR_WEIGHT))
        return hints
