"""RAUC's adaptive update as a payload: the 4 KiB blocks that the source image has not.

    python -m benches.blocks encode SOURCE TARGET PAYLOAD
    python -m benches.blocks decode SOURCE PAYLOAD MADE

As rauc 1.8's block-hash-index does it: SHA-256 of every aligned 4 KiB block of the target; a device
takes a block from its own image, from what it has written already, or from the bundle. There the
blocks lie in a compressed file system; here, in groups of 64 KiB under zstd. The payload is a folder
of two files: `index`, a digest for each block of the target, and `data`, groups behind their length.
"""

import struct
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import zstandard

BLOCK_BYTES = 4096
GROUP_BYTES = 64 << 10
LEVEL = 19
_DIGEST_BYTES = 32
_LENGTH = struct.Struct("<I")


def encode(source: Path, target: Path, payload: Path) -> None:
    payload.mkdir()
    known = {sha256(block).digest() for block in blocks_of(source)}
    group = bytearray()
    compressor = zstandard.ZstdCompressor(level=LEVEL)
    with (payload / "index").open("wb") as index, (payload / "data").open("wb") as data:

        def flush() -> None:
            packed = compressor.compress(bytes(group))
            data.write(_LENGTH.pack(len(packed)) + packed)
            group.clear()

        for block in blocks_of(target):
            digest = sha256(block).digest()
            index.write(digest)
            if digest not in known:
                known.add(digest)
                group += block
                if len(group) >= GROUP_BYTES:
                    flush()
        if group:
            flush()


def decode(source: Path, payload: Path, made: Path) -> None:
    places = {sha256(block).digest(): n * BLOCK_BYTES for n, block in enumerate(blocks_of(source))}
    index = (payload / "index").read_bytes()
    fresh = _missing_blocks(payload / "data")
    written: dict[bytes, int] = {}
    with source.open("rb") as old, made.open("w+b") as new:
        for at in range(0, len(index), _DIGEST_BYTES):
            digest = index[at : at + _DIGEST_BYTES]
            place = at // _DIGEST_BYTES * BLOCK_BYTES
            if digest in places:
                old.seek(places[digest])
                block = old.read(BLOCK_BYTES)
            elif digest in written:
                new.seek(written[digest])
                block = new.read(BLOCK_BYTES)
            else:
                block = next(fresh)
                written[digest] = place
            new.seek(place)
            new.write(block)


def blocks_of(image: Path) -> Iterator[bytes]:
    """Aligned blocks; the last may be short."""
    with image.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield block


def _missing_blocks(data: Path) -> Iterator[bytes]:
    decompressor = zstandard.ZstdDecompressor()
    with data.open("rb") as file:
        while head := file.read(_LENGTH.size):
            group = decompressor.decompress(file.read(*_LENGTH.unpack(head)))
            for at in range(0, len(group), BLOCK_BYTES):
                yield group[at : at + BLOCK_BYTES]


def main() -> None:
    verb, *paths = sys.argv[1:]
    first, second, output = map(Path, paths)
    {"encode": encode, "decode": decode}[verb](first, second, output)


if __name__ == "__main__":
    main()
