"""Which compressors this machine has, by name and exact version, and where to call them.

Every one is optional and looked up when first asked for: a device without liblzo2 updates all
images but those with lzo in them. The words are those of recipes: "zlib 1.2.13", "liblz4 1.9.4".
"""

import _lzma
import ctypes
import zlib
from collections.abc import Callable, Iterable
from functools import cache
from importlib.util import find_spec
from typing import Protocol, TypeVar

from slipstream.delta.errors import PackingUnavailable
from slipstream.delta.packing.gnu_gzip import GnuGzip, find_gnu_gzip
from slipstream.delta.packing.liblz4 import LibLz4
from slipstream.delta.packing.liblzo import LibLzo
from slipstream.delta.packing.libzstd import LibZstd
from slipstream.delta.packing.recipe import Recipe


def available() -> frozenset[str]:
    """All that can pack here. Two versions of a name are possible: the system's, and a wheel's."""
    found = {f"zlib {zlib.ZLIB_RUNTIME_VERSION}", *_lzmas(), *zstds(), *lz4s(), *lzos(), *gzips()}
    return frozenset(found)


def can_pack(recipe: Recipe) -> bool:
    """Whether the library of a recipe is here, in its very version."""
    return recipe.library in available()


def check_can_pack(recipe: Recipe) -> None:
    """PackingUnavailable unless `can_pack`."""
    if not can_pack(recipe):
        raise missing(recipe.library)


def missing(library: str) -> PackingUnavailable:
    """The error for a library, named with or without a version, that is not here."""
    name = library.partition(" ")[0]
    others = sorted(found for found in available() if found.partition(" ")[0] == name)
    return PackingUnavailable(
        "library that packs these bytes is not here",
        expected=library,
        got=", ".join(others) or f"no {name}",
        hint="A full payload needs none",
    )


@cache
def zstds() -> dict[str, LibZstd]:
    """Every libzstd: the system's, which made the images, and the one in zstandard's wheel."""
    # Of the wheel's two backends this one exports libzstd's functions.
    bundled = find_spec("zstandard._cffi")
    return _load("libzstd", LibZstd, ["libzstd.so.1", *([bundled.origin] if bundled else [])])


@cache
def lz4s() -> dict[str, LibLz4]:
    """The system's liblz4, if there is one."""
    return _load("liblz4", LibLz4, ["liblz4.so.1"])


@cache
def lzos() -> dict[str, LibLzo]:
    """The system's liblzo2, if there is one."""
    return _load("lzo", LibLzo, ["liblzo2.so.2"])


@cache
def gzips() -> dict[str, GnuGzip]:
    """GNU gzip, if the gzip in PATH is it."""
    found = find_gnu_gzip()
    return {} if found is None else {f"gzip {found.version}": found}


class _Versioned(Protocol):
    version: str


class _LibLzma:
    """Only asked for its version: Python's own binding packs."""

    def __init__(self, handle: ctypes.CDLL) -> None:
        version = handle.lzma_version_string
        version.restype = ctypes.c_char_p
        self.version: str = version().decode("ascii")


@cache
def _lzmas() -> dict[str, _LibLzma]:
    # Looked up through Python's own module, so that it is the liblzma that is linked there and not
    # some other on the system. None: the module is part of the interpreter.
    return _load("liblzma", _LibLzma, [getattr(_lzma, "__file__", None)])


_V = TypeVar("_V", bound=_Versioned)


def _load(
    name: str, kind: Callable[[ctypes.CDLL], _V], files: Iterable[str | None]
) -> dict[str, _V]:
    """What of `files` can be loaded, by name and version; of equal versions the first."""
    found: dict[str, _V] = {}
    for file in files:
        try:
            library = kind(ctypes.CDLL(file))
        except (OSError, AttributeError):  # not there, not a library, or another one
            continue
        found.setdefault(f"{name} {library.version}", library)
    return found
