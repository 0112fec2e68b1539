"""bsdiff instructions: what they do, and each way in which they can be wrong."""

import random
import struct

import pytest
from bsdiff4 import core
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.delta.bspatch import apply_diff
from slipstream.delta.errors import FormatError
from slipstream.delta.limits import CONTROL_BYTES_MAX

SOURCE = bytes(range(100, 150))


def number(value: int) -> bytes:
    return struct.pack("<Q", value if value >= 0 else 1 << 63 | -value)


def control(*triples: tuple[int, int, int]) -> bytes:
    return b"".join(number(value) for triple in triples for value in triple)


def apply_slowly(triples: list[tuple[int, int, int]], diff: bytes, extra: bytes) -> bytes:
    """The definition, one byte at a time."""
    target = bytearray()
    position = diff_used = extra_used = 0
    for add, take, move in triples:
        for _ in range(add):
            target.append((SOURCE[position] + diff[diff_used]) % 256)
            position, diff_used = position + 1, diff_used + 1
        target += extra[extra_used : extra_used + take]
        extra_used += take
        position += move
    return bytes(target)


def test_add_take_and_move() -> None:
    program = [(10, 3, -10), (5, 0, 30), (0, 2, 0), (10, 0, -45)]
    diff, extra = bytes(range(250, 256)) + bytes(19), b"extra"
    target = apply_diff(control(*program), diff, extra, SOURCE, 30)
    assert target == apply_slowly(program, diff, extra)
    assert target[10:13] == b"ext"


def test_nothing_makes_nothing() -> None:
    assert apply_diff(b"", b"", b"", b"", 0) == b""
    assert apply_diff(b"", b"", b"", SOURCE, 0) == b""
    assert apply_diff(control((0, 0, 0)), b"", b"", SOURCE, 0) == b""


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_sound_program(data: st.DataObject) -> None:
    triples = []
    position = adds = takes = 0
    for _ in range(data.draw(st.integers(0, 12))):
        add = data.draw(st.integers(0, len(SOURCE) - position))
        take = data.draw(st.integers(0, 9))
        move = data.draw(st.integers(-position - add, len(SOURCE) - position - add))
        triples.append((add, take, move))
        position, adds, takes = position + add + move, adds + add, takes + take
    diff = data.draw(st.binary(min_size=adds, max_size=adds))
    extra = data.draw(st.binary(min_size=takes, max_size=takes))
    target = apply_diff(control(*triples), diff, extra, SOURCE, adds + takes)
    assert target == apply_slowly(triples, diff, extra)


@pytest.mark.parametrize("seed", range(20))
def test_what_bsdiff_makes_is_sound(seed: int) -> None:
    generator = random.Random(seed)
    source = generator.randbytes(3000)
    target = bytearray(source[700:2500] + source[:900] + generator.randbytes(50))
    for _ in range(40):
        target[generator.randrange(len(target))] ^= 1
    made = core.diff(source, bytes(target))
    assert apply_diff(*made, source, len(target)) == target


# One instruction that reads the whole source, then takes two bytes: 52 bytes of target.
GOOD = (50, 2, 0)
BAD = {
    "adds less than nothing": [(-1, 2, 0), GOOD],
    "takes less than nothing": [(50, -1, 0), (0, 3, 0)],
    "smallest number": [(-(2**63) + 1, 0, 0), GOOD],
    "largest add": [(2**63 - 1, 2, 0)],
    "largest take": [(50, 2**63 - 1, 0)],
    "adds one too many": [(51, 1, 0)],
    "takes one too many": [(49, 3, 0)],
    "adds again": [GOOD, (1, 0, 0)],
    "takes again": [GOOD, (0, 1, 0)],
    "adds too few": [(49, 2, 0)],
    "takes too few": [(50, 1, 0)],
    "no instruction": [],
    "reads past the source": [(1, 0, 0), (49, 2, 1), (0, 0, 0)],
    "reads from behind": [(0, 0, 1), (50, 2, 0)],
    "moves before the source": [(0, 0, -1), (0, 0, 1), GOOD],
    "moves past the source": [(0, 0, 51), (0, 0, -51), GOOD],
    "moves past the source at the end": [(50, 2, 1)],
    "moves before the source at the end": [(50, 2, -51)],
    "moves as far as can be written": [(50, 2, 2**63 - 1)],
    "moves back as far as can be written": [(50, 2, -(2**63) + 1)],
    "moves to and fro, overflowing": [(0, 0, 2**63 - 1), (0, 0, 2**63 - 1), (50, 2, 0)],
}


def test_the_program_that_the_bad_ones_spoil_is_good() -> None:
    assert apply_diff(control(GOOD), bytes(50), b"xy", SOURCE, 52) == SOURCE + b"xy"
    assert apply_diff(control((50, 2, -50)), bytes(50), b"xy", SOURCE, 52) == SOURCE + b"xy"


@pytest.mark.parametrize("name", BAD)
def test_bad_instructions_are_refused(name: str) -> None:
    with pytest.raises(FormatError):
        apply_diff(control(*BAD[name]), bytes(50), b"xy", SOURCE, 52)


@pytest.mark.parametrize(
    "name, message",
    [
        ("reads from behind", "reads outside the source"),
        ("moves past the source at the end", "leaves the source"),
        ("adds too few", "do not use up"),
        ("adds less than nothing", "uses more than there is"),
        ("takes less than nothing", "uses more than there is"),
        ("takes one too many", "uses more than there is"),
    ],
)
def test_refusals_say_why(name: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        apply_diff(control(*BAD[name]), bytes(50), b"xy", SOURCE, 52)


def test_negative_zero_is_zero() -> None:
    """Two spellings of one number: harmless, the digest has fixed which one it is."""
    spelled = number(50) + number(2) + struct.pack("<Q", 1 << 63)
    assert apply_diff(spelled, bytes(50), b"xy", SOURCE, 52) == SOURCE + b"xy"
    with pytest.raises(FormatError):
        apply_diff(struct.pack("<Q", 1 << 63) + number(52) + number(0), b"", bytes(52), b"", 52)


@pytest.mark.parametrize("size", [1, 8, 16, 23, 25, 47])
def test_part_of_an_instruction_is_refused(size: int) -> None:
    with pytest.raises(FormatError, match="control stream"):
        apply_diff((control(GOOD) * 2)[:size], bytes(50), b"xy", SOURCE, 52)


def test_too_many_instructions_are_refused() -> None:
    with pytest.raises(FormatError, match="control stream"):
        apply_diff(bytes(CONTROL_BYTES_MAX + 24), b"", b"", SOURCE, 0)
    assert apply_diff(bytes(CONTROL_BYTES_MAX), b"", b"", SOURCE, 0) == b""


@pytest.mark.parametrize("size", [-1, 0, 51, 53, 2**32, 2**63, 2**64 - 1])
def test_another_target_size_is_refused(size: int) -> None:
    with pytest.raises(FormatError, match="do not make the target"):
        apply_diff(control(GOOD), bytes(50), b"xy", SOURCE, size)


@given(
    st.lists(st.tuples(*[st.integers(-60, 60) | st.integers(-(2**63) + 1, 2**63 - 1)] * 3)),
    st.integers(0, 60),
    st.integers(0, 9),
)
@settings(max_examples=300, deadline=None)
def test_hostile_numbers_raise_only_format_errors(
    triples: list[tuple[int, int, int]], diff_size: int, extra_size: int
) -> None:
    diff, extra = bytes(diff_size), bytes(extra_size)
    try:
        target = apply_diff(control(*triples), diff, extra, SOURCE, diff_size + extra_size)
    except FormatError:
        return
    assert target == apply_slowly(triples, diff, extra)
