"""Long equal stretches of a window and its source, found by content anchors (build machine).

What they cover needs no suffix sort, which is most of the price of a window: bsdiff.py sorts what
is left of both sides. Only found matches count: every byte of a stretch was compared.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from slipstream.delta.anchors import ANCHOR_BYTES, find_anchors, pair_anchors

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]

STRETCH_BYTES_MIN = 1024  # a shorter one saves too little of the sort for what looking at it takes
EDGE_BYTES = 64  # of a stretch at both ends that are sorted all the same: matches may go on there


class Stretch(NamedTuple):
    """target[target:target + size] equals source[source:source + size]."""

    target: int
    source: int
    size: int


def equal_stretches(source: Bytes, target: Bytes) -> list[Stretch]:
    """Equal stretches, rising in the target and not overlapping there; not all that there are."""
    pairs = pair_anchors(find_anchors(source.tobytes(), 0), find_anchors(target.tobytes(), 0))
    if len(pairs.targets) == 0:
        return []
    shifts = pairs.sources - pairs.targets
    # Anchors that follow one another on one diagonal; between them the bytes are compared.
    breaks = np.flatnonzero(np.diff(shifts)) + 1
    firsts = np.concatenate([[0], breaks])
    lasts = np.concatenate([breaks, [len(shifts)]]) - 1
    found: list[Stretch] = []
    position = 0
    for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
        begin = max(position, int(pairs.targets[first]))
        end = int(pairs.targets[last]) + ANCHOR_BYTES
        if end - begin < STRETCH_BYTES_MIN:
            continue
        shift = int(shifts[first])
        for low, high in _equal_runs(source, target, shift, begin, end):
            found.append(Stretch(low, low + shift, high - low))
            position = high
    return found


def _equal_runs(
    source: Bytes, target: Bytes, shift: int, begin: int, end: int
) -> list[tuple[int, int]]:
    """Target ranges of at least STRETCH_BYTES_MIN that equal the source on one diagonal."""
    differs = np.flatnonzero(target[begin:end] != source[begin + shift : end + shift]) + begin
    edges = np.concatenate([[begin - 1], differs, [end]])
    at = np.flatnonzero(np.diff(edges) > STRETCH_BYTES_MIN)
    return [(int(edges[number]) + 1, int(edges[number + 1])) for number in at]


def left_over(size: int, covered: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """What of `size` bytes no covered range holds, but for EDGE_BYTES at both of its ends; rising.

    `covered` are ranges (begin, end), in any order.
    """
    left: list[tuple[int, int]] = []
    position = 0
    for begin, end in sorted(covered):
        low, high = begin + EDGE_BYTES, end - EDGE_BYTES
        if low > position:
            left.append((position, low))
        position = max(position, high)
    if position < size:
        left.append((position, size))
    return left
