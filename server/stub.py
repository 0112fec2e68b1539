"""systemd's EFI stub, and how sections are added to it: the header of a unified kernel image.

Pure: bytes and sizes in, header bytes and places out. What is read and what is computed is the
stub's own: its section and file alignment, the end of its last section, the room in its header.

Sources: PE/COFF specification; systemd-stub(7) for the sections; systemd's src/ukify/ukify.py and
src/boot/pe.c for what may follow what. Not here: signing (server/secure_boot.py), addons, profiles.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from slipstream.delta.errors import FormatError
from slipstream.delta.limits import KIB, MIB
from slipstream.delta.pe import SECTIONS_MAX

STUB_BYTES_MAX = 4 * MIB  # systemd's take 60 to 200 KiB
IMAGE_BYTES_MAX = (
    1 << 31
) - 1  # offsets and addresses have 32 bits; some firmware takes them signed

# Section bytes end at a multiple of it, so that a kernel that stays the same stays on the same
# blocks when the texts before it change. FileAlignment is 512 as a rule and divides it.
_GRAIN_BYTES = 4 * KIB
_ALIGN_BYTES_MAX = 64 * KIB

_PE_POINTER = 0x3C
_COFF = struct.Struct("<4sHHIIIHH")  # magic, machine, sections, time, symbols (2), size, flags
_COUNT_AT, _SYMBOLS_AT = 6, 12  # sections; place and number of symbols
_SECTION = struct.Struct("<8sIIII12sI")  # name, memory, address, size, offset, unused, flags
_CODE, _DATA, _READ = 0x20, 0x40, 0x40000000
_EFI_APPLICATION = 10
_PE32_PLUS = b"\x0b\x02"
# Places in the optional header of PE32+.
_INITIALIZED_AT, _SECTION_ALIGN_AT, _FILE_ALIGN_AT = 8, 32, 36
_IMAGE_SIZE_AT, _HEADERS_SIZE_AT, _CHECKSUM_AT, _SUBSYSTEM_AT = 56, 60, 64, 68
_CERTIFICATES_AT = 144  # the fifth data directory
_OPTIONAL_BYTES_MIN = _CERTIFICATES_AT + 8

MACHINES = {0x8664: "x64", 0xAA64: "aa64", 0x5064: "riscv64", 0x6264: "loongarch64"}


class Wanted(NamedTuple):
    """A section to add: so many bytes of the file, `memory` of them in memory (at least as many)."""

    name: str
    size: int
    memory: int
    is_code: bool = False


class Placed(NamedTuple):
    """Where a section's bytes begin in the file; zeros follow them up to `end`."""

    offset: int
    end: int


class Plan(NamedTuple):
    """`head` is the file up to the first new section; `places` are those of the sections."""

    head: bytes
    places: tuple[Placed, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """What is read of the header of a PE file for 64-bit firmware."""

    machine: int
    pe: int  # offset of the PE header
    table: int  # offset of the section table
    sections: int
    image_size: int  # bytes in memory
    is_signed: bool

    @property
    def optional(self) -> int:
        """Offset of the optional header."""
        return self.pe + _COFF.size

    @property
    def architecture(self) -> str:
        """As in the names of systemd's files: x64, aa64."""
        return MACHINES.get(self.machine, f"machine {self.machine:#x}")


def parse_header(head: bytes) -> Header:
    """The header of a stub or of a kernel with an EFI stub. FormatError for anything else."""
    if head[:2] != b"MZ" or len(head) < _PE_POINTER + 4:
        raise FormatError("not a PE file", expected="it begins with MZ", got=head[:4])
    start = _u32(head, _PE_POINTER)
    if start + _COFF.size + _OPTIONAL_BYTES_MIN > len(head):
        raise FormatError("PE header is cut off", got=f"{len(head)} bytes")
    magic, machine, sections, _, _, _, optional_size, _ = _COFF.unpack_from(head, start)
    kind = head[start + _COFF.size : start + _COFF.size + 2]
    if magic != b"PE\0\0" or kind != _PE32_PLUS or optional_size < _OPTIONAL_BYTES_MIN:
        raise FormatError("not a PE file for 64-bit firmware", expected="PE32+", got=kind.hex())
    optional = start + _COFF.size
    return Header(
        machine=machine,
        pe=start,
        table=optional + optional_size,
        sections=sections,
        image_size=_u32(head, optional + _IMAGE_SIZE_AT),
        is_signed=_u32(head, optional + _CERTIFICATES_AT) != 0,
    )


def plan_image(stub: bytes, wanted: Sequence[Wanted]) -> Plan:
    """The stub with sections added, in this order. FormatError for a stub that cannot take them."""
    header = parse_header(stub)
    _check_stub(stub, header)
    present = _sections_of(stub, header)
    _check_room(stub, header, [row.name for row in present], wanted)
    alignment = _u32(stub, header.optional + _SECTION_ALIGN_AT)
    grain = max(_u32(stub, header.optional + _FILE_ALIGN_AT), _GRAIN_BYTES)
    # Bytes behind the last section (a symbol table of old stubs) belong to nothing that is loaded.
    stub_end = max(row.offset + row.size for row in present)
    if stub_end > len(stub):
        raise FormatError("the stub is cut off", expected=f"{stub_end} bytes", got=len(stub))
    offset = _up(stub_end, _u32(stub, header.optional + _FILE_ALIGN_AT))
    address = max(row.address + row.memory for row in present)
    head = bytearray(stub[:stub_end].ljust(offset, b"\0"))
    places, table, initialized = [], bytearray(), _u32(stub, header.optional + _INITIALIZED_AT)
    for one in wanted:
        address, end = _up(address, max(alignment, _GRAIN_BYTES)), _up(offset + one.size, grain)
        flags = _READ | (_CODE if one.is_code else _DATA)
        name = one.name.encode("ascii")
        table += _SECTION.pack(name, one.memory, address, end - offset, offset, bytes(12), flags)
        places.append(Placed(offset, end))
        initialized += 0 if one.is_code else end - offset
        address, offset = address + one.memory, end
    if max(offset, address) > IMAGE_BYTES_MAX:
        raise FormatError("too much for one image", expected=IMAGE_BYTES_MAX, got=offset)
    free = header.table + header.sections * _SECTION.size
    head[free : free + len(table)] = table
    struct.pack_into("<H", head, header.pe + _COUNT_AT, header.sections + len(wanted))
    struct.pack_into("<II", head, header.pe + _SYMBOLS_AT, 0, 0)
    struct.pack_into("<I", head, header.optional + _INITIALIZED_AT, initialized)
    struct.pack_into("<I", head, header.optional + _IMAGE_SIZE_AT, _up(address, alignment))
    struct.pack_into("<I", head, header.optional + _CHECKSUM_AT, 0)  # no UEFI firmware looks at it
    return Plan(bytes(head), tuple(places))


class _Row(NamedTuple):
    """A row of the stub's section table, as far as it is needed."""

    name: str
    memory: int
    address: int
    size: int
    offset: int


def _check_stub(stub: bytes, header: Header) -> None:
    """Refuse what is no unsigned EFI application with sound alignments."""
    for what, at in (("section", _SECTION_ALIGN_AT), ("file", _FILE_ALIGN_AT)):
        value = _u32(stub, header.optional + at)
        if not 1 <= value <= _ALIGN_BYTES_MAX or value & (value - 1):
            raise FormatError(f"{what} alignment of the stub is no power of two", got=value)
    if stub[header.optional + _SUBSYSTEM_AT] != _EFI_APPLICATION:
        raise FormatError("the stub is no EFI application", got=stub[header.optional + _SUBSYSTEM_AT])  # fmt: skip
    if header.is_signed:
        raise FormatError("the stub is signed; take the unsigned one: the whole image is signed")


def _sections_of(stub: bytes, header: Header) -> list[_Row]:
    end = header.table + header.sections * _SECTION.size
    if not header.sections or end > min(len(stub), _u32(stub, header.optional + _HEADERS_SIZE_AT)):
        raise FormatError("section table of the stub is cut off", got=f"{header.sections} sections")
    rows = [_SECTION.unpack_from(stub, at) for at in range(header.table, end, _SECTION.size)]
    return [_Row(row[0].rstrip(b"\0").decode("ascii", "replace"), *row[1:5]) for row in rows]


def _check_room(
    stub: bytes, header: Header, present: Sequence[str], wanted: Sequence[Wanted]
) -> None:
    """Refuse a stub that has one of the sections already, or no room for their rows."""
    for one in wanted:
        if one.name in present:
            raise FormatError(f"the stub has a section {one.name}: it is a whole image already")
    free = header.table + header.sections * _SECTION.size
    room = (_u32(stub, header.optional + _HEADERS_SIZE_AT) - free) // _SECTION.size
    if len(wanted) > room or header.sections + len(wanted) > SECTIONS_MAX:
        raise FormatError("no room in the stub's header", expected=f"{len(wanted)} rows", got=room)
    if any(stub[free : free + len(wanted) * _SECTION.size]):
        raise FormatError("the stub's header holds something behind its section table")


def _u32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def _up(value: int, step: int) -> int:
    return -(-value // step) * step
