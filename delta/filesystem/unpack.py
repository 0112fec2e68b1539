"""Unpacks one metadata block of squashfs: a few KiB, from bytes that nobody has checked.

Only as far as a reader needs it to find files. Every decoder has a bound on its output and on its
window, whatever the stream declares. Not here: the content of files, which whoever rebuilds them
decodes (delta/packing/), and erofs, whose metadata is not compressed.
"""

import ctypes
import lzma
import zlib
from functools import cache
from typing import Protocol

import lz4.block  # type: ignore[import-untyped]
import zstandard

from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import Packing
from slipstream.delta.limits import CODEC_WINDOW_BYTES_MAX, MIB

_LZMA_MEMORY_BYTES_MAX = CODEC_WINDOW_BYTES_MAX + MIB  # the dictionary and the decoder's tables
_LZO_SONAME = "liblzo2.so.2"


class _Decoder(Protocol):
    """What the decoders of lzma and zlib have in common."""

    @property
    def eof(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def unpack_block(packing: Packing, data: bytes, size_max: int) -> bytes:
    """The content of `data`, one whole block; FormatError if it is broken or above `size_max` bytes."""
    try:
        match packing:
            case Packing.ZLIB:
                return _drain(zlib.decompressobj(), data, size_max)
            case Packing.XZ:
                decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LZMA_MEMORY_BYTES_MAX)
                return _drain(decoder, data, size_max)
            case Packing.LZMA_ALONE:
                decoder = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_LZMA_MEMORY_BYTES_MAX)
                return _drain(decoder, data, size_max)
            case Packing.ZSTD:
                return _unpack_zstd(data, size_max)
            case Packing.LZ4:
                return bytes(lz4.block.decompress(data, uncompressed_size=size_max))
            case Packing.LZO:
                return _unpack_lzo(data, size_max)
            case _:
                raise FormatError("metadata cannot be packed so", got=packing.value)
    except (
        zlib.error,
        lzma.LZMAError,
        zstandard.ZstdError,
        lz4.block.LZ4BlockError,
        EOFError,
        MemoryError,
    ) as error:
        raise FormatError(f"broken {packing.value} block ({error})") from error


def _drain(decoder: _Decoder, data: bytes, size_max: int) -> bytes:
    unpacked = decoder.decompress(data, size_max + 1)  # one byte more shows a block that goes on
    if len(unpacked) > size_max or not decoder.eof:
        raise FormatError(
            "block too large or cut short", expected=f"<= {size_max} bytes and an end"
        )
    return unpacked


def _unpack_zstd(data: bytes, size_max: int) -> bytes:
    # python-zstandard heeds max_output_size only where the frame does not declare its size.
    frame = zstandard.get_frame_parameters(data)
    size = 0 if frame.content_size == zstandard.CONTENTSIZE_UNKNOWN else frame.content_size
    if size > size_max or frame.window_size > CODEC_WINDOW_BYTES_MAX:
        raise FormatError(
            "zstd block too large",
            expected=f"<= {size_max} bytes in a window of {CODEC_WINDOW_BYTES_MAX}",
            got=f"{size} bytes in a window of {frame.window_size}",
        )
    return zstandard.ZstdDecompressor().decompress(data, max_output_size=size_max)


@cache
def _lzo() -> ctypes.CDLL:
    try:
        return ctypes.CDLL(_LZO_SONAME)
    except OSError as error:
        raise FormatError(
            "lzo metadata cannot be read", hint=f"Install {_LZO_SONAME} (Debian: liblzo2-2)"
        ) from error


def _unpack_lzo(data: bytes, size_max: int) -> bytes:
    # LZO has no binding on PyPI that is maintained; lzo1x_decompress_safe checks both bounds.
    out = ctypes.create_string_buffer(size_max)
    size = ctypes.c_size_t(size_max)
    status = _lzo().lzo1x_decompress_safe(
        data, ctypes.c_size_t(len(data)), out, ctypes.byref(size), None
    )
    if status != 0:
        raise FormatError("broken lzo block", got=f"status {status}")
    return out.raw[: size.value]
