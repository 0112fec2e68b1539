"""Content for packing tests, recipes of this machine's libraries, and blocks made by real tools."""

import lzma
import random
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from slipstream.delta.filemap import FileMap, Packing
from slipstream.delta.filesystem.erofs import read_erofs
from slipstream.delta.filesystem.squashfs import read_squashfs
from slipstream.delta.packing.libraries import available
from slipstream.delta.packing.recipe import Packer, Recipe, library_of
from slipstream.delta.packing.unpack import unpack


class Image:
    """A Reader of bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)

    def read(self, offset: int, size: int) -> bytes:
        return self.data[offset : offset + size]


class Sample(NamedTuple):
    """One block of an image, and the content behind it in its file."""

    packing: Packing
    packed: bytes
    content: bytes
    ahead: bytes


@cache
def content(size: int) -> bytes:
    """Like a file system's: machine code, text, zeros, noise."""
    code = Path(sys.executable).resolve().read_bytes()
    text = b"".join(
        path.read_bytes() for path in sorted(Path(lzma.__file__).parent.glob("[a-g]*.py"))
    )
    chance = random.Random(7)
    made = bytearray()
    while len(made) < size:
        source = chance.choice((code, text))
        begin = chance.randrange(len(source))
        made += source[begin : begin + chance.randrange(200_000)]
        made += chance.randbytes(chance.randrange(900)) + bytes(chance.choice((0, 100, 5000)))
    return bytes(made[:size])


def recipe(packer: Packer, *parameters: int) -> Recipe:
    """With the library that the system's tools use: of two versions, not the wheel's newer one."""
    name = library_of(packer)
    library = min(found for found in available() if found.partition(" ")[0] == name)
    return Recipe(packer, parameters, library)


# One for each way that pack.py goes.
STREAMED = [
    recipe(Packer.ZLIB, 9, 15, 8, 0),
    recipe(Packer.GZIP_GNU, 6),
    recipe(Packer.GZIP_ZLIB, 6, 8),
    recipe(Packer.XZ, 1, 0, 1 << 20, 4, 0, 0, 0),
    recipe(Packer.XZ, 0, 0, 1 << 18, 1, 4, 150_000, 24),
    recipe(Packer.ZSTD, 3, 1, 0, 1, 0, 0),
    recipe(Packer.ZSTD, 1, 1, 0, 0, 1, 0),
    recipe(Packer.LZ4_LEGACY, 9),
]
WHOLE = [
    recipe(Packer.ZSTD, 3, 0, 0, 0, 0, 0),
    recipe(Packer.LZ4, 0),
    recipe(Packer.LZ4, 12),
    recipe(Packer.LZO, 4, 8),
    recipe(Packer.LZO, 0, 0),
]


def run(*command: str | Path, given: bytes = b"") -> bytes:
    """What a tool writes for `given`."""
    words = [str(word) for word in command]
    return subprocess.run(words, input=given, capture_output=True, check=True).stdout


def squashfs(folder: Path, tree: Path, *options: str) -> tuple[FileMap, Image]:
    """An image that mksquashfs makes of a tree."""
    path = folder / "image"
    run("mksquashfs", tree, path, "-noappend", "-quiet", "-no-progress", *options)
    image = Image(path.read_bytes())
    return read_squashfs(image), image


def erofs(folder: Path, tree: Path, *options: str) -> tuple[FileMap, Image]:
    """An image that mkfs.erofs makes of a tree."""
    path = folder / "image"
    run("mkfs.erofs", *options, path, tree)
    image = Image(path.read_bytes())
    return read_erofs(image), image


def samples(map_: FileMap, image: Image) -> Iterator[Sample]:
    """All blocks of an image."""
    contents = [
        unpack(
            block.packing,
            image.read(block.place.offset, block.place.size),
            block.size or 8192,  # squashfs does not say the size of its metadata blocks
        )
        for block in map_.blocks
    ]
    behind = {}  # the block that goes on where one ends
    for entry in map_.entries:
        for extent, following in zip(entry.extents, entry.extents[1:], strict=False):
            if extent.block is not None and following.block is not None:
                behind.setdefault(extent.block, following.block)
    for number, block in enumerate(map_.blocks):
        ahead = b""
        following = behind.get(number)
        while following is not None and len(ahead) < 1 << 16:
            ahead += contents[following]
            following = behind.get(following)
        packed = image.read(block.place.offset, block.place.size)
        yield Sample(block.packing, packed, contents[number], ahead)
