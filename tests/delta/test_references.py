"""Addresses in programs, moved: against the words of docs/format.md, 4.7, by hand, and hostile rows."""

import random
import struct
import tracemalloc
from array import array
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.delta.byterange import ByteRange
from slipstream.delta.errors import FormatError
from slipstream.delta.limits import MIB, MOVE_BYTES
from slipstream.delta.references import (
    ADDRESS_MIN,
    Holding,
    ImageShifts,
    MovedReferences,
    move_references,
    read_image_shifts,
    read_moved_references,
    write_image_shifts,
    write_moved_references,
)

WORDS = 2**32
LONG_WORDS = 2**64


def image_of(
    base: int, span: int, code: tuple[int, int], ranges: Sequence[tuple[int, int]]
) -> ImageShifts:
    firsts, amounts = array("I", [one for one, _ in ranges]), array("i", [one for _, one in ranges])
    return ImageShifts(base, span, ByteRange(*code), firsts, amounts)


# --- the page, word by word

OPCODES = (0xE8, 0xE9, 0x05, 0x0D, 0x15, 0x1D, 0x25, 0x2D, 0x35, 0x3D)


class Page:
    """Moves bytes as the page says it, one place after another; nothing of it is fast."""

    def __init__(self, data: bytes, moved: MovedReferences, image: ImageShifts) -> None:
        self.data = data
        self.address = moved.address
        self.image = image
        self.made = list(data)
        self.taken: set[int] = set()
        match moved.holding:
            case Holding.POINTERS:
                self.pointers()
            case Holding.TABLES:
                self.tables()
            case Holding.CODE:
                self.code()
            case Holding.FIXED_CODE:
                self.code()
                self.absolute()

    def shift(self, address: int) -> int:
        amount = 0
        for first, one in zip(self.image.firsts, self.image.amounts, strict=True):
            if first <= address:
                amount = one
        return amount

    def in_code(self, address: int) -> bool:
        code = self.image.code
        return code.offset <= address < code.offset + code.size

    def word(self, place: int, size: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.data[place : place + size], "little", signed=signed)

    def put(self, place: int, size: int, number: int) -> None:
        self.made[place : place + size] = (number % 2 ** (8 * size)).to_bytes(size, "little")
        self.taken.update(range(place, place + size))

    def long_words(self) -> list[int]:
        return [place for place in range(len(self.data) - 7) if (self.address + place) % 8 == 0]

    def pointers(self) -> None:
        base = self.image.base
        for place in self.long_words():
            p = self.word(place, 8)
            if base + 4096 <= p < base + self.image.span:
                self.put(place, 8, p + self.shift(p - base))

    def tables(self) -> None:
        self.pointers()
        for place in [one + half for one in self.long_words() for half in (0, 4)]:
            if place in self.taken:
                continue
            a, w = self.address + place, self.word(place, 4, signed=True)
            if self.in_code(a + w):
                self.put(place, 4, w + self.shift(a + w) - self.shift(a))

    def code(self) -> None:
        data = self.data
        for place in range(1, len(data) - 3):
            long_jump = place >= 2 and data[place - 2] == 0x0F and 0x80 <= data[place - 1] <= 0x8F
            if not long_jump and data[place - 1] not in OPCODES:
                continue
            if 4 <= data[place + 3] <= 251 or self.taken & set(range(place, place + 4)):
                continue
            a, w = self.address + place, self.word(place, 4, signed=True)
            t = a + 4 + w
            if data[place - 1] in (0xE8, 0xE9) or long_jump:
                held = self.in_code(t)
            else:
                held = 0 <= t < self.image.span
            if held:
                self.put(place, 4, w + self.shift(t) - self.shift(a))

    def absolute(self) -> None:
        b = self.image.base % WORDS
        if b + self.image.span > WORDS:
            return
        for place in range(len(self.data) - 3):
            w = self.word(place, 4)
            if self.taken & set(range(place, place + 4)):
                continue
            if b + 4096 <= w < b + self.image.span:
                self.put(place, 4, w + self.shift(w - b))


BASES = (0, 0x400000, 0xFFFFFFFF81000000, WORDS - 0x20000, LONG_WORDS - 0x8000)


@st.composite
def images(draw: st.DrawFn) -> ImageShifts:
    base = draw(st.sampled_from(BASES) | st.integers(0, LONG_WORDS - 1))
    end = WORDS - base % WORDS
    span = draw(
        st.sampled_from([1, 4096, 4097, 0x10000, 0x20000, WORDS, end, max(1, end - 1)])
        | st.integers(1, 0x40000)
        | st.integers(1, WORDS)
    )
    near = st.integers(0, min(span - 1, 0x30000)) | st.integers(0, span - 1)
    begin = draw(st.sampled_from([0, span - 1]) | near)
    size = draw(st.integers(0, span - begin) | st.just(span - begin))
    firsts = sorted(draw(st.sets(near, max_size=draw(st.sampled_from([0, 1, 6])))))
    amounts = st.integers(-64, 64) | st.integers(-(2**31) + 1, 2**31 - 1)
    return image_of(base, span, (begin, size), [(one, draw(amounts)) for one in firsts])


@st.composite
def programs(draw: st.DrawFn) -> tuple[bytes, MovedReferences, ImageShifts]:
    """Bytes rich in opcodes and in addresses on both sides of every border."""
    image = draw(images())
    address = draw(
        st.sampled_from([0, 1, 5, 8, image.code.offset, WORDS - 1, WORDS - 30])
        | st.integers(0, min(image.span, WORDS - 1))
    )
    borders = [0, ADDRESS_MIN, image.code.offset, image.code.end, image.span, *image.firsts]
    hits = st.builds(
        lambda border, more: border + more, st.sampled_from(borders), st.integers(-2, 2)
    ) | st.integers(0, image.span - 1)
    data = bytearray()
    for _ in range(draw(st.integers(0, 14))):
        here = address + len(data)
        hit = draw(hits)
        match draw(st.integers(0, 6)):
            case 0:
                data += draw(st.binary(max_size=9))
            case 1:
                data.append(draw(st.sampled_from([*OPCODES, 0x0F])))
                data += ((hit - here - 5) % WORDS).to_bytes(4, "little")
            case 2:
                data += b"\x0f" * draw(st.integers(1, 2))
                data.append(draw(st.integers(0x7F, 0x90)))
                end = address + len(data) + 4
                data += ((hit - end) % WORDS).to_bytes(4, "little")
            case 3:
                data += bytes(-here % 8)
                data += ((image.base + hit) % LONG_WORDS).to_bytes(8, "little")
            case 4:
                data += bytes(-here % 4)
                data += ((hit - address - len(data)) % WORDS).to_bytes(4, "little")
            case 5:
                data += ((image.base + hit) % WORDS).to_bytes(4, "little")
            case _:
                data += bytes(draw(st.lists(st.sampled_from([*OPCODES, 0x0F, 0x85]), max_size=6)))
    if draw(st.booleans()):
        del data[draw(st.integers(0, len(data))) :]
    return bytes(data), MovedReferences(0, address, draw(st.sampled_from(Holding))), image


@given(programs())
@settings(max_examples=400, deadline=None)
def test_as_the_page_says(given: tuple[bytes, MovedReferences, ImageShifts]) -> None:
    data, moved, image = given
    assert move_references(data, moved, image) == bytes(Page(data, moved, image).made)


@st.composite
def crowds(draw: st.DrawFn) -> tuple[bytes, MovedReferences, ImageShifts]:
    """Few different bytes, of which nearly all words are addresses: they overlap in every way."""
    base = draw(st.sampled_from([0, 0x05000000]))
    span = 0xF0000000
    code = draw(st.sampled_from([(0, span), (0x1000, 0x4000000)]))
    image = image_of(base, span, code, [(0x100, 3), (0x04000400, -7), (0x08000000, 64)])
    chance = random.Random(draw(st.integers(0, 2**32)))
    if draw(st.booleans()):
        alphabet = [0xE8, 0x0F, 0x85, 0x05, 0x00, 0x01, 0xFF]
        data = bytes(chance.choices(alphabet, k=draw(st.integers(0, 60))))
    else:
        words = chance.choices([0, 1, 0x2000, base, base + 0x2000, base + 0x04000400], k=16)
        data = b"".join(word.to_bytes(4, "little") for word in words)
    address = draw(st.sampled_from([0x04000000, 0x04000003, 0x08000000 - 20]))
    return data, MovedReferences(0, address, draw(st.sampled_from(Holding))), image


@given(crowds())
@settings(max_examples=500, deadline=None)
def test_words_that_overlap(given: tuple[bytes, MovedReferences, ImageShifts]) -> None:
    data, moved, image = given
    assert move_references(data, moved, image) == bytes(Page(data, moved, image).made)


@given(st.binary(max_size=300), images(), st.integers(0, WORDS - 1), st.sampled_from(Holding))
@settings(deadline=None)
def test_any_bytes_stay_as_many(
    data: bytes, image: ImageShifts, address: int, holding: Holding
) -> None:
    assert len(move_references(data, MovedReferences(0, address, holding), image)) == len(data)


@pytest.mark.parametrize("holding", [Holding.POINTERS, Holding.TABLES])
def test_words_on_both_sides_of_a_step(holding: Holding) -> None:
    """Pointers and tables are moved 64 KiB at a time."""
    image = image_of(0x400000, 0x100000, (0x1000, 0x90000), [(0x2000, 16), (0x50000, 48)])
    pairs = [(0x400000 + 7 * n, 0x3000 - 8 * n) for n in range(17_000)]
    data = b"xyz" + b"".join(struct.pack("<Qii", p, w, 3 * w) for p, w in pairs) + b"ends"
    moved = MovedReferences(0, 0x5005, holding)
    assert move_references(data, moved, image) == bytes(Page(data, moved, image).made)


# --- by hand

CODE = (0x1000, 0x4000)
LINE = [(0x2000, 0x10), (0x3000, -0x20), (0x6000, 0x100)]  # of a program of 0x8000 bytes


def made(holding: Holding, data: bytes, address: int = 0x1000, base: int = 0) -> bytes:
    image = image_of(base, 0x8000, CODE, LINE)
    return move_references(data, MovedReferences(0, address, holding), image)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (0x1FFF, 0x1FFF),  # below all ranges
        (0x2000, 0x2010),
        (0x2FFF, 0x300F),
        (0x3000, 0x2FE0),
        (0x6000, 0x6100),
        (0x7FFF, 0x80FF),
        (0x8000, 0x8000),  # behind the program
    ],
)
@pytest.mark.parametrize("base", [0, 0x400000, 0xFFFFFFFF81000000])
def test_pointers(before: int, after: int, base: int) -> None:
    words = struct.pack("<QQ", base + before, 5)
    assert made(Holding.POINTERS, words, base=base) == struct.pack("<QQ", base + after, 5)
    # At no multiple of 8, and cut short.
    assert made(Holding.POINTERS, words, 0x1004, base) == words
    assert made(Holding.POINTERS, words[:7], 0x1000, base) == words[:7]
    assert made(Holding.POINTERS, b"abc" + words, 0x1005, base)[3:11] == struct.pack(
        "<Q", base + after
    )


def test_the_first_page_is_no_pointer() -> None:
    image = image_of(0, 0x8000, (0, 0), [(0, 1)])
    words = struct.pack("<QQ", 4095, 4096)
    moved = MovedReferences(0, 0, Holding.POINTERS)
    assert move_references(words, moved, image) == struct.pack("<QQ", 4095, 4097)


def test_pointers_wrap_around() -> None:
    image = image_of(LONG_WORDS - 0x8000, 0x8000, (0, 0), [(0, 0x10)])
    moved = MovedReferences(0, 0, Holding.POINTERS)
    words = struct.pack("<Q", LONG_WORDS - 1)
    assert move_references(words, moved, image) == struct.pack("<Q", 15)


def test_tables() -> None:
    """Entries count from themselves, and these stand where all moves by 0x100."""
    at = 0x6000
    targets = {0x1000: 0x1000, 0x2000: 0x2010, 0x3000: 0x2FE0, 0x4FFF: 0x4FDF}
    words = [one - at - 4 * n for n, one in enumerate(targets)]
    moved = [one - at - 0x100 - 4 * n for n, one in enumerate(targets.values())]
    assert made(Holding.TABLES, struct.pack("<4i", *words), at) == struct.pack("<4i", *moved)
    assert made(Holding.POINTERS, struct.pack("<4i", *words), at) == struct.pack("<4i", *words)
    outside = struct.pack("<2i", 0x5000 - at, 0xFFF - at - 4)
    assert made(Holding.TABLES, outside, at) == outside


def test_a_pointer_is_no_two_entries_of_a_table() -> None:
    # As an entry its lower half would point to 0x1000 + 0x2000, its upper one to itself.
    word = struct.pack("<Q", 0x2000)
    assert made(Holding.TABLES, word, 0x1000) == struct.pack("<Q", 0x2010)


def call(opcode: bytes, at: int, target: int) -> bytes:
    return opcode + struct.pack("<i", target - at - len(opcode) - 4)


@pytest.mark.parametrize("opcode", [b"\xe8", b"\xe9", *(bytes([0x0F, n]) for n in range(128, 144))])
def test_jumps(opcode: bytes) -> None:
    begin = 0x2000 - len(opcode) - 2  # the opcode below the range, and two bytes of the word
    for at, target, by in (
        (0x1100, 0x2000, 0x10),
        (0x1100, 0x1FFF, 0),
        (0x3100, 0x2000, 0x30),
        (0x3100, 0x3000, 0),
        (0x1100, 0x4FFF, -0x20),
        (0x1100, 0x5000, 0),  # behind the code
        (0x3100, 0x0FFF, 0),  # in front of it
        (begin, 0x3000, -0x20),
        (0x2000 - len(opcode), 0x3000, -0x30),  # the word stands in the range
    ):
        expected = call(opcode, at, target + by)
        assert made(Holding.CODE, call(opcode, at, target), at) == expected
        held = b"\x90\x90" + call(opcode, at, target)
        after = made(Holding.FIXED_CODE, held, at - 2, base=0x70000000)
        assert after == b"\x90\x90" + expected


@pytest.mark.parametrize("opcode", [0x05, 0x0D, 0x15, 0x1D, 0x25, 0x2D, 0x35, 0x3D])
def test_operands_in_memory(opcode: int) -> None:
    """mov and lea reach all of the program, not the code alone."""
    one = bytes([0x48, 0x8B, opcode])
    for target, by in ((0x0, 0), (0x6000, 0x100), (0x7FFF, 0x100), (0x8000, 0), (-1, 0)):
        expected = call(one, 0x1100, target + by)
        assert made(Holding.CODE, call(one, 0x1100, target), 0x1100) == expected


@pytest.mark.parametrize("opcode", [b"\x00", b"\xeb", b"\x85", b"\x0f\x7f", b"\x0f\x90", b"\x45"])
def test_other_opcodes(opcode: bytes) -> None:
    data = call(opcode, 0x1100, 0x2000)
    assert made(Holding.CODE, data, 0x1100) == data


def test_the_opcode_must_be_there() -> None:
    at = 0x1100
    jump = call(b"\x0f\x85", at, 0x2000)
    assert made(Holding.CODE, jump[1:], at + 1) == jump[1:]
    assert made(Holding.CODE, jump[:-1], at) == jump[:-1]
    assert made(Holding.CODE, b"\x0f" + jump, at - 1) == b"\x0f" + call(b"\x0f\x85", at, 0x2010)


@pytest.mark.parametrize(
    ("at", "displacement", "is_moved"),
    [
        (0x06000000, 0x03FFFFFF, True),
        (0x06000000, 0x04000000, False),
        (0x0A000000, -0x04000000, True),
        (0x0A000000, -0x04000001, False),
    ],
)
def test_far_displacements_are_none(at: int, displacement: int, is_moved: bool) -> None:
    """64 MiB and more."""
    image = image_of(0, WORDS, (0, WORDS), [(0x08000000, 5)])
    by = 5 if displacement > 0 else -5
    after = move_references(
        b"\xe8" + struct.pack("<i", displacement), MovedReferences(0, at, Holding.CODE), image
    )
    assert after == b"\xe8" + struct.pack("<i", displacement + by * is_moved)


def test_no_byte_belongs_to_two_words() -> None:
    """E8 E8: the later word begins in the one that is taken, unless that one is refused."""
    at = 0x1100
    # Taken: a call whose word begins with an opcode of its own.
    target = at + 5 + 0x0EE8
    data = b"\xe8" + struct.pack("<i", 0x0EE8) + b"\x00\x00"
    assert 0x1000 <= target < 0x2000
    image = image_of(0, 0x8000, CODE, [(target, 0x40)])
    moved = MovedReferences(0, at, Holding.CODE)
    assert move_references(data, moved, image) == b"\xe8" + struct.pack("<i", 0xF28) + b"\0\0"
    # Refused: it takes no byte, and the one behind it is moved.
    refused = b"\xe8" + call(b"\xe8", at + 1, 0x2000)
    assert made(Holding.CODE, refused, at) == b"\xe8" + call(b"\xe8", at + 1, 0x2010)


def test_one_word_behind_another() -> None:
    image = image_of(0, 0x8000, (0, 0x8000), [(0x2000, 1), (0x5000, 0)])
    data = call(b"\xe8", 0x5000, 0x2000) + call(b"\xe8", 0x5005, 0x2001)
    after = move_references(data, MovedReferences(0, 0x5000, Holding.CODE), image)
    assert after == call(b"\xe8", 0x5000, 0x2001) + call(b"\xe8", 0x5005, 0x2002)


def test_absolute_words() -> None:
    base = 0x400000
    data = b"\x90" + struct.pack("<I", base + 0x2000) + b"\xbf" + struct.pack("<I", base + 0x7FFF)
    after = b"\x90" + struct.pack("<I", base + 0x2010) + b"\xbf" + struct.pack("<I", base + 0x80FF)
    assert made(Holding.FIXED_CODE, data, base=base) == after
    assert made(Holding.CODE, data, base=base) == data
    assert made(Holding.FIXED_CODE, data[:4], base=base) == data[:4]
    for low in (0xFFF, 0x8000):
        word = struct.pack("<I", base + low)
        assert made(Holding.FIXED_CODE, word, base=base) == word


@pytest.mark.parametrize(("more", "is_moved"), [(0, True), (1, False)])
def test_absolute_words_of_a_program_that_ends_with_its_4_gib(more: int, is_moved: bool) -> None:
    base = 5 * WORDS - 0x8000
    image = image_of(base, 0x8000 + more, CODE, [(0x1000, 0x10)])
    moved = MovedReferences(0, 0x1000, Holding.FIXED_CODE)
    after = move_references(struct.pack("<I", WORDS - 0x20), moved, image)
    assert after == struct.pack("<I", WORDS - 0x10 if is_moved else WORDS - 0x20)


def test_code_behind_all_addresses() -> None:
    """A stream may begin just below 2^32, so its last words stand above it."""
    # With this base no word is absolute.
    image = image_of(1, WORDS, (0, WORDS), [(0x10, 3), (WORDS - 20, -2)])
    data = bytes(30) + b"\xe8" + struct.pack("<i", -64)
    for holding in (Holding.CODE, Holding.FIXED_CODE):
        moved = MovedReferences(0, WORDS - 10, holding)
        after = move_references(data, moved, image)
        assert after == data[:31] + struct.pack("<i", -64 + 3 + 2)


# --- memory

_RANGES = [(0x1000 * n, 16 * n) for n in range(1, 200)]


_POINTERS = struct.pack("<QQ", 0x405000, 0x406000) * (MIB // 16)
_TABLE = b"".join(struct.pack("<i", 0x5000 - n) for n in range(0, MIB, 4))
_CALLS = b"\xe8\x00\x10\x00\x00" * (MIB // 5)
_ABSOLUTE = struct.pack("<I", 0x405000) * (MIB // 4)


@pytest.mark.parametrize(
    ("holding", "data"),
    [
        (Holding.POINTERS, _POINTERS),
        (Holding.TABLES, _POINTERS),
        (Holding.TABLES, _TABLE),
        (Holding.CODE, b"\xe8" * MIB),
        (Holding.FIXED_CODE, _CALLS),
        (Holding.FIXED_CODE, _ABSOLUTE),
    ],
    ids=["pointers", "pointers in tables", "tables", "opcodes", "calls", "words"],
)
def test_memory_is_bounded(holding: Holding, data: bytes) -> None:
    image = image_of(0x400000, 0x400000, (0x1000, 0x300000), _RANGES)
    tracemalloc.start()
    after = move_references(data, MovedReferences(0, 0, holding), image)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(after) == len(data)
    assert (after == data) is (data[:2] == b"\xe8\xe8")
    # The bytes themselves were there before.
    assert peak + len(data) <= 4 * len(data) + MOVE_BYTES


# --- rows


class Place:
    def __init__(self, position: int = 0) -> None:
        self.position = position
        self.source = 0


def written(image: ImageShifts, moved: MovedReferences) -> bytes:
    rows = bytearray(b"x")
    write_image_shifts(rows, image)
    write_moved_references(rows, moved)
    return bytes(rows)


@given(images(), st.integers(0, 2**20), st.integers(0, WORDS - 1), st.sampled_from(Holding))
def test_rows_round_trip(image: ImageShifts, number: int, address: int, holding: Holding) -> None:
    moved = MovedReferences(number, address, holding)
    rows = written(image, moved)
    place = Place(1)
    assert read_image_shifts(rows, place, image.count) == image
    assert read_moved_references(rows, place) == moved
    assert place.position == len(rows)
    if image.count:
        with pytest.raises(FormatError, match="too many ranges"):
            read_image_shifts(rows, Place(1), image.count - 1)
    for end in range(1, len(rows)):
        with pytest.raises(FormatError):
            read_all(rows[:end], image.count)


def read_all(rows: bytes, count: int) -> None:
    place = Place(1)
    read_image_shifts(rows, place, count)
    read_moved_references(rows, place)


@given(st.binary(max_size=60))
@settings(max_examples=500)
def test_hostile_rows(rows: bytes) -> None:
    place = Place()
    try:
        image = read_image_shifts(rows, place, 100)
        moved = read_moved_references(rows, place)
    except FormatError:
        return
    assert written(image, moved)[1:] == rows[: place.position]
    assert len(move_references(rows, moved, image)) == len(rows)


def numbers(*held: int) -> bytes:
    rows = bytearray()
    for number in held:
        while number >= 0x80:
            rows.append(number & 0x7F | 0x80)
            number >>= 7
        rows.append(number)
    return bytes(rows)


ROW = (1, 2, 0x8000, 0x1000, 0x4000, 2, 0x2000, 0x1000, 2 * 0x10, 2 * 0x30 - 1)


def test_a_row_by_hand() -> None:
    image = read_image_shifts(numbers(*ROW), Place(), 2)
    assert image == image_of(WORDS + 2, 0x8000, CODE, [(0x2000, 0x10), (0x3000, -0x20)])
    assert (image.amount(0x1FFF), image.amount(0x2000), image.amount(2**40)) == (0, 0x10, -0x20)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: WORDS}, "half of an address"),
        ({1: WORDS}, "half of an address"),
        ({2: 0}, "impossible addresses"),
        ({2: WORDS + 1}, "impossible addresses"),
        ({2: 0x4FFF}, "code outside"),
        ({3: 0x4001}, "code outside"),
        ({4: 0x7001}, "code outside"),
        ({5: 3}, "too many ranges"),
        ({7: 0}, "do not rise"),
        ({6: WORDS}, "beyond 32 bits"),
        ({7: WORDS - 0x2000}, "beyond 32 bits"),
        ({7: 0x6000}, "outside its program"),
        ({8: 2**32}, "more than 31 bits"),
        ({8: 2**32 - 1}, "more than 31 bits"),
        ({8: 2 * (2**31 - 1), 9: 2}, "more than 31 bits"),
    ],
)
def test_rows_that_cannot_be(change: dict[int, int], message: str) -> None:
    row = [change.get(number, one) for number, one in enumerate(ROW)]
    with pytest.raises(FormatError, match=message):
        read_image_shifts(numbers(*row), Place(), 2)


def test_rows_at_their_limits() -> None:
    widest = image_of(
        LONG_WORDS - 1, WORDS, (0, WORDS), [(0, 2**31 - 1), (WORDS - 1, -(2**31) + 1)]
    )
    rows = bytearray()
    write_image_shifts(rows, widest)
    assert read_image_shifts(bytes(rows), Place(), 2) == widest


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (numbers(0, WORDS, 0), "beyond 32 bits"),
        (numbers(0, 0, 4), "unknown holding"),
        (numbers(0, 0, 255), "unknown holding"),
    ],
)
def test_streams_that_cannot_be(row: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read_moved_references(row, Place())


@pytest.mark.parametrize(
    ("base", "span", "code", "firsts", "amounts"),
    [
        (-1, 9, (0, 0), [], []),
        (LONG_WORDS, 9, (0, 0), [], []),
        (0, 0, (0, 0), [], []),
        (0, 9, (9, 1), [], []),
        (0, 9, (0, 0), [1], []),
        (0, 9, (0, 0), [1, 1], [0, 0]),
        (0, 9, (0, 0), [2, 1], [0, 0]),
        (0, 9, (0, 0), [9], [0]),
    ],
)
def test_shifts_that_cannot_be(
    base: int, span: int, code: tuple[int, int], firsts: list[int], amounts: list[int]
) -> None:
    with pytest.raises(FormatError):
        ImageShifts(base, span, ByteRange(*code), array("I", firsts), array("i", amounts))


def test_what_a_row_costs() -> None:
    """Rows of a program whose functions all moved a little further: four bytes a range."""
    ranges = [(0x1000 + 0x100 * n, 16 * n) for n in range(1000)]
    rows = bytearray()
    write_image_shifts(rows, image_of(0, 0x100000, (0x1000, 0x80000), ranges))
    assert len(rows) <= 4 * len(ranges)
