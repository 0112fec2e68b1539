"""Alignment of a target window with source bytes, and bsdiff's instruction set (build machine).

Not bsdiff's program: its suffix sort is quadratic on runs and overflows the stack on real data, and
its scan looks every target position up by binary search. Here a hash table finds seeds, and the scan
(seeds.py) touches every byte a bounded number of times.

Contract: `SourceIndex.align` is linear in memory and time for all inputs; it never raises for their
content; same inputs, same result. docs/adr/0013-compiled-matching.md has the measurements.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from slipstream.delta.seeds import SEED_BYTES, Bytes, index_seeds, scan_seeds

_SIGN = -(1 << 63)  # the sign bit of bsdiff's numbers
_SLOT_BITS = (8, 19)  # of a hash table, least and most: 2 MiB of heads stay in the cache


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


class SourceIndex:
    """Source bytes, in which the like of target windows is looked for."""

    def __init__(self, source: Bytes) -> None:
        """`source` is a 1-d array of bytes, below 2 GiB."""
        least, most = _SLOT_BITS
        self._source = source
        self._bits = np.uint64(min(max(least, len(source).bit_length()), most))
        self._heads = np.empty(1 << int(self._bits), np.int32)
        self._links = np.empty(len(source), np.int32)
        index_seeds(source, self._heads, self._links, self._bits)

    def align(self, target: Bytes, *, candidates: int, gain_ahead_bytes: int) -> Alignment:
        """Align a target window, a 1-d array of bytes.

        Of the places where the same seed stands at most `candidates` are looked at. A match that
        saves too little is compared with the open diagonal for `gain_ahead_bytes`; 0 is bsdiff's
        rule, which looks at the match alone.
        """
        rows = np.empty((len(target) // SEED_BYTES + 1, 3), np.int64)
        count, steps = scan_seeds(
            self._source,
            target,
            self._heads,
            self._links,
            self._bits,
            candidates,
            gain_ahead_bytes,
            rows,
        )
        return Alignment(tuple(Segment(*row) for row in rows[:count].tolist()), steps)


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
