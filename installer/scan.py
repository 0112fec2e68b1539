"""Which chunks of an image do not stand in a place: before writing, and after.

The scan before writing is the resume (docs/adr/0007): what stands is neither fetched nor
written again. The one after it reads past the page cache and must find nothing. Because the
chunk list hashes up to the signed root, all chunks standing is the root being right.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from slipstream.delta.digest import DIGEST_BYTES
from slipstream.delta.errors import DeviceFault
from slipstream.delta.limits import BLOCK_BYTES, CHUNK_BYTES
from slipstream.delta.tree import ChunkList, chunk_digest
from slipstream.installer.ports import SlotTarget

HASH_THREADS = 2  # the boards this is for have two cores or more; SHA-256 lets go of the GIL
_IN_FLIGHT = 2 * HASH_THREADS  # chunks in memory: 2 MiB
_ZEROS = bytes(CHUNK_BYTES)


def padded_size(target: SlotTarget, image_size: int) -> int:
    """Bytes of the place that the image takes: whole blocks where there is room.

    dm-verity reads whole blocks, so behind the end of an image the last block must be zero.
    """
    return min(-(-image_size // BLOCK_BYTES) * BLOCK_BYTES, target.size)


def missing_chunks(
    target: SlotTarget, chunks: ChunkList, on_progress: Callable[[int], None]
) -> list[int]:
    """Numbers of the chunks that do not stand in `target`, increasing. Blocking: use a thread.

    A chunk that cannot be read does not stand. `on_progress` gets the bytes read so far.
    """
    return _differing(_pieces(target, chunks), chunks, on_progress)


def wrong_chunks(
    target: SlotTarget, chunks: ChunkList, on_progress: Callable[[int], None]
) -> list[int]:
    """The same, from the medium rather than the page cache. Raises DeviceFault. Blocking."""
    size = padded_size(target, chunks.tuple.image_size)
    return _differing(target.read_back(size), chunks, on_progress)


def _pieces(target: SlotTarget, chunks: ChunkList) -> Iterator[bytes]:
    size = padded_size(target, chunks.tuple.image_size)
    for offset in range(0, size, CHUNK_BYTES):
        try:
            yield target.read(offset, min(CHUNK_BYTES, size - offset))
        except DeviceFault:
            yield b""  # a bad spot: writing it may heal it, and says so if it does not


def _differing(
    pieces: Iterable[bytes], chunks: ChunkList, on_progress: Callable[[int], None]
) -> list[int]:
    found: list[int] = []
    pending: deque[tuple[int, Future[bool]]] = deque()

    def settle() -> None:
        index, stands = pending.popleft()
        if not stands.result():
            found.append(index)
        on_progress(chunks.tuple.chunk_range(index).end)

    # Empty slots and sparse images are mostly zeros: such a chunk is hashed once for all.
    zeros = chunk_digest(_ZEROS, chunks.tuple.salt)
    with ThreadPoolExecutor(HASH_THREADS, "hash") as pool:
        for index, piece in enumerate(pieces):
            pending.append((index, pool.submit(_stands, chunks, index, piece, zeros)))
            if len(pending) == _IN_FLIGHT:
                settle()
        while pending:
            settle()
    return found


def _stands(chunks: ChunkList, index: int, piece: bytes, zeros: bytes) -> bool:
    size = chunks.tuple.chunk_range(index).size
    if size == CHUNK_BYTES and piece == _ZEROS:
        return chunks.raw[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES] == zeros
    return not any(piece[size:]) and chunks.matches(index, piece[:size])
