"""The sections of a PE file: what a unified kernel image carries (.osrel, .cmdline, .linux).

A small bounded reader, not a loader: it finds sections by name and says whether all their
bytes are in the file. Reads at most the header and the table. `dump_pe` writes the smallest
file that the reader accepts, for tests and simulations; firmware would not start it.

Source: PE/COFF as systemd's src/boot/pe.c reads it: the first section of a name wins, its
bytes in the file are min(SizeOfRawData, VirtualSize).
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from slipstream.delta.errors import FormatError

HEADER_BYTES_MAX = 64 * 1024  # DOS stub, headers and table; real images need less than 4 KiB
SECTIONS_MAX = 96  # the PE format's own maximum for loaders

_DOS = struct.Struct("<2s58xI")  # magic, offset of the PE header at 0x3c
_COFF = struct.Struct("<4sHHIIIHH")  # "PE\0\0", machine, sections, ..., optional header size
_SECTION = struct.Struct("<8sIIII16x")  # name, virtual size, address, raw size, raw offset
_OPTIONAL_MAGICS = (0x10B, 0x20B)  # PE32, PE32+
_X86_64 = 0x8664


@dataclass(frozen=True, slots=True)
class Section:
    """One section: `size` bytes of the file from `offset` on."""

    name: str
    offset: int
    size: int

    @property
    def end(self) -> int:
        return self.offset + self.size


def parse_sections(head: bytes) -> tuple[Section, ...]:
    """The section table of a PE file, from its first HEADER_BYTES_MAX bytes.

    Raises FormatError if the header or the table is not there.
    """
    if len(head) < _DOS.size:
        raise FormatError("not a PE file: too short", expected=f">= {_DOS.size}", got=len(head))
    magic, start = _DOS.unpack_from(head)
    if magic != b"MZ" or start < _DOS.size:
        raise FormatError("not a PE file: no DOS header", expected="MZ", got=_shown(magic))
    if start + _COFF.size + 2 > len(head):
        raise FormatError("PE header is cut off", expected=start + _COFF.size + 2, got=len(head))
    signature, _, count, _, _, _, optional_size, _ = _COFF.unpack_from(head, start)
    (optional_magic,) = struct.unpack_from("<H", head, start + _COFF.size)
    if signature != b"PE\0\0" or optional_magic not in _OPTIONAL_MAGICS:
        raise FormatError("not a PE file: no PE header", expected="PE", got=_shown(signature))
    if not 1 <= count <= SECTIONS_MAX:
        raise FormatError("PE section count", expected=f"1..{SECTIONS_MAX}", got=count)
    table = start + _COFF.size + optional_size
    if table + count * _SECTION.size > len(head):
        raise FormatError(
            "PE section table is cut off", expected=table + count * _SECTION.size, got=len(head)
        )
    sections = []
    for index in range(count):
        raw_name, virtual_size, _, raw_size, offset = _SECTION.unpack_from(
            head, table + index * _SECTION.size
        )
        name = raw_name.split(b"\0", 1)[0].decode("ascii", "replace")
        sections.append(Section(name, offset, min(virtual_size, raw_size)))
    return tuple(sections)


def _shown(magic: bytes) -> str:
    return (
        magic.decode() if magic.isascii() and magic.decode().isprintable() else f"0x{magic.hex()}"
    )


def first_section(sections: tuple[Section, ...], name: str) -> Section | None:
    """The first section of that name in the base profile, i.e. before any .profile."""
    for section in sections:
        if section.name == ".profile":
            return None
        if section.name == name:
            return section
    return None


def dump_pe(contents: Mapping[str, bytes]) -> bytes:
    """A PE file with these sections, in this order."""
    optional = struct.pack("<H", 0x20B).ljust(112, b"\0")
    table = _DOS.size + _COFF.size + len(optional)
    offset = table + len(contents) * _SECTION.size
    headers, body = [], []
    for name, content in contents.items():
        headers.append(
            _SECTION.pack(name.encode("ascii"), len(content), offset, len(content), offset)
        )
        body.append(content)
        offset += len(content)
    dos = _DOS.pack(b"MZ", _DOS.size)
    coff = _COFF.pack(b"PE\0\0", _X86_64, len(contents), 0, 0, 0, len(optional), 0)
    return b"".join([dos, coff, optional, *headers, *body])
