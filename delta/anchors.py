"""Content anchors: where in the source bytes like these stand (build machine).

An anchor is a position whose 32 bytes hash to a value that starts with seven zero bits: about
one position in 128, chosen by content, so that equal content has equal anchors wherever it
stands. Anchors of a target window vote for buckets of the source; the best buckets, with the
gaps between them filled, are what bsdiff.py aligns the window with.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from slipstream.delta.byterange import ByteRange
from slipstream.delta.compiled import BYTES, compiled
from slipstream.delta.limits import KIB

Bytes = npt.NDArray[np.uint8]

ANCHOR_BYTES = 32
_SAMPLE_BITS = 7
ANCHOR_DISTANCE_BYTES = 1 << _SAMPLE_BITS  # between two anchors, on average
_FACTOR = np.uint64(0x9E3779B1)  # odd, from the golden ratio
_LEAVING = np.uint64(pow(0x9E3779B1, ANCHOR_BYTES, 1 << 32))  # factor of the byte that goes
_MIXER = np.uint64(0x85EBCA6B)
_LOW = np.uint64(0xFFFF_FFFF)
_BLOCK_BYTES = 16 * KIB
_BLOCK_ANCHORS_MAX = 8 * (_BLOCK_BYTES >> _SAMPLE_BITS)
# An anchor that stands in more places says nothing about the place. One of them may be the target's
# own, and one in an initrd.
_PLACES_MAX = 6
_SHIFTS_MIN = 8  # anchors that have to agree about where a stretch of a file went
_SHIFTS_SPREAD_BYTES = 128 * KIB
BUCKET_BYTES = 4 * KIB
GAP_BYTES = 128 * KIB  # tables without one equal 32-byte run stand between voted buckets
PAD_BYTES = 8 * KIB


class Anchors(NamedTuple):
    """Keys (uint64, of the 32 bytes) and image offsets (int64) of anchors."""

    keys: npt.NDArray[np.uint64]
    offsets: npt.NDArray[np.int64]


def find_anchors(data: bytes, offset: int) -> Anchors:
    """Anchors in `data`, which stands at `offset` of an image; offsets rise.

    Pieces of an image must overlap by ANCHOR_BYTES - 1 to find those across their border.
    """
    values = np.frombuffer(data, np.uint8)
    blocks = len(data) // _BLOCK_BYTES + 1
    found = np.empty(min(len(data), blocks * _BLOCK_ANCHORS_MAX), np.int64)
    at = found[: _find(values, found)]
    if len(at) == 0:
        return Anchors(np.empty(0, np.uint64), np.empty(0, np.int64))
    windows = np.lib.stride_tricks.sliding_window_view(values, ANCHOR_BYTES)[at]
    return Anchors(_key(windows.view("<u8")), at + offset)


@compiled(f"i8({BYTES}, i8[::1])")
def _find(values: Bytes, found: npt.NDArray[np.int64]) -> int:
    """Fill `found` with the places of anchors; returns how many there are."""
    count = first = 0
    last = len(values) - ANCHOR_BYTES
    # Of a window, modulo 2 ** 32 in the end: h(i + 1) = h(i) * factor + what comes - what goes.
    sums = np.uint64(0)
    for place in range(min(ANCHOR_BYTES, len(values))):
        sums = sums * _FACTOR + np.uint64(values[place])
    for block in range(0, last + 1, _BLOCK_BYTES):
        for at in range(block, min(block + _BLOCK_BYTES, last + 1)):
            # Zeros, the commonest content, shall be no anchor.
            mixed = (sums ^ _FACTOR) & _LOW
            mixed = (mixed ^ mixed >> np.uint64(15)) * _MIXER & _LOW
            if mixed >> np.uint64(32 - _SAMPLE_BITS) == 0:
                if count - first == _BLOCK_ANCHORS_MAX:
                    count = first - 1  # too many: the rest of the block is passed over
                if count >= first:
                    found[count] = at
                    count += 1
            if at < last:
                change = np.uint64(values[at + ANCHOR_BYTES]) - np.uint64(values[at]) * _LEAVING
                sums = sums * _FACTOR + change
        # Runs and short periods repeat one hash: hundreds of anchors that point everywhere.
        count = max(count, first)
        first = count
    return count


def _key(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    key = words[:, 0].copy()
    for column in range(1, words.shape[1]):
        key ^= key >> np.uint64(31)
        key *= np.uint64(0x9E3779B97F4A7C15)
        key += words[:, column]
    key ^= key >> np.uint64(29)
    return key


def join_anchors(parts: Iterable[Anchors]) -> Anchors:
    """Anchors of several pieces, in the order given."""
    held = list(parts)
    if not held:
        return Anchors(np.empty(0, np.uint64), np.empty(0, np.int64))
    return Anchors(
        np.concatenate([part.keys for part in held]),
        np.concatenate([part.offsets for part in held]),
    )


@dataclass(frozen=True, slots=True)
class Pairs:
    """Target offsets (rising), source offsets and weights of anchors that stand in both images."""

    targets: npt.NDArray[np.int64]
    sources: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]

    def within(self, ranges: Iterable[ByteRange]) -> "Pairs":
        """The pairs of target anchors in some ranges."""
        spans = [np.searchsorted(self.targets, [one.offset, one.end]) for one in ranges]
        at = np.concatenate([np.arange(low, high) for low, high in spans])
        return Pairs(self.targets[at], self.sources[at], self.weights[at])

    def shifts(self, target: ByteRange, source: ByteRange) -> tuple[int, int] | None:
        """Between which distances, source less target offset, most pairs of two ranges lie.

        None where there are few pairs, or where they disagree: then many of them are chance.
        """
        low, high = np.searchsorted(self.targets, [target.offset, target.end])
        sources = self.sources[low:high]
        inside = (sources >= source.offset) & (sources < source.end)
        found = (sources - self.targets[low:high])[inside]
        if len(found) < _SHIFTS_MIN:
            return None
        least, most = np.quantile(found, [0.1, 0.9])
        return (int(least), int(most)) if most - least <= _SHIFTS_SPREAD_BYTES else None

    def inside(self, areas: Sequence[ByteRange]) -> "Pairs":
        """The pairs whose source offset lies in one of some rising areas."""
        starts = np.array([one.offset for one in areas])
        ends = np.array([one.end for one in areas])
        area = np.searchsorted(starts, self.sources, side="right") - 1
        good = (area >= 0) & (self.sources < ends[area])
        return Pairs(self.targets[good], self.sources[good], self.weights[good])


def pair_anchors(source: Anchors, target: Anchors) -> Pairs:
    """Every target anchor with each place in the source; anchors in too many places drop out."""
    order = np.argsort(source.keys, kind="stable")
    keys, offsets = source.keys[order], source.offsets[order]
    # Looked up in rising order, millions of keys stay in the cache: a fifth of the time.
    ranked = np.argsort(target.keys)
    first = np.empty(len(ranked), np.int64)
    count = np.empty(len(ranked), np.int64)
    first[ranked] = np.searchsorted(keys, target.keys[ranked], side="left")
    count[ranked] = np.searchsorted(keys, target.keys[ranked], side="right")
    count -= first
    good = (count > 0) & (count <= _PLACES_MAX)
    first, count, at = first[good], count[good], target.offsets[good]
    total = int(count.sum())
    # Position within its group of places, for all groups at once.
    nth = np.arange(total) - np.repeat(np.cumsum(count) - count, count)
    return Pairs(
        np.repeat(at, count), offsets[np.repeat(first, count) + nth], np.repeat(1.0 / count, count)
    )


def choose_sources(
    votes: Pairs, hints: Iterable[tuple[ByteRange, float]], source_size: int, budget: int
) -> tuple[ByteRange, ...]:
    """Source extents for a window: rising, not overlapping, together at most `budget` bytes.

    `hints` are source ranges that are likely for other reasons, each with a weight per bucket.
    """
    buckets = [votes.sources // BUCKET_BYTES]
    weights = [votes.weights]
    for hint, weight in hints:
        low, high = max(0, hint.offset), min(hint.end, source_size)
        span = np.arange(low // BUCKET_BYTES, -(-high // BUCKET_BYTES))
        buckets.append(span)
        weights.append(np.full(len(span), weight))
    place, group = np.unique(np.concatenate(buckets), return_inverse=True)
    if len(place) == 0:
        return ()
    score = np.bincount(group, weights=np.concatenate(weights)).astype(np.float64)
    # Neighbours speak for each other: a lone false anchor loses against a thin but long stretch.
    best = place[np.argsort(-_smoothed(place, score), kind="stable")]
    low, high = 1, len(best)
    while low < high:  # the most buckets that fit the budget
        middle = (low + high + 1) // 2
        if sum(part.size for part in _filled(best[:middle], source_size)) <= budget:
            low = middle
        else:
            high = middle - 1
    chosen = _filled(best[:low], source_size)
    return chosen if sum(part.size for part in chosen) <= budget else ()


def clip(ranges: Iterable[ByteRange], areas: Sequence[ByteRange]) -> tuple[ByteRange, ...]:
    """What of the ranges lies in the areas; both rise and do not overlap within themselves."""
    parts = []
    for one in ranges:
        for area in areas:
            low, high = max(one.offset, area.offset), min(one.end, area.end)
            if low < high:
                parts.append(ByteRange(low, high - low))
    return tuple(parts)


def _smoothed(
    place: npt.NDArray[np.int64], score: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Sum of the scores of all buckets within half a gap of each bucket."""
    reach = GAP_BYTES // 2 // BUCKET_BYTES
    total = np.concatenate([[0.0], np.cumsum(score)])
    low = np.searchsorted(place, place - reach, side="left")
    high = np.searchsorted(place, place + reach, side="right")
    return np.asarray(total[high] - total[low])


def _filled(buckets: npt.NDArray[np.int64], source_size: int) -> tuple[ByteRange, ...]:
    """Padded buckets, joined over gaps up to GAP_BYTES."""
    ranked = np.sort(buckets)
    breaks = np.flatnonzero(np.diff(ranked) > GAP_BYTES // BUCKET_BYTES)
    lows = ranked[np.concatenate([[0], breaks + 1])] * BUCKET_BYTES - PAD_BYTES
    highs = ranked[np.concatenate([breaks, [len(ranked) - 1]])] * BUCKET_BYTES
    highs += BUCKET_BYTES + PAD_BYTES
    return tuple(
        ByteRange(max(0, low), min(high, source_size) - max(0, low))
        for low, high in zip(lows.tolist(), highs.tolist(), strict=True)
    )
