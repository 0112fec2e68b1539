"""Learns how the addresses of a program moved between two releases (build machine).

Both files are aligned; where a stretch of the older one went says how far the addresses in it moved.
Stretches that nothing points to are left out: each costs a few bytes. Not here: what is done with the
amounts (references.py).
"""

import struct
from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from slipstream.delta.bsdiff import Segment, SourceIndex
from slipstream.delta.byterange import ByteRange
from slipstream.delta.references import (
    ADDRESS_MIN,
    ImageShifts,
    MovedReferences,
    move_references,
)

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

_IDENT = b"\x7fELF\2\1"  # 64 bits, little-endian
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_X86_64 = 62
_LOAD = 1
_EXECUTABLE = 1
_TABLE_ROWS_MAX = 64
_LOADS_MAX = 16  # programs have 2 to 6
_REACH_BYTES = 128 << 20  # of a program's code, in which its segments stand
_SPAN_FACTOR = 2  # most programs take little more in memory than their file
_SPAN_BYTES_FREE = 32 << 20
_CANDIDATES = 16  # of the alignment (seeds.py)
_GRAIN_BYTES = 16  # functions begin at multiples of it
_REFERENCES_MIN = 4  # to and from a range of addresses: fewer cost less than the range does
_AMOUNT_MAX = (1 << 31) - 1


class _Load(NamedTuple):
    """A segment of a program: bytes of its file at an address."""

    place: ByteRange
    address: int
    memory_bytes: int
    is_code: bool

    @property
    def shift(self) -> int:
        """From a place in the file to its address."""
        return self.address - self.place.offset


class Part(NamedTuple):
    """Bytes of a program's file, the address of the first, and whether they are code."""

    place: ByteRange
    address: int
    is_code: bool


class Learned:
    """How a program's addresses moved, and which bytes of its file hold some.

    image     the shifts
    parts     what is loaded of the file
    """

    def __init__(
        self,
        image: ImageShifts,
        parts: tuple[Part, ...],
        source: Bytes,
        target: Bytes,
        segments: Sequence[Segment],
    ) -> None:
        self.image = image
        self.parts = parts
        self._source = source
        # What the bytes of the source became, where that is known.
        self._wanted = np.zeros(len(source), np.uint8)
        self._known = np.zeros(len(source), bool)
        for segment in segments:
            self._wanted[segment.source : segment.source + segment.size] = target[
                segment.target : segment.target + segment.size
            ]
            self._known[segment.source : segment.source + segment.size] = True

    def differing(self, place: ByteRange) -> int:
        """How many bytes at a place of the file are not what they became: what moving may gain."""
        return int(np.count_nonzero(self._wrong(place, self._source[place.offset : place.end])))

    def gain(self, place: ByteRange, moved: MovedReferences) -> int:
        """How many more bytes at a place of the file are right once they are moved."""
        held = self._source[place.offset : place.end].tobytes()
        made = np.frombuffer(move_references(held, moved, self.image), np.uint8)
        return self.differing(place) - int(np.count_nonzero(self._wrong(place, made)))

    def _wrong(self, place: ByteRange, held: Bytes) -> npt.NDArray[np.bool_]:
        known = self._known[place.offset : place.end]
        wrong: npt.NDArray[np.bool_] = known & (held != self._wanted[place.offset : place.end])
        return wrong


def learn_references(source: bytes, target: bytes) -> Learned | None:
    """What is to be moved in a source program so that it resembles the target.

    None for what is no x86-64 program or library, or where nothing moved. For any bytes. Memory: 14
    times the source, and 2 bytes for each address, of which there are at most _SPAN_FACTOR times as
    many as bytes of the source and _SPAN_BYTES_FREE.
    """
    old, new = _loads(source), _loads(target)
    if not old or not new:
        return None
    code = max((one for one in old if one.is_code), key=lambda one: one.place.size)
    base = min(one.address for one in old)
    span = max(one.address + one.memory_bytes for one in old) - base
    if not code.place.size or span > _SPAN_FACTOR * len(source) + _SPAN_BYTES_FREE:
        return None
    before, after = np.frombuffer(source, np.uint8), np.frombuffer(target, np.uint8)
    segments = SourceIndex(before).align(after, candidates=_CANDIDATES, gain_ahead_bytes=0).segments
    shifts = _shifts(segments, old, new, base, span)
    firsts = np.flatnonzero(np.diff(shifts, prepend=0))
    used = _used(before, old, base, code.address - base, code.place.size, span)
    firsts, amounts = _worthwhile(firsts, shifts, used)
    if not len(firsts):
        return None
    image = ImageShifts(
        base,
        span,
        ByteRange(code.address - base, code.place.size),
        array("I", (firsts * _GRAIN_BYTES).tolist()),
        array("i", amounts.tolist()),
    )
    parts = tuple(Part(one.place, one.address - base, one.is_code) for one in old)
    return Learned(image, parts, before, after, segments)


def _loads(program: bytes) -> list[_Load]:
    """The segments of an x86-64 program that are loaded in reach of its code; none of anything else.

    A kernel has some at addresses that are offsets: what each processor has of its own.
    """
    if not program.startswith(_IDENT) or len(program) < _HEADER.size:
        return []
    _, kind, machine, _, _, table, _, _, _, row_size, count, *_ = _HEADER.unpack_from(program)
    if machine != _X86_64 or kind not in {2, 3} or row_size != _SEGMENT.size:
        return []
    if count > _TABLE_ROWS_MAX or table + count * row_size > len(program):
        return []
    found = []
    for number in range(count):
        kind, flags, offset, address, _, size, memory, _ = _SEGMENT.unpack_from(
            program, table + number * row_size
        )
        if kind != _LOAD:
            continue
        if offset + size > len(program) or memory < size or address + memory >= 1 << 64:
            return []
        found.append(_Load(ByteRange(offset, size), address, memory, bool(flags & _EXECUTABLE)))
    if len(found) > _LOADS_MAX:
        return []
    code = max((one for one in found if one.is_code), key=lambda one: one.place.size, default=None)
    if code is None:
        return []
    low, high = code.address - _REACH_BYTES, code.address + _REACH_BYTES
    near = [one for one in found if low <= one.address and one.address + one.memory_bytes <= high]
    return sorted(near, key=lambda one: one.address) if code in near else []


def _shifts(
    segments: Sequence[Segment], old: Sequence[_Load], new: Sequence[_Load], base: int, span: int
) -> Ints:
    """By how much each grain of addresses moved; what is not known moves as what stands before it."""
    shifts = np.zeros(-(-span // _GRAIN_BYTES), np.int64)
    known = np.zeros(len(shifts), bool)
    # Where a stretch stands twice, the longer one says it.
    for segment in sorted(segments, key=lambda one: one.size):
        for size, before, after in _addresses(segment, old, new):
            if abs(after - before) > _AMOUNT_MAX:
                continue
            low, high = (before - base) // _GRAIN_BYTES, -(-(before - base + size) // _GRAIN_BYTES)
            shifts[low:high] = after - before
            known[low:high] = True
    last, end = old[-1], new[-1]
    memory = last.address + last.place.size - base  # from here on zeros, which no file holds
    amount = end.address + end.place.size - last.address - last.place.size
    if abs(amount) <= _AMOUNT_MAX:
        shifts[-(-memory // _GRAIN_BYTES) :] = amount
        known[-(-memory // _GRAIN_BYTES) :] = True
    places = np.where(known, np.arange(len(known)), 0)
    return shifts[np.maximum.accumulate(places)]


def _addresses(
    segment: Segment, old: Sequence[_Load], new: Sequence[_Load]
) -> Iterator[tuple[int, int, int]]:
    """A stretch that was aligned, by the segments that it lies in: size, address before and after."""
    for load in old:
        low = max(segment.source, load.place.offset)
        high = min(segment.source + segment.size, load.place.end)
        if low >= high:
            continue
        to = segment.target + low - segment.source
        for other in new:
            if other.place.offset <= to < other.place.end:
                yield high - low, low + load.shift, to + other.shift


def _used(
    program: Bytes, loads: Sequence[_Load], base: int, code: int, code_bytes: int, span: int
) -> Ints:
    """For each grain of addresses, how many references point to it or stand in it: about what
    references.py moves."""
    found = [np.zeros(0, np.int64)]
    for load in loads:
        data = program[load.place.offset : load.place.end]
        first = load.address - base
        if load.is_code and len(data) > 6:
            places = np.flatnonzero(_is_prefixed(data)).astype(np.int64)
            places = places[places + 4 <= len(data)]
            targets = first + places + 4 + _words_at(data, places)
            jump = _is_jump(data)[places]
            inside = (targets >= 0) & (targets < span)
            hit = inside & (~jump | ((targets >= code) & (targets < code + code_bytes)))
            found.append(targets[hit])
            found.append(first + places[hit])
            found.append(_absolute(data, base, span))
        elif len(data) >= 8:
            begin = -first % 8
            words = data[begin : begin + (len(data) - begin) // 8 * 8]
            pointers = words.view("<u8") - np.uint64(base)
            found.append(pointers[(pointers >= ADDRESS_MIN) & (pointers < span)].astype(np.int64))
            near = words.view("<i4").astype(np.int64)
            at = first + begin + 4 * np.arange(len(near))
            hit = (near + at >= code) & (near + at < code + code_bytes)
            found.append((near + at)[hit])
            found.append(at[hit])
    grains = [one // _GRAIN_BYTES for one in found]
    return np.bincount(np.concatenate(grains), minlength=-(-span // _GRAIN_BYTES))


def _absolute(code: Bytes, base: int, span: int) -> Ints:
    """What words of 32 bits in code point to, at any place: some only look like addresses."""
    if not base:
        return np.zeros(0, np.int64)
    low = base & 0xFFFF_FFFF
    found = []
    for first in range(4):
        words = code[first : first + (len(code) - first) // 4 * 4].view("<u4")
        held = words[(words >= low + ADDRESS_MIN) & (words < low + span)]
        found.append(held.astype(np.int64) - low)
    return np.concatenate(found)


def _is_jump(code: Bytes) -> npt.NDArray[np.bool_]:
    """At each place: whether a jump's opcode ends before it."""
    found = np.zeros(len(code) + 1, bool)
    found[1:] = (code == 0xE8) | (code == 0xE9)
    found[2:] |= (code[:-1] == 0x0F) & (code[1:] & 0xF0 == 0x80)
    return found[:-1]


def _is_prefixed(code: Bytes) -> npt.NDArray[np.bool_]:
    """At each place: whether four bytes may begin there that count from their own end."""
    found = _is_jump(code)
    found[1:] |= code[:-1] & 0xC7 == 5
    last = code[3:]  # of each four
    found[: len(last)] &= (last < 4) | (last > 251)
    return found


def _words_at(data: Bytes, places: Ints) -> Ints:
    """Signed words of 32 bits at any places."""
    word = np.zeros(len(places), np.int64)
    for number in range(4):
        word |= data[places + number].astype(np.int64) << 8 * number
    return (word ^ 1 << 31) - (1 << 31)


def _worthwhile(firsts: Ints, shifts: Ints, used: Ints) -> tuple[Ints, Ints]:
    """Ranges that enough references have to do with; what is left out moves as what is before it."""
    if not len(firsts):
        return firsts, firsts
    counts = np.add.reduceat(used, firsts)
    firsts = firsts[counts >= _REFERENCES_MIN]
    amounts = shifts[firsts]
    kept = np.flatnonzero(np.diff(amounts, prepend=0))
    return firsts[kept], amounts[kept]
