"""carve.py: what begins like a stream is named, with all that may be of it."""

import random

import pytest

from slipstream.delta.byterange import ByteRange
from slipstream.delta.carve import Carved, carve_bytes, carve_files
from slipstream.delta.filemap import Entry, EntryKind, Extent, Packing
from slipstream.delta.limits import KIB, MIB
from tests.delta.filesystem.packed_images import MemoryImage

GZIP, XZ, ZSTD = b"\x1f\x8b\x08\x00", b"\xfd7zXZ\x00\x00\x04", b"\x28\xb5\x2f\xfd"


def _plain(extent: Extent) -> int | None:
    return extent.place


def _file(path: str, *extents: Extent, size: int | None = None) -> Entry:
    last = extents[-1] if extents else Extent(0, 0, 0)
    return Entry(EntryKind.FILE, path, last.offset + last.size if size is None else size, extents)


@pytest.mark.parametrize(
    ("head", "packing"), [(GZIP, Packing.GZIP), (XZ, Packing.XZ), (ZSTD, Packing.ZSTD)]
)
def test_a_file_is_what_its_first_bytes_say(head: bytes, packing: Packing) -> None:
    image = MemoryImage(bytes(4096) + head + bytes(996))
    files = [
        _file("zeros", Extent(0, 4096, 0)),
        _file("doc", Extent(0, 1000, 4096)),
    ]
    assert list(carve_files(image, files, _plain)) == [
        Carved(packing, (ByteRange(4096, 1000),), "doc#1")
    ]


def test_files_that_cannot_be_streams_are_left_out() -> None:
    image = MemoryImage(GZIP + bytes(8000))
    files = [
        _file("tiny", Extent(0, 63, 0)),
        _file("hole at the front", Extent(10, 1000, 0)),
        _file("hole inside", Extent(0, 100, 0), Extent(200, 100, 100)),
        _file("hole behind", Extent(0, 100, 0), size=300),
        _file("not open", Extent(0, 100, 0, block=1)),
        _file("nothing", size=0),
        Entry(EntryKind.TABLE, "inode table", 1000, (Extent(0, 1000, 0),)),
    ]
    closed = {1: None}
    found = carve_files(image, files, lambda one: closed.get(one.block or 0, one.place))
    assert list(found) == []


def test_neighbouring_extents_are_one_place_but_for_those_of_blocks() -> None:
    image = MemoryImage(GZIP + bytes(8000))
    extents = (Extent(0, 100, 0), Extent(100, 50, 100), Extent(150, 50, 400), Extent(200, 50, 450))
    (found,) = carve_files(image, [_file("doc", *extents)], _plain)
    assert found.places == (ByteRange(0, 150), ByteRange(400, 100))
    blocks = [one._replace(block=7) for one in extents]
    (found,) = carve_files(image, [_file("doc", *blocks)], _plain)
    assert [place.size for place in found.places] == [100, 50, 50, 50]


@pytest.mark.parametrize("container", [b"MZ", b"070701"])
@pytest.mark.parametrize("at", [100, MIB - 2, MIB, MIB + 3, 3 * MIB - 1])
def test_containers_are_searched(container: bytes, at: int) -> None:
    """Also where pieces that are searched at a time meet: each is found once."""
    data = bytearray(container + bytes(3 * MIB + 100 * KIB))
    data[at : at + len(XZ)] = XZ
    image = MemoryImage(bytes(data))
    assert list(carve_bytes(image, ByteRange(0, image.size))) == [
        Carved(Packing.XZ, (ByteRange(at, image.size - at),), "#1")
    ]


def test_near_the_end_of_a_container_nothing_is_looked_for() -> None:
    data = b"MZ" + bytes(200_000)
    for at, count in ((len(data) - 64 * KIB, 1), (len(data) - 64 * KIB + 1, 0)):
        image = MemoryImage(data[:at] + ZSTD + data[at + 4 :])
        assert len(list(carve_bytes(image, ByteRange(0, image.size)))) == count


def test_streams_in_a_scattered_container_reach_over_its_places() -> None:
    image = MemoryImage(
        b"MZ" + bytes(100) + GZIP + bytes(9_894) + bytes(50_000) + ZSTD + bytes(99_996)
    )
    extents = (Extent(0, 10_000, 0), Extent(10_000, 100_000, 60_000))
    first, second = carve_files(image, [_file("kernel", *extents)], _plain)
    assert first == Carved(
        Packing.GZIP, (ByteRange(102, 9_898), ByteRange(60_000, 100_000)), "kernel#1"
    )
    assert second == Carved(Packing.ZSTD, (ByteRange(60_000, 100_000),), "kernel#2")


def test_bytes_that_are_no_container_are_not_searched() -> None:
    image = MemoryImage(b"\x7fELF" + GZIP * 1000 + bytes(100 * KIB))
    assert list(carve_bytes(image, ByteRange(0, image.size))) == []
    assert list(carve_bytes(MemoryImage(b""), ByteRange(0, 0))) == []


def test_noise_hardly_holds_candidates() -> None:
    """Each is tried, which takes time: magic numbers are three or four bytes by chance."""
    noise = b"MZ" + random.Random(1).randbytes(8 * MIB)
    assert len(list(carve_bytes(MemoryImage(noise), ByteRange(0, len(noise))))) < 10


def test_an_lz4_magic_counts_only_before_the_size_of_a_block() -> None:
    """Kernels hold the magic in their code, too."""
    data = bytearray(b"MZ" + bytes(300_000))
    magic = b"\x02\x21\x4c\x18"
    for at, size in ((1000, 0x6BBE5375), (2000, 0x00810000), (3000, 0x00800000), (4000, 5)):
        data[at : at + 8] = magic + size.to_bytes(4, "little")
    found = carve_bytes(MemoryImage(bytes(data)), ByteRange(0, len(data)))
    assert [(one.packing, one.places[0].offset) for one in found] == [
        (Packing.LZ4_LEGACY, 3000),
        (Packing.LZ4_LEGACY, 4000),
    ]
