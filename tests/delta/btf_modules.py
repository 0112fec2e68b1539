"""Kernel modules with BTF, made by hand: types that name the types of a kernel by name.

kernel = Kernel(["int", "inode", ...])      one type for each name, numbered from 1 on
raw = module(kernel, OWN)                   an ELF file with a section .BTF behind the kernel's
"""

import random
import struct
from collections.abc import Sequence
from itertools import accumulate

Ref = tuple[str, str]  # ("kernel" or "own", name)


class Kernel:
    """The numbers of a kernel's types, and the places of their names."""

    def __init__(self, names: Sequence[str]) -> None:
        self.numbers = {name: number for number, name in enumerate(names, 1)}
        places = accumulate((len(name) + 1 for name in names), initial=1)
        self.names = dict(zip(names, places, strict=False))
        self.types_base = len(names) + 1
        self.names_base = 1 + sum(len(name) + 1 for name in names)


def btf(kernel: Kernel, structs: Sequence[tuple[str, Sequence[str]]]) -> bytes:
    """A section: for each structure, whose members have the kernel's types and their names, also a
    pointer to it and a function that takes one."""
    own: dict[str, int] = {}
    strings = bytearray(b"\0")

    def name(text: str) -> int:
        if text not in own:
            own[text] = kernel.names_base + len(strings)
            strings.extend(text.encode() + b"\0")
        return own[text]

    types = bytearray()
    number = kernel.types_base
    for title, members in structs:
        types += struct.pack("<III", name(title), 4 << 24 | len(members), 8 * len(members))
        for offset, member in enumerate(members):
            types += struct.pack("<III", kernel.names[member], kernel.numbers[member], 64 * offset)
        types += struct.pack("<III", 0, 2 << 24, number)
        types += struct.pack("<III", 0, 13 << 24 | 1, kernel.numbers[members[0]])
        types += struct.pack("<II", kernel.names[members[0]], number + 1)
        types += struct.pack("<III", name(f"make_{title}"), 12 << 24, number + 2)
        number += 4
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    return header + types + strings


def elf(section: bytes, text: bytes = b"", *, kind: int = 1, data: int = 1) -> bytes:
    """A file of 64 bits with the sections .text and .BTF; `kind` 1 is relocatable, `data` 1
    little-endian."""
    names = b"\0.text\0.BTF\0.shstrtab\0"
    body = text + section + names
    table = 64 + len(body)
    places = [(0, 0, 0), (1, 64, len(text)), (7, 64 + len(text), len(section))]
    places.append((12, 64 + len(text) + len(section), len(names)))
    head = b"\x7fELF\x02" + bytes([data, 1]) + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", kind, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, 4, 3)
    rows = [
        struct.pack("<IIQQQQIIQQ", one, 1, 0, 0, at, size, 0, 0, 1, 0) for one, at, size in places
    ]
    return head + body + b"".join(rows)


def kernels() -> tuple[Kernel, Kernel]:
    """One kernel and a later one, into which types were inserted here and there."""
    names = [f"kernel_type_{number}" for number in range(2000)]
    later = list(names)
    for place in (1800, 900, 450, 10):
        later[place:place] = [f"inserted_{place}_{number}" for number in range(place % 7 + 1)]
    return Kernel(names), Kernel(later)


def structs(seed: int, count: int = 40) -> list[tuple[str, list[str]]]:
    """Structures of a module, with members of the kernel's types."""
    chance = random.Random(seed)
    return [
        (
            f"struct_{seed}_{number}",
            [f"kernel_type_{chance.randrange(2000)}" for _ in range(chance.randrange(1, 20))],
        )
        for number in range(count)
    ]
