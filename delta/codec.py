"""The gate to every compressor: exact lengths in, exact lengths out.

The one file that imports zstandard, lzma, bz2 and zlib. `decompress` is called with a length that
was checked beforehand and returns exactly that many bytes or raises FormatError. Nothing that a
stream declares decides an allocation: the output is bounded by `size` + 1 byte, the decoder's
own window by CODEC_WINDOW_BYTES_MAX. A stream is one frame: not cut short, nothing behind it.

Not here: digests. Check the digest of the encoded bytes first, then come here.
"""

import bz2
import lzma
import zlib
from collections.abc import Sequence
from enum import IntEnum
from typing import Protocol, TypeAlias, assert_never

import zstandard

from slipstream.delta.errors import FormatError
from slipstream.delta.limits import (
    CODEC_DECODED_BYTES_MAX,
    CODEC_WINDOW_BYTES_MAX,
    KIB,
    MIB,
)

Data: TypeAlias = bytes | memoryview

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # RFC 8878, 3.1.1; a skippable frame has another
_ZSTD_EMPTY = _ZSTD_MAGIC + b"\x20\x00\x01\x00\x00"  # size 0 in one byte, last raw block of 0
_ZSTD_LEVEL = 19
_ZSTD_WINDOW_LOG = CODEC_WINDOW_BYTES_MAX.bit_length() - 1
_LZMA_PRESET = 9 | lzma.PRESET_EXTREME
_LZMA_DICT_MIN = 4 * KIB  # liblzma's LZMA_DICT_SIZE_MIN
_CHUNK_BYTES = 64 * KIB  # most that an uncompressed chunk of LZMA2 holds
_BZ2_LEVEL = 9
_ZLIB_LEVEL = 9
_RAW_DEFLATE = -15  # no zlib header, no checksum: the digest covers the encoded bytes


class Codec(IntEnum):
    """How a stream is compressed; the number stands in payloads (docs/format.md, 4.3)."""

    NONE = 0
    ZSTD = 1
    LZMA2 = 2  # raw chunks, no container; the dictionary size follows from the decoded size
    BZ2 = 3
    ZLIB = 4  # raw deflate
    LZMA2_PREFIX = 5  # LZMA2 that may repeat what stands before it: the frame's source bytes


def compress(
    codec: Codec, data: bytes, level: int | None = None, *, contexts: int | None = None
) -> bytes:
    """`data` as one stream of `codec`; the same bytes for the same library versions.

    `level` is the codec's own scale (zstd 1..22, LZMA2 presets, bz2 and zlib 1..9); None is the
    smallest result at a sensible price. With `contexts` LZMA2 looks at so many bits of the byte before
    a literal, and not at its place, which is best for differences; None: at 3, and at both.
    LZMA2_PREFIX is made behind nothing here, behind a prefix by prefix.py. FormatError for more than
    CODEC_DECODED_BYTES_MAX.
    """
    _check_size(codec, len(data))
    match codec:
        case Codec.NONE:
            return bytes(data)
        case Codec.ZSTD:
            parameters = zstandard.ZstdCompressionParameters.from_level(
                _ZSTD_LEVEL if level is None else level,
                source_size=len(data),
                # Levels above 19 would take a window that `decompress` refuses.
                window_log=min(_ZSTD_WINDOW_LOG, max(10, len(data).bit_length())),
                write_content_size=1,
                write_checksum=0,
                write_dict_id=0,
            )
            return zstandard.ZstdCompressor(compression_params=parameters).compress(data)
        case Codec.LZMA2 | Codec.LZMA2_PREFIX:
            preset = _LZMA_PRESET if level is None else level
            dictionary = lzma_dict_size(len(data))
            if codec is Codec.LZMA2_PREFIX:
                dictionary = prefix_dict_size(0, len(data))
            options = {"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": dictionary}
            if contexts is not None:
                options |= {"lc": contexts, "lp": 0, "pb": 0}
            return lzma.compress(data, lzma.FORMAT_RAW, filters=[options])
        case Codec.BZ2:
            return bz2.compress(data, _BZ2_LEVEL if level is None else level)
        case Codec.ZLIB:
            encoder = zlib.compressobj(_ZLIB_LEVEL if level is None else level, wbits=_RAW_DEFLATE)
            return encoder.compress(data) + encoder.flush()
        case _:
            assert_never(codec)


def compress_smallest(
    data: bytes, codecs: Sequence[Codec], level: int | None = None, *, contexts: int | None = None
) -> tuple[Codec, bytes]:
    """The shortest stream that `codecs` make of `data`; of equals the first; never above NONE."""
    best, encoded = Codec.NONE, bytes(data)
    for codec in codecs:
        tried = compress(codec, data, level, contexts=contexts)
        if len(tried) < len(encoded):
            best, encoded = codec, tried
    return best, encoded


def decompress(codec: Codec, data: Data, size: int, prefix: bytes = b"") -> bytes:
    """Exactly `size` bytes out of the whole of `data`, or FormatError.

    `prefix` is what LZMA2_PREFIX may repeat; the other codecs do not look at it. Peak memory: `size`
    twice over (the codecs of the standard library join their output) and `codec_memory_bytes`.
    """
    _check_size(codec, size)
    match codec:
        case Codec.NONE:
            decoded = bytes(data)
        case Codec.ZSTD:
            decoded = _decompress_zstd(data, size)
        case Codec.LZMA2:
            filters = [{"id": lzma.FILTER_LZMA2, "dict_size": lzma_dict_size(size)}]
            decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)
            decoded = _drain(codec, decoder, data, size)
        case Codec.BZ2:
            decoded = _drain(codec, bz2.BZ2Decompressor(), data, size)
        case Codec.ZLIB:
            decoded = _drain(codec, zlib.decompressobj(_RAW_DEFLATE), data, size)
        case Codec.LZMA2_PREFIX:
            try:
                decoder = _primed(prefix, size)
            except MemoryError as error:
                raise FormatError("too little memory for LZMA2_PREFIX") from error
            decoded = _drain(codec, decoder, data, size)
        case _:
            assert_never(codec)
    if len(decoded) != size:
        raise FormatError(
            f"{codec.name} stream of another length",
            expected=f"{size} bytes",
            got=f"{len(decoded)} bytes" if len(decoded) < size else "more",
        )
    return decoded


def codec_memory_bytes(codec: Codec, size: int, prefix_size: int = 0) -> int:
    """Bytes that a decoder needs besides its input and output of `size` bytes; an upper bound."""
    match codec:
        case Codec.NONE:
            return 0
        case Codec.ZSTD:
            return min(CODEC_WINDOW_BYTES_MAX, size) + 256 * KIB  # tables of one context
        case Codec.LZMA2:
            return lzma_dict_size(size) + 256 * KIB
        case Codec.BZ2:
            return 4 * MIB  # 900 kB blocks, four bytes for each
        case Codec.ZLIB:
            return 64 * KIB
        case Codec.LZMA2_PREFIX:
            return prefix_dict_size(prefix_size, size) + 512 * KIB
        case _:
            assert_never(codec)


def lzma_dict_size(size: int) -> int:
    """Dictionary of an LZMA2 stream of `size` decoded bytes: the power of two that holds it.

    Derived, so that no payload can ask for more.
    """
    return min(CODEC_WINDOW_BYTES_MAX, max(_LZMA_DICT_MIN, 1 << max(0, size - 1).bit_length()))


def prefix_dict_size(prefix_size: int, size: int) -> int:
    """Dictionary of an LZMA2_PREFIX stream of `size` decoded bytes: it holds them and the prefix."""
    return max(_LZMA_DICT_MIN, prefix_size + size)


def _primed(prefix: bytes, size: int) -> lzma.LZMADecompressor:
    """A decoder that has the prefix behind it: it was fed uncompressed chunks of it."""
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": prefix_dict_size(len(prefix), size)}]
    decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)
    control = b"\x01"  # the first chunk resets the dictionary, the others (2) do not
    view = memoryview(prefix)
    for offset in range(0, len(prefix), _CHUNK_BYTES):
        chunk = view[offset : offset + _CHUNK_BYTES]
        decoder.decompress(control + (len(chunk) - 1).to_bytes(2, "big") + chunk)
        control = b"\x02"
    return decoder


def _check_size(codec: Codec, size: int) -> None:
    if not 0 <= size <= CODEC_DECODED_BYTES_MAX:
        raise FormatError(
            f"{codec.name} stream of impossible length",
            expected=f"0..{CODEC_DECODED_BYTES_MAX} bytes",
            got=size,
        )


def _decompress_zstd(data: Data, size: int) -> bytes:
    # python-zstandard heeds neither max_output_size nor max_window_size where the frame declares
    # its own size (8 KB gave 256 MiB with a bound of 4096): so the header is read first.
    try:
        frame = zstandard.get_frame_parameters(data)
    except zstandard.ZstdError as error:
        raise FormatError(f"not a zstd frame ({error})") from error
    declared = (data[:4], frame.content_size, frame.dict_id)
    if declared != (_ZSTD_MAGIC, size, 0):
        raise FormatError(
            "zstd frame declares something else",
            expected=f"{size} bytes, no dictionary",
            got=f"magic {data[:4].hex()}, {frame.content_size} bytes, dictionary {frame.dict_id}",
        )
    if frame.window_size > CODEC_WINDOW_BYTES_MAX:
        raise FormatError(
            "zstd window too large",
            expected=f"at most {CODEC_WINDOW_BYTES_MAX} bytes",
            got=frame.window_size,
        )
    if size == 0 and bytes(data) != _ZSTD_EMPTY:
        # python-zstandard returns early where 0 is declared, and never looks at what follows.
        raise FormatError("broken zstd frame (not the empty one)", got=f"{len(data)} bytes")
    try:
        return zstandard.ZstdDecompressor().decompress(
            data, max_output_size=size, read_across_frames=False, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise FormatError(f"broken zstd frame ({error})") from error


class _Decoder(Protocol):
    """What the decoders of lzma, bz2 and zlib have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: Data, max_length: int, /) -> bytes: ...


def _drain(codec: Codec, decoder: _Decoder, data: Data, size: int) -> bytes:
    """At most `size` + 1 bytes: one more than allowed shows a stream that goes on."""
    try:
        decoded = decoder.decompress(data, size + 1)
    except (lzma.LZMAError, OSError, EOFError, ValueError, zlib.error, MemoryError) as error:
        raise FormatError(f"broken {codec.name} stream ({error})") from error
    if len(decoded) <= size and not decoder.eof:
        raise FormatError(f"{codec.name} stream cut short", expected=f"{size} bytes")
    if decoder.unused_data:
        raise FormatError(f"{codec.name} stream has bytes behind its end")
    return decoded
