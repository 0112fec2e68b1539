"""Relocations are predicted where code moved, and what a prediction misses is counted."""

import struct
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from benches.elf import RELA, Elf
from benches.elf_prediction import Residual, predict
from benches.elf_sections import Pair, aligned, cost_without, relocations_cost, stretches

CALL, PLACE = 4, 2  # R_X86_64_PLT32, R_X86_64_PC32
SECTION = struct.Struct("<IIQQQQIIQQ")
SYMBOL = struct.Struct("<IBBHQQ")
TEXT, RELA_TEXT, SYMTAB, STRTAB, SHSTRTAB = range(1, 6)
CODE = np.random.default_rng(1).integers(0, 256, 4096, np.uint8).tobytes()


class Row(NamedTuple):
    offset: int
    type: int
    symbol: str  # "" is the section .text
    addend: int


def module(text: bytes, functions: dict[str, tuple[int, int]], rows: list[Row]) -> bytes:
    """A relocatable file: functions by place and size, names without a place from elsewhere."""
    names = b"\0"
    symbols = [SYMBOL.pack(0, 0, 0, 0, 0, 0), SYMBOL.pack(0, 3, 0, TEXT, 0, 0)]
    for name, (place, size) in functions.items():
        section = TEXT if size else 0
        symbols.append(SYMBOL.pack(len(names), 0x12, 0, section, place, size))
        names += name.encode() + b"\0"
    numbers = {"": 1} | {name: number for number, name in enumerate(functions, 2)}
    table = np.array([(r.offset, r.type, numbers[r.symbol], r.addend) for r in rows], RELA)
    titles = b"\0.text\0.rela.text\0.symtab\0.strtab\0.shstrtab\0"
    bodies = [text, b"".join(symbols), names, table.tobytes(), titles]
    places = np.cumsum([64, *map(len, bodies)]).tolist()
    headers = [
        (0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        (titles.index(b".text"), 1, 6, 0, places[0], len(text), 0, 0, 16, 0),
        (titles.index(b".rela.text"), 4, 0, 0, places[3], table.nbytes, SYMTAB, TEXT, 8, 24),
        (titles.index(b".symtab"), 2, 0, 0, places[1], len(bodies[1]), STRTAB, 2, 8, 24),
        (titles.index(b".strtab"), 3, 0, 0, places[2], len(names), 0, 0, 1, 0),
        (titles.index(b".shstrtab"), 3, 0, 0, places[4], len(titles), 0, 0, 1, 0),
    ]
    head = b"\x7fELF\x02\x01\x01".ljust(40, b"\0") + struct.pack("<Q", places[5])
    head = head.ljust(60, b"\0") + struct.pack("<HH", len(headers), SHSTRTAB)
    return head + b"".join(bodies) + b"".join(SECTION.pack(*one) for one in headers)


def two_releases(*, astray: int = 0) -> Pair:
    """`second` moves by 48 bytes, and `printk` gets another number; one addend is off by `astray`."""
    rows = [Row(place, CALL, "printk", -4) for place in range(8, 4000, 40)]
    rows += [Row(place, PLACE, "", place % 3000) for place in range(24, 4000, 40)]
    rows.sort()
    source = module(CODE, {"first": (0, 2048), "second": (2048, 2048), "printk": (0, 0)}, rows)

    def moved(place: int) -> int:
        return place + 48 if place >= 2048 else place

    after = [
        row._replace(
            offset=moved(row.offset),
            addend=row.addend if row.symbol else moved(row.addend + 4) - 4,
        )
        for row in rows
    ]
    after[50] = after[50]._replace(addend=after[50].addend + astray)
    functions = {
        "first": (0, 2048),
        "between": (2048, 48),
        "second": (2096, 2048),
        "printk": (0, 0),
    }
    return aligned(source, module(CODE[:2048] + bytes(range(48)) + CODE[2048:], functions, after))


def residual_of(pair: Pair) -> Residual:
    residual = Residual()
    predict(Elf(pair.source), Elf(pair.target), pair.segments, residual)
    return residual


def test_moved_code_leaves_no_difference() -> None:
    residual = residual_of(two_releases())

    assert len(residual.offsets) > 190
    assert not any(residual.offsets + residual.types + residual.symbols + residual.addends)
    assert not residual.literal


def test_a_wrong_guess_is_left_as_its_difference() -> None:
    residual = residual_of(two_releases(astray=5))

    assert [one for one in residual.addends if one] == [5]
    assert not any(residual.offsets + residual.symbols)


def test_predicting_costs_less_than_the_differences() -> None:
    group = [two_releases()]
    rela = stretches(group)[".rela.text"]

    assert relocations_cost(group) < cost_without(group, ()) - cost_without(group, rela)


def test_kinds_cover_a_file_once() -> None:
    pair = two_releases()
    places = sorted(place for one in stretches([pair, pair]).values() for place in one)

    assert places[0][0] == 0
    assert places[-1][1] == 2 * len(pair.target)
    assert all(before[1] == after[0] for before, after in pairwise(places))
