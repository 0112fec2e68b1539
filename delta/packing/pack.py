"""Packs content again, by a recipe: the bytes that the image has.

Whether they are is the caller's to check (chunks against the tree, an encoder against the image):
a recipe is a claim of whoever wrote the payload. What comes out depends on recipe and content
alone, not on how the content is cut. Every function raises PackingUnavailable where this machine
lacks the library.
"""

import lzma
import zlib
from contextlib import closing
from typing import Protocol, TypeAlias, assert_never

from slipstream.delta.errors import FormatError, PackingUnavailable
from slipstream.delta.limits import PACK_PIECE_BYTES
from slipstream.delta.packing.gnu_gzip import GzipProcess
from slipstream.delta.packing.headers import GZIP_PLAIN_HEADER
from slipstream.delta.packing.libraries import check_can_pack, gzips, lz4s, lzos, zstds
from slipstream.delta.packing.libzstd import ZstdStream
from slipstream.delta.packing.lz4_legacy import LegacyEncoder
from slipstream.delta.packing.recipe import Packer, Recipe, is_streamed
from slipstream.delta.packing.xz_blocks import XzBlocks

Data: TypeAlias = bytes | memoryview

_GZIP_WINDOW = 31  # zlib's windowBits for a gzip container with a window of 32 KiB


def pack(recipe: Recipe, content: bytes, size: int, ahead: bytes = b"") -> bytes:
    """All of `content`, packed. `size` is the expected length: what LZ4_DEST fills with zeros.

    `ahead` is the content that follows; LZ4_DEST looks at as much of it as its recipe says, and
    FormatError says that it is less. The result may have another length than `size`.
    """
    check_can_pack(recipe)
    match recipe.packer:
        case Packer.ZSTD if not is_streamed(recipe):
            return zstds()[recipe.library].compress(content, recipe.parameters[0])
        case Packer.LZ4:
            return lz4s()[recipe.library].compress(content, recipe.parameters[0])
        case Packer.LZ4_DEST:
            return _fill(recipe, content, size, ahead)
        case Packer.LZO:
            return lzos()[recipe.library].compress(content, *recipe.parameters)
        case _:
            with closing(PackCursor(recipe)) as cursor:
                return cursor.feed(content) + cursor.finish()


def pack_exactly(recipe: Recipe, content: bytes, size: int, ahead: bytes = b"") -> bytes:
    """All of `content`, packed to `size` bytes; FormatError as soon as it becomes more, or if it is
    less. So what comes out holds little more than `size`, whatever the content."""
    if not is_streamed(recipe):
        made = pack(recipe, content, size, ahead)
        _check_size(made, size, is_whole=True)
        return made
    with closing(PackCursor(recipe)) as cursor, memoryview(content) as view:
        out = bytearray()
        for begin in range(0, len(view), PACK_PIECE_BYTES):
            out += cursor.feed(view[begin : begin + PACK_PIECE_BYTES])
            _check_size(out, size, is_whole=False)
        out += cursor.finish()
    _check_size(out, size, is_whole=True)
    return bytes(out)


def _check_size(made: bytes | bytearray, size: int, *, is_whole: bool) -> None:
    if len(made) > size or (is_whole and len(made) < size):
        more = "" if is_whole else " and more"
        raise FormatError(
            "content packs to another length", expected=size, got=f"{len(made)}{more}"
        )


class PackCursor:
    """Packs one stream from content in pieces, in bounded memory (`pack_memory_bytes`).

    `close` it in every case: one packer is a process. FormatError for a recipe of single blocks.
    """

    def __init__(self, recipe: Recipe) -> None:
        check_can_pack(recipe)
        self._encoder = _open(recipe)
        # Encoders get equal pieces, however the content comes: libzstd cuts its blocks by them.
        # The last one waits, whole, for `finish`: libzstd is told with it that it is the last.
        self._held = bytearray()

    def feed(self, content: Data) -> bytes:
        """Packed bytes that are there by now; possibly none."""
        self._held += content
        made = []
        begin = 0
        with memoryview(self._held) as view:
            while len(view) - begin > PACK_PIECE_BYTES:
                made.append(self._encoder.feed(bytes(view[begin : begin + PACK_PIECE_BYTES])))
                begin += PACK_PIECE_BYTES
        del self._held[:begin]
        return b"".join(made)

    def finish(self) -> bytes:
        """All the rest. Nothing may be fed behind it."""
        last = bytes(self._held)
        self._held.clear()
        return self._encoder.finish(last)

    def close(self) -> None:
        """End the encoder, finished or not; harmless the second time."""
        self._encoder.close()


class _Encoder(Protocol):
    """What a cursor drives: equal pieces, then the last one, which may be shorter or empty."""

    def feed(self, piece: bytes) -> bytes: ...
    def finish(self, last: bytes) -> bytes: ...
    def close(self) -> None: ...


class _Compressor(Protocol):
    """What the encoders of zlib, lzma and xz_blocks.py have in common."""

    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class _InMemory:
    """An encoder that needs no ending."""

    def __init__(self, encoder: _Compressor) -> None:
        self._encoder = encoder

    def feed(self, piece: bytes) -> bytes:
        try:
            return self._encoder.compress(piece)
        except (lzma.LZMAError, zlib.error, MemoryError) as error:
            raise PackingUnavailable(f"an encoder failed ({error})") from error

    def finish(self, last: bytes) -> bytes:
        made = self.feed(last)
        try:
            return made + self._encoder.flush()
        except (lzma.LZMAError, zlib.error, MemoryError) as error:
            raise PackingUnavailable(f"an encoder failed ({error})") from error

    def close(self) -> None:
        pass


class _Headless:
    """A gzip member without its header, which the image keeps as it is."""

    def __init__(self, encoder: _Encoder) -> None:
        self._encoder = encoder
        self._left = len(GZIP_PLAIN_HEADER)

    def feed(self, piece: bytes) -> bytes:
        return self._cut(self._encoder.feed(piece))

    def finish(self, last: bytes) -> bytes:
        return self._cut(self._encoder.finish(last))

    def close(self) -> None:
        self._encoder.close()

    def _cut(self, made: bytes) -> bytes:
        cut = made[self._left :]
        self._left -= len(made) - len(cut)
        return cut


def _open(recipe: Recipe) -> _Encoder:
    match recipe.packer:
        case Packer.ZLIB:
            level, window_bits, memory_level, strategy = recipe.parameters
            return _InMemory(
                zlib.compressobj(level, zlib.DEFLATED, window_bits, memory_level, strategy)
            )
        case Packer.GZIP_ZLIB:
            level, memory_level = recipe.parameters
            zipped = zlib.compressobj(level, zlib.DEFLATED, _GZIP_WINDOW, memory_level)
            return _Headless(_InMemory(zipped))
        case Packer.GZIP_GNU:
            return _Headless(GzipProcess(gzips()[recipe.library], recipe.parameters[0]))
        case Packer.XZ:
            return _InMemory(_open_xz(recipe))
        case Packer.ZSTD if is_streamed(recipe):
            level, _streamed, content_size, checksum, workers, long_log = recipe.parameters
            return ZstdStream(
                zstds()[recipe.library],
                level,
                content_size=content_size,
                checksum=checksum,
                workers=workers,
                long_log=long_log,
            )
        case Packer.LZ4_LEGACY:
            return LegacyEncoder(lz4s()[recipe.library], recipe.parameters[0])
        case Packer.ZSTD | Packer.LZ4 | Packer.LZ4_DEST | Packer.LZO:
            raise FormatError("recipe of single blocks, for a stream", got=str(recipe))
        case _:
            assert_never(recipe.packer)


def _open_xz(recipe: Recipe) -> _Compressor:
    preset, extreme, dict_size, check, filter_id, block_size, header_size = recipe.parameters
    filters = [{"id": filter_id}] if filter_id else []
    preset |= lzma.PRESET_EXTREME if extreme else 0
    filters.append({"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": dict_size})
    try:
        if block_size:
            return XzBlocks(check, filters, block_size, header_size)
        return lzma.LZMACompressor(lzma.FORMAT_XZ, check=check, filters=filters)
    except (lzma.LZMAError, MemoryError) as error:
        raise PackingUnavailable(f"liblzma cannot pack ({error})", where=str(recipe)) from error


def _fill(recipe: Recipe, content: bytes, size: int, ahead: bytes) -> bytes:
    """A cluster of erofs: one block at its end, zeros before it."""
    level, ahead_size, padded = recipe.parameters
    if len(ahead) < ahead_size:
        raise FormatError(
            "too little content behind a block", expected=f"{ahead_size} bytes", got=len(ahead)
        )
    seen = content + ahead[:ahead_size]
    seen += bytes(max(0, padded - len(seen)))
    packed, _used = lz4s()[recipe.library].fill(seen, level, size)
    return packed.rjust(size, b"\0")
