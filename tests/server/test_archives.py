"""archives.py: the files of an initrd are named, and nothing that only looks like one hurts."""

import gzip
import lzma
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.delta.filemap import Entry, EntryKind, Extent, FileMap
from slipstream.delta.limits import KIB, MIB
from slipstream.server.archives import find_archives
from tests.server.image_pairs import archive

CHANCE = random.Random(11)
FILES = {f"usr/lib/{name}": CHANCE.randbytes(70 * KIB) for name in ("one", "two")}
CONTENT = archive(FILES)
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}
RAW = FileMap("raw")


@dataclass(frozen=True)
class Image:
    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, size: int) -> bytes:
        assert 0 <= offset <= offset + size <= self.size
        return self.data[offset : offset + size]


def holding(size: int, *extents: Extent) -> FileMap:
    return FileMap("test", entries=[Entry(EntryKind.FILE, "boot/initrd", size, extents)])


def whole(packed: bytes) -> FileMap:
    return holding(len(packed), Extent(0, len(packed), 0))


@pytest.mark.parametrize("packer", PACKERS)
def test_files_of_an_archive_are_named_with_their_places(packer: str) -> None:
    packed = PACKERS[packer](CONTENT)
    found = find_archives(
        Image(bytes(5000) + packed), holding(len(packed), Extent(0, len(packed), 5000))
    )

    assert [one.begin for one in found] == [5000]
    assert [one.path for one in found[0].files] == [f"boot/initrd/{name}" for name in FILES]
    for entry, data in zip(found[0].files, FILES.values(), strict=True):
        assert entry.size == len(data)
        (extent,) = entry.extents
        assert CONTENT[extent.place : extent.place + extent.size] == data


def test_a_fragmented_file_is_read_in_its_order() -> None:
    packed = gzip.compress(CONTENT, mtime=0)
    image = Image(packed[40_000:] + bytes(1000) + packed[:40_000])
    left = len(packed) - 40_000
    found = find_archives(
        image, holding(len(packed), Extent(0, 40_000, left + 1000), Extent(40_000, left, 0))
    )

    assert [one.begin for one in found] == [left + 1000]


def test_an_image_that_is_an_initrd_has_files_without_a_prefix() -> None:
    (found,) = find_archives(Image(gzip.compress(CONTENT, mtime=0) + b"and more"), RAW)

    assert found.begin == 0
    assert [one.path for one in found.files] == list(FILES)


def test_an_archive_behind_an_uncompressed_one_is_found() -> None:
    # As processors' microcode stands before an initrd.
    first = archive({"microcode": CHANCE.randbytes(900)})
    (found,) = find_archives(Image(first + gzip.compress(CONTENT, mtime=0)), RAW)

    assert found.begin == len(first)


@pytest.mark.parametrize(
    "content",
    [
        CHANCE.randbytes(100 * KIB),  # no archive
        CONTENT[:-2000],  # cut off
        CONTENT + bytes(64 * MIB),  # a sound one, but a bomb
        b"070701" + b"x" * 100 * KIB,
    ],
    ids=["other", "cut off", "bomb", "broken header"],
)
def test_what_is_no_archive_is_left_alone(content: bytes) -> None:
    packed = gzip.compress(content, 1).ljust(64 * KIB, b"\0")

    assert find_archives(Image(packed), whole(packed)) == []


def test_a_stream_that_is_cut_off_or_broken_is_left_alone() -> None:
    packed = bytearray(gzip.compress(CONTENT, mtime=0))
    packed[len(packed) // 2] ^= 0xFF

    assert find_archives(Image(bytes(packed)), whole(bytes(packed))) == []
    cut = bytes(gzip.compress(CONTENT, mtime=0)[:-5000])
    assert find_archives(Image(cut), whole(cut)) == []


def test_small_files_and_files_in_blocks_are_not_opened() -> None:
    small = gzip.compress(archive({"a": b"content"}), mtime=0)
    packed = gzip.compress(CONTENT, mtime=0)

    assert find_archives(Image(small), whole(small)) == []
    in_block = holding(len(packed), Extent(0, len(packed), 0, block=0))
    assert find_archives(Image(packed), in_block) == []


@settings(deadline=None)  # other work may hold the processor
@given(st.binary(max_size=400), st.sampled_from([b"", b"\x1f\x8b\x08\0", b"070701", b"MZ"]))
def test_any_bytes_are_looked_through(data: bytes, head: bytes) -> None:
    assert find_archives(Image(head + data), RAW) == []
