"""The dm-verity hash area of an image: superblock, then the tree, root level first.

It stands behind the image, or at the beginning of a partition of its own. Computed on the device
from the image it has just verified: it costs no download. With it `veritysetup open` needs the root
hash alone, and behind the image `--hash-offset=<image blocks * 4096>`.
"""

import hashlib
from functools import partial

from slipstream.delta.errors import DeviceFault
from slipstream.delta.limits import BLOCK_BYTES
from slipstream.delta.tree import ChunkList, VerityTuple, dump_superblock, leaf_hash_block
from slipstream.installer.blocking import GoOn, in_thread
from slipstream.installer.ports import SlotTarget


def hash_area_offset(tree: VerityTuple) -> int:
    """Where the superblock stands: behind the image's last block, in bytes."""
    return tree.data_blocks * BLOCK_BYTES


def hash_area_end(tree: VerityTuple) -> int:
    """Bytes that the image takes with superblock and tree behind it."""
    return hash_area_offset(tree) + hash_partition_size(tree)


async def append_hash_area(target: SlotTarget, chunks: ChunkList) -> None:
    """Write superblock and tree behind the image that stands in `target`, and read them back.

    The image must have been verified; the leaf level is hashed from it once more. Raises
    DeviceFault when the medium gives back something else.
    """
    begin = hash_area_offset(chunks.tuple)
    await in_thread(partial(_write, target, target, begin, chunks))


async def write_hash_partition(image: SlotTarget, target: SlotTarget, chunks: ChunkList) -> None:
    """Write superblock and tree of the image that stands in `image` into a place of their own.

    As append_hash_area; `target` has room for `hash_partition_size`.
    """
    await in_thread(partial(_write, image, target, 0, chunks))


def hash_partition_size(tree: VerityTuple) -> int:
    """Bytes that superblock and tree take."""
    return BLOCK_BYTES + tree.hash_area_size


def _write(
    image: SlotTarget, target: SlotTarget, begin: int, chunks: ChunkList, go_on: GoOn
) -> None:
    tree = chunks.tuple
    upper = chunks.levels_above_leaves() if tree.data_blocks > 1 else b""
    # The file system's UUID is nobody's secret and must not differ between two installs.
    head = dump_superblock(tree, tree.root.raw[:16]) + upper
    digest = hashlib.sha256(head)
    target.write(begin, head)
    offset = begin + len(head)
    for index in range(chunks.count if tree.data_blocks > 1 else 0):
        go_on()
        span = tree.chunk_range(index)
        block = leaf_hash_block(image.read(span.offset, span.size), tree.salt)
        digest.update(block)
        target.write(offset, block)
        offset += BLOCK_BYTES
    got = hashlib.sha256()
    position = 0
    for piece in target.read_back(offset):
        go_on()
        end = position + len(piece)
        if end > begin:
            got.update(piece[max(0, begin - position) :])
        position = end
    if got.digest() != digest.digest():
        raise DeviceFault(
            "the hash tree reads back otherwise than it was written",
            where=target.name,
            expected=digest.hexdigest(),
            got=got.hexdigest(),
            hint="Replace the storage; the running slot is not touched",
        )
