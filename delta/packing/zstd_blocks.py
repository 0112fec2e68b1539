"""Unpacks one zstd frame from pieces, with a bound on what comes out at a time.

python-zstandard's stream decoder has no such bound: of blocks that repeat one byte, each 4 bytes
give 128 KiB. So the frame is taken apart here and decoded block by block, which gives no more than
that at once (RFC 8878, 3.1.1.2.4).
"""

import zstandard

from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import Packing
from slipstream.delta.limits import KIB
from slipstream.delta.packing.headers import parse_zstd_header, unpack_memory_bytes

_DESCRIPTOR = 4  # its offset in a frame header: 3.1.1.1
_BLOCK_BYTES_MAX = 128 * KIB
_BLOCK_HEADER_BYTES = 3
_CHECKSUM_BYTES = 4
_RLE, _RESERVED = 1, 3  # types of blocks


class ZstdDecoder:
    """In the manner of zlib's and lzma's decoders: `decompress`, `eof`, `unused_data`."""

    def __init__(self, memory_max: int) -> None:
        self._memory_max = memory_max
        self._packed = b""
        self._position = 0  # in _packed
        self._content = b""
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._checksum_bytes = 0
        self._ended = False  # the last block is decoded

    @property
    def eof(self) -> bool:
        """Whether all content of the frame was given out."""
        return self._ended and not self._content

    @property
    def unused_data(self) -> bytes:
        """Once `eof`: what was fed beyond the frame."""
        return self._packed[self._position :]

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Some content, at most `max_length` bytes; none only if more data is needed, or at the end.

        FormatError, zstandard.ZstdError.
        """
        if data:
            self._packed = self._packed[self._position :] + data
            self._position = 0
        while not self._content and not self._ended:
            stepped = self._block() if self._frame is not None else self._header()
            if not stepped:
                break
        given = self._content[:max_length]
        self._content = self._content[max_length:]
        return given

    def _header(self) -> bool:
        """Decode the frame header; False until it is there."""
        head = self._packed[: _DESCRIPTOR + 1]
        if len(head) <= _DESCRIPTOR:
            return False
        descriptor = head[_DESCRIPTOR]
        single = descriptor >> 5 & 1
        size = len(head) + (1 - single) + (0, 1, 2, 4)[descriptor & 3]
        size += (single, 2, 4, 8)[descriptor >> 6]
        head = self._packed[:size]
        if len(head) < size:
            return False
        frame = parse_zstd_header(head)
        if frame.dict_id:
            raise FormatError("zstd frame asks for a dictionary", got=frame.dict_id)
        needed = unpack_memory_bytes(Packing.ZSTD, head)
        if needed > self._memory_max:
            raise FormatError(
                "zstd window too large", expected=f"{self._memory_max} bytes in all", got=needed
            )
        self._checksum_bytes = _CHECKSUM_BYTES if frame.has_checksum else 0
        decoder = zstandard.ZstdDecompressor(max_window_size=self._memory_max)
        self._frame = decoder.decompressobj()
        self._frame.decompress(head)
        self._position = size
        return True

    def _block(self) -> bool:
        """Decode the next block; False until it is there, the checksum behind the last too."""
        assert self._frame is not None
        begin = self._position
        bits = int.from_bytes(self._packed[begin : begin + _BLOCK_HEADER_BYTES], "little")
        is_last, kind, size = bits & 1, bits >> 1 & 3, bits >> 3
        end = begin + _BLOCK_HEADER_BYTES + (1 if kind == _RLE else size)
        end += self._checksum_bytes if is_last else 0
        if len(self._packed) - begin < _BLOCK_HEADER_BYTES:
            return False
        if kind == _RESERVED or size > _BLOCK_BYTES_MAX:
            raise FormatError("broken zstd block", got=f"type {kind}, {size} bytes")
        if len(self._packed) < end:
            return False
        self._content = self._frame.decompress(self._packed[begin:end])
        self._position = end
        self._ended = bool(is_last)
        return True
