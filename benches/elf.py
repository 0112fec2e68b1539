"""A small reader of ELF files, for measurements: sections, symbols and relocations.

Little-endian ELF64 alone, such as kernel modules of x86-64 and arm64. It trusts its input: files of
a distribution, never a payload. Source: elf(5).
"""

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

EXECUTABLE = 0x4  # SHF_EXECINSTR
STRINGS = 0x20  # SHF_STRINGS: zero-terminated ones
HEADER_BYTES = 64
_MAGIC = b"\x7fELF\x02\x01"  # 64 bits, little-endian
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMTAB, _RELA, _NOBITS = 2, 4, 8  # section types
_SECTION_SYMBOL = 3
_RESERVED = 0xFF00  # section numbers from here on are none: absolute, common

RELA = np.dtype([("offset", "<u8"), ("type", "<u4"), ("symbol", "<u4"), ("addend", "<i8")])
_SYMBOL = np.dtype(
    [
        ("name", "<u4"),
        ("info", "u1"),
        ("other", "u1"),
        ("section", "<u2"),
        ("value", "<u8"),
        ("size", "<u8"),
    ]
)


@dataclass(frozen=True, slots=True)
class Section:
    """A section's header. `size` counts bytes in the file: 0 for .bss."""

    name: str
    type: int
    flags: int
    offset: int
    size: int
    link: int
    info: int

    @property
    def is_rela(self) -> bool:
        return self.type == _RELA


@dataclass(frozen=True, slots=True)
class Symbol:
    """A symbol; `section` is the number of a section, or None. A section's has the section's name."""

    name: bytes
    is_section: bool
    section: int | None
    value: int
    size: int


class Elf:
    """One file, parsed."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        (self.table_offset,) = struct.unpack_from("<Q", data, 40)
        count, names = struct.unpack_from("<HH", data, 60)
        self.table_end = self.table_offset + count * _SECTION.size
        rows = [
            _SECTION.unpack_from(data, self.table_offset + n * _SECTION.size) for n in range(count)
        ]
        self.sections = [self._section(row, rows[names][4]) for row in rows]
        self.symbols = self._symbols()

    def _section(self, row: tuple[int, ...], names: int) -> Section:
        name, kind, flags, _, offset, size, link, info, _, _ = row
        held = 0 if kind == _NOBITS else size
        return Section(self._name(names + name).decode(), kind, flags, offset, held, link, info)

    def _symbols(self) -> list[Symbol]:
        table = next((one for one in self.sections if one.type == _SYMTAB), None)
        if table is None:
            return []
        names = self.sections[table.link].offset
        symbols = []
        for name, info, _, section, value, size in self.rows(table, _SYMBOL).tolist():
            place = section if 0 < section < _RESERVED else None
            if info & 0xF == _SECTION_SYMBOL and place is not None:
                symbols.append(Symbol(self.sections[place].name.encode(), True, place, value, size))
            else:
                symbols.append(Symbol(self._name(names + name), False, place, value, size))
        return symbols

    def _name(self, at: int) -> bytes:
        return self.data[at : self.data.index(b"\0", at)]

    def bytes_of(self, section: Section) -> bytes:
        return self.data[section.offset : section.offset + section.size]

    def rows(self, section: Section, row: np.dtype[np.void]) -> npt.NDArray[np.void]:
        """A table's rows."""
        return np.frombuffer(self.data, row, section.size // row.itemsize, section.offset)

    def relocations(self, section: Section) -> list[tuple[int, int, int, int]]:
        """Offset, type, symbol number, addend."""
        rows: list[tuple[int, int, int, int]] = self.rows(section, RELA).tolist()
        return rows


def is_elf(data: bytes) -> bool:
    return data[: len(_MAGIC)] == _MAGIC and len(data) >= HEADER_BYTES
