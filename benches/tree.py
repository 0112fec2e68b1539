"""How fast chunks are checked: against a plain SHA-256 of the same bytes, on 1 and 2 threads.

    python benches/tree.py [MiB]

The device hashes every byte three times (scan, check, read-back): this is its ceiling.
"""

import hashlib
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from slipstream.delta.limits import CHUNK_BYTES, MIB
from slipstream.delta.tree import ChunkList, TreeBuilder, tree_of, verify_chunk_list

ROUNDS = 5  # the best counts: the others were disturbed


def rate(work: Callable[[], object], size: int) -> float:
    """MB of 10^6 bytes per second, best of ROUNDS."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return size / best / 1e6


def check_all(chunks: ChunkList, pieces: list[memoryview], threads: int) -> None:
    """Every chunk against its digest, as the installer does."""
    if threads == 1:
        for index, piece in enumerate(pieces):
            chunks.check(index, piece)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(chunks.check, range(len(pieces)), pieces))


def build(image: bytes, salt: bytes) -> None:
    builder = TreeBuilder(salt)
    builder.append(image)
    builder.finish()


def main() -> None:
    size = int(sys.argv[1]) * MIB if len(sys.argv) > 1 else 64 * MIB
    image, salt = os.urandom(size), os.urandom(32)
    view = memoryview(image)
    pieces = [view[offset : offset + CHUNK_BYTES] for offset in range(0, size, CHUNK_BYTES)]
    tree = tree_of([image], salt)
    chunks = verify_chunk_list(tree.chunk_list, tree.tuple)
    plain = rate(lambda: hashlib.sha256(image).digest(), size)
    print(f"plain SHA-256          {plain:7.0f} MB/s")
    for name, work in (
        ("check, 1 thread", lambda: check_all(chunks, pieces, 1)),
        ("check, 2 threads", lambda: check_all(chunks, pieces, 2)),
        ("build the tree", lambda: build(image, salt)),
    ):
        got = rate(work, size)
        print(f"{name:22} {got:7.0f} MB/s, {got / plain:.2f} of plain")


if __name__ == "__main__":
    main()
