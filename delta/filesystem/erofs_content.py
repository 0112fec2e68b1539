"""The content of erofs inodes: from each of the five layouts to extents.

Source: fs/erofs/data.c, zmap.c and decompressor.c of Linux.
"""

import struct
from bisect import bisect_right
from collections.abc import Iterator
from itertools import chain, pairwise
from typing import NamedTuple

from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import Extent, Packing
from slipstream.delta.filesystem.blocks import BlockBook
from slipstream.delta.filesystem.erofs_index import (
    FULL_ENTRY_BYTES,
    Cluster,
    Kind,
    compact_shape,
    parse_compact,
    parse_full,
)
from slipstream.delta.filesystem.erofs_inode import DataLayout, Inode
from slipstream.delta.filesystem.erofs_superblock import Incompatible, Superblock
from slipstream.delta.filesystem.part import Part
from slipstream.delta.limits import (
    EROFS_CLUSTER_BYTES_MAX,
    EROFS_CLUSTER_UNPACKED_BYTES_MAX,
    EROFS_INDEX_BYTES_MAX,
)

_PACKINGS = (Packing.LZ4_PADDED, Packing.MICROLZMA, Packing.DEFLATE, Packing.ZSTD_PADDED)

_CHUNK_BITS, _CHUNK_INDEXES = 0x1F, 0x20  # in the address of an inode
_CHUNK_INDEX = struct.Struct("<2xHI")  # device, block
_CHUNK_BLOCK = struct.Struct("<I")
_HOLE = 0xFFFF_FFFF

_HEADER = struct.Struct("<HHHBB")  # a fragment's place (high: a tail's size), advice, algorithms
_FULL_GAP_BYTES = 8  # between the header and a full index
_DENSE, _LARGE1, _LARGE2, _INLINE_TAIL, _INTERLACED, _FRAGMENT = 0x1, 0x2, 0x4, 0x8, 0x10, 0x20
_CLUSTER_BITS, _ALL_IN_FRAGMENT = 0x07, 0x80  # of the header's last byte
_INDEX_FEATURES = Incompatible.COMPRESSORS | Incompatible.INLINE_TAILS | Incompatible.FRAGMENTS


class _Header(NamedTuple):
    """What stands before the index of a compressed inode."""

    advice: int
    packings: tuple[Packing, Packing]  # of heads of kind 1 and 2
    tail_bytes: int
    fragment_place: int
    all_in_fragment: bool


class ContentReader:
    """Reads indexes from `metadata`, and notes packed clusters in `book`."""

    def __init__(self, metadata: Part, superblock: Superblock, book: BlockBook) -> None:
        self._metadata = metadata
        self._block_size = superblock.block_size
        self._features = superblock.features
        self._book = book
        self._index_bytes_left = EROFS_INDEX_BYTES_MAX
        self._fragments: tuple[Extent, ...] | None = None

    def use_fragments(self, packed_file: Inode) -> None:
        """Take the inode whose content is the tails of others. Until then an inode with such a tail is refused."""
        self._fragments = self._book.extents(self.pieces(packed_file), packed_file.size)

    def pieces(self, inode: Inode) -> Iterator[Extent]:
        """The extents of an inode, not joined; `block` is as BlockBook.add returns it."""
        if inode.size == 0:
            return
        match inode.layout:
            case DataLayout.PLAIN:
                yield Extent(0, inode.size, inode.address * self._block_size)
            case DataLayout.INLINE:
                yield from self._inline(inode)
            case DataLayout.CHUNKS:
                yield from self._chunks(inode)
            case DataLayout.COMPRESSED_FULL | DataLayout.COMPRESSED_COMPACT:
                yield from self._compressed(inode)

    def _inline(self, inode: Inode) -> Iterator[Extent]:
        whole = (inode.size - 1) // self._block_size * self._block_size
        if whole:
            yield Extent(0, whole, inode.address * self._block_size)
        self._check_tail(inode, inode.end, inode.size - whole)
        yield Extent(whole, inode.size - whole, inode.end)

    def _check_tail(self, inode: Inode, place: int, size: int) -> None:
        if place % self._block_size + size > self._block_size:
            raise FormatError(
                "tail behind an inode crosses a block",
                where=f"inode at {inode.place}",
                got=f"offset {place}, size {size}",
            )

    def _chunks(self, inode: Inode) -> Iterator[Extent]:
        if inode.address & 0xFFFF & ~(_CHUNK_BITS | _CHUNK_INDEXES):
            raise FormatError("format of chunks", got=f"{inode.address:#x}")
        chunk_size = self._block_size << (inode.address & _CHUNK_BITS)
        count = -(-inode.size // chunk_size)
        indexed = bool(inode.address & _CHUNK_INDEXES)
        record = _CHUNK_INDEX if indexed else _CHUNK_BLOCK
        raw = self._read_index(_align(inode.end, record.size), count * record.size)
        for number, fields in enumerate(record.iter_unpack(raw)):
            block = fields[-1]
            if block == _HOLE:
                continue
            if indexed and fields[0]:
                raise FormatError("chunk on another device", where=f"inode at {inode.place}")
            offset = number * chunk_size
            yield Extent(offset, min(chunk_size, inode.size - offset), block * self._block_size)

    def _read_index(self, place: int, size: int) -> bytes:
        self._index_bytes_left -= size
        if self._index_bytes_left < 0:
            raise FormatError("indexes too large", expected=f"<= {EROFS_INDEX_BYTES_MAX} bytes")
        return self._metadata.read(place, size)

    def _compressed(self, inode: Inode) -> Iterator[Extent]:
        header = self._header(inode)
        if header.all_in_fragment:
            yield from self._fragment(header.fragment_place, inode.size, 0)
            return
        clusters, index_end = self._clusters(inode, header)
        end = 0
        for cluster, following in pairwise(chain(clusters, [None])):
            # A head at the end of the file or behind it only says that the file ends in a block.
            if cluster is None or cluster.offset != end or end >= inode.size:
                break
            end = min(inode.size, following.offset if following else inode.size)
            size = end - cluster.offset
            if end == inode.size and header.advice & _FRAGMENT:
                high = cluster.block << 32 if inode.layout is DataLayout.COMPRESSED_FULL else 0
                yield from self._fragment(header.fragment_place | high, size, cluster.offset)
                continue
            place = cluster.block * self._block_size
            length = cluster.blocks * self._block_size
            if end == inode.size and header.advice & _INLINE_TAIL:
                place, length = index_end, header.tail_bytes
                self._check_tail(inode, place, length)
            if cluster.kind is Kind.PLAIN:
                yield from self._plain(cluster, size, place, length, header.advice)
            else:
                packing = header.packings[cluster.kind is Kind.HEAD2]
                yield self._packed(cluster, size, place, length, packing)
        if end < inode.size:
            raise FormatError("clusters leave a gap", where=f"inode at {inode.place}", got=end)

    def _header(self, inode: Inode) -> _Header:
        if inode.layout is DataLayout.COMPRESSED_FULL and not self._features & _INDEX_FEATURES:
            return _Header(0, (_PACKINGS[0], _PACKINGS[0]), 0, 0, all_in_fragment=False)
        raw = self._read_index(_align(inode.end, 8), _HEADER.size)
        low, high, advice, algorithms, bits = _HEADER.unpack(raw)
        if bits & _ALL_IN_FRAGMENT:
            place = int.from_bytes(raw, "little") ^ 1 << 63
            return _Header(0, (_PACKINGS[0], _PACKINGS[0]), 0, place, all_in_fragment=True)
        if bits & _CLUSTER_BITS:
            raise FormatError("clusters of several blocks", where=f"inode at {inode.place}")
        first, second = algorithms & 0xF, algorithms >> 4
        if max(first, second) >= len(_PACKINGS):
            raise FormatError("erofs algorithm", expected=f"< {len(_PACKINGS)}", got=algorithms)
        return _Header(
            advice,
            (_PACKINGS[first], _PACKINGS[second]),
            high,
            low | high << 16,
            all_in_fragment=False,
        )

    def _clusters(self, inode: Inode, header: _Header) -> tuple[Iterator[Cluster], int]:
        """The clusters of a file, and where its index ends."""
        count = -(-inode.size // self._block_size)
        large = frozenset(
            kind
            for kind, bit in ((Kind.HEAD1, _LARGE1), (Kind.HEAD2, _LARGE2))
            if header.advice & bit
        )
        place = _align(inode.end, 8) + _HEADER.size
        if inode.layout is DataLayout.COMPRESSED_FULL:
            place += _FULL_GAP_BYTES
            raw = self._read_index(place, count * FULL_ENTRY_BYTES)
            clusters = parse_full(raw, self._block_size, large)
        else:
            shape = compact_shape(place, count, dense=bool(header.advice & _DENSE))
            raw = self._read_index(place, shape.size)
            clusters = parse_compact(raw, shape, self._block_size, large)
        return clusters, place + len(raw)

    def _packed(
        self, cluster: Cluster, size: int, place: int, length: int, packing: Packing
    ) -> Extent:
        if not self._features & Incompatible.ZERO_PADDING:
            # Before Linux 5.4 the zeros stood behind LZ4's end, which then nothing tells.
            raise FormatError("erofs clusters without zero padding")
        if not 0 < length <= EROFS_CLUSTER_BYTES_MAX or size > EROFS_CLUSTER_UNPACKED_BYTES_MAX:
            raise FormatError(
                "size of a cluster",
                expected=f"1..{EROFS_CLUSTER_BYTES_MAX}, {EROFS_CLUSTER_UNPACKED_BYTES_MAX} unpacked",
                got=f"{length}, {size} unpacked",
            )
        key = self._book.add(packing, place, length, 0 if cluster.partial else size)
        return Extent(cluster.offset, size, 0, key)

    def _plain(
        self, cluster: Cluster, size: int, place: int, length: int, advice: int
    ) -> Iterator[Extent]:
        """Stored content: from the begin of its block, or rotated so that it begins where it does in the file."""
        shift = cluster.offset % self._block_size if advice & _INTERLACED else 0
        if size > length or shift > length:
            raise FormatError("stored cluster too long", expected=f"<= {length}", got=size)
        right = min(size, length - shift)
        yield Extent(cluster.offset, right, place + shift)
        if right < size:
            yield Extent(cluster.offset + right, size - right, place)

    def _fragment(self, place: int, size: int, offset: int) -> Iterator[Extent]:
        """`size` bytes at `offset` of a file, which stand in the packed file from `place` on."""
        if self._fragments is None:
            raise FormatError("a tail in the packed file, which is not there")
        done = 0
        number = bisect_right(self._fragments, place, key=lambda piece: piece.offset) - 1
        while done < size:
            if not 0 <= number < len(self._fragments):
                raise FormatError(
                    "tail outside the packed file", got=f"offset {place}, size {size}"
                )
            extent = self._fragments[number]
            skip = place + done - extent.offset
            length = min(extent.size - skip, size - done)
            if length <= 0:
                raise FormatError("tail in a hole of the packed file", got=f"offset {place + done}")
            yield Extent(offset + done, length, extent.place + skip, extent.block)
            done += length
            number += 1


def _align(place: int, unit: int) -> int:
    return -(-place // unit) * unit
