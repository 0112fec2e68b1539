"""The encoder of any libzstd on this machine, through ctypes.

zstandard's wheel bundles one version and calls no other; but images are made by the distribution's
(libzstd 1.5.7 makes 74 % of the blocks of 1.5.4). Unpacking needs no particular version: unpack.py.
"""

import ctypes
from typing import Any

from slipstream.delta.errors import FormatError, PackingUnavailable

# ZSTD_cParameter and ZSTD_EndDirective of zstd.h; the numbers are part of its stable interface.
_LEVEL = 100
_WINDOW_LOG = 101
_LONG_DISTANCE = 160
_CONTENT_SIZE_FLAG = 200
_CHECKSUM_FLAG = 201
_WORKERS = 400
_CONTINUE, _FLUSH, _END = 0, 1, 2


class _Buffer(ctypes.Structure):
    """ZSTD_inBuffer and ZSTD_outBuffer have the same layout."""

    _fields_ = (("data", ctypes.c_char_p), ("size", ctypes.c_size_t), ("position", ctypes.c_size_t))


class LibZstd:
    """Raises AttributeError for a library that lacks a function."""

    def __init__(self, handle: ctypes.CDLL) -> None:
        length, pointer, integer = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int
        text, buffer = ctypes.c_char_p, ctypes.POINTER(_Buffer)

        def function(name: str, result: Any, *arguments: Any) -> Any:
            found = handle[name]
            found.restype, found.argtypes = result, arguments
            return found

        self._create = function("ZSTD_createCCtx", pointer)
        self.free = function("ZSTD_freeCCtx", length, pointer)
        self.set = function("ZSTD_CCtx_setParameter", length, pointer, integer, integer)
        self.set_size = function("ZSTD_CCtx_setPledgedSrcSize", length, pointer, ctypes.c_ulonglong)
        self.stream = function("ZSTD_compressStream2", length, pointer, buffer, buffer, integer)
        self.is_error = function("ZSTD_isError", ctypes.c_uint, length)
        self.error_name = function("ZSTD_getErrorName", text, length)
        self.step_bytes: int = function("ZSTD_CStreamOutSize", length)()
        self._bound = function("ZSTD_compressBound", length, length)
        self._compress = function(
            "ZSTD_compressCCtx", length, pointer, text, length, text, length, integer
        )
        self.version: str = function("ZSTD_versionString", text)().decode("ascii")

    def open(self) -> int:
        """A compression context, to be freed."""
        context = self._create()
        if context is None:
            raise PackingUnavailable("no memory for libzstd")
        return int(context)

    def compress(self, content: bytes, level: int) -> bytes:
        """One frame by ZSTD_compressCCtx: the content size in it, no checksum."""
        capacity = self._bound(len(content))
        out = ctypes.create_string_buffer(capacity)
        context = self.open()
        try:
            size = self._compress(context, out, capacity, content, len(content), level)
        finally:
            self.free(context)
        self.check(size)
        return ctypes.string_at(out, size)

    def check(self, result: int) -> None:
        """If a function's result is an error: FormatError where the recipe says another size than the
        content has, else PackingUnavailable: memory, most likely."""
        if self.is_error(result):
            name = self.error_name(result).decode()
            if "Src size" in name:  # ZSTD_error_srcSize_wrong
                raise FormatError("recipe declares another size than the content has", got=name)
            raise PackingUnavailable("libzstd cannot pack", got=name)


class ZstdStream:
    """One frame by ZSTD_compressStream2, from content that comes in pieces. Close it in every case.

    Where libzstd cuts its blocks depends on the pieces: give it the ones that the first encoder
    had. `content_size` 0: not known beforehand, as of a pipe.
    """

    def __init__(
        self,
        library: LibZstd,
        level: int,
        *,
        content_size: int,
        checksum: int,
        workers: int,
        long_log: int,
    ) -> None:
        self._library = library
        self._sized = bool(content_size)
        self._context: int | None = library.open()
        self._out = ctypes.create_string_buffer(library.step_bytes)
        try:
            self._set(_LEVEL, level)
            self._set(_CONTENT_SIZE_FLAG, 1)
            self._set(_CHECKSUM_FLAG, checksum)
            self._set(_WORKERS, workers)
            if long_log:
                self._set(_LONG_DISTANCE, 1)
                self._set(_WINDOW_LOG, long_log)
            if content_size:
                library.check(library.set_size(self._context, content_size))
        except BaseException:
            self.close()
            raise

    def begin(self, content: bytes) -> bytes:
        """What a frame begins with: header and blocks of this content, if more follows."""
        return self._step(content, _FLUSH)

    def feed(self, content: bytes) -> bytes:
        """What comes out once `content` is in."""
        return self._step(content, _CONTINUE)

    def finish(self, last: bytes) -> bytes:
        """All the rest, behind the `last` of the content."""
        if self._sized:  # then the zstd command knows which piece is the last, else it does not
            return self._step(last, _END)
        return self._step(last, _CONTINUE) + self._step(b"", _END)

    def close(self) -> None:
        """Free the encoder; harmless the second time."""
        context, self._context = self._context, None
        if context is not None:
            self._library.free(context)

    def _set(self, parameter: int, value: int) -> None:
        self._library.check(self._library.set(self._context, parameter, value))

    def _step(self, content: bytes, directive: int) -> bytes:
        pieces = []
        given = _Buffer(content, len(content), 0)
        while True:
            made = _Buffer(ctypes.cast(self._out, ctypes.c_char_p), len(self._out), 0)
            left = self._library.stream(self._context, made, given, directive)
            self._library.check(left)
            pieces.append(ctypes.string_at(self._out, made.position))
            done = given.position == given.size if directive == _CONTINUE else left == 0
            if done:
                return b"".join(pieces)
