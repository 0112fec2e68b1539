"""The C allocator, told to give memory back: the installer's peak depends on it.

By default glibc raises its threshold for mmap with every large block that is freed, up to 32 MiB,
keeps such blocks in the heaps of several arenas, and so an install that never holds more than 20
MiB of frames grows by 64 MiB. Measured on a 503 MB delta: 125 MiB resident by default, 72 MiB with
what is set here (benches/install.py).
"""

import ctypes

from slipstream.delta.limits import KIB

# malloc.h of glibc: mallopt(3)
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8

# Half a chunk: the buffers of the pipeline, nothing of the interpreter. Thresholds of 9 and 16 MiB
# hold 5 MiB more and are no faster (benches/install.py, 1258 MB pair).
LARGE_BLOCK_BYTES = 256 * KIB


def give_memory_back() -> bool:
    """Set fixed thresholds and one arena, for the whole process.

    Call it before threads are started. False where the C library has no mallopt (musl): its
    allocator returns large blocks anyway.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = (
        (M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES),
        (M_TRIM_THRESHOLD, 2 * LARGE_BLOCK_BYTES),
        (M_ARENA_MAX, 1),
    )
    return all(mallopt(name, value) == 1 for name, value in settings)
