"""Alignment of a target window with source bytes, and bsdiff's instruction set (build machine).

Not bsdiff's program: its suffix sort is quadratic on runs and overflows the stack on real data,
and its scan looks every target position up by binary search. Here one suffix array of
target + source gives the longest source match of *every* target position with a few passes of
numpy, whatever the data, and the scan touches every byte a bounded number of times.

Contract: `align` is linear in memory and, but for the suffix sort's logarithm, in time for all
inputs; it never raises for their content; same inputs, same result. docs/adr/0003-matching.md
has the measurements.
"""

from bisect import bisect_right
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydivsufsort import divsufsort, kasai

from slipstream.delta.stretches import equal_stretches, left_over

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int32]
Places = npt.NDArray[np.int64]

MATCH_BYTES_MIN = 12  # shorter matches cost more as an instruction than as literal bytes
SWITCH_GAIN_BYTES = 8  # bytes a match must save over the diagonal in use (bsdiff's own constant)
GAIN_AHEAD_BYTES = 128  # how far two diagonals are compared past a match that saves too little
_SIGN = -(1 << 63)  # the sign bit of bsdiff's numbers
_RANKS_BLOCK = 1 << 16  # ranks looked at together: their 64-bit intermediates stay in the cache
_LOOKAHEAD_BYTES = 64  # first stretch compared on a new diagonal; doubles from there


class Segment(NamedTuple):
    """target[target:target+size] is coded as the difference to source[source:source+size]."""

    target: int
    source: int
    size: int


@dataclass(frozen=True, slots=True)
class Alignment:
    """Segments in target order, not overlapping; target bytes between them are literal.

    `steps` counts compared bytes and candidates looked at: the bound on work that tests check.
    """

    segments: tuple[Segment, ...]
    steps: int


@dataclass(frozen=True, slots=True)
class Script:
    """bsdiff's three streams; `control` holds 24-byte triples: bytes to add, bytes to copy, source
    bytes to step over; each 63 bits little-endian and a sign bit."""

    control: bytes
    diff: bytes
    extra: bytes


def longest_matches(source: Bytes, target: Bytes) -> tuple[Ints, Ints]:
    """For every target position a long match in the source, mostly the longest that there is.

    Both arguments are 1-d arrays of bytes. Returns (sizes, source offsets), both int32 of the
    target's length; where the size is 0 the offset means nothing. Long equal stretches are found
    first (stretches.py), and only what they leave over is sorted.
    """
    target_size = len(target)
    sizes = np.zeros(target_size, np.int32)
    offsets = np.zeros(target_size, np.int32)
    if target_size == 0 or len(source) == 0:
        return sizes, offsets
    stretches = equal_stretches(source, target)
    from_target = _Gathered(
        target, left_over(target_size, [(s.target, s.target + s.size) for s in stretches])
    )
    from_source = _Gathered(
        source, left_over(len(source), [(s.source, s.source + s.size) for s in stretches])
    )
    found, places = _sorted_matches(from_source.data, from_target.data)
    # A match in what was gathered ends where a piece of either side ends.
    every = np.arange(len(found))
    np.minimum(found, from_target.room(every), out=found)
    np.minimum(found, from_source.room(places), out=found)
    at = from_target.origin(every)
    sizes[at] = found
    offsets[at] = from_source.origin(places)
    for stretch in stretches:
        span = slice(stretch.target, stretch.target + stretch.size)
        known = np.arange(stretch.size, 0, -1, dtype=np.int32)
        better = known > sizes[span]
        sizes[span] = np.where(better, known, sizes[span])
        diagonal = np.arange(stretch.source, stretch.source + stretch.size, dtype=np.int32)
        offsets[span] = np.where(better, diagonal, offsets[span])
    return sizes, offsets


class _Gathered:
    """Pieces of bytes side by side, and where each byte of them stood."""

    def __init__(self, whole: Bytes, pieces: list[tuple[int, int]]) -> None:
        self.data = np.concatenate([whole[low:high] for low, high in pieces] or [whole[:0]])
        sizes = np.array([high - low for low, high in pieces], np.int64)
        self._ends = np.cumsum(sizes)
        self._shifts = np.array([low for low, _ in pieces], np.int64) - (self._ends - sizes)

    def room(self, at: Places | Ints) -> Ints:
        """Bytes from places on to the end of their pieces."""
        return (self._ends[self._piece(at)] - at).astype(np.int32)

    def origin(self, at: Places | Ints) -> Places:
        """Where the bytes at places stood."""
        return np.asarray(at + self._shifts[self._piece(at)])

    def _piece(self, at: Places | Ints) -> Places:
        number = np.searchsorted(self._ends, at, side="right")
        return np.minimum(number, len(self._ends) - 1)


def _sorted_matches(source: Bytes, target: Bytes) -> tuple[Ints, Ints]:
    """The longest match of every target position, by one suffix array."""
    target_size = len(target)
    sizes = np.zeros(target_size, np.int32)
    offsets = np.zeros(target_size, np.int32)
    if target_size == 0 or len(source) == 0:
        return sizes, offsets
    # Target first: a source suffix then ends with the text, so no match runs past the source.
    text = np.concatenate([target, source])
    ranks = divsufsort(text)
    common = kasai(text, ranks)  # common[j]: shared prefix of suffixes j and j + 1
    # Target suffixes stand in chains between source suffixes: three of four ranks are no concern.
    at = np.flatnonzero(ranks < target_size)
    heads = np.flatnonzero(np.diff(at, prepend=-2) != 1)
    first = 0
    while first < len(heads):  # whole chains, some at a time
        end = int(np.searchsorted(heads, heads[first] + _RANKS_BLOCK, side="right"))
        stop = int(heads[end]) if end < len(heads) else len(at)
        _match_chains(
            ranks, common, at[heads[first] : stop], heads[first:end] - heads[first], sizes, offsets
        )
        first = end
    np.minimum(sizes, np.arange(target_size, 0, -1, dtype=np.int32), out=sizes)
    return sizes, offsets


def _match_chains(
    ranks: Ints, common: Ints, at: Places, heads: Places, sizes: Ints, offsets: Ints
) -> None:
    """Match target suffixes, at the ranks `at`, with the source suffixes next to their chains.

    `heads` are the indices in `at` at which a chain begins. Fills in `sizes` and `offsets`.
    """
    chain = np.zeros(len(at), np.int64)
    chain[heads[1:]] = 1
    np.cumsum(chain, out=chain)
    # What a suffix shares with the source suffix before its chain is the least `common` since:
    # a running minimum, which starts anew with each chain because later chains lie lower.
    depth = chain << 32
    shared = common[at - 1] - depth  # rank 0 has nothing before it; common ends with a 0
    np.minimum.accumulate(shared, out=shared)
    before = (shared + depth).astype(np.int32)
    # And with the source suffix behind the chain the same, backwards.
    shared = (common[at] + depth)[::-1]
    np.minimum.accumulate(shared, out=shared)
    behind = (shared[::-1] - depth).astype(np.int32)
    places_before = ranks[at[heads] - 1]
    places_behind = ranks[(at[np.append(heads[1:], len(at)) - 1] + 1) % len(ranks)]
    nearer = behind > before
    suffixes = ranks[at]
    sizes[suffixes] = np.where(nearer, behind, before)
    offsets[suffixes] = np.where(nearer, places_behind[chain], places_before[chain]) - len(sizes)


def align(
    source: Bytes,
    target: Bytes,
    matches: tuple[Ints, Ints] | None = None,
    *,
    gain_ahead_bytes: int = GAIN_AHEAD_BYTES,
) -> Alignment:
    """Align a target window with source bytes (1-d arrays of bytes, together below 2 GiB).

    `matches` is what `longest_matches` gives, if it is known. A match that saves too little is
    compared with the open diagonal for `gain_ahead_bytes`; 0 is bsdiff's rule, which looks at
    the match alone.
    """
    sizes, offsets = longest_matches(source, target) if matches is None else matches
    # Only the first position of a match can gain most: behind it the same match is shorter.
    starts = sizes >= MATCH_BYTES_MIN
    starts[1:] &= sizes[1:] >= sizes[:-1]
    at = np.flatnonzero(starts).tolist()  # bisect is three times as fast as searchsorted here
    scan = _Scan(source, target, gain_ahead_bytes)
    looked = position = following = 0
    while position < len(target):
        looked += 1
        size = int(sizes[position])
        if size >= MATCH_BYTES_MIN and scan.consider(position, size, int(offsets[position])):
            position += size  # settled; what matches from its end on is looked at next
            continue
        following = bisect_right(at, position, following)
        if following == len(at):
            break
        position = at[following]
    return Alignment(scan.finish(), scan.steps + looked)


class _Scan:
    """bsdiff's greedy scan: stay on a diagonal until a match elsewhere saves enough bytes.

    `sure` is the target position up to which all bytes are settled: the exact match that opened
    the diagonal ends there. Comparisons never look before it, which makes the scan linear.
    """

    def __init__(self, source: Bytes, target: Bytes, gain_ahead_bytes: int) -> None:
        self.source = source
        self.target = target
        self.gain_ahead_bytes = gain_ahead_bytes
        self.steps = 0
        self.segments: list[Segment] = []
        self.start = 0  # of the open segment, in the target
        self.sure = 0
        self.shift = 0  # source offset minus target offset of the open segment
        # misses[p]: bytes that differ on the open diagonal in [sure, p); known up to `seen`
        self.misses = np.zeros(len(target) + 1, np.int32)
        self.seen = 0

    def consider(self, position: int, size: int, offset: int) -> bool:
        """Switch to the match target[position:][:size] == source[offset:][:size] if it gains.

        `position` is at least `sure`. Returns whether the match's bytes are settled by it.
        """
        if offset - position == self.shift:
            return True
        end = position + size
        if self.seen < end:
            self._see(end)
        gain = int(self.misses[end]) - int(self.misses[position])
        if gain == 0:
            return True
        if (
            gain <= SWITCH_GAIN_BYTES
            and self._gain_ahead(position, offset, end) <= SWITCH_GAIN_BYTES
        ):
            return False
        self._switch(position, offset - position, end)
        return True

    def _gain_ahead(self, position: int, offset: int, end: int) -> int:
        """Bytes that the match's diagonal saves over the open one, a little past the match.

        Rows of tables differ in a byte or two: the right diagonal shows over several rows.
        """
        ahead = min(len(self.target), position + self.gain_ahead_bytes)
        if ahead <= end:
            return 0
        self._see(ahead)
        missed = int(self.misses[ahead]) - int(self.misses[position])
        if missed <= SWITCH_GAIN_BYTES:
            return missed
        differing = int(np.count_nonzero(self._differs(offset - position, end, ahead)))
        # Among new bytes every diagonal is bad, and the less bad one no better.
        return missed - differing if 2 * differing < ahead - end else 0

    def finish(self) -> tuple[Segment, ...]:
        """Close the last segment."""
        size = len(self.target)
        self._see(size)
        self._close(self.sure + int(np.argmax(self._forward(size))))
        return tuple(self.segments)

    def _see(self, end: int) -> None:
        """Make `misses` known up to `end`."""
        while self.seen < end:
            seen = self.seen
            ahead = min(len(self.target), max(end, seen + max(_LOOKAHEAD_BYTES, seen - self.sure)))
            differs = self._differs(self.shift, seen, ahead)
            np.cumsum(differs, dtype=np.int32, out=self.misses[seen + 1 : ahead + 1])
            self.misses[seen + 1 : ahead + 1] += self.misses[seen]
            self.seen = ahead

    def _differs(self, shift: int, first: int, end: int) -> npt.NDArray[np.bool_]:
        """Where target[first:end] differs from the source on a diagonal; outside it all does."""
        self.steps += end - first
        if first + shift >= 0 and end + shift <= len(self.source):
            inside = self.source[first + shift : end + shift]
            return np.asarray(self.target[first:end] != inside)
        inside_first = min(max(first, -shift), end)
        inside_end = max(min(end, len(self.source) - shift), inside_first)
        differs = np.ones(end - first, np.bool_)
        np.not_equal(
            self.target[inside_first:inside_end],
            self.source[inside_first + shift : inside_end + shift],
            out=differs[inside_first - first : inside_end - first],
        )
        return differs

    def _forward(self, end: int) -> Ints:
        """Gain of ending the open segment at sure, sure + 1, ..., end: matches minus misses."""
        span = np.arange(end - self.sure + 1, dtype=np.int32)
        missed = self.misses[self.sure : end + 1] - self.misses[self.sure]
        return np.asarray(span - 2 * missed, np.int32)

    def _switch(self, position: int, shift: int, end: int) -> None:
        """Close the open segment and open one on the diagonal `shift`, exact in [position, end)."""
        # Between the two exact matches: old diagonal up to x, literals, new from y >= x on.
        first = self.sure
        forward = self._forward(position)
        backward = np.zeros(position - first + 1, np.int32)
        differs = self._differs(shift, first, position)[::-1]
        np.cumsum(1 - 2 * differs.astype(np.int32), out=backward[1:])
        begin = int(np.argmax(np.maximum.accumulate(forward) + backward[::-1]))
        self._close(first + int(np.argmax(forward[: begin + 1])))
        self.start = first + begin
        self.shift = shift
        self.sure = self.seen = end
        self.misses[end] = 0

    def _close(self, end: int) -> None:
        if end > self.start:
            self.segments.append(Segment(self.start, self.start + self.shift, end - self.start))


def cut(segments: tuple[Segment, ...], first: int, end: int) -> tuple[Segment, ...]:
    """The parts of segments inside target[first:end], target offsets counted from `first`."""
    parts = []
    for target, source, size in segments:
        low, high = max(target, first), min(target + size, end)
        if low < high:
            parts.append(Segment(low - first, source + low - target, high - low))
    return tuple(parts)


def write_script(segments: tuple[Segment, ...], source: Bytes, target: Bytes) -> Script:
    """Control, diff and extra streams that make `target` (whole) from `source`."""
    diffs: list[Bytes] = []
    extras: list[Bytes] = []
    rows: list[tuple[int, int, int]] = []
    done = position = 0  # in the target; in the source
    pending = 0  # length of the segment whose triple is not written yet
    for segment in segments:
        literal = segment.target - done
        if pending or literal or segment.source != position:
            rows.append((pending, literal, segment.source - position))
        extras.append(target[done : segment.target])
        done = segment.target + segment.size
        position = segment.source + segment.size
        pending = segment.size
        diffs.append(
            target[segment.target : done] - source[segment.source : position]
        )  # uint8 arithmetic wraps: bsdiff's byte difference
    literal = len(target) - done
    if pending or literal:
        rows.append((pending, literal, 0))
    extras.append(target[done:])
    control = np.array(rows, dtype=np.int64).reshape(-1, 3)
    # bsdiff's numbers are sign and magnitude, not two's complement.
    signed = np.where(control < 0, -control | np.int64(_SIGN), control).astype("<i8")
    return Script(signed.tobytes(), _joined(diffs), _joined(extras))


def _joined(parts: list[Bytes]) -> bytes:
    return np.concatenate(parts).tobytes() if parts else b""
