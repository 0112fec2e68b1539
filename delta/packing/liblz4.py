"""The functions of liblz4 that squashfs-tools and erofs-utils call, through ctypes.

Not the lz4 package from PyPI: it bundles a version of its own, and has no destSize functions.
"""

import ctypes

from slipstream.delta.errors import FormatError


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
        self._state_size_hc = int(handle.LZ4_sizeofStateHC())
        version = handle.LZ4_versionString
        version.restype = text
        self.version: str = version().decode("ascii")

    def compress(self, content: bytes, level: int) -> bytes:
        """One block of all content. Level 0: LZ4_compress_default, else LZ4_compress_HC."""
        capacity = self._bound(len(content))
        out = ctypes.create_string_buffer(capacity)
        if level:
            size = self._compress_hc(content, out, len(content), capacity, level)
        else:
            size = self._compress(content, out, len(content), capacity)
        return ctypes.string_at(out, max(0, size))

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
