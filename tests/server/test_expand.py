"""expand.py: contents at their addresses, in order; what is no stream stays as it is."""

import gzip
import lzma
import random
import zlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from slipstream.delta.byterange import ByteRange
from slipstream.delta.carve import Carved
from slipstream.delta.filemap import Block, Packing
from slipstream.delta.limits import BLOCK_CONTENT_BYTES_MAX, MIB, STREAM_SOURCES_MAX
from slipstream.delta.unfold import OpenBlock
from slipstream.server.expand import Candidate, Opener, candidates
from slipstream.server.pool import open_pool
from slipstream.server.progress import unwatched
from slipstream.server.workspace import WorkFiles, WorkSpace

SOURCE_SIZE = 5000


def _noise(size: int, seed: int = 1) -> bytes:
    """Bytes that pack to half their size."""
    return random.Random(seed).randbytes(size // 2).hex().encode()


class _Image:
    """A target image put together from pieces, and what of it may be opened."""

    def __init__(self) -> None:
        self.data = b""
        self.wanted: list[Candidate] = []

    def add(
        self, data: bytes, packing: Packing, *, size: int | None = None, behind: int = 0
    ) -> None:
        """Bytes of a candidate; `behind` so many that follow are thought to be of it as well."""
        place = ByteRange(SOURCE_SIZE + len(self.data), len(data) + behind)
        self.data += data
        exact = size is not None
        self.wanted.append(Candidate(packing, (place,), size, exact, "" if exact else "file#1"))

    def open(
        self, folder: Path, jobs: int = 1, wanted: Sequence[Candidate] | None = None
    ) -> tuple[list[OpenBlock], list[bytes]]:
        """What was opened, and the content that stands at the address of each."""
        (folder / "source").write_bytes(bytes(SOURCE_SIZE))
        (folder / "target").write_bytes(self.data)
        with (folder / f"scratch-{jobs}").open("w+b") as scratch, open_pool(jobs) as pool:
            files = WorkFiles(
                folder / "source",
                folder / "target",
                Path(scratch.name),
                SOURCE_SIZE,
                len(self.data),
            )
            opener = Opener(files, scratch, pool, unwatched)
            blocks = opener.open(self.wanted if wanted is None else wanted, "unpack")
            with WorkSpace(files) as space:
                contents = [space.read(one.content.offset, one.content.size) for one in blocks]
            end = files.base + sum(map(len, contents))
            assert opener.end == end == (blocks[-1].content.end if blocks else files.base)
            assert Path(scratch.name).stat().st_size == end - files.base
        position = files.base
        for one in blocks:
            assert one.content.offset == position
            position = one.content.end
        return blocks, contents


def test_contents_follow_one_another(tmp_path: Path) -> None:
    image = _Image()
    contents = [_noise(size, size) for size in (1000, 70_000, 200_000)]
    image.add(zlib.compress(contents[0]), Packing.ZLIB, size=1000)
    image.add(gzip.compress(contents[1], mtime=0), Packing.GZIP, behind=50_000)
    image.add(lzma.compress(contents[2], preset=0), Packing.XZ)
    blocks, found = image.open(tmp_path)
    assert found == contents
    for one, wanted, packing in zip(
        blocks, image.wanted, (Packing.ZLIB, Packing.GZIP, Packing.XZ), strict=True
    ):
        assert one.packing is packing
        assert one.places[0].offset == wanted.places[0].offset
    # a stream ends where it ends, and its header is no matter of a recipe
    assert blocks[1].places[0].end == blocks[2].places[0].offset
    assert [one.header_bytes for one in blocks] == [0, 10, 0]
    assert [one.name for one in blocks] == ["", "file#1", "file#1"]


@pytest.mark.parametrize(
    ("data", "packing", "size"),
    [
        (zlib.compress(b"x" * 5000), Packing.ZLIB, 4999),  # another size than the map says
        (zlib.compress(b"x" * 5000)[:-3], Packing.ZLIB, 5000),
        (b"\0" * 500, Packing.ZLIB, 5000),
        (zlib.compress(b"x" * 5000), Packing.XZ, 5000),
        (zlib.compress(bytes(2 * MIB)), Packing.ZLIB, 2 * MIB),  # more than is unpacked at once
        (gzip.compress(_noise(9000), mtime=0)[:-50], Packing.GZIP, None),
        (gzip.compress(b"hardly any", mtime=0), Packing.GZIP, None),
        (gzip.compress(_noise(2 * MIB), mtime=0)[:-50], Packing.GZIP, None),
        (b"\x1f\x8b\x08\0magic alone" + bytes(1000), Packing.GZIP, None),
        (b"\x28\xb5\x2f\xfd", Packing.ZSTD, None),
        (b"", Packing.ZLIB, 10),
    ],
)
def test_what_does_not_unpack_stays_closed(
    tmp_path: Path, data: bytes, packing: Packing, size: int | None
) -> None:
    image = _Image()
    image.add(data or b"x", packing, size=size)
    good = _noise(1000)
    image.add(zlib.compress(good), Packing.ZLIB, size=1000)
    blocks, contents = image.open(tmp_path)
    assert contents == [good]
    assert blocks[0].places == image.wanted[1].places


def test_a_long_stream_has_marks_that_are_true(tmp_path: Path) -> None:
    content = _noise(3 * MIB)
    packed = gzip.compress(content, mtime=0)
    image = _Image()
    image.add(packed, Packing.GZIP, behind=9)
    image.data += b"what else"
    (block,), (found,) = image.open(tmp_path)
    assert found == content
    assert block.is_long
    assert block.memory_bytes > 0
    assert block.places == (ByteRange(SOURCE_SIZE, len(packed)),)
    assert len(block.marks) > 100
    for mark in block.marks[::10]:
        made = zlib.decompressobj(31).decompress(packed[: block.header_bytes + mark.packed])
        assert len(made) == mark.content
    steps = [after.content - before.content for before, after in pairwise(block.marks)]
    assert max(steps) < 64_000  # cuts are to be had everywhere


def test_a_stream_in_several_places_is_marked_where_they_meet(tmp_path: Path) -> None:
    content = _noise(3 * MIB)
    packed = gzip.compress(content, mtime=0)
    image = _Image()
    image.data = packed[:700_001] + bytes(333) + packed[700_001:]
    places = (
        ByteRange(SOURCE_SIZE, 700_001),
        ByteRange(SOURCE_SIZE + 700_334, len(packed) - 700_001),
    )
    (block,), (found,) = image.open(
        tmp_path, wanted=[Candidate(Packing.GZIP, places, None, exact=False)]
    )
    assert found == content
    assert block.places == places
    assert 700_001 - block.header_bytes in {mark.packed for mark in block.marks}


def test_magic_numbers_inside_a_stream_are_no_streams(tmp_path: Path) -> None:
    inner = gzip.compress(_noise(5000), mtime=0)
    stored = zlib.compressobj(0, wbits=31)
    outer = stored.compress(inner) + stored.flush()
    image = _Image()
    image.add(outer, Packing.GZIP)
    at = outer.index(inner)
    inside = Candidate(
        Packing.GZIP, (ByteRange(SOURCE_SIZE + at, len(outer) - at),), None, exact=False
    )
    _, contents = image.open(tmp_path, wanted=[*image.wanted, inside])
    assert contents == [inner]
    _, contents = image.open(tmp_path, wanted=[inside])
    assert contents == [_noise(5000)]


def test_a_stream_in_too_many_places_stays_closed(tmp_path: Path) -> None:
    packed = gzip.compress(_noise(100_000), mtime=0)
    image = _Image()
    image.data = packed
    for count, opened in ((STREAM_SOURCES_MAX, 1), (STREAM_SOURCES_MAX + 1, 0)):
        rest = SOURCE_SIZE + 100 + count - 2  # behind a header and single bytes
        places = [ByteRange(SOURCE_SIZE, 100)]
        places += [ByteRange(at, 1) for at in range(SOURCE_SIZE + 100, rest)]
        places.append(ByteRange(rest, SOURCE_SIZE + len(packed) - rest))
        wanted = [Candidate(Packing.GZIP, tuple(places), None, exact=False)]
        blocks, _ = image.open(tmp_path, wanted=wanted)
        assert len(blocks) == opened


def test_the_same_whatever_the_jobs(tmp_path: Path) -> None:
    image = _Image()
    for number in range(600):  # several batches
        content = _noise(2000, number)
        image.add(zlib.compress(content), Packing.ZLIB, size=2000 if number % 7 else 1999)
    image.add(gzip.compress(_noise(2 * MIB), mtime=0), Packing.GZIP)
    assert image.open(tmp_path, jobs=1) == image.open(tmp_path, jobs=2)


def test_candidates_rise() -> None:
    blocks = [
        Block(Packing.ZLIB, ByteRange(300, 10), 50),
        Block(Packing.LZ4, ByteRange(10, 5), None),
    ]
    carved = [Carved(Packing.GZIP, (ByteRange(1100, 99), ByteRange(9, 1)), "a#1")]
    assert candidates(blocks, carved, 1000) == [
        Candidate(Packing.LZ4, (ByteRange(1010, 5),), None, exact=True),
        Candidate(Packing.GZIP, carved[0].places, None, exact=False, name="a#1"),
        Candidate(Packing.ZLIB, (ByteRange(1300, 10),), 50, exact=True),
    ]


def test_what_is_just_short_enough_is_unpacked_at_once(tmp_path: Path) -> None:
    image = _Image()
    for extra in (0, 1):
        image.add(gzip.compress(bytes(BLOCK_CONTENT_BYTES_MAX + extra), mtime=0), Packing.GZIP)
    blocks, _ = image.open(tmp_path)
    assert [one.is_long for one in blocks] == [False, True]
