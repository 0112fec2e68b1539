"""Finds the files of a newc cpio archive: what an initrd is, once it is unpacked.

An initrd may be several archives, one after the other, with zeros between. What follows the last
and is no archive (a compressed one, behind the processor's microcode) is left alone.

Source: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
"""

import re

from slipstream.delta.errors import FormatError
from slipstream.delta.filesystem.collect import Collector
from slipstream.delta.filesystem.part import Part
from slipstream.delta.limits import KIB, MAP_PATH_CHARS_MAX
from slipstream.delta.reader import Reader

MAGICS = (b"070701", b"070702")  # the second has checksums, which the kernel does not check either

_HEADER = re.compile(rb"07070[12]([0-9A-Fa-f]{104})", re.DOTALL)
_HEADER_BYTES = 110
_MODE, _SIZE, _NAME_SIZE = 1, 6, 11  # of 13 numbers, 8 hexadecimal digits each
_ALIGNMENT = 4
_TRAILER = b"TRAILER!!!"
_TYPE, _REGULAR = 0xF000, 0x8000
_ZEROS_BYTES = 4 * KIB  # looked through at once


def read_cpio(content: Reader) -> list[tuple[str, int, int]]:
    """Path, offset of the data and size in bytes of every regular file that has data, in order.

    FormatError if the content does not start with an archive, or an archive is cut off.
    """
    part = Part(content, 0, content.size)
    found = Collector(content.size)
    files: list[tuple[str, int, int]] = []
    offset = 0
    while True:
        offset = _read_archive(part, offset, found, files)
        offset = _skip_zeros(part, offset)
        if offset % _ALIGNMENT or part.size - offset < _HEADER_BYTES:
            return files
        if part.read(offset, len(MAGICS[0])) not in MAGICS:
            return files


def _read_archive(
    part: Part, offset: int, found: Collector, files: list[tuple[str, int, int]]
) -> int:
    """Add the files of the archive at `offset`; where it ends."""
    while True:
        header = _HEADER.fullmatch(part.read(offset, _HEADER_BYTES))
        if header is None:
            raise FormatError("no header of a newc cpio archive", where=f"byte {offset}")
        digits = header[1]
        mode, size, name_size = (
            int(digits[8 * index : 8 * index + 8], 16) for index in (_MODE, _SIZE, _NAME_SIZE)
        )
        if not 1 <= name_size <= MAP_PATH_CHARS_MAX:
            raise FormatError(
                "name size in a cpio archive",
                where=f"byte {offset}",
                expected=f"1..{MAP_PATH_CHARS_MAX}",
                got=name_size,
            )
        name = part.read(offset + _HEADER_BYTES, name_size).split(b"\0", 1)[0]
        data = _aligned(offset + _HEADER_BYTES + name_size)
        if name == _TRAILER:
            return data
        if data + size > part.size:
            raise FormatError(
                "cpio archive is cut off",
                where=f"byte {offset}",
                expected=data + size,
                got=part.size,
            )
        if mode & _TYPE == _REGULAR and size:
            text = name.decode("utf-8", "surrogateescape").removeprefix("./").lstrip("/")
            files.append((found.path("", text), data, size))
        offset = _aligned(data + size)


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT


def _skip_zeros(part: Part, offset: int) -> int:
    while offset < part.size:
        piece = part.read(offset, min(_ZEROS_BYTES, part.size - offset))
        zeros = len(piece) - len(piece.lstrip(b"\0"))
        offset += zeros
        if zeros < len(piece):
            break
    return offset
