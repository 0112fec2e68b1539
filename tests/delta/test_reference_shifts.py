"""How addresses of a program moved, learned from two releases; and ELF files that nobody makes."""

import random
import struct
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.delta import reference_shifts
from slipstream.delta.byterange import ByteRange
from slipstream.delta.reference_shifts import Learned, learn_references
from slipstream.delta.references import Holding, MovedReferences, move_references
from tests.delta.programs import Program, elf, header, load, program

_TABLES, _CODE, _POINTERS = range(3)


def learned_of(before: Program, after: Program) -> Learned:
    learned = learn_references(before.raw, after.raw)
    assert learned is not None
    return learned


def moved_by(learned: Learned, raw: bytes) -> bytes:
    """The file with each of its segments moved as what it holds."""
    made = bytearray(raw)
    code = Holding.FIXED_CODE if learned.image.base else Holding.CODE
    held = {_TABLES: Holding.TABLES, _CODE: code, _POINTERS: Holding.POINTERS}
    for number, part in enumerate(learned.parts):
        assert part.is_code is (number == _CODE)
        moved = MovedReferences(0, part.address, held[number])
        made[part.place.offset : part.place.end] = move_references(
            raw[part.place.offset : part.place.end], moved, learned.image
        )
    return bytes(made)


def wrong_bytes(made: bytes, before: ByteRange, target: bytes, after: ByteRange) -> int:
    pairs = zip(made[before.offset : before.end], target[after.offset : after.end], strict=True)
    return sum(one != other for one, other in pairs)


@pytest.mark.parametrize("base", [0, 0x400000])
@pytest.mark.parametrize(
    "longer", [{40: 100}, {0: 16}, {298: 33}, {10: 40, 150: 1000, 280: 7}], ids=str
)
def test_moved_programs_are_those_of_the_target(base: int, longer: Mapping[int, int]) -> None:
    before, after = program(1, base=base), program(1, base=base, longer=longer)
    learned = learned_of(before, after)
    made = moved_by(learned, before.raw)
    assert len(made) == len(before.raw)
    assert learned.image.base == base

    pairs = list(zip(before.functions, after.functions, strict=True))
    same = [pair for number, pair in enumerate(pairs) if number not in longer]
    same += [(before.tables, after.tables), (before.pointers, after.pointers)]
    plain = sum(wrong_bytes(before.raw, one, after.raw, other) for one, other in same)
    wrong = sum(wrong_bytes(made, one, after.raw, other) for one, other in same)
    assert plain > 200
    assert wrong == 0


def test_what_moved_is_said_in_few_ranges() -> None:
    learned = learned_of(program(1), program(1, longer={10: 40, 150: 1000, 280: 7}))
    assert learned.image.count <= 8
    again = learned_of(program(1), program(1, longer={10: 40, 150: 1000, 280: 7}))
    assert again.image == learned.image


def test_zeros_that_no_file_holds_move_with_the_end_of_the_data() -> None:
    before, after = program(1), program(1, longer={40: 100}, more_data=64)
    learned = learned_of(before, after)
    made = moved_by(learned, before.raw)
    assert learned.image.amount(learned.image.span - 100) == 112 + 64
    assert wrong_bytes(made, before.pointers, after.raw, after.pointers) == 0


def test_programs_too_far_apart() -> None:
    """No amount has more than 31 bits."""
    assert learn_references(program(1).raw, program(1, base=2**32).raw) is None
    assert learn_references(program(1, base=2**63).raw, program(1).raw) is None


def test_ranges_that_little_points_to_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = program(1), program(1, longer=dict.fromkeys(range(100), 16))
    every = learned_of(before, after)
    monkeypatch.setattr(reference_shifts, "_REFERENCES_MIN", 15)
    some = learned_of(before, after)
    assert 10 < some.image.count < every.image.count - 10
    assert set(some.image.firsts) < set(every.image.firsts)


def test_the_gain_is_what_is_right_after_moving() -> None:
    before, after = program(1), program(1, longer={40: 100})
    learned = learned_of(before, after)
    part = learned.parts[_CODE]
    code = MovedReferences(0, part.address, Holding.CODE)
    gain = learned.gain(part.place, code)
    made = move_references(before.raw[part.place.offset : part.place.end], code, learned.image)
    pairs = [
        p for n, p in enumerate(zip(before.functions, after.functions, strict=True)) if n != 40
    ]
    moved = bytearray(before.raw)
    moved[part.place.offset : part.place.end] = made
    fixed = sum(
        wrong_bytes(before.raw, *(one, after.raw, other))
        - wrong_bytes(bytes(moved), *(one, after.raw, other))
        for one, other in pairs
    )
    # And some in the changed function itself.
    assert fixed <= gain <= fixed + 60
    assert gain <= learned.differing(part.place) <= part.place.size
    far = MovedReferences(0, part.address + (64 << 20), Holding.CODE)
    assert learned.gain(part.place, far) < gain


def test_nothing_moved() -> None:
    one = program(1)
    assert learn_references(one.raw, one.raw) is None
    changed = bytearray(one.raw)
    changed[one.functions[5].offset + 3] ^= 0xFF
    assert learn_references(one.raw, bytes(changed)) is None


def test_another_program_says_little() -> None:
    """No result, or one that makes hardly any byte right; the build drops that."""
    before = program(1)
    learned = learn_references(before.raw, program(2).raw)
    if learned is not None:
        gains = [
            learned.gain(part.place, MovedReferences(0, part.address, Holding.CODE))
            for part in learned.parts
        ]
        assert max(gains) < 100


# --- files that are no programs

BEFORE, AFTER = program(3, count=40), program(3, count=40, longer={4: 70})


def learn_both(hurt: bytes) -> list[Learned | None]:
    """Learn from a file, and with it as the target: whatever it is, there is a result or none."""
    found = [learn_references(hurt, AFTER.raw), learn_references(BEFORE.raw, hurt)]
    for one in found:
        if one is not None:
            for part in one.parts:
                for holding in Holding:
                    moved = MovedReferences(0, part.address, holding)
                    assert one.gain(part.place, moved) <= one.differing(part.place)
    return found


def test_programs_that_are_not() -> None:
    assert learn_references(BEFORE.raw, AFTER.raw) is not None
    for raw in (b"", b"\x7fELF", b"\x7fELF\2\1", b"#!/bin/sh\n" * 99, bytes(5000)):
        assert learn_both(raw) == [None, None]
    other = {4: 1, 5: 2, 18: 183, 16: 1, 54: 57, 56: 65}  # 32 bits, big-endian, AArch64, an object
    for place, byte in other.items():
        raw = bytearray(BEFORE.raw)
        raw[place] = byte
        assert learn_both(bytes(raw)) == [None, None], place


def test_headers_cut_at_every_byte() -> None:
    table = 64 + 3 * 56
    for size in range(table + 1):
        assert learn_both(BEFORE.raw[:size]) == [None, None]
    for size in range(table, len(BEFORE.raw), 997):
        assert learn_both(BEFORE.raw[:size]) == [None, None]


TOP = 2**64 - 1
CODE = load(0, 0x1000, 4096, flags=5)
BODY = BEFORE.raw[232:] + bytes(8192)

HOSTILE: dict[str, Callable[[], bytes]] = {
    "no segments": lambda: elf([], BODY),
    "no code": lambda: elf([load(0, 0, 4096)], BODY),
    "no bytes at all": lambda: elf([load(0, 0, 0, flags=5)], BODY),
    "no bytes, some memory": lambda: elf([load(0, 0, 0, 4096, flags=5)], BODY),
    "few bytes": lambda: elf([load(0, 0, 5, flags=5), load(8, 8, 7)], BODY),
    "code of six bytes": lambda: elf([load(0, 0, 6, 4096, flags=5)], BODY),
    "code of seven bytes": lambda: elf([load(0, 0, 7, 4096, flags=5)], BODY),
    "data of eight bytes at an odd address": lambda: elf([CODE, load(0, 3, 8)], BODY),
    "outside the file": lambda: elf([CODE, load(2**40, 0, 100)], BODY),
    "past the end": lambda: elf([load(100, 0, len(BODY) * 2, flags=5)], BODY),
    "size wraps": lambda: elf([load(100, 0, TOP - 50, TOP, flags=5)], BODY),
    "less memory than bytes": lambda: elf([CODE, load(0, 0, 100, 99)], BODY),
    "at the top": lambda: elf([load(0, TOP, 100, flags=5)], BODY),
    "up to the top": lambda: elf([load(0, TOP - 4096, 4096, flags=5)], BODY),
    "around the top": lambda: elf([load(0, TOP - 4095, 4096, 8192, flags=5)], BODY),
    "code and data in one place": lambda: elf([CODE, load(0, 0x1000, 4096)], BODY),
    "one over another": lambda: elf(
        [CODE, load(5, 0x1803, 4096), load(9, 0x801, 4096, flags=5)], BODY
    ),
    "64 times the same": lambda: elf([CODE] * 64, BODY),
    "65 segments": lambda: elf([CODE] * 65, BODY),
    "a count with no rows": lambda: header(0xFFFF) + BODY,
    "a table behind the end": lambda: header(1, table=2**63) + CODE + BODY,
    "a table at the top": lambda: header(1, table=TOP) + CODE + BODY,
    "a table over the header": lambda: header(1, table=0) + CODE + BODY,
    "odd addresses": lambda: elf([load(3, 0x1003, 4001, flags=5), load(1, 0x2FFF, 999)], BODY),
    "falling addresses": lambda: elf([load(0, 0x9000, 4096, flags=5), load(0, 0, 4096)], BODY),
    "none is loaded": lambda: elf([load(0, 0, 4096, flags=5, kind=2)], BODY),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.filterwarnings("error")
def test_hostile_files(name: str) -> None:
    hurt = HOSTILE[name]()
    learn_both(hurt)
    grown = hurt[:600] + random.Random(1).randbytes(48) + hurt[600:]
    learn_references(hurt, hurt)
    learn_references(hurt, grown)
    learn_references(grown, hurt)


def retouched(raw: bytes, field: int, *values: int) -> bytes:
    """The program with a field of the rows of its segments changed."""
    made = bytearray(raw)
    for number, value in enumerate(values):
        struct.pack_into("<Q", made, 64 + 56 * number + field, value % 2**64)
    return bytes(made)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        (40, [0]),
        (40, [0, 100]),
        (40, [0, 0, 0]),
        (40, [TOP, TOP, TOP]),
        (16, [TOP]),
        (16, [-200, -100_000, -9000]),
        (8, [TOP, TOP, TOP]),
        (8, [1 << 40]),
        (32, [TOP]),
    ],
    ids=str,
)
def test_segments_that_cannot_be(field: int, values: list[int]) -> None:
    before, after = (retouched(one.raw, field, *values) for one in (BEFORE, AFTER))
    assert learn_references(before, after) is None


def test_too_many_segments() -> None:
    """16 are looked at."""
    rows = {n: [load(0, 0, 0)] * (n - 3) for n in (16, 17)}
    for count, more in rows.items():
        both = []
        for one in (BEFORE, AFTER):
            held = [one.raw[64 + 56 * n : 120 + 56 * n] for n in range(3)]
            table = b"".join([*held, *more])
            both.append(header(count, table=len(one.raw)) + one.raw[64:] + table)
        assert (learn_references(*both) is None) is (count == 17)


@given(st.lists(st.tuples(st.integers(0, 231), st.integers(0, 255)), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_any_headers(changes: list[tuple[int, int]]) -> None:
    raw = bytearray(BEFORE.raw)
    for place, byte in changes:
        raw[place] = byte
    rows = [struct.unpack_from("<IIQQQQQQ", raw, 64 + 56 * number) for number in range(3)]
    if all(row[6] < 2**24 for row in rows):  # memory that takes no time
        learn_both(bytes(raw))


def test_what_each_processor_has_is_left_out() -> None:
    """Segments at addresses that are offsets, far from the code: a kernel's."""

    def kernel(longer: Mapping[int, int]) -> bytes:
        made = program(5, base=0xFFFFFFFF81000000, longer=longer)
        rows = [made.raw[64 + 56 * n : 120 + 56 * n] for n in range(3)]
        shared = struct.unpack_from("<IIQQQQQQ", rows[0])
        rows[0] = load(shared[2], 0, shared[5])
        return made.raw[:64] + b"".join(rows) + made.raw[232:]

    learned = learn_references(kernel({}), kernel({40: 100}))
    assert learned is not None
    assert [one.is_code for one in learned.parts] == [True, False]
    assert learned.image.base >= 0xFFFFFFFF81000000
    assert learned.parts[0].address == 0
