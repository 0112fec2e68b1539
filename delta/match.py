"""Equal grains of two images: which target bytes stand somewhere in the source (build machine).

A grain is 1 KiB: ext4 file systems under 512 MB have 1 KiB blocks, and a file's blocks then
start at any multiple of that. Grains are compared by a 64-bit hash; `Run`s are therefore only
probable until `verify_runs` has compared their bytes. Not here: bytes that are only similar
(anchors.py, bsdiff.py).
"""

from collections.abc import Iterator, Sequence
from enum import Enum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from slipstream.delta.limits import KIB, MIB
from slipstream.delta.reader import Reader

Hashes = npt.NDArray[np.uint64]

GRAIN_BYTES = KIB
_WORDS = GRAIN_BYTES // 8
_CANDIDATES_MAX = 8  # equal grains looked at for the longest run: padding repeats thousandfold
_PROBE_GRAINS = 256  # how far candidates are compared before the longest is taken
_VERIFY_BYTES = 4 * MIB
# Odd 64-bit multipliers, one for each word of a grain (SplitMix64's sequence from 1 on).
_GOLDEN = 0x9E3779B97F4A7C15


class RunKind(Enum):
    """What is known of a stretch of the target."""

    ZERO = "zero"
    EQUAL = "equal"  # stands in the source
    CHANGED = "changed"


class Run(NamedTuple):
    """`size` target bytes from `target` on; `source` is the source offset of an EQUAL run."""

    kind: RunKind
    target: int
    size: int
    source: int = 0

    @property
    def end(self) -> int:
        """First target byte behind the run."""
        return self.target + self.size


def _multipliers() -> Hashes:
    mixed = []
    for index in range(1, _WORDS + 1):
        value = index * _GOLDEN & 0xFFFF_FFFF_FFFF_FFFF
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFF_FFFF_FFFF_FFFF
        value = (value ^ value >> 27) * 0x94D049BB133111EB & 0xFFFF_FFFF_FFFF_FFFF
        mixed.append((value ^ value >> 31) | 1)
    return np.array(mixed, dtype=np.uint64)


_MULTIPLIERS = _multipliers()


def hash_grains(data: bytes | memoryview) -> Hashes:
    """64-bit hashes of the whole grains in `data`; 0 is the hash of an all-zero grain."""
    count = len(data) // GRAIN_BYTES
    words = np.frombuffer(data, dtype="<u8", count=count * _WORDS).reshape(count, _WORDS)
    hashes = np.empty(count, np.uint64)
    for first in range(0, count, 64):  # 64 KiB at a time stay in the processor's cache
        part = words[first : first + 64]
        # Multiplication carries upwards only: fold high bits down before and after.
        mixed = part ^ (part >> np.uint64(29))
        mixed *= _MULTIPLIERS
        hashes[first : first + 64] = mixed.sum(axis=1, dtype=np.uint64)
    return hashes ^ (hashes >> np.uint64(32))


def match_grains(source: Hashes, target: Hashes) -> list[Run]:
    """Runs that cover all whole target grains, in order, from the grains' hashes.

    Equal grains go to the diagonal of the run before, else to the same offset, else to the
    longest run among the first few places where the grain stands.
    """
    order = np.argsort(source, kind="stable")
    ranked = source[order]
    place = np.searchsorted(ranked, target)
    known = np.zeros(len(target), np.bool_)
    inside = place < len(ranked)
    known[inside] = ranked[place[inside]] == target[inside]
    zero = target == 0
    # Borders of stretches: a grain is zero (2), in the source (1), or new (0).
    state = np.where(zero, 2, known.astype(np.int8))
    borders = np.append(np.flatnonzero(np.diff(state)) + 1, len(state))
    runs: list[Run] = []
    shift = 0
    grain = 0
    for end in borders.tolist():
        if end == grain:
            continue
        if state[grain] != 1:
            kind = RunKind.ZERO if state[grain] == 2 else RunKind.CHANGED
            _append(runs, kind, grain, end - grain, 0)
            grain = end
            continue
        while grain < end:
            at = grain + shift
            if not (0 <= at < len(source) and source[at] == target[grain]):
                first = int(place[grain])
                last = int(
                    np.searchsorted(
                        ranked[first : first + _CANDIDATES_MAX], target[grain], side="right"
                    )
                )
                shift = _best_shift(source, target, grain, end, order[first : first + last])
            size = _equal_grains(source, target, grain + shift, grain, end - grain)
            _append(runs, RunKind.EQUAL, grain, size, grain + shift)
            grain += size
    return runs


def _best_shift(
    source: Hashes, target: Hashes, grain: int, end: int, places: npt.NDArray[np.int64]
) -> int:
    if grain < len(source) and source[grain] == target[grain]:
        return 0
    probe = min(end - grain, _PROBE_GRAINS)
    sizes = [_equal_grains(source, target, place, grain, probe) for place in places.tolist()]
    return int(places[sizes.index(max(sizes))]) - grain


def _equal_grains(source: Hashes, target: Hashes, place: int, grain: int, size_max: int) -> int:
    """How many grains from source[place] and target[grain] on are equal; at most `size_max`."""
    size_max = min(size_max, len(source) - place)
    size, step = 0, 16
    while size < size_max:
        end = min(size + step, size_max)
        differs = source[place + size : place + end] != target[grain + size : grain + end]
        if differs.any():
            return size + int(np.argmax(differs))
        size, step = end, step * 2
    return size


def _append(runs: list[Run], kind: RunKind, grain: int, size: int, place: int) -> None:
    run = Run(kind, grain * GRAIN_BYTES, size * GRAIN_BYTES, place * GRAIN_BYTES)
    last = runs[-1] if runs else None
    if (
        last
        and last.kind is kind
        and (kind is not RunKind.EQUAL or last.source + last.size == run.source)
    ):
        runs[-1] = last._replace(size=last.size + run.size)
    else:
        runs.append(run)


def join_zeros(runs: Sequence[Run], source: Hashes, zero_bytes_min: int) -> list[Run]:
    """Give zero runs shorter than `zero_bytes_min` to an equal run that goes on in zeros.

    A frame costs more than reading a few zeros from the source does.
    """
    joined: list[Run] = []
    for run in runs:
        last = joined[-1] if joined else None
        if last and last.kind is RunKind.EQUAL and run.kind is RunKind.ZERO:
            place = (last.source + last.size) // GRAIN_BYTES
            covered = source[place : place + run.size // GRAIN_BYTES]
            if (
                run.size < zero_bytes_min
                and len(covered) * GRAIN_BYTES == run.size
                and not covered.any()
            ):
                joined[-1] = last._replace(size=last.size + run.size)
                continue
        if (
            last
            and last.kind is run.kind is RunKind.EQUAL
            and last.source + last.size == run.source
        ):
            joined[-1] = last._replace(size=last.size + run.size)
            continue
        joined.append(run)
    return joined


def verify_runs(runs: Sequence[Run], source: Reader, target: Reader) -> Iterator[Run]:
    """The same runs with every byte compared; what a hash claimed wrongly becomes CHANGED."""
    for run in runs:
        if run.kind is RunKind.CHANGED or all(
            target.read(run.target + done, size)
            == (bytes(size) if run.kind is RunKind.ZERO else source.read(run.source + done, size))
            for done, size in _pieces(run.size)
        ):
            yield run
        else:
            yield Run(RunKind.CHANGED, run.target, run.size)


def _pieces(size: int) -> Iterator[tuple[int, int]]:
    for done in range(0, size, _VERIFY_BYTES):
        yield done, min(_VERIFY_BYTES, size - done)
