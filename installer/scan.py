"""Which chunks of an image do not stand in a place: before writing, and after.

The scan before writing is the resume (docs/adr/0007): what stands is neither fetched nor
written again. The one after it reads past the page cache and must find nothing. Because the
chunk list hashes up to the signed root, all chunks standing is the root being right.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from slipstream.delta.errors import DeviceFault
from slipstream.delta.limits import BLOCK_BYTES, CHUNK_BYTES
from slipstream.delta.tree import ChunkList, leaf_digests
from slipstream.installer.ports import SlotTarget
from slipstream.installer.slot import PIECE_BYTES

SCAN_THREADS = 2  # the boards this is for have two cores or more; SHA-256 lets go of the GIL
_ZEROS = bytes(PIECE_BYTES)


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
    size = padded_size(target, chunks.tuple.image_size)
    hasher = _Hasher(chunks.tuple.salt)

    def stands(index: int) -> bool:
        try:
            return chunks.matches(index, hasher.leaves(_read(target, index * CHUNK_BYTES, size)))
        except DeviceFault:
            return False  # a bad spot: writing it may heal it, and says so if it does not

    # A thread reads and hashes a chunk piece by piece: little memory, and no handing over.
    with ThreadPoolExecutor(SCAN_THREADS, "scan") as pool:
        try:
            return _missing(pool.map(stands, range(chunks.count)), chunks, on_progress)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # or it would scan to the end first
            raise


def wrong_chunks(
    target: SlotTarget, chunks: ChunkList, on_progress: Callable[[int], None]
) -> list[int]:
    """The same, from the medium rather than the page cache. Raises DeviceFault. Blocking.

    One thread hashes while the slot reads ahead: where hashing is slow the medium is slower.
    """
    pieces = target.read_back(padded_size(target, chunks.tuple.image_size))
    hasher = _Hasher(chunks.tuple.salt)
    standing = (
        chunks.matches(index, hasher.leaves(_take_chunk(pieces))) for index in range(chunks.count)
    )
    return _missing(standing, chunks, on_progress)


def _missing(
    standing: Iterable[bool], chunks: ChunkList, on_progress: Callable[[int], None]
) -> list[int]:
    found = []
    for index, stands in enumerate(standing):
        if not stands:
            found.append(index)
        on_progress(chunks.tuple.chunk_range(index).end)
    return found


def _read(target: SlotTarget, offset: int, size: int) -> Iterator[bytes]:
    end = min(offset + CHUNK_BYTES, size)
    return (target.read(at, min(PIECE_BYTES, end - at)) for at in range(offset, end, PIECE_BYTES))


def _take_chunk(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The next pieces until they fill a chunk."""
    taken = 0
    while taken < CHUNK_BYTES and (piece := next(pieces, b"")):
        taken += len(piece)
        yield piece


class _Hasher:
    """Leaf digests of pieces. Empty slots and sparse images are mostly zeros: hashed once."""

    def __init__(self, salt: bytes) -> None:
        self._salt = salt
        self._zeros = leaf_digests(_ZEROS, salt)

    def leaves(self, pieces: Iterable[bytes]) -> bytes:
        """Of all blocks of the pieces. Bytes behind the image's end in its last block count:
        they stand for nothing but zeros in the tree.
        """
        return b"".join(
            self._zeros if piece == _ZEROS else leaf_digests(piece, self._salt) for piece in pieces
        )
