"""Functions of numbers and arrays as machine code (build machine).

The one file that imports numba. `compiled` takes the types of a function's arguments, so that it is
compiled when its module is imported, not in the middle of a build, and by the process that starts
workers, not by each of them. What was compiled is kept in `__pycache__` beside the module, or where
that cannot be written below the user's cache, or $NUMBA_CACHE_DIR; where nothing can be written each
process compiles anew. Integers only: results do not depend on the processor.

Contract: a function that calls another compiled one stands in the same file, since a change to that
file is all that makes a kept result stale. No index is checked, as in C.
"""

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

from numba import njit

_P = ParamSpec("_P")
_R = TypeVar("_R")

BYTES = "Array(uint8, 1, 'C', readonly=True)"  # numpy.frombuffer of bytes; writable arrays fit too


def compiled(signature: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Decorator: the function as machine code for arguments of numba's `signature`.

    It holds no interpreter lock while it runs.
    """

    def compile_it(function: Callable[_P, _R]) -> Callable[_P, _R]:
        try:
            made = njit(signature, cache=True, nogil=True)(function)
        except RuntimeError as error:
            if "cannot cache function" not in str(error):
                raise
            made = njit(signature, nogil=True)(function)
        return cast("Callable[_P, _R]", made)

    return compile_it
