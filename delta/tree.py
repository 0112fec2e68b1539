"""The hash tree of an image: byte for byte what dm-verity enforces at boot.

Format version 1 of dm-verity (kernel: drivers/md/dm-verity-target.c; cryptsetup:
lib/verity/verity.c), with everything fixed that the format leaves open: SHA-256, 4096-byte data
and hash blocks, a salt of 32 bytes. The digest of a block is SHA-256(salt || block). 128 digests
fill one hash block; the rest of a hash block is zero. On disk the root's level comes first.

A root alone is not safe to sign: the hash blocks of an image are themselves an image with the
same root. `VerityTuple` is what is signed; levels and sizes follow from it and are never read.

Not here: reading images, writing partitions. See docs/format.md, 2.
"""

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from slipstream.delta.byterange import ByteRange
from slipstream.delta.digest import DIGEST_BYTES, Digest
from slipstream.delta.errors import DigestMismatch, FormatError
from slipstream.delta.limits import (
    BLOCK_BYTES,
    CHUNK_BLOCKS,
    CHUNK_BYTES,
    IMAGE_BYTES_MAX,
    SALT_BYTES,
)

HASH_TYPE = 1
ALGORITHM = "sha256"
UUID_BYTES = 16

Data: TypeAlias = bytes | bytearray | memoryview
Levels: TypeAlias = tuple[bytes, ...]
Counts: TypeAlias = tuple[int, ...]

# signature, version, hash type, uuid, algorithm, data and hash block size, data blocks,
# salt size, padding, salt, padding (cryptsetup: struct verity_sb)
_SUPERBLOCK = struct.Struct("<8sII16s32sIIQH6x256s168x")


@dataclass(frozen=True, slots=True)
class VerityTuple:
    """What is signed of an image's tree. Raises FormatError for all but the one geometry.

    Sizes in bytes; `data_blocks` counts 4096-byte blocks, the last one zero padded.
    """

    hash_type: int
    algorithm: str
    data_block_size: int
    hash_block_size: int
    data_blocks: int
    salt: bytes
    image_size: int
    root: Digest

    def __post_init__(self) -> None:
        geometry = (self.hash_type, self.algorithm, self.data_block_size, self.hash_block_size)
        if geometry != (HASH_TYPE, ALGORITHM, BLOCK_BYTES, BLOCK_BYTES):
            raise FormatError(
                "a tree of another kind",
                expected=(HASH_TYPE, ALGORITHM, BLOCK_BYTES, BLOCK_BYTES),
                got=geometry,
            )
        if len(self.salt) != SALT_BYTES:
            # A fixed length: salt || block must split in one way only.
            raise FormatError(
                "salt of the wrong length", expected=f"{SALT_BYTES} bytes", got=len(self.salt)
            )
        if not 1 <= self.image_size <= IMAGE_BYTES_MAX:
            raise FormatError(
                "image size out of bounds", expected=f"1..{IMAGE_BYTES_MAX}", got=self.image_size
            )
        blocks = _ceil_div(self.image_size, BLOCK_BYTES)
        if self.data_blocks != blocks:
            raise FormatError(
                "block count does not fit the image size", expected=blocks, got=self.data_blocks
            )

    @property
    def chunk_count(self) -> int:
        """Chunks of the image: one for each 128 blocks begun."""
        return _ceil_div(self.data_blocks, CHUNK_BLOCKS)

    def chunk_range(self, index: int) -> ByteRange:
        """Image bytes of chunk `index`; the last chunk ends where the image ends."""
        if not 0 <= index < self.chunk_count:
            raise FormatError(
                "no such chunk", expected=f"0..{self.chunk_count - 1}", got=f"chunk {index}"
            )
        offset = index * CHUNK_BYTES
        return ByteRange(offset, min(CHUNK_BYTES, self.image_size - offset))

    @property
    def level_blocks(self) -> Counts:
        """Hash blocks of each level, leaf level first; empty for an image of one block."""
        counts = []
        count = self.data_blocks
        while count > 1:
            count = _ceil_div(count, CHUNK_BLOCKS)
            counts.append(count)
        return tuple(counts)

    @property
    def hash_area_size(self) -> int:
        """Bytes of the hash area on disk, without the superblock."""
        return sum(self.level_blocks) * BLOCK_BYTES

    def leaf_level_offset(self) -> int:
        """Where the leaf level begins in the hash area, in bytes: behind all levels above it."""
        return sum(self.level_blocks[1:]) * BLOCK_BYTES


@dataclass(frozen=True, slots=True)
class Tree:
    """A whole tree: `levels[0]` is the leaf level, each level whole hash blocks."""

    tuple: VerityTuple
    levels: Levels

    @property
    def chunk_list(self) -> bytes:
        """32 bytes for each chunk: the digest of its hash block (of its block, if it is alone)."""
        if len(self.levels) < 2:  # one chunk: its digest is the root
            return self.tuple.root.raw
        return self.levels[1][: self.tuple.chunk_count * DIGEST_BYTES]

    def dump(self) -> bytes:
        """The hash area as it stands on disk: the root's level first."""
        return b"".join(reversed(self.levels))


class TreeBuilder:
    """Hashes an image that arrives in order, in pieces of any size.

    Keeps 32 bytes for each 4096 of the image: 0.8 % of it. Where that is too much (a device that
    reads back a large image), check chunks against a `ChunkList` instead.
    """

    def __init__(self, salt: bytes) -> None:
        self._salt = salt
        self._state = hashlib.sha256(salt)
        self._leaves = bytearray()
        self._partial = bytearray()
        self._size = 0

    def append(self, data: Data) -> None:
        """Take the next bytes of the image."""
        view = memoryview(data)
        self._size += len(view)
        if self._partial:
            missing = BLOCK_BYTES - len(self._partial)
            self._partial += view[:missing]
            view = view[missing:]
            if len(self._partial) < BLOCK_BYTES:
                return
            self._leaves += _leaf_digests(memoryview(self._partial), self._state)
            self._partial.clear()
        whole = len(view) - len(view) % BLOCK_BYTES
        self._leaves += _leaf_digests(view[:whole], self._state)
        self._partial += view[whole:]

    def finish(self) -> Tree:
        """The tree. A last partial block counts as filled up with zeros. FormatError if empty."""
        leaves = bytes(self._leaves)
        if self._partial:
            leaves += _leaf_digests(memoryview(self._partial), self._state)
        if not leaves:
            raise FormatError("an empty image has no tree")
        levels, root = _levels_above(leaves, self._state)
        return Tree(
            VerityTuple(
                hash_type=HASH_TYPE,
                algorithm=ALGORITHM,
                data_block_size=BLOCK_BYTES,
                hash_block_size=BLOCK_BYTES,
                data_blocks=len(leaves) // DIGEST_BYTES,
                salt=self._salt,
                image_size=self._size,
                root=Digest(root),
            ),
            levels,
        )


def tree_of(pieces: Iterable[Data], salt: bytes) -> Tree:
    """The tree of an image given as pieces in order."""
    builder = TreeBuilder(salt)
    for piece in pieces:
        builder.append(piece)
    return builder.finish()


@dataclass(frozen=True, slots=True)
class ChunkList:
    """Chunk digests that hash up to the root of `tuple`. Made by `verify_chunk_list` alone.

    May be used by several threads; hashing lets go of the GIL, but see `_leaf_digests` for what a
    second thread gains.
    """

    tuple: VerityTuple
    raw: bytes

    @property
    def count(self) -> int:
        """Chunks in the list."""
        return self.tuple.chunk_count

    def check(self, index: int, data: Data) -> None:
        """DigestMismatch unless `data` is chunk `index` of the image, tail not padded."""
        expected = self.tuple.chunk_range(index)
        if len(data) != expected.size:
            raise DigestMismatch(
                "chunk of the wrong length",
                where=f"chunk {index}",
                expected=f"{expected.size} bytes",
                got=len(data),
            )
        got = chunk_digest(data, self.tuple.salt, single_block=self.tuple.data_blocks == 1)
        digest = self._digest(index)
        if got != digest:
            raise DigestMismatch(
                "chunk is not what was signed",
                where=f"chunk {index}",
                expected=digest.hex(),
                got=got.hex(),
            )

    def matches(self, index: int, leaves: bytes) -> bool:
        """Whether `leaves`, by leaf_digests(), are those of chunk `index`: for a scan.

        Decides what need not be written, never what may be: that is `check`.
        """
        size = self.tuple.chunk_range(index).size
        if len(leaves) != _ceil_div(size, BLOCK_BYTES) * DIGEST_BYTES:
            return False
        if self.tuple.data_blocks == 1:
            return leaves == self._digest(index)
        block = self.tuple.salt + leaves.ljust(BLOCK_BYTES, b"\0")
        return hashlib.sha256(block).digest() == self._digest(index)

    def levels_above_leaves(self) -> bytes:
        """All levels but the leaf level, root's level first: what precedes it in the hash area.

        With `leaf_hash_block` of each chunk this writes the whole hash area while holding
        32 bytes for each chunk.
        """
        levels, _ = _levels_above(self.raw, hashlib.sha256(self.tuple.salt))
        return b"".join(reversed(levels))

    def _digest(self, index: int) -> bytes:
        return self.raw[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]


def verify_chunk_list(raw: bytes, tuple: VerityTuple) -> ChunkList:  # noqa: A002 - the field's word
    """The chunk list, once it is shown to hash up to the root; Rejected otherwise.

    The shape is fixed by the tuple: the number of digests follows from `data_blocks`, and unused
    digest places are hashed as zeros, so a list for more or fewer blocks cannot give this root.
    """
    if len(raw) != tuple.chunk_count * DIGEST_BYTES:
        raise FormatError(
            "chunk list of the wrong length",
            expected=f"{tuple.chunk_count} digests, {tuple.chunk_count * DIGEST_BYTES} bytes",
            got=len(raw),
        )
    _, root = _levels_above(raw, hashlib.sha256(tuple.salt))
    if root != tuple.root.raw:
        raise DigestMismatch(
            "chunk list does not hash up to the signed root", expected=tuple.root, got=root.hex()
        )
    return ChunkList(tuple, bytes(raw))


def chunk_digest(data: Data, salt: bytes, *, single_block: bool = False) -> bytes:
    """Digest of a chunk: of the hash block over its blocks, 32 bytes.

    `data` is 1..524,288 bytes; a last partial block counts as filled up with zeros.
    `single_block` is for the image of one block, whose tree has no hash block at all.
    """
    if not 1 <= len(data) <= (BLOCK_BYTES if single_block else CHUNK_BYTES):
        raise FormatError("chunk of impossible length", got=len(data))
    state = hashlib.sha256(salt)
    leaves = _leaf_digests(memoryview(data), state)
    if single_block:
        return leaves
    state.update(leaves.ljust(BLOCK_BYTES, b"\0"))
    return state.digest()


def leaf_digests(data: Data, salt: bytes) -> bytes:
    """Digests of the blocks of `data`, 32 bytes each; a last partial one is zero padded.

    A chunk that is read in pieces of whole blocks needs no more memory than one of them.
    """
    return _leaf_digests(memoryview(data), hashlib.sha256(salt))


def leaf_hash_block(data: Data, salt: bytes) -> bytes:
    """The 4096-byte leaf-level hash block over one chunk, as it stands in the hash area."""
    if not 1 <= len(data) <= CHUNK_BYTES:
        raise FormatError("chunk of impossible length", got=len(data))
    return _leaf_digests(memoryview(data), hashlib.sha256(salt)).ljust(BLOCK_BYTES, b"\0")


def dump_superblock(tuple: VerityTuple, uuid: bytes) -> bytes:  # noqa: A002 - the field's word
    """The 4096-byte superblock that `veritysetup format` writes.

    Nothing signs it and the kernel never reads it: it is for tools, derived from what is signed.
    """
    if len(uuid) != UUID_BYTES:
        raise FormatError("not a UUID", expected=f"{UUID_BYTES} bytes", got=len(uuid))
    return _SUPERBLOCK.pack(
        b"verity\0\0",
        1,  # version of the superblock
        tuple.hash_type,
        uuid,
        tuple.algorithm.encode(),
        tuple.data_block_size,
        tuple.hash_block_size,
        tuple.data_blocks,
        len(tuple.salt),
        tuple.salt,
    ).ljust(BLOCK_BYTES, b"\0")


def _leaf_digests(view: memoryview, state: "hashlib._Hash") -> bytes:
    """Digests of the 4096-byte blocks of `view`, the last one zero padded.

    Copies of a state that has already taken the salt: 0.78 of the rate of one plain SHA-256
    (benches/tree.py). hashlib lets go of the GIL for each block, so a second thread helps where
    a block takes longer than handing over (250 to 520 MB/s without SHA instructions) and not
    where it does not (1.4 GB/s with them, either way).
    """
    digests = []
    salted = state.copy
    for offset in range(0, len(view), BLOCK_BYTES):
        block = salted()
        block.update(view[offset : offset + BLOCK_BYTES])
        missing = offset + BLOCK_BYTES - len(view)
        if missing > 0:
            block.update(bytes(missing))
        digests.append(block.digest())
    return b"".join(digests)


def _levels_above(digests: bytes, state: "hashlib._Hash") -> tuple[Levels, bytes]:
    """Whole-block levels over a row of digests, lowest first, and the root."""
    levels = []
    while len(digests) > DIGEST_BYTES:
        level = digests + bytes(-len(digests) % BLOCK_BYTES)
        levels.append(level)
        digests = _leaf_digests(memoryview(level), state)
    return tuple(levels), digests


def _ceil_div(count: int, size: int) -> int:
    return -(-count // size)
