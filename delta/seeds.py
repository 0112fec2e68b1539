"""Seeds, and the greedy scan that extends them along diagonals (build machine).

A seed is a position whose 12 bytes stand in the source, too; a hash table with chains says where. A
diagonal is all pairs of a target and a source position of the same distance. The scan is bsdiff's: it
stays on a diagonal until a match on another one saves enough bytes. Not here: what becomes of the
segments (bsdiff.py).

Contract: the same bytes give the same segments on any machine, and work is linear in the size of
both sides, whatever the bytes: seeds are looked up where the open diagonal misses only, each lookup
looks at a bounded number of places, and a match that does not open a diagonal covers few misses.
"""

import numpy as np
import numpy.typing as npt

from slipstream.delta.compiled import BYTES, compiled

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int32]
Rows = npt.NDArray[np.int64]

SEED_BYTES = 12  # shorter matches cost more as an instruction than as literal bytes
SWITCH_GAIN_BYTES = 8  # bytes a match must save over the diagonal in use (bsdiff's own constant)
_LONG_BYTES = 1024  # a match of this length ends the search for a longer one
_FACTORS = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9], np.uint64)
_FIRST, _SECOND = _FACTORS


@compiled("u8(u8, u8, u8)")
def _slot(low: np.uint64, high: np.uint64, bits: np.uint64) -> np.uint64:
    """Slot of the seed whose first 8 bytes are `low`, and whose last 8 are `high`."""
    key = (low ^ low >> np.uint64(29)) * _FIRST + high * _SECOND
    return np.uint64((key ^ key >> np.uint64(31)) * _FIRST >> np.uint64(64) - bits)


@compiled(f"u8({BYTES}, i8)")
def _word(data: Bytes, at: int) -> np.uint64:
    """Eight bytes, little endian."""
    word = np.uint64(0)
    for place in range(8):
        word |= np.uint64(data[at + place]) << np.uint64(8 * place)
    return word


@compiled(f"void({BYTES}, i4[::1], i4[::1], u8)")
def index_seeds(source: Bytes, heads: Ints, links: Ints, bits: np.uint64) -> None:
    """Fill `heads` (2 ** bits) with the last place of each slot, `links` (one for each byte) with the
    place before each place; -1: none. Of a run of one byte only the first seed has a place."""
    heads[:] = -1
    last = len(source) - SEED_BYTES
    if last < 0:
        return
    low, high = _word(source, 0), _word(source, SEED_BYTES - 8)
    for place in range(last + 1):
        if place:
            low_before, high_before = low, high
            low = low >> np.uint64(8) | np.uint64(source[place + 7]) << np.uint64(56)
            high = high >> np.uint64(8) | np.uint64(source[place + SEED_BYTES - 1]) << np.uint64(56)
            if low == low_before and high == high_before:
                continue
        slot = _slot(low, high, bits)
        links[place] = heads[slot]
        heads[slot] = place


# A call of a compiled function with arrays counts references, some 10 ns: none for single bytes below.


@compiled(f"i8({BYTES}, {BYTES}, i8, i8)")
def _run_end(source: Bytes, target: Bytes, at: int, shift: int) -> int:
    """Where the equal bytes end that begin at a target offset on a diagonal."""
    end = min(len(target), len(source) - shift)
    if at + shift >= 0:
        while at < end and source[at + shift] == target[at]:
            at += 1
    return at


@compiled(f"i8({BYTES}, {BYTES}, i8, i8, i8, i8)")
def _count_misses(source: Bytes, target: Bytes, at: int, end: int, shift: int, enough: int) -> int:
    """How many of target[at:end] differ from the source on a diagonal; outside the source all do.

    Counts no further than `enough`.
    """
    missed = 0
    while at < end and missed < enough:
        place = at + shift
        if not 0 <= place < len(source) or source[place] != target[at]:
            missed += 1
        at += 1
    return missed


@compiled(f"UniTuple(i8, 3)({BYTES}, {BYTES}, i4[::1], i4[::1], u8, i8, i8, i8)")
def _longest(
    source: Bytes,
    target: Bytes,
    heads: Ints,
    links: Ints,
    bits: np.uint64,
    candidates: int,
    at: int,
    shift: int,
) -> tuple[int, int, int]:
    """The longest match of target[at:] among the last `candidates` places of its seed.

    Returns (size, source offset, bytes compared); size 0: none. Of equals the one nearest to the
    diagonal `shift`.
    """
    slot = _slot(_word(target, at), _word(target, at + SEED_BYTES - 8), bits)
    place = int(heads[slot])
    best, found, compared = SEED_BYTES - 1, -1, 0
    while place >= 0 and candidates > 0 and best < _LONG_BYTES:
        candidates -= 1
        compared += 1
        room = min(len(source) - place, len(target) - at)
        if best <= room and source[place + best - 1] == target[at + best - 1]:
            size = 0
            while size < room and source[place + size] == target[at + size]:
                size += 1
            compared += size
            nearer = abs(place - at - shift) < abs(found - at - shift)
            if size > best or (size == best and found >= 0 and nearer):
                best, found = size, place
        place = int(links[place])
    return (best, found, compared) if found >= 0 else (0, 0, compared)


@compiled(f"UniTuple(i8, 2)({BYTES}, {BYTES}, i8, i8, i8, i8)")
def _meet(
    source: Bytes, target: Bytes, first: int, end: int, old: int, new: int
) -> tuple[int, int]:
    """Where in [first, end) the diagonal `old` best ends and `new` begins: both not before `first`,
    literal bytes between them. The other diagonal is exact before `first` and from `end` on."""
    gain = best = lost = most = 0
    peak = close = begin = first
    for at in range(first, end):
        place = at + old
        gain += 1 if 0 <= place < len(source) and source[place] == target[at] else -1
        place = at + new
        lost += 1 if 0 <= place < len(source) and source[place] == target[at] else -1
        if gain > best:
            best, peak = gain, at + 1
        if best - lost > most:
            most, close, begin = best - lost, peak, at + 1
    return close, begin


@compiled(f"UniTuple(i8, 2)({BYTES}, {BYTES}, i4[::1], i4[::1], u8, i8, i8, i8[:, ::1])")
def scan_seeds(
    source: Bytes,
    target: Bytes,
    heads: Ints,
    links: Ints,
    bits: np.uint64,
    candidates: int,
    ahead_bytes: int,
    segments: Rows,
) -> tuple[int, int]:
    """Fill `segments` with rows (target offset, source offset, size): rising, not overlapping in the
    target. Returns how many there are, and the bytes compared.

    At most `candidates` places of a seed are looked at. A match that saves too little is compared
    with the open diagonal for `ahead_bytes`; 0 is bsdiff's rule, which looks at the match alone.
    `segments` has room for a row for each SEED_BYTES of the target, and one more.
    """
    count = steps = 0
    start = 0  # of the open segment
    sure = 0  # all bytes before it are settled: the match that opened the diagonal ends there
    shift = 0  # source offset less target offset of the open segment
    at = 0
    while True:
        run_end = _run_end(source, target, at, shift)
        steps += 1 + run_end - at
        at = run_end
        if at > len(target) - SEED_BYTES:
            break
        size, place, compared = _longest(source, target, heads, links, bits, candidates, at, shift)
        end, other = at + size, place - at
        steps += compared + size
        gain = _count_misses(source, target, at, end, shift, SWITCH_GAIN_BYTES + 1)
        ahead = min(len(target), at + ahead_bytes)
        if 0 < gain <= SWITCH_GAIN_BYTES and ahead > end:
            # Rows of tables differ in a byte or two: the right diagonal shows over several rows.
            steps += 2 * (ahead - end)
            wrong = _count_misses(source, target, end, ahead, other, ahead)
            # Among new bytes every diagonal is bad, and the less bad one no better.
            if 2 * wrong < ahead - end:
                gain += _count_misses(source, target, end, ahead, shift, ahead) - wrong
        if gain <= SWITCH_GAIN_BYTES:
            at += 1
            continue
        steps += at - sure
        close, begin = _meet(source, target, sure, at, shift, other)
        if close > start:
            segments[count, 0], segments[count, 1] = start, start + shift
            segments[count, 2] = close - start
            count += 1
        start, shift = begin, other
        sure = at = end
    close, _ = _meet(source, target, sure, len(target), shift, len(source))
    if close > start:
        segments[count, 0], segments[count, 1] = start, start + shift
        segments[count, 2] = close - start
        count += 1
    return count, steps + len(target) - sure
