"""Programs of x86-64, made by hand: functions of random bytes that call each other and read data.

made = program(1, longer={40: 100})     function 40 has 100 bytes more, and all behind it stands later
"""

import random
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slipstream.delta.byterange import ByteRange

# No byte of these stands in front of an address (docs/format.md, 4.7).
_FILLER = bytes(
    set(range(256)) - {0x0F, 0xE8, 0xE9, 0x05, 0x0D, 0x15, 0x1D, 0x25, 0x2D, 0x35, 0x3D}
)
_HEADER_BYTES = 64
_ROW_BYTES = 56
_PAGE = 0x1000
_Piece = bytes | tuple[str, int]  # or a kind of reference, and to which function or data


@dataclass(frozen=True)
class Program:
    """A file; `functions`, `tables` and `pointers` are places in it, `base` its lowest address."""

    raw: bytes
    base: int
    functions: tuple[ByteRange, ...]
    tables: ByteRange
    pointers: ByteRange


def load(
    offset: int, address: int, size: int, memory: int | None = None, flags: int = 4, kind: int = 1
) -> bytes:
    """A row of the table of segments; `flags` 1 is executable, 2 can be written."""
    held = size if memory is None else memory
    return struct.pack("<IIQQQQQQ", kind, flags, offset, address, address, size, held, _PAGE)


def header(
    count: int, *, kind: int = 3, machine: int = 62, table: int = 64, row: int = 56
) -> bytes:
    """The first bytes of a file with a table of `count` segments behind them."""
    return (
        b"\x7fELF\2\1\1"
        + bytes(9)
        + struct.pack("<HHIQQQIHHHHHH", kind, machine, 1, 0, table, 0, 0, 64, row, count, 0, 0, 0)
    )


def elf(rows: Sequence[bytes], body: bytes = b"") -> bytes:
    """A file of a header, a table of segments, and a body."""
    return header(len(rows)) + b"".join(rows) + body


def _filler(chance: random.Random, size: int) -> bytes:
    return bytes(chance.choices(_FILLER, k=size))


def _bodies(seed: int, count: int, longer: Mapping[int, int]) -> list[list[_Piece]]:
    """The same functions, whatever the release, but for those that are longer."""
    chance = random.Random(seed)
    bodies: list[list[_Piece]] = []
    for _ in range(count):
        body: list[_Piece] = [_filler(chance, 20)]
        for _ in range(chance.randrange(2, 12)):
            kind = chance.choice(["call", "jump", "load"])
            body += [(kind, chance.randrange(count)), _filler(chance, chance.randrange(4, 40))]
        bodies.append(body)
    for number, more in longer.items():
        bodies[number].insert(len(bodies[number]) // 2, _filler(random.Random(number), more))
    return bodies


_SIZES = {"call": 5, "jump": 6, "load": 7}
_OPCODES = {"call": b"\xe8", "jump": b"\x0f\x84", "load": b"\x48\x8b\x05"}


def program(
    seed: int,
    *,
    longer: Mapping[int, int] | None = None,
    base: int = 0,
    count: int = 300,
    more_data: int = 0,
) -> Program:
    """A program of `count` functions: tables, then code, then pointers, at addresses one page further
    for each; with a base it has absolute addresses in the code, too. `more_data` stands behind the
    pointers. Every tenth pointer is to zeros behind that, which no file holds."""
    bodies = _bodies(seed, count, longer or {})
    tables = ByteRange(_HEADER_BYTES + 3 * _ROW_BYTES + 8, 4 * count)
    position = -(-tables.end // 16) * 16
    functions = []
    for body in bodies:
        size = sum(len(one) if isinstance(one, bytes) else _SIZES[one[0]] for one in body)
        functions.append(ByteRange(position, size))
        position = -(-(position + size) // 16) * 16
    code = ByteRange(functions[0].offset, position - functions[0].offset)
    pointers = ByteRange(code.end, 16 * count)
    to_code, to_data = base + _PAGE, base + 2 * _PAGE

    data_end = pointers.end + more_data
    raw = bytearray(pointers.end) + _filler(random.Random(seed), more_data)
    size = data_end - pointers.offset
    rows = [
        load(0, base, tables.end),
        load(code.offset, code.offset + to_code, code.size, flags=5),
        load(pointers.offset, pointers.offset + to_data, size, size + 500, 6),
    ]
    head = header(3, kind=2 if base else 3) + b"".join(rows)
    raw[: len(head)] = head
    for number, function in enumerate(functions):
        place = tables.offset + 4 * number
        struct.pack_into("<i", raw, place, function.offset + _PAGE - place)
        place = pointers.offset + 16 * number
        other = pointers.offset + 16 * (number * 7 % count) + to_data
        if number % 10 == 0:
            other = data_end + to_data + 200 + number % 7
        struct.pack_into("<QQ", raw, place, function.offset + to_code, other)
    raw[code.offset : code.end] = b"\x90" * code.size
    for number, (body, function) in enumerate(zip(bodies, functions, strict=True)):
        made = bytearray()
        for one in body:
            if isinstance(one, bytes):
                made += one
                continue
            kind, other = one
            target = functions[other].offset + to_code
            if kind == "load":
                target = pointers.offset + to_data + 16 * other
            if kind == "load" and base and number % 2:  # mov edi, address
                made += b"\x90\x90\xbf" + struct.pack("<I", target % 2**32)
                continue
            made += _OPCODES[kind]
            end = function.offset + to_code + len(made) + 4
            made += struct.pack("<i", target - end)
        raw[function.offset : function.end] = made
    return Program(bytes(raw), base, tuple(functions), tables, pointers)
