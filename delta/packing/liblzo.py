"""The functions of liblzo2 that squashfs-tools calls, through ctypes."""

import ctypes

from slipstream.delta.errors import FormatError, PackingUnavailable

# By number, as in squashfs; lzo1x_999 is apart, for it alone has levels.
_ALGORITHMS = (
    "lzo1x_1_compress",
    "lzo1x_1_11_compress",
    "lzo1x_1_12_compress",
    "lzo1x_1_15_compress",
)
LZO1X_999 = 4  # the number that follows theirs
_OK = 0  # LZO_E_OK
_WORK_BYTES = 512 * 1024  # LZO1X_999_MEM_COMPRESS is 14 * 16384 * 2; the others take less


class LibLzo:
    """Raises AttributeError for a library that lacks a function."""

    def __init__(self, handle: ctypes.CDLL) -> None:
        text, length = ctypes.c_char_p, ctypes.c_size_t
        size = ctypes.POINTER(ctypes.c_size_t)
        pointer = ctypes.c_void_p
        self._best = handle.lzo1x_999_compress_level
        self._best.argtypes = (
            text, length, text, size, pointer, text, length, pointer, ctypes.c_int,
        )  # fmt: skip
        self._fast = [handle[name] for name in _ALGORITHMS]
        for function in self._fast:
            function.argtypes = (text, length, text, size, pointer)
        self._optimize = handle.lzo1x_optimize
        self._optimize.argtypes = (text, length, text, size, pointer)
        self._decompress = handle.lzo1x_decompress_safe
        self._decompress.argtypes = (text, length, text, size, pointer)
        version = handle.lzo_version_string
        version.restype = text
        self.version: str = version().decode("ascii")

    def compress(self, content: bytes, algorithm: int, level: int) -> bytes:
        """One block of all content. `level` is for lzo1x_999 only."""
        capacity = len(content) + len(content) // 16 + 64 + 3  # LZO's own bound
        out = ctypes.create_string_buffer(capacity)
        size = ctypes.c_size_t(capacity)
        work = ctypes.create_string_buffer(_WORK_BYTES)
        held = len(content)
        if algorithm == LZO1X_999:
            status = self._best(content, held, out, ctypes.byref(size), work, None, 0, None, level)
        else:
            status = self._fast[algorithm](content, held, out, ctypes.byref(size), work)
        if status != _OK:
            raise PackingUnavailable("liblzo2 cannot pack", got=f"status {status}")
        if algorithm == LZO1X_999:
            # squashfs-tools call it: it shifts literals about, at the same length, and decodes.
            scratch = ctypes.create_string_buffer(held)
            decoded = ctypes.c_size_t(held)
            self._optimize(out, size.value, scratch, ctypes.byref(decoded), None)
        return ctypes.string_at(out, size.value)

    def decompress(self, packed: bytes, size_max: int) -> bytes:
        """The content of one whole block; FormatError if it is broken or longer."""
        out = ctypes.create_string_buffer(size_max)
        size = ctypes.c_size_t(size_max)
        status = self._decompress(packed, len(packed), out, ctypes.byref(size), None)
        if status != _OK:
            raise FormatError(
                "broken lzo block, or a longer one",
                expected=f"<= {size_max} bytes",
                got=f"status {status}",
            )
        return ctypes.string_at(out, size.value)
