"""Files to make packed images of, and their content read back through a map.

The decoders here are the libraries' own, called apart from the reader's, and unbounded.
"""

import ctypes
import lzma
import os
import random
import zlib
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import zstandard

from slipstream.delta.filemap import Entry, EntryKind, FileMap, Packing

BLOCK_BYTES_MAX = 12 << 20  # what an erofs cluster may unpack to; above squashfs' 1 MiB


@dataclass(frozen=True, slots=True)
class MemoryImage:
    """A Reader of bytes."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, size: int) -> bytes:
        assert 0 <= offset <= offset + size <= len(self.data), "a reader read outside the image"
        return self.data[offset : offset + size]


def make_tree(folder: Path) -> Path:
    """A folder with a file of every sort that the formats treat in a way of its own."""
    chance = random.Random(1)
    words = [chance.randbytes(chance.randrange(2, 9)).hex().encode() for _ in range(500)]

    def text(size: int) -> bytes:
        return b" ".join(chance.choices(words, k=size // 4))[:size]

    folder.mkdir(parents=True)
    for size in (0, 1, 100, 4095, 4096, 4097, 20_000, 131_072, 300_000):
        (folder / f"text-{size}").write_bytes(text(size))
        (folder / f"noise-{size}").write_bytes(chance.randbytes(size))
    (folder / "text-1100000").write_bytes(text(1_100_000))
    (folder / "zeros").write_bytes(bytes(200_000))
    (folder / "half-noise").write_bytes(text(70_000) + chance.randbytes(70_000) + text(70_000))
    (folder / "twin-1").write_bytes(text(250_000))
    (folder / "twin-2").write_bytes((folder / "twin-1").read_bytes())
    (folder / "z-linked").write_bytes(text(9000))
    (folder / "a-linked").hardlink_to(folder / "z-linked")
    (folder / "link").symlink_to("text-100")
    with (folder / "sparse").open("wb") as sparse:
        sparse.write(text(5000))
        sparse.seek(2_000_000)
        sparse.write(text(5000))
    Path(os.fsdecode(bytes(folder) + b"/not-\xff-utf8")).write_bytes(text(3000))
    many = folder / "deep" / "deeper" / "many"
    many.mkdir(parents=True)
    (folder / "empty").mkdir()
    for number in range(700):  # a listing of several headers and more than one block
        (many / f"a-rather-long-name-of-a-small-file-{number:04}").write_bytes(text(number))
    os.setxattr(folder / "text-100", "user.note", text(40))
    os.setxattr(folder / "text-4096", "user.note", text(400))
    return folder


def make_golden_tree(folder: Path) -> Path:
    """The files of the images in erofs-1.8.6/; made of digests, so that they never change."""

    def noise(seed: str, size: int) -> bytes:
        return b"".join(sha256(f"{seed} {n}".encode()).digest() for n in range(-(-size // 32)))[
            :size
        ]

    def text(seed: str, size: int) -> bytes:
        choices = noise(seed, size // 4)
        return b" ".join(f"word{byte % 16}".encode() for byte in choices)[:size]

    long = text("a", 30_000)
    files = {
        "text": long,
        "twin": long,
        "shifted": noise("b", 137) + long[5_000:22_000] + text("c", 3_000),
        "begin": long[:17_000] + noise("d", 1_000),
        "half": text("f", 3_000) + noise("g", 4_500) + text("h", 3_000),
        "noise": noise("e", 4_200),
        "short": text("i", 4_500),
        "empty": b"",
        **{f"small/{n}": text(f"small {n}", 150 * n) for n in range(1, 6)},
    }
    (folder / "small").mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def content(image: MemoryImage, found: FileMap, entry: Entry) -> bytes:
    """The bytes of an entry, put together from its extents."""
    out = bytearray(entry.size)
    end = 0
    for extent in entry.extents:
        assert end <= extent.offset < extent.offset + extent.size <= entry.size
        end = extent.offset + extent.size
        if extent.block is None:
            piece = image.read(extent.place, extent.size)
        else:
            block = found.blocks[extent.block]
            packed = image.read(block.place.offset, block.place.size)
            unpacked = unpack(block.packing, packed, block.size)
            piece = unpacked[extent.place : extent.place + extent.size]
        assert len(piece) == extent.size
        out[extent.offset : end] = piece
    return bytes(out)


def check_files(image: MemoryImage, found: FileMap, folder: Path) -> None:
    """Every regular file of `folder` has one entry, and its content is the file's."""
    inodes: dict[int, str] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink():
                inner = os.fspath(path.relative_to(folder))
                inodes[path.stat().st_ino] = min(inner, inodes.get(path.stat().st_ino, inner))
    files = [entry for entry in found.entries if entry.kind is EntryKind.FILE]
    assert sorted(entry.path for entry in files) == sorted(inodes.values())
    for entry in files:
        assert content(image, found, entry) == (folder / entry.path).read_bytes(), entry.path


def check_map(image: MemoryImage, found: FileMap) -> None:
    """What holds for every map, whatever it was made of."""
    end = 0
    for block in found.blocks:
        assert end <= block.place.offset < block.place.end <= image.size
        end = block.place.end
    for entry in found.entries:
        end = 0
        for extent in entry.extents:
            assert end <= extent.offset < extent.offset + extent.size <= entry.size
            end = extent.offset + extent.size
            if extent.block is None:
                assert 0 <= extent.place <= image.size - extent.size
            else:
                size = found.blocks[extent.block].size
                assert size is None or extent.place + extent.size <= size


@lru_cache(maxsize=64)
def unpack(packing: Packing, packed: bytes, size: int | None) -> bytes:
    """The content of a block. LZ4 and LZO do not say how long it is: `size`, or some bound."""
    match packing:
        case Packing.ZLIB:
            return zlib.decompress(packed)
        case Packing.XZ | Packing.LZMA_ALONE:
            return lzma.decompress(packed)
        case Packing.ZSTD:
            return zstandard.ZstdDecompressor().decompress(packed)
        case Packing.LZ4 | Packing.LZ4_PADDED:
            stream = packed.lstrip(b"\0") if packing is Packing.LZ4_PADDED else packed
            out = ctypes.create_string_buffer(size or BLOCK_BYTES_MAX)
            lz4 = ctypes.CDLL("liblz4.so.1")
            unpacked = lz4.LZ4_decompress_safe(stream, out, len(stream), len(out))
            return out.raw[:unpacked]
        case Packing.LZO:
            out = ctypes.create_string_buffer(size or BLOCK_BYTES_MAX)
            length = ctypes.c_size_t(len(out))
            lzo = ctypes.CDLL("liblzo2.so.2")
            lzo.lzo1x_decompress_safe(packed, len(packed), out, ctypes.byref(length), None)
            return out.raw[: length.value]
        case Packing.MICROLZMA:
            stream = packed.lstrip(b"\0")
            # The properties stand, inverted, in the place of LZMA's first byte, which is always 0.
            properties = 255 - stream[0]
            lzma1 = {
                "id": lzma.FILTER_LZMA1,
                "lc": properties % 9,
                "lp": properties // 9 % 5,
                "pb": properties // 45,
                "dict_size": 8 << 20,
            }
            decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[lzma1])
            return decoder.decompress(b"\0" + stream[1:], size or BLOCK_BYTES_MAX)
        case Packing.DEFLATE:
            return zlib.decompressobj(-15).decompress(packed.lstrip(b"\0"))
        case Packing.ZSTD_PADDED:
            return zstandard.ZstdDecompressor().decompress(packed.lstrip(b"\0"))
        case _:
            raise AssertionError(packing)
