"""The benchmark corpus: pairs of Debian releases in every kind of image, built once and cached.

    python -m benches.corpus [--rows ROW...] [--cache DIR]

A row is PAIR/KIND, such as full/squashfs-zstd; all rows are built by default, those that most
depends on first. Prints the two images of each row.
"""

import argparse
import fcntl
import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benches.kinds import KINDS, MKFS_EROFS, Kind, make_image, missing_for
from benches.tools import newer_mkfs_erofs
from benches.trees import TREES, Tree, unpacked

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slipstream" / "corpus"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two releases: the source and the target of a delta."""

    name: str
    title: str
    source: Tree
    target: Tree


@dataclass(frozen=True, slots=True)
class Row:
    """One pair in one kind of image: a row of every table."""

    pair: Pair
    kind: Kind

    @property
    def name(self) -> str:
        return f"{self.pair.name}/{self.kind.name}"


PAIRS = {
    pair.name: pair
    for pair in (
        Pair(
            "full",
            "Debian 12 with kernel, initrd, containerd: main to security and updates",
            TREES["full-1"],
            TREES["full-2"],
        ),
        Pair(
            "small",
            "Debian 12 without kernel: main to security and updates",
            TREES["small-1"],
            TREES["small-2"],
        ),
        Pair(
            "one",
            "Debian 12 without kernel: one package, one setting",
            TREES["one-1"],
            TREES["small-2"],
        ),
        Pair("major", "Debian 12 to Debian 13, without kernel", TREES["major-1"], TREES["major-2"]),
        Pair(
            "unrelated",
            "fonts and sounds to Debian 12 without kernel",
            TREES["other"],
            TREES["small-2"],
        ),
    )
}

# What matters most stands first: it is built and measured first.
_KINDS_OF_PAIRS = (
    ("full", ("ext4-4k",)),
    ("small", ("ext4-1k",)),
    ("full", ("squashfs-zstd", "squashfs-xz", "squashfs-gzip", "erofs-lz4hc")),
    ("small", ("squashfs-zstd", "squashfs-xz", "squashfs-gzip", "erofs-lz4hc")),
    ("full", ("kernel", "initrd-gzip", "initrd-zstd", "initrd-xz", "uki")),
    ("small", ("ext4-4k", "ext4-written", "erofs", "erofs-lz4hc-64k")),
    ("one", ("ext4-4k", "ext4-written", "squashfs-zstd", "squashfs-xz", "erofs-lz4hc")),
    ("major", ("ext4-4k", "squashfs-zstd", "squashfs-xz", "erofs-lz4hc")),
    ("unrelated", ("ext4-4k", "squashfs-zstd")),
    ("small", ("squashfs-lz4", "squashfs-lzo", "squashfs-zstd-nofrag", "squashfs-xz-1m-nofrag")),
    ("small", ("squashfs-gzip-1m", "squashfs-xz-1m", "squashfs-zstd-1m")),
    ("small", ("erofs-lzma", "erofs-deflate", "erofs-zstd")),
    ("full", ("ext4-written", "erofs", "squashfs-lz4", "squashfs-lzo", "squashfs-zstd-1m")),
)
ROWS = {
    row.name: row
    for pair, kinds in _KINDS_OF_PAIRS
    for row in (Row(PAIRS[pair], KINDS[kind]) for kind in kinds)
}


def images_of(row: Row, cache: Path) -> tuple[Path, Path]:
    """Source and target image of a row, built where they are not there yet."""
    source = _image(row.pair.source, row.kind, None, cache)
    return source, _image(row.pair.target, row.kind, source, cache)


def digest_of(image: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with image.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _image(tree: Tree, kind: Kind, before: Path | None, cache: Path) -> Path:
    name = f"{tree.name}.{kind.name}"
    if kind.follows and before is not None:
        name += f".after-{before.name.partition('.')[0]}"
    image = cache / "images" / f"{name}.img"
    if image.exists():
        return image
    with _building(cache):
        if not image.exists():  # another run may have built it while this one waited
            root = unpacked(tree, cache / "trees")
            mkfs_erofs = newer_mkfs_erofs(cache / "tools") if kind.newer_erofs else MKFS_EROFS
            make_image(kind, root, tree.image_bytes, image, before, mkfs_erofs)
    return image


@contextmanager
def _building(cache: Path) -> Iterator[None]:
    """One run at a time builds; the kernel ends the lock with its process."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "building").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS, metavar="ROW")
    parser.add_argument("--cache", type=Path, default=CACHE)
    options = parser.parse_args()
    for name in options.rows:
        row = ROWS[name]
        reason = missing_for(row.kind)
        if reason is not None:
            print(f"{name}: left out, {reason}", file=sys.stderr, flush=True)
            continue
        for image in images_of(row, options.cache):
            print(f"{name:28}{image.stat().st_size:>14,}  {image}", flush=True)


if __name__ == "__main__":
    main()
