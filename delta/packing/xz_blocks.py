"""The .xz framing that Python's encoder does not write: blocks whose headers have sizes.

mksquashfs calls lzma_stream_buffer_encode, and `xz -T` cuts its input into blocks; both write the
sizes of a block into its header. Python has only the encoder that does not. The LZMA2 data and the
check are the same, so each block is made as a stream of its own, and framed again.
https://tukaani.org/xz/xz-file-format.txt, 2 to 4.
"""

import lzma
import zlib
from collections.abc import Mapping, Sequence

from slipstream.delta.errors import FormatError
from slipstream.delta.packing.headers import XZ_MAGIC, XZ_STREAM_HEADER_BYTES, parse_xz_number

_FOOTER_BYTES = 12
_CHECK_BYTES = {0: 0, 1: 4, 4: 8, 10: 32}
_SIZES_IN_HEADER = 0xC0  # flags of a block header: compressed and uncompressed size present
_LZMA2_FLAGS_BYTES = 3  # id, size of properties, dictionary size
_BRANCH_FLAGS_BYTES = 2  # id, no properties


class XzBlocks:
    """One .xz stream with `block_size` content bytes in each block, and headers of `header_size`.

    Holds the packed bytes of one block: their size stands before them.
    """

    def __init__(
        self,
        check: int,
        filters: Sequence[Mapping[str, int]],
        block_size: int,
        header_size: int,
    ) -> None:
        self._check = check
        self._filters = list(filters)
        self._block_size = block_size
        self._header_size = header_size
        self._encoder = self._open()
        self._fed = 0  # content bytes of the block
        self._packed = bytearray()  # of the block, in the framing that Python writes
        self._records: list[tuple[int, int]] = []
        flags = bytes([0, check])
        self._made = bytearray(XZ_MAGIC + flags + _crc(flags))

    def compress(self, content: bytes) -> bytes:
        """The blocks that `content` completes."""
        view = memoryview(content)
        while view:
            piece = view[: self._block_size - self._fed]
            view = view[len(piece) :]
            self._packed += self._encoder.compress(piece)
            self._fed += len(piece)
            if self._fed == self._block_size:
                self._end_block()
                self._encoder = self._open()
        return self._take()

    def flush(self) -> bytes:
        """The last block, the index and the footer."""
        if self._fed:
            self._end_block()
        index = bytearray([0])
        index += _number(len(self._records))
        for unpadded, size in self._records:
            index += _number(unpadded) + _number(size)
        index += bytes(-len(index) % 4)
        index += _crc(index)
        backward = len(index) // 4 - 1
        footer = backward.to_bytes(4, "little") + bytes([0, self._check])
        self._made += index + _crc(footer) + footer + b"YZ"
        return self._take()

    def _take(self) -> bytes:
        made = bytes(self._made)
        self._made.clear()
        return made

    def _open(self) -> lzma.LZMACompressor:
        return lzma.LZMACompressor(lzma.FORMAT_XZ, check=self._check, filters=self._filters)

    def _end_block(self) -> None:
        self._packed += self._encoder.flush()
        stream = bytes(self._packed)
        self._packed.clear()
        begin = XZ_STREAM_HEADER_BYTES
        header = stream[begin : begin + (stream[begin] + 1) * 4]
        backward = int.from_bytes(stream[-8:-4], "little")
        end = len(stream) - _FOOTER_BYTES - (backward + 1) * 4
        body = stream[begin + len(header) : end]
        # The index says how much of the padding behind the data is padding: 4.3.
        unpadded, _ = parse_xz_number(stream, end + 2)
        unpadded -= len(header)
        framed = self._header(header, unpadded - _CHECK_BYTES[self._check])
        self._records.append((len(framed) + unpadded, self._fed))
        self._fed = 0
        self._made += framed + body

    def _header(self, header: bytes, packed_size: int) -> bytes:
        """The block header of `header`'s filters with sizes in it."""
        several = header[1] & 3
        flags_size = _LZMA2_FLAGS_BYTES + several * _BRANCH_FLAGS_BYTES
        out = bytes([self._header_size // 4 - 1, _SIZES_IN_HEADER | several])
        out += _number(packed_size) + _number(self._fed) + header[2 : 2 + flags_size]
        padding = self._header_size - 4 - len(out)
        if padding < 0:
            raise FormatError(
                "xz block header too small for its sizes",
                expected=f"at least {len(out) + 4} bytes",
                got=self._header_size,
            )
        out += bytes(padding)
        return out + _crc(out)


def _crc(data: bytes | bytearray) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")


def _number(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
