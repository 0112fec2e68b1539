"""Shifts and streams of both kinds in one payload: each stream is moved by its own kind alone."""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.delta import space as space_module
from slipstream.delta.btf import BtfShifts, MovedBtf, Shifts
from slipstream.delta.byterange import ByteRange
from slipstream.delta.errors import FormatError
from slipstream.delta.limits import (
    BLOCK_CONTENT_BYTES_MAX,
    MOVE_WORK_FACTOR,
    SHIFT_RANGES_MAX,
    SHIFTS_MAX,
)
from slipstream.delta.moves import (
    MOVED_BTF,
    MOVED_REFERENCES,
    Moved,
    code_of,
    move,
    read_payload_shifts,
    read_stream_moved,
    same_kind,
    write_payload_shifts,
    write_stream_moved,
)
from slipstream.delta.moves import Shifts as PayloadShifts
from slipstream.delta.references import Holding, ImageShifts, MovedReferences, move_references
from slipstream.delta.space import Space
from slipstream.delta.stream_table import PackedStream, read_streams, write_streams
from tests.delta.payloads import Maker, run
from tests.delta.programs import program

BASE = 10_000


class Place:
    def __init__(self, position: int = 0) -> None:
        self.position = position
        self.source = 0


def of_btf(count: int = 1) -> BtfShifts:
    return BtfShifts(names=Shifts(tuple(range(count)), (5,) * count))


def of_program(count: int = 1) -> ImageShifts:
    amounts = array("i", [9] * count)
    return ImageShifts(0, 1 << 20, ByteRange(0, 1 << 20), array("I", range(count)), amounts)


def rows_of(*shifts: PayloadShifts) -> bytes:
    rows = bytearray()
    for one in shifts:
        write_payload_shifts(rows, one)
    return bytes(rows)


COUNTS = st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=8)


@given(COUNTS)
def test_rows_of_both_kinds_round_trip(counts: list[tuple[bool, int]]) -> None:
    held = [of_btf(n) if is_btf else of_program(n) for is_btf, n in counts]
    rows = rows_of(*held)
    place = Place()
    assert read_payload_shifts(rows, place, len(held)) == tuple(held)
    assert place.position == len(rows)
    for end in range(len(rows)):
        with pytest.raises(FormatError):
            read_payload_shifts(rows[:end], Place(), len(held))


@given(st.binary(max_size=60), st.integers(0, 4))
def test_hostile_rows(rows: bytes, count: int) -> None:
    place = Place()
    try:
        held = read_payload_shifts(rows, place, count)
    except FormatError:
        return
    assert rows_of(*held) == rows[: place.position]


def test_kinds_have_their_numbers() -> None:
    assert (rows_of(of_btf())[0], rows_of(of_program())[0]) == (0, 1)
    assert (MOVED_BTF, MOVED_REFERENCES) == (128, 129)
    with pytest.raises(FormatError, match="unknown kind of shifts"):
        read_payload_shifts(b"\2" + rows_of(of_program())[1:], Place(), 1)


def test_too_many_rows() -> None:
    rows = rows_of(of_program(0)) * (SHIFTS_MAX + 1)
    assert len(read_payload_shifts(rows, Place(), SHIFTS_MAX)) == SHIFTS_MAX
    with pytest.raises(FormatError, match="too many shifts"):
        read_payload_shifts(rows, Place(), SHIFTS_MAX + 1)


@pytest.mark.parametrize("last", [of_btf, of_program])
def test_too_many_ranges_in_all_rows(last: type[PayloadShifts]) -> None:
    half = SHIFT_RANGES_MAX // 2
    held = (of_program(half), of_btf(half - 1))
    rows = rows_of(*held, last(1), last(0))
    assert len(read_payload_shifts(rows, Place(), 4)) == 4
    rows = rows_of(*held, last(1), last(1))
    assert len(read_payload_shifts(rows, Place(), 3)) == 3
    with pytest.raises(FormatError, match="too many ranges"):
        read_payload_shifts(rows, Place(), 4)


# --- streams

OF_BTF = MovedBtf(0, ByteRange(0, 12))
OF_PROGRAM = MovedReferences(1, 0, Holding.CODE)
BOTH = (of_btf(), of_program())


def stream(moved: Moved, *sources: ByteRange) -> PackedStream:
    held = sources or (ByteRange(100, 50),)
    return PackedStream(None, held, sum(one.size for one in held), moved=moved)


def rows_of_streams(*streams: PackedStream) -> bytes:
    rows = bytearray()
    write_streams(rows, streams)
    return bytes(rows)


def test_streams_of_both_kinds_round_trip() -> None:
    held = [
        stream(OF_BTF),
        stream(OF_PROGRAM, ByteRange(BASE, 50), ByteRange(7, 9)),
        stream(MovedReferences(1, 2**32 - 1, Holding.FIXED_CODE)),
        stream(MovedReferences(1, 77, Holding.TABLES), ByteRange(0, 1)),
    ]
    rows = rows_of_streams(*held)
    table, position = read_streams(rows, 0, len(held), BASE, BOTH)
    assert position == len(rows)
    assert [table[number] for number in range(len(held))] == held
    assert (rows[0], rows_of_streams(held[1])[0]) == (128, 129)
    for end in range(len(rows)):
        with pytest.raises(FormatError):
            read_streams(rows[:end], 0, len(held), BASE, BOTH)


@pytest.mark.parametrize("moved", [OF_BTF, OF_PROGRAM], ids=["btf", "program"])
def test_shifts_of_the_other_kind_are_refused(moved: Moved) -> None:
    rows = rows_of_streams(stream(moved))
    read_streams(rows, 0, 1, BASE, BOTH)
    with pytest.raises(FormatError, match="shifts of another kind"):
        read_streams(rows, 0, 1, BASE, BOTH[::-1])
    with pytest.raises(FormatError, match="shifts that are not there"):
        read_streams(rows, 0, 1, BASE, BOTH[: moved.shifts])
    assert [same_kind(moved, one) for one in BOTH] == [one is BOTH[moved.shifts] for one in BOTH]
    with pytest.raises(AssertionError):
        move(bytes(50), moved, BOTH[1 - moved.shifts])


@given(st.binary(max_size=40), st.sampled_from([128, 129]))
def test_hostile_streams(rows: bytes, code: int) -> None:
    try:
        table, position = read_streams(bytes([code]) + rows, 0, 1, BASE, BOTH)
    except FormatError:
        return
    one = table[0]
    assert one.moved is not None
    assert code_of(one.moved) == code
    assert rows_of_streams(one)[1:] == rows[: position - 1]
    data = bytes(range(256)) * (one.size // 256 + 1)
    if one.size <= BLOCK_CONTENT_BYTES_MAX:
        assert len(move(data[: one.size], one.moved, BOTH[one.moved.shifts])) == one.size


def test_a_stream_is_as_long_as_a_block_at_most() -> None:
    stream(OF_PROGRAM, ByteRange(0, BLOCK_CONTENT_BYTES_MAX))
    for impossible in (ByteRange(0, BLOCK_CONTENT_BYTES_MAX + 1), ByteRange(0, 0)):
        with pytest.raises(FormatError):
            stream(OF_PROGRAM, impossible)


def test_what_is_moved_stands_behind_the_sources() -> None:
    for moved in (OF_BTF, OF_PROGRAM):
        rows = bytearray(b"x")
        write_stream_moved(rows, moved)
        assert read_stream_moved(code_of(moved), bytes(rows), Place(1)) == moved


# --- in a payload

BEFORE, AFTER = program(1, count=60), program(1, count=60, longer={20: 100})
CODE = MovedReferences(0, 0x1000, Holding.CODE)
AMOUNTS = {
    "some": ([0x1800, 0x2000], [112, -5]),
    "none": ([], []),
    "impossible": ([0, 5, 0xFFFFF], [2**31 - 1, -(2**31) + 1, 7]),
}


@pytest.mark.parametrize("holding", Holding)
@pytest.mark.parametrize("amounts", AMOUNTS)
def test_wrong_shifts_make_the_right_target(amounts: str, holding: Holding) -> None:
    firsts, by = AMOUNTS[amounts]
    image = ImageShifts(
        0x400000, 1 << 20, ByteRange(0, 1 << 20), array("I", firsts), array("i", by)
    )
    moved = MovedReferences(0, 0x1003, holding)
    maker = Maker(b"in front" + BEFORE.raw, len(AFTER.raw))
    maker.shifts.append(image)
    address = maker.moved([ByteRange(8, len(BEFORE.raw))], moved)
    read = move_references(BEFORE.raw, moved, image)
    maker.diff([ByteRange(address, len(BEFORE.raw))], read, AFTER.raw)
    assert run(maker.finish()) == AFTER.raw


def test_kinds_stand_in_each_other() -> None:
    """A moved program in what is taken for BTF, and the other way round."""
    size = len(BEFORE.raw)
    image = ImageShifts(0, 1 << 20, ByteRange(0, 1 << 20), array("I", [0x1800]), array("i", [112]))
    types = MovedBtf(1, ByteRange(0, size // 4 * 4))
    maker = Maker(BEFORE.raw, size)
    maker.shifts += [image, of_btf()]
    first = maker.moved([ByteRange(0, size)], CODE)
    second = maker.moved([ByteRange(first, size)], types)
    third = maker.moved([ByteRange(second, size)], CODE)
    once = move(BEFORE.raw, CODE, image)
    thrice = move(move(once, types, of_btf()), CODE, image)
    maker.copy([ByteRange(third, size)], thrice)
    assert run(maker.finish()) == thrice != once


def test_a_payload_that_moves_by_the_other_kind() -> None:
    maker = Maker(BEFORE.raw, len(BEFORE.raw))
    maker.shifts.append(of_btf())
    address = maker.moved([ByteRange(0, len(BEFORE.raw))], CODE)
    maker.copy([ByteRange(address, len(BEFORE.raw))], BEFORE.raw)
    with pytest.raises(FormatError, match="another kind"):
        maker.finish()


def test_bytes_that_are_moved_over_and_over_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """More streams than are kept, read in turns: every read moves one again."""
    monkeypatch.setattr(space_module, "MOVE_WORK_BYTES_FREE", 0)
    monkeypatch.setattr(space_module, "UNPACK_CACHE_BYTES", 0)
    source = bytes(1000)
    rows = bytearray()
    image = ImageShifts(0, 1 << 20, ByteRange(0, 1 << 20))
    streams = [PackedStream(None, (ByteRange(0, 1000),), 1000, moved=CODE)] * 2
    write_streams(rows, streams)
    table, _ = read_streams(bytes(rows), 0, 2, 3000, (image,))
    space = Space(1000, 2000, table, lambda at, size: source[at : at + size], lambda *_: b"")
    for _ in range(MOVE_WORK_FACTOR * 3 // 2):
        for number in range(2):
            assert space.read([ByteRange(3000 + 1000 * number, 5)]) == bytes(5)
    with pytest.raises(FormatError, match="moved over and over"):
        space.read([ByteRange(3000, 5)])
