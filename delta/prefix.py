"""LZMA2 behind a prefix: what it compresses may repeat bytes that the decoder has already.

Build machine only. Python's own binding of liblzma has no preset dictionary for its encoder, so
the library that it is linked with is called through ctypes. Decoding needs nothing but Python:
codec.py feeds the prefix as uncompressed chunks, which is all that a preset dictionary is.
"""

import _lzma
import ctypes
import lzma
from functools import cache

from slipstream.delta.codec import Codec, decompress, prefix_dict_size
from slipstream.delta.errors import FormatError

# lzma/container.h, lzma/lzma12.h, lzma/vli.h: a stable interface since 5.0.
_LZMA2 = 0x21
_LAST = (1 << 64) - 1
_OK, _MEMORY = 0, 5  # lzma/base.h
_TRIED = b"that liblzma takes these structures is tried once"
# A binary tree (the preset's own) is 0.6 % smaller behind 15 MiB and takes three times as long, most
# of it to take in the prefix; behind 2 MiB it takes eight times as long.
_HASH_CHAIN_4 = 0x04
_PRESET = 9 | lzma.PRESET_EXTREME  # if none is asked for
_ROOM_BYTES = 64 * 1024  # what does not compress gets longer by 3 bytes for each 64 KiB


class _Options(ctypes.Structure):
    """lzma_options_lzma."""

    _fields_ = (
        ("dict_size", ctypes.c_uint32),
        ("preset_dict", ctypes.c_char_p),
        ("preset_dict_size", ctypes.c_uint32),
        ("lc", ctypes.c_uint32),
        ("lp", ctypes.c_uint32),
        ("pb", ctypes.c_uint32),
        ("mode", ctypes.c_int),
        ("nice_len", ctypes.c_uint32),
        ("mf", ctypes.c_int),
        ("depth", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32 * 8),
        ("reserved_enums", ctypes.c_int * 4),
        ("reserved_pointers", ctypes.c_void_p * 2),
    )


class _Filter(ctypes.Structure):
    """lzma_filter."""

    _fields_ = (("id", ctypes.c_uint64), ("options", ctypes.c_void_p))


class _Encoder:
    """Raises AttributeError for a library that lacks a function."""

    def __init__(self, handle: ctypes.CDLL) -> None:
        size = ctypes.c_size_t
        self._preset = handle.lzma_lzma_preset
        self._preset.argtypes = (ctypes.POINTER(_Options), ctypes.c_uint32)
        self._encode = handle.lzma_raw_buffer_encode
        self._encode.argtypes = (
            ctypes.POINTER(_Filter),
            ctypes.c_void_p,
            ctypes.c_char_p,
            size,
            ctypes.c_char_p,
            ctypes.POINTER(size),
            size,
        )

    def compress(self, data: bytes, prefix: bytes, preset: int) -> bytes:
        options = _Options()
        if self._preset(options, preset):
            raise ValueError(f"liblzma has no preset {preset}")
        options.mf, options.depth = _HASH_CHAIN_4, 0
        options.dict_size = prefix_dict_size(len(prefix), len(data))
        options.preset_dict, options.preset_dict_size = prefix, len(prefix)
        filters = (_Filter * 2)(
            _Filter(_LZMA2, ctypes.cast(ctypes.pointer(options), ctypes.c_void_p)),
            _Filter(_LAST, None),
        )
        out = ctypes.create_string_buffer(len(data) + _ROOM_BYTES)
        used = ctypes.c_size_t(0)
        result = self._encode(filters, None, data, len(data), out, used, len(out))
        if result == _MEMORY:
            raise MemoryError("too little memory for liblzma's encoder")
        if result != _OK:
            raise ValueError(f"liblzma cannot encode: {result}")
        return ctypes.string_at(out, used.value)


@cache
def _encoder() -> _Encoder | None:
    # Through Python's module, so that it is the liblzma that is linked there; None: the module is
    # part of the interpreter.
    try:
        encoder = _Encoder(ctypes.CDLL(getattr(_lzma, "__file__", None)))
        encoded = encoder.compress(_TRIED, _TRIED[1:], _PRESET)
        works = decompress(Codec.LZMA2_PREFIX, encoded, len(_TRIED), _TRIED[1:]) == _TRIED
    except (OSError, AttributeError, ValueError, FormatError):
        return None
    return encoder if works else None


def can_prefix() -> bool:
    """Whether this machine's liblzma can be called: else payloads are made without prefixes."""
    return _encoder() is not None


def compress_behind(data: bytes, prefix: bytes, level: int | None = None) -> bytes:
    """`data` as a stream of Codec.LZMA2_PREFIX behind `prefix`, which is not empty.

    `level` is a preset of LZMA (0..9); None is the smallest result. The same bytes for the same version of liblzma. Takes 6 bytes of memory for each of both.
    """
    encoder = _encoder()
    if encoder is None:
        raise ValueError("no liblzma: ask can_prefix")
    return encoder.compress(data, prefix, _PRESET if level is None else level)
