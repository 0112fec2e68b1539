"""What a file system says about an image: where each file's bytes stand, and what is packed.

A `FileMap` is what the readers (delta/filesystem/) make of an image. Nothing in it is believed
by a device: the encoder uses it to find similar bytes, and proves whatever it makes of it. A
wrong map costs payload size, never a wrong target.

A block is a compressed stretch of the image: a squashfs data block, fragment or metadata block,
an erofs physical cluster, or a whole compressed file. Its content is addressed by block number
and an offset in the unpacked bytes.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from slipstream.delta.byterange import ByteRange


class Packing(Enum):
    """How the bytes of a block are compressed: the container and its codec."""

    ZLIB = "zlib"  # RFC 1950: squashfs gzip
    XZ = "xz"  # an .xz stream: squashfs xz, kernels, .ko.xz
    ZSTD = "zstd"  # frames of RFC 8878: squashfs zstd, .ko.zst
    LZ4 = "lz4"  # one raw LZ4 block: squashfs lz4
    LZO = "lzo"  # one raw LZO1X block: squashfs lzo
    LZ4_LEGACY = "lz4 -l"  # blocks of 8 MiB in the legacy framing: kernels, initrds
    LZ4_PADDED = "erofs lz4"  # a raw LZ4 block behind zeros that fill the cluster: erofs
    MICROLZMA = "erofs lzma"  # LZMA without its first byte, behind zeros: erofs
    DEFLATE = "erofs deflate"  # raw RFC 1951, behind zeros: erofs
    ZSTD_PADDED = "erofs zstd"  # a zstd frame, behind zeros: erofs
    GZIP = "gzip"  # RFC 1952 members: .gz files, initrd
    LZMA_ALONE = "lzma"  # squashfs lzma, .lzma


class Block(NamedTuple):
    """One compressed stretch. `size` is what it unpacks to, in bytes; None where only unpacking tells."""

    packing: Packing
    place: ByteRange  # of the image, padding included
    size: int | None


class Extent(NamedTuple):
    """`size` bytes of a file from `offset` of it on.

    With `block` None they stand in the image from `place` on; else `place` is an offset in the
    unpacked bytes of `blocks[block]`. What no extent of a file covers is zeros.
    """

    offset: int
    size: int
    place: int
    block: int | None = None


class EntryKind(Enum):
    """What an entry of a map is."""

    FILE = "file"
    TABLE = "table"  # the file system's own: inodes, directories, bitmaps


class Entry(NamedTuple):
    """A file, or a table of the file system: its extents rise by offset and do not overlap.

    `path` has no leading slash; tables have names such as `inode table`. Bytes of a path that
    are not UTF-8 are surrogates, as os.fsdecode makes them. Several paths of one file (hard
    links) are one entry, under the path that sorts first.
    """

    kind: EntryKind
    path: str
    size: int
    extents: tuple[Extent, ...]


@dataclass(slots=True)
class FileMap:
    """All that a reader found. `kind` names the file system as a person would: `ext4, 4096-byte blocks`.

    `blocks` do not overlap and rise by place. `hints` are numbers that the file system says about
    its compressor (`level`, `dict_size`, `block_size`, `filters` ...), for reproducing it.
    `notes` say in words what could not be read, a line each.
    """

    kind: str
    blocks: list[Block] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    hints: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
