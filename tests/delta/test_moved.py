"""Moved modules in a plan and in a payload: addresses, and targets that are right whatever moved."""

import pytest

from slipstream.delta.btf import BtfShifts, MovedBtf, Shifts, move_btf
from slipstream.delta.btf_shifts import parse_btf
from slipstream.delta.byterange import ByteRange
from slipstream.delta.errors import FormatError
from slipstream.delta.moved import MovedBlock, MovedSource
from tests.delta.btf_modules import btf, kernels, structs
from tests.delta.payloads import Maker, run

OLD, NEW = kernels()
NOTHING = MovedBtf(0, ByteRange(0, 0))


def block(address: int, *places: tuple[int, int]) -> MovedBlock:
    ranges = tuple(ByteRange(*place) for place in places)
    return MovedBlock(ranges, ByteRange(address, sum(one.size for one in ranges)), NOTHING)


ONE = block(1000, (100, 50))
TWO = block(1050, (150, 10), (300, 20))
SOURCE = MovedSource([TWO, ONE])


def test_nothing_is_moved_of_no_modules() -> None:
    assert not MovedSource()
    assert MovedSource().whole([ByteRange(0, 9)], [ByteRange(0, 9)]) == []


@pytest.mark.parametrize(
    ("extent", "expected"),
    [
        ((0, 100), [(0, 100)]),
        ((0, 101), [(0, 100), (1000, 1)]),
        ((120, 10), [(1020, 10)]),
        ((149, 2), [(1049, 2)]),
        ((90, 300), [(90, 10), (160, 140), (320, 70), (1000, 80)]),
        ((310, 20), [(320, 10), (1070, 10)]),
        ((320, 5), [(320, 5)]),
    ],
)
def test_extents_become_addresses_of_moved_bytes(
    extent: tuple[int, int], expected: list[tuple[int, int]]
) -> None:
    made = SOURCE.translated([ByteRange(*extent)], [ONE, TWO])
    assert made == tuple(ByteRange(*one) for one in expected)


def test_blocks_that_are_not_wanted_stay() -> None:
    assert SOURCE.translated([ByteRange(90, 80)], [ONE]) == (
        ByteRange(90, 10),
        ByteRange(150, 20),
        ByteRange(1000, 50),
    )


@pytest.mark.parametrize(
    ("areas", "expected"),
    [
        ([(0, 400)], [ONE, TWO]),
        ([(0, 120), (120, 280)], [ONE, TWO]),
        ([(0, 319)], [ONE]),
        ([(100, 50)], [ONE]),
        ([(101, 300)], [TWO]),
        ([], []),
    ],
)
def test_a_block_is_read_as_a_whole_or_not(
    areas: list[tuple[int, int]], expected: list[MovedBlock]
) -> None:
    assert SOURCE.whole([ByteRange(0, 400)], [ByteRange(*one) for one in areas]) == expected


SECTION = btf(OLD, structs(1))
PARSED = parse_btf(SECTION)
assert PARSED is not None
MOVED = MovedBtf(0, PARSED.types)
AMOUNTS = {
    "some": BtfShifts(Shifts((1, 900), (2, 5)), Shifts((1,), (40,))),
    "none": BtfShifts(),
    "impossible": BtfShifts(Shifts((0,), (2**32 - 1,)), Shifts((3, 4), (-(2**31), 9))),
}


@pytest.mark.parametrize("amounts", AMOUNTS)
def test_wrong_shifts_make_the_right_target(amounts: str) -> None:
    target = btf(NEW, structs(1))
    maker = Maker(b"in front" + SECTION, len(target))
    maker.shifts.append(AMOUNTS[amounts])
    address = maker.moved([ByteRange(8, len(SECTION))], MOVED)
    read = move_btf(SECTION, MOVED, AMOUNTS[amounts])
    maker.diff([ByteRange(address, len(SECTION))], read, target)
    made = maker.finish()
    assert run(made) == target


def test_a_module_inside_a_moved_module_inside_the_target() -> None:
    """Streams of all kinds may stand in each other, as deep as others."""
    maker = Maker(SECTION, len(SECTION))
    maker.shifts.append(AMOUNTS["some"])
    first = maker.moved([ByteRange(0, len(SECTION))], MOVED)
    second = maker.moved([ByteRange(first, len(SECTION))], MOVED)
    once = move_btf(SECTION, MOVED, AMOUNTS["some"])
    twice = move_btf(once, MOVED, AMOUNTS["some"])
    maker.copy([ByteRange(second, len(SECTION))], twice)
    assert run(maker.finish()) == twice != once


def test_shifts_that_no_payload_has() -> None:
    maker = Maker(SECTION, len(SECTION))
    address = maker.moved([ByteRange(0, len(SECTION))], MOVED)
    maker.copy([ByteRange(address, len(SECTION))], SECTION)
    with pytest.raises(FormatError, match="shifts that are not there"):
        maker.finish()
