"""Numbers in BTF, moved: every kind of type, rows of shifts, and bytes no kernel makes."""

import struct
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.delta.btf import (
    BtfShifts,
    MovedBtf,
    Shifts,
    move_btf,
    read_moved,
    write_moved,
)
from slipstream.delta.byterange import ByteRange
from slipstream.delta.errors import FormatError
from slipstream.delta.limits import (
    BTF_OWN_RANGES_MAX,
    MIB,
    MOVE_BYTES,
    SHIFT_RANGES_MAX,
    SHIFTS_MAX,
)
from slipstream.delta.moves import read_payload_shifts, write_payload_shifts

NUMBERS = st.integers(0, 2**32 - 1)
Number = Callable[[int], int]

# Documentation/bpf/btf.rst: what follows name, info and size or type; N a name, T a type, X else.
KINDS = {
    1: ("X", "X", ""),
    2: ("T", "", ""),
    3: ("X", "TTX", ""),
    4: ("X", "", "NTX"),
    5: ("X", "", "NTX"),
    6: ("X", "", "NX"),
    7: ("X", "", ""),
    8: ("T", "", ""),
    9: ("T", "", ""),
    10: ("T", "", ""),
    11: ("T", "", ""),
    12: ("T", "", ""),
    13: ("T", "", "NT"),
    14: ("T", "X", ""),
    15: ("X", "", "TXX"),
    16: ("X", "", ""),
    17: ("T", "X", ""),
    18: ("T", "", ""),
    19: ("X", "", "NXX"),
}


@st.composite
def shifts(draw: st.DrawFn, count: int = 6) -> Shifts:
    firsts = sorted(draw(st.sets(NUMBERS, max_size=count)))
    amounts = st.integers(-(2**32) + 1, 2**32 - 1)
    return Shifts(tuple(firsts), tuple(draw(amounts) for _ in firsts))


BTF_SHIFTS = st.builds(BtfShifts, shifts(), shifts())


class Twice:
    """Types as they are, and as they have to become."""

    def __init__(self, name: Number, kind: Number) -> None:
        self.before, self.after = bytearray(), bytearray()
        self._moves = {"N": name, "T": kind, "X": lambda number: number}

    def add(self, what: str, number: int) -> None:
        self.before += struct.pack("<I", number)
        self.after += struct.pack("<I", self._moves[what](number) % 2**32)


def moved_by(shared: Shifts, own: Shifts) -> Number:
    """The rule in words: the amount of the last range that begins at the number or before."""

    def move(number: int) -> int:
        held = own if any(first <= number for first in own.firsts) else shared
        amounts = [a for f, a in zip(held.firsts, held.amounts, strict=True) if f <= number]
        return number + (amounts[-1] if amounts else 0)

    return move


@given(BTF_SHIFTS, BTF_SHIFTS, st.data())
def test_every_kind_of_type(shared: BtfShifts, own: BtfShifts, data: st.DataObject) -> None:
    twice = Twice(moved_by(shared.names, own.names), moved_by(shared.types, own.types))
    # Numbers near the beginnings of ranges, where a mistake by one shows.
    near = [
        f + d
        for s in (shared, own)
        for one in (s.types, s.names)
        for f in one.firsts
        for d in (-1, 0, 1)
    ]
    numbers = st.sampled_from([one % 2**32 for one in near] or [0]) | NUMBERS
    for kind in data.draw(st.lists(st.sampled_from(sorted(KINDS)), max_size=12)):
        third, further, member = KINDS[kind]
        count = data.draw(st.integers(0, 5)) if member else data.draw(st.sampled_from([0, 7]))
        twice.add("N", data.draw(numbers))
        twice.add("X", data.draw(st.booleans()) << 31 | kind << 24 | count)
        for what in third + further + member * (count if member else 0):
            twice.add(what, data.draw(numbers))
    head, tail = data.draw(st.binary(max_size=9)), data.draw(st.binary(max_size=9))
    moved = MovedBtf(0, ByteRange(len(head), len(twice.before)), own)

    assert move_btf(head + twice.before + tail, moved, shared) == head + twice.after + tail


@given(st.binary(max_size=400), BTF_SHIFTS, BTF_SHIFTS, st.data())
def test_any_bytes_stay_as_many(
    module: bytes, shared: BtfShifts, own: BtfShifts, data: st.DataObject
) -> None:
    begin = data.draw(st.integers(0, len(module)))
    end = data.draw(st.integers(begin, len(module)))
    made = move_btf(module, MovedBtf(0, ByteRange(begin, end - begin), own), shared)
    assert len(made) == len(module)
    assert (made[:begin], made[end:]) == (module[:begin], module[end:])


@pytest.mark.parametrize("kind", [0, 20, 31])
def test_bytes_stay_from_an_unknown_kind_on(kind: int) -> None:
    up = BtfShifts(Shifts((0,), (1,)), Shifts((0,), (1,)))
    pointer = struct.pack("<III", 5, 2 << 24, 7)
    unknown = struct.pack("<III", 5, kind << 24, 7)
    types = pointer + unknown + pointer
    made = move_btf(types, MovedBtf(0, ByteRange(0, len(types))), up)
    assert made == struct.pack("<III", 6, 2 << 24, 8) + unknown + pointer


@pytest.mark.parametrize(
    "types",
    [
        struct.pack("<III", 1, 2 << 24, 5) * (MIB // 12),
        struct.pack("<III", 1, 4 << 24, 5) * (MIB // 12),
        struct.pack("<III", 1, 4 << 24 | 65_535, 0) + bytes(range(256)) * 3072 + bytes(999),
        b"".join(
            struct.pack("<IIIII", n, 13 << 24 | 1, n + 1, n + 2, n + 3) for n in range(MIB // 20)
        ),
    ],
    ids=["pointers", "empty structures", "a long structure", "all numbers differ"],
)
def test_memory_is_bounded(types: bytes) -> None:
    up = BtfShifts(Shifts((0,), (1,)), Shifts((0,), (1,)))
    tracemalloc.start()
    made = move_btf(types, MovedBtf(0, ByteRange(0, len(types))), up)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert made[:4] != types[:4]
    assert peak <= 4 * len(types) + MOVE_BYTES


@given(st.lists(BTF_SHIFTS, max_size=4), BTF_SHIFTS, NUMBERS, NUMBERS)
def test_rows_round_trip(held: list[BtfShifts], own: BtfShifts, number: int, size: int) -> None:
    rows = bytearray(b"x")
    for one in held:
        write_payload_shifts(rows, one)
    moved = MovedBtf(number, ByteRange(number, size), own)
    write_moved(rows, moved)
    place = Place(1)
    assert read_payload_shifts(bytes(rows), place, len(held)) == tuple(held)
    assert read_moved(bytes(rows), place) == moved
    assert place.position == len(rows)
    for end in range(1, len(rows)):
        with pytest.raises(FormatError):
            read_all(bytes(rows[:end]), len(held))


def read_all(rows: bytes, count: int) -> None:
    place = Place(1)
    read_payload_shifts(rows, place, count)
    read_moved(rows, place)


class Place:
    def __init__(self, position: int = 0) -> None:
        self.position = position
        self.source = 0


@given(st.binary(max_size=60), st.integers(0, 3))
def test_hostile_rows(rows: bytes, count: int) -> None:
    try:
        read_all(b"x" + rows, count)
    except FormatError:
        return


@pytest.mark.parametrize(
    ("firsts", "amounts"),
    [((1, 1), (0, 0)), ((2, 1), (0, 0)), ((1,), ()), ((2**32,), (0,)), ((-1,), (0,))],
)
def test_shifts_that_cannot_be(firsts: tuple[int, ...], amounts: tuple[int, ...]) -> None:
    with pytest.raises(FormatError):
        Shifts(firsts, amounts)


def ranges(count: int) -> BtfShifts:
    return BtfShifts(names=Shifts(tuple(range(count)), (0,) * count))


def test_too_many_ranges() -> None:
    half = SHIFT_RANGES_MAX // 2
    rows = bytearray()
    for count in (half, SHIFT_RANGES_MAX - half, 1):
        write_payload_shifts(rows, ranges(count))
    assert len(read_payload_shifts(bytes(rows), Place(), 2)) == 2
    with pytest.raises(FormatError, match="too many ranges"):
        read_payload_shifts(bytes(rows), Place(), 3)
    with pytest.raises(FormatError, match="too many shifts"):
        read_payload_shifts(bytes(9), Place(), SHIFTS_MAX + 1)
    for count, fits in ((BTF_OWN_RANGES_MAX, True), (BTF_OWN_RANGES_MAX + 1, False)):
        row = bytearray()
        write_moved(row, MovedBtf(0, ByteRange(0, 0), ranges(count)))
        if fits:
            assert read_moved(bytes(row), Place()).own.count == count
        else:
            with pytest.raises(FormatError, match="too many ranges"):
                read_moved(bytes(row), Place())


def test_a_shift_by_more_than_a_number_has() -> None:
    row = bytearray(b"\x00\x01\x00")
    row += bytes([0x80, 0x80, 0x80, 0x80, 0x20])  # +2^32
    with pytest.raises(FormatError, match="more than 32 bits"):
        read_payload_shifts(bytes(row) + b"\0", Place(), 1)
