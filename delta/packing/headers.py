"""What compressed streams say about themselves, before a byte of them is unpacked.

For the build machine to guess recipes, and to bound what a decoder may take. Nothing is believed:
a decoder has its own bounds, and a recipe is proved.
"""

from dataclasses import dataclass

import zstandard

from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import Packing
from slipstream.delta.limits import (
    GZIP_HEADER_BYTES_MAX,
    KIB,
    LZ4_LEGACY_BLOCK_BYTES,
    LZ4_LEGACY_PACKED_BYTES_MAX,
    MIB,
)

GZIP_MAGIC = b"\x1f\x8b\x08"  # RFC 1952, 2.3.1, with deflate, the only method there is
XZ_MAGIC = b"\xfd7zXZ\0"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # RFC 8878, 3.1.1; a skippable frame has another
LZ4_LEGACY_MAGIC = b"\x02\x21\x4c\x18"
XZ_STREAM_HEADER_BYTES = 12
GZIP_PLAIN_HEADER = GZIP_MAGIC + bytes([0, 0, 0, 0, 0, 0, 3])  # no name, no time, Unix
# What decoders hold, those of xz and zstd besides dictionary and window.
INFLATE_BYTES = 64 * KIB  # a window of 32 KiB and 7 KiB of tables
XZ_DECODER_BYTES = 256 * KIB
ZSTD_DECODER_BYTES = 768 * KIB  # context, two blocks, and the output of one
# One block, unpacked and packed; the latter in an array that grows by eighths.
LZ4_LEGACY_DECODER_BYTES = LZ4_LEGACY_BLOCK_BYTES + LZ4_LEGACY_PACKED_BYTES_MAX * 9 // 8 + MIB

_GZIP_HEADER_CRC, _GZIP_EXTRA, _GZIP_NAME, _GZIP_COMMENT = 2, 4, 8, 16
_XZ_LZMA2 = 0x21


@dataclass(frozen=True, slots=True)
class XzHeader:
    """Stream header and first block header of an .xz stream. Sizes in bytes.

    check           1 CRC32, 4 CRC64, 10 SHA-256
    filter_id       of what stands before LZMA2; 0: nothing
    dict_size       that the decoder needs: the encoder's, rounded up to 2^n or 3 * 2^n
    header_size     of the block header
    block_size      content of the first block, where its header says it
    """

    check: int
    filter_id: int
    dict_size: int
    header_size: int
    block_size: int | None


def gzip_header_size(data: bytes) -> int:
    """Length of the header of a gzip member; FormatError, also if `data` ends within it."""
    if data[:3] != GZIP_MAGIC or len(data) < len(GZIP_PLAIN_HEADER):
        raise FormatError("not a gzip header", got=data[:10].hex())
    flags = data[3]
    size = len(GZIP_PLAIN_HEADER)
    if flags & _GZIP_EXTRA:
        size += 2 + int.from_bytes(data[size : size + 2], "little")
    for flag in (_GZIP_NAME, _GZIP_COMMENT):
        if flags & flag:
            size = data.find(b"\0", size, GZIP_HEADER_BYTES_MAX) + 1
            if size == 0:
                raise FormatError("gzip header without an end")
    if flags & _GZIP_HEADER_CRC:
        size += 2
    if size > min(len(data), GZIP_HEADER_BYTES_MAX):
        raise FormatError("gzip header cut short or too long", got=size)
    return size


def parse_xz_header(data: bytes) -> XzHeader:
    """What an .xz stream begins with; FormatError for filters other than one and LZMA2.

    https://tukaani.org/xz/xz-file-format.txt, 2.1.1 and 3.1.
    """
    block = data[XZ_STREAM_HEADER_BYTES : XZ_STREAM_HEADER_BYTES + 1024]
    if data[:6] != XZ_MAGIC or len(block) < 8 or block[0] == 0:
        raise FormatError("not an xz stream with a block")
    header_size = (block[0] + 1) * 4
    flags = block[1]
    position = 2
    if flags & 0x40:
        _, position = parse_xz_number(block, position)
    block_size = None
    if flags & 0x80:
        block_size, position = parse_xz_number(block, position)
    filters = []
    for _ in range((flags & 3) + 1):
        filter_id, position = parse_xz_number(block, position)
        size, position = parse_xz_number(block, position)
        filters.append((filter_id, block[position : position + size]))
        position += size
    (last_id, properties), before = filters[-1], filters[:-1]
    if last_id != _XZ_LZMA2 or len(properties) != 1 or properties[0] > 40 or len(before) > 1:
        raise FormatError("xz filters unknown", got=[f"{number:#x}" for number, _ in filters])
    if before and before[0][1]:
        raise FormatError("xz filter with an offset", got=before[0][1].hex())
    bits = properties[0]  # 5.3.1 of the format
    dict_size = 0xFFFFFFFF if bits == 40 else (2 | bits & 1) << bits // 2 + 11
    filter_id = before[0][0] if before else 0
    return XzHeader(data[7] & 15, filter_id, dict_size, header_size, block_size)


def parse_xz_number(data: bytes, position: int) -> tuple[int, int]:
    """A number of an .xz stream (1.2 of the format) and the position behind it; FormatError."""
    value = 0
    for count, byte in enumerate(data[position : position + 9]):
        value |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            return value, position + count + 1
    raise FormatError("number of an xz stream cut short or too long", where=f"byte {position}")


def parse_zstd_header(data: bytes) -> zstandard.FrameParameters:
    """Declared sizes and flags of a zstd frame; FormatError."""
    if data[:4] != ZSTD_MAGIC:
        raise FormatError("not a zstd frame", got=data[:4].hex())
    try:
        return zstandard.get_frame_parameters(data)
    except zstandard.ZstdError as error:
        raise FormatError(f"not a zstd frame ({error})") from error


def unpack_memory_bytes(packing: Packing, head: bytes) -> int:
    """Most bytes that an UnpackCursor holds for the stream that begins with `head`; FormatError.

    16 KiB of it are enough. Of an xz stream only the first block is known: the others could ask
    for more, and are then refused.
    """
    match packing:
        case Packing.GZIP:
            return INFLATE_BYTES
        case Packing.XZ:
            return parse_xz_header(head).dict_size + XZ_DECODER_BYTES
        case Packing.ZSTD:
            return int(parse_zstd_header(head).window_size) + ZSTD_DECODER_BYTES
        case Packing.LZ4_LEGACY:
            return LZ4_LEGACY_DECODER_BYTES
        case _:
            raise FormatError("packing without a cursor", got=packing.value)
