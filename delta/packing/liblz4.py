"""The functions of liblz4 that squashfs-tools, erofs-utils and `lz4 -l` call, through ctypes.

Not the lz4 package from PyPI: it bundles a version of its own, and has no destSize functions.
"""

import ctypes

from slipstream.delta.errors import FormatError
from slipstream.delta.limits import LZ4_LEGACY_BLOCK_BYTES

# Of a length in a block of 8 MiB: 255 bytes of content each, and some more.
_RUN_BYTES_MAX = LZ4_LEGACY_BLOCK_BYTES // 255 + 16


class LibLz4:
    """Raises AttributeError for a library that lacks a function."""

    def __init__(self, handle: ctypes.CDLL) -> None:
        integer, text = ctypes.c_int, ctypes.c_char_p
        count = ctypes.POINTER(ctypes.c_int)
        state = ctypes.c_void_p
        self._compress = handle.LZ4_compress_default
        self._compress.argtypes = (text, text, integer, integer)
        self._compress_hc = handle.LZ4_compress_HC
        self._compress_hc.argtypes = (text, text, integer, integer, integer)
        self._fill = handle.LZ4_compress_destSize
        self._fill.argtypes = (text, text, count, integer)
        self._fill_hc = handle.LZ4_compress_HC_destSize
        self._fill_hc.argtypes = (state, text, text, count, integer, integer)
        self._bound = handle.LZ4_compressBound
        self._decompress = handle.LZ4_decompress_safe
        self._decompress.argtypes = (text, text, integer, integer)
        self._decompress_first = handle.LZ4_decompress_safe_partial
        self._decompress_first.argtypes = (text, text, integer, integer, integer)
        self._state_size_hc = int(handle.LZ4_sizeofStateHC())
        version = handle.LZ4_versionString
        version.restype = text
        self.version: str = version().decode("ascii")

    def compress(self, content: bytes, level: int) -> bytes:
        """One block of all content. Level 0: LZ4_compress_default, else LZ4_compress_HC."""
        return self._compressed(content, len(content), level)

    def compress_part(self, content: bytearray, size: int, level: int) -> bytes:
        """The same of the first `size` bytes, of which no copy is made."""
        return self._compressed((ctypes.c_char * size).from_buffer(content), size, level)

    def _compressed(
        self, content: "bytes | ctypes.Array[ctypes.c_char]", size: int, level: int
    ) -> bytes:
        capacity = self._bound(size)
        out = ctypes.create_string_buffer(capacity)
        if level:
            made = self._compress_hc(content, out, size, capacity, level)
        else:
            made = self._compress(content, out, size, capacity)
        return ctypes.string_at(out, max(0, made))

    def fill(self, content: bytes, level: int, capacity: int) -> tuple[bytes, int]:
        """One block of at most `capacity` bytes, and how much content went into it.

        Level 0: LZ4_compress_destSize, else LZ4_compress_HC_destSize.
        """
        out = ctypes.create_string_buffer(capacity)
        used = ctypes.c_int(len(content))
        if level:
            state = ctypes.create_string_buffer(self._state_size_hc)
            size = self._fill_hc(state, content, out, ctypes.byref(used), capacity, level)
        else:
            size = self._fill(content, out, ctypes.byref(used), capacity)
        return ctypes.string_at(out, max(0, size)), used.value

    def decompress(self, packed: bytes, size_max: int) -> bytes:
        """The content of one whole block; FormatError if it is broken or longer."""
        out = ctypes.create_string_buffer(size_max)
        size = self._decompress(packed, out, len(packed), size_max)
        if size < 0:
            raise FormatError("broken lz4 block, or a longer one", expected=f"<= {size_max} bytes")
        return ctypes.string_at(out, size)

    def decompress_part(
        self, packed: bytearray, offset: int, size: int, out: "ctypes.Array[ctypes.c_char]"
    ) -> int:
        """Unpack the block at packed[offset : offset + size] into `out`: the size of its content.

        FormatError if it is broken or longer.
        """
        block = (ctypes.c_char * size).from_buffer(packed, offset)
        made = int(self._decompress(block, out, size, len(out)))
        if made < 1:
            raise FormatError("broken lz4 block, or a longer one", expected=f"<= {len(out)} bytes")
        return made

    def decompress_first(
        self, packed: bytearray, offset: int, size: int, out: "ctypes.Array[ctypes.c_char]"
    ) -> int:
        """The same of the first `size` bytes of a block: how much content they tell, possibly none.

        With more bytes never less. What is left of a sequence cut in its lengths or distance, which
        liblz4 takes for broken, is left out.
        """
        while size and (made := self._first(packed, offset, size, out)) < 0:
            size -= 1
            # A long run has a length of many 0xff. Of literals that end in such some may count.
            tail = bytes(packed[max(offset, offset + size - _RUN_BYTES_MAX) : offset + size])
            low, high = size - len(tail) + len(tail.rstrip(b"\xff")), size
            if low < high and self._first(packed, offset, low, out) >= 0:
                while high - low > 1:
                    middle = (low + high) // 2
                    if self._first(packed, offset, middle, out) < 0:
                        high = middle
                    else:
                        low = middle
            size = low if low < high else size
        return made if size else 0

    def _first(
        self, packed: bytearray, offset: int, size: int, out: "ctypes.Array[ctypes.c_char]"
    ) -> int:
        if not size:
            return 0
        block = (ctypes.c_char * size).from_buffer(packed, offset)
        return int(self._decompress_first(block, out, size, len(out), len(out)))
