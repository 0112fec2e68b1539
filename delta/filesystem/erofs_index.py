"""The index of a compressed erofs file: where its clusters begin, in the file and in the image.

A file is cut into logical clusters of one block. For each the index says whether content of a
physical cluster begins in it (a head, with the offset where) or goes on from before; a head that
is followed by such a one learns there how many blocks its physical cluster has, if more than one
is allowed. The full index has 8 bytes for each; the compact one packs 2 of them into 8 bytes or 16
into 32, with the block number of the first.

Pure: bytes to values. Source: fs/erofs/erofs_fs.h and zmap.c of Linux.
"""

import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import NamedTuple

from slipstream.delta.errors import FormatError

FULL_ENTRY_BYTES = 8

_FULL = struct.Struct("<HHI")  # advice, offset in the logical cluster, block
_KIND = 3
_PARTIAL = 0x8000
_COUNT = 1 << 11  # in a distance: it is the number of blocks of the head before
_LOW_BITS_MIN = 12
_LOW_BITS_MAX = 14  # two bits of 16 are the kind
_BASE_BYTES = 4


class Kind(IntEnum):
    """What the index says of one logical cluster."""

    PLAIN = 0  # stored content begins
    HEAD1 = 1  # content of the file's first algorithm begins
    MIDDLE = 2  # nothing begins
    HEAD2 = 3  # content of its second algorithm begins


class Cluster(NamedTuple):
    """A physical cluster of `blocks` from block number `block`; its content begins at `offset` of the file.

    `blocks` is 0 where the index does not say it, as for a tail that stands elsewhere. `partial`
    content is only the beginning of what the cluster unpacks to.
    """

    offset: int
    kind: Kind
    block: int
    blocks: int
    partial: bool


class _Entry(NamedTuple):
    """One logical cluster: `low` is an offset in it (heads), else a distance or a count."""

    kind: int
    low: int
    block: int
    partial: bool = False


class CompactShape(NamedTuple):
    """Logical clusters in the three parts of a compact index: in pairs, in packs of 16, in pairs."""

    first: int
    middle: int
    last: int

    @property
    def size(self) -> int:
        """Bytes of the whole index."""
        return 4 * self.first + 2 * self.middle + 8 * (-(-self.last // 2))


def compact_shape(place: int, count: int, *, dense: bool) -> CompactShape:
    """The shape of a compact index of `count` logical clusters that stands at `place` of the image.

    A `dense` index has packs of 16, aligned to their 32 bytes; pairs fill the rest.
    """
    first = -place % 32 // 4
    if not dense or first >= count:
        return CompactShape(0, 0, count)
    middle = (count - first) // 16 * 16
    return CompactShape(first, middle, count - first - middle)


def parse_full(raw: bytes, block_size: int, large: frozenset[Kind]) -> Iterator[Cluster]:
    """The clusters of a full index, by offset; heads of a kind in `large` may have several blocks."""
    return _clusters(_full_entries(raw), block_size, large)


def parse_compact(
    raw: bytes, shape: CompactShape, block_size: int, large: frozenset[Kind]
) -> Iterator[Cluster]:
    """The clusters of a compact index of that shape, by offset."""
    low_bits = max(_LOW_BITS_MIN, block_size.bit_length() - 1)
    if low_bits > _LOW_BITS_MAX or (shape.middle and low_bits > _LOW_BITS_MIN):
        raise FormatError("compact index of large blocks", got=f"{block_size} bytes")
    return _clusters(_compact_entries(raw, shape, low_bits, bool(large)), block_size, large)


def _full_entries(raw: bytes) -> Iterator[_Entry]:
    for advice, offset, block in _FULL.iter_unpack(raw):
        kind = advice & _KIND
        if kind == Kind.MIDDLE:
            yield _Entry(kind, block & 0xFFFF, 0)
        else:
            yield _Entry(kind, offset, block, bool(advice & _PARTIAL))


def _compact_entries(
    raw: bytes, shape: CompactShape, low_bits: int, large: bool
) -> Iterator[_Entry]:
    place = 0
    for count, per_pack, pack_bytes in (
        (shape.first, 2, 8),
        (shape.middle, 16, 32),
        (shape.last, 2, 8),
    ):
        for done in range(0, count, per_pack):
            pack = raw[place : place + pack_bytes]
            place += pack_bytes
            yield from _pack_entries(pack, per_pack, min(per_pack, count - done), low_bits, large)


def _pack_entries(
    pack: bytes, per_pack: int, count: int, low_bits: int, large: bool
) -> Iterator[_Entry]:
    """The first `count` entries of a pack: bit fields, then a block number that its heads count on from."""
    bits = 8 * (len(pack) - _BASE_BYTES) // per_pack
    block = int.from_bytes(pack[-_BASE_BYTES:], "little")
    if not large:
        block += 1  # the number is the block before the first head's
    fields = int.from_bytes(pack[:-_BASE_BYTES], "little")
    for number in range(count):
        low = fields & (1 << low_bits) - 1
        kind = fields >> low_bits & _KIND
        fields >>= bits
        yield _Entry(kind, low, block)
        if kind != Kind.MIDDLE:
            block += 1
        elif low & _COUNT:
            # Its head has counted one block already, unless it stands in the pack before.
            block += (low & ~_COUNT) - (1 if number else 0)


def _clusters(
    entries: Iterable[_Entry], block_size: int, large: frozenset[Kind]
) -> Iterator[Cluster]:
    """Joins heads with the counts behind them. Raises FormatError for what contradicts itself."""
    head: Cluster | None = None
    counted = False  # whether the size of `head` is settled
    for number, entry in enumerate(entries):
        if entry.kind == Kind.MIDDLE:
            if head is None:
                raise FormatError("file begins in the middle of a cluster")
            if not counted and head.kind in large:
                head = head._replace(blocks=entry.low & ~_COUNT if entry.low & _COUNT else 0)
            elif entry.low & _COUNT:
                raise FormatError("count of blocks without its cluster", got=head)
            counted = True
            continue
        if head is not None:
            yield head
        if entry.low >= block_size:
            raise FormatError("offset in a cluster", expected=f"< {block_size}", got=entry.low)
        head = Cluster(
            number * block_size + entry.low, Kind(entry.kind), entry.block, 1, entry.partial
        )
        counted = False
    if head is not None:
        yield head
