"""Packed bytes to content: blocks as a whole, long streams with a cursor; bounded in every case.

Nothing that a stream declares decides an allocation: output has a bound of the caller's, decoders
one on their window. The bytes come from images and may be anything; FormatError says what is wrong
with them. Any version of a library unpacks; PackingUnavailable where there is none at all (lz4,
lzo).
"""

import lzma
import struct
import zlib
from collections.abc import Mapping
from typing import Protocol, TypeVar, assert_never

import zstandard

from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import Packing
from slipstream.delta.limits import CODEC_DECODED_BYTES_MAX, UNPACK_MEMORY_BYTES_MAX
from slipstream.delta.packing.headers import (
    GZIP_MAGIC,
    GZIP_PLAIN_HEADER,
    unpack_memory_bytes,
)
from slipstream.delta.packing.libraries import lz4s, lzos, missing
from slipstream.delta.packing.lz4_legacy import LegacyDecoder
from slipstream.delta.packing.zstd_blocks import ZstdDecoder

_RAW_DEFLATE = -15
_GZIP_WINDOW = 31  # zlib's windowBits for a gzip container
_MICROLZMA_DICT_BYTES_MIN = 4096  # LZMA_DICT_SIZE_MIN


def unpack(packing: Packing, data: bytes, size_max: int) -> bytes:
    """The content of one whole block, at most `size_max` bytes; FormatError.

    All of `data` must be that block. A gzip member may come without its header. MICROLZMA does not
    say where it ends: it gives exactly `size_max` bytes.
    """
    if not 0 <= size_max <= CODEC_DECODED_BYTES_MAX:
        raise FormatError(
            "block of impossible size", expected=f"0..{CODEC_DECODED_BYTES_MAX}", got=size_max
        )
    match packing:
        case Packing.LZ4:
            return _any("liblz4", lz4s()).decompress(data, size_max)
        case Packing.LZ4_PADDED:
            return _any("liblz4", lz4s()).decompress(data.lstrip(b"\0"), size_max)
        case Packing.LZO:
            return _any("lzo", lzos()).decompress(data, size_max)
        case Packing.ZLIB:
            return _drain(packing, zlib.decompressobj(), data, size_max)
        case Packing.DEFLATE:
            return _drain(packing, zlib.decompressobj(_RAW_DEFLATE), data.lstrip(b"\0"), size_max)
        case Packing.LZMA_ALONE:
            return _drain(packing, _lzma(lzma.FORMAT_ALONE), data, size_max)
        case Packing.MICROLZMA:
            alone = _alone(data.lstrip(b"\0"), size_max)
            return _drain(packing, _lzma(lzma.FORMAT_ALONE), alone, size_max)
        case Packing.ZSTD_PADDED:
            return _drain(
                packing, ZstdDecoder(UNPACK_MEMORY_BYTES_MAX), data.lstrip(b"\0"), size_max
            )
        case Packing.GZIP:
            return _drain(packing, _Gzip(), data, size_max)
        case Packing.XZ:
            return _drain(packing, _lzma(lzma.FORMAT_XZ), data, size_max)
        case Packing.ZSTD:
            return _drain(packing, ZstdDecoder(UNPACK_MEMORY_BYTES_MAX), data, size_max)
        case Packing.LZ4_LEGACY:
            decoder = LegacyDecoder(_any("liblz4", lz4s()), size_max)
            return _drain(packing, decoder, data, size_max)
        case _:
            assert_never(packing)


class UnpackCursor:
    """Unpacks one stream from pieces: GZIP (one member), XZ, LZ4_LEGACY (one stream), ZSTD (one frame).

    Its decoder holds at most `memory_max` bytes (`unpack_memory_bytes`), else FormatError. A gzip
    member may come without its header, as GZIP recipes make it: no deflate data begins with the
    byte that every gzip header begins with (its block type would be the reserved one).
    """

    def __init__(self, packing: Packing, memory_max: int) -> None:
        self._packing = packing
        self._fed = 0
        self._decoder: _Decoder
        match packing:
            case Packing.GZIP:
                self._decoder = _Gzip()
            case Packing.XZ:
                self._decoder = _lzma(lzma.FORMAT_XZ, memory_max)
            case Packing.ZSTD:
                self._decoder = ZstdDecoder(memory_max)
            case Packing.LZ4_LEGACY:
                needed = unpack_memory_bytes(packing, b"")
                if needed > memory_max:
                    raise FormatError(
                        "too little memory for lz4", expected=f"at least {needed}", got=memory_max
                    )
                self._decoder = LegacyDecoder(_any("liblz4", lz4s()))
            case _:
                raise FormatError("packing without a cursor", got=packing.value)

    @property
    def eof(self) -> bool:
        """Whether the stream has ended and all of its content was given."""
        return self._decoder.eof

    @property
    def consumed(self) -> int:
        """Once `eof`: length of the packed stream."""
        return self._fed - len(self._decoder.unused_data)

    def feed(self, data: bytes, size_max: int) -> bytes:
        """Some content, 1 to `size_max` bytes; none only if it needs more data, or at the end.

        What does not fit waits: feed b"" for it. What is fed behind the end is not looked at.
        """
        if size_max < 1:
            raise FormatError("no room for content", got=size_max)
        if self.eof:
            return b""
        self._fed += len(data)
        return _decompress(self._packing, self._decoder, data, size_max)

    def early(self, size_max: int) -> bytes:
        """At most `size_max` bytes of the content that comes next, where all that was fed tells more
        than `feed` gives by now; `feed` gives it again."""
        return self._decoder.early(size_max) if isinstance(self._decoder, LegacyDecoder) else b""


class _Decoder(Protocol):
    """What the decoders of zlib, lzma and zstd_blocks.py have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Gzip:
    """zlib's decoder, with what did not fit kept inside, and a header where there is none."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(_GZIP_WINDOW)
        self._begun = False

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        data = self._inflate.unconsumed_tail + data
        if data and not self._begun:
            self._begun = True
            if data[:1] != GZIP_MAGIC[:1]:
                data = GZIP_PLAIN_HEADER + data
        return self._inflate.decompress(data, max_length)


def _lzma(container: int, memory_max: int = UNPACK_MEMORY_BYTES_MAX) -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(container, memlimit=memory_max)


def _decompress(packing: Packing, decoder: _Decoder, data: bytes, size_max: int) -> bytes:
    try:
        return decoder.decompress(data, size_max)
    except (zlib.error, lzma.LZMAError, zstandard.ZstdError, EOFError, MemoryError) as error:
        raise FormatError(f"broken {packing.value} stream ({error})") from error


def _drain(packing: Packing, decoder: _Decoder, data: bytes, size_max: int) -> bytes:
    """All content of a stream that `data` is; one byte more than allowed shows that it goes on."""
    content = bytearray()
    while not decoder.eof:
        piece = _decompress(packing, decoder, data, size_max + 1 - len(content))
        content += piece
        data = b""
        if len(content) > size_max:
            raise FormatError(f"{packing.value} block too long", expected=f"<= {size_max} bytes")
        if not piece:
            break
    if not decoder.eof:
        raise FormatError(f"{packing.value} block cut short", got=f"{len(content)} bytes")
    if decoder.unused_data:
        raise FormatError(f"{packing.value} block has bytes behind its end")
    return bytes(content)


def _alone(data: bytes, size: int) -> bytes:
    """A .lzma file of MicroLZMA data: its first byte, always 0 in .lzma, is the properties, inverted.

    lzma/container.h of liblzma, lzma_microlzma_encoder.
    """
    properties = bytes([0xFF - data[0]]) if data else b""
    dict_size = max(_MICROLZMA_DICT_BYTES_MIN, size)
    return properties + struct.pack("<IQ", dict_size, size) + b"\0" + data[1:]


_L = TypeVar("_L")


def _any(name: str, libraries: Mapping[str, _L]) -> _L:
    """Whichever version is here; all of them unpack alike."""
    for library in libraries.values():
        return library
    raise missing(name)
