"""Packing again: every packer, streams over many frames, resumed anywhere, and what is hostile."""

import gzip
import random
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.delta import repack
from slipstream.delta.byterange import ByteRange
from slipstream.delta.decode import FrameDecoder
from slipstream.delta.errors import FormatError, PackingUnavailable
from slipstream.delta.filemap import Packing
from slipstream.delta.frame import Part
from slipstream.delta.limits import HELD_BYTES_MAX, KIB, MIB
from slipstream.delta.packing.headers import GZIP_PLAIN_HEADER, unpack_memory_bytes
from slipstream.delta.packing.pack import pack
from slipstream.delta.packing.recipe import Packer, Recipe, decoder_memory_bytes
from slipstream.delta.repack import Piece, Repacker
from tests.delta.payloads import (
    LONG_RECIPES,
    Made,
    Maker,
    long_parts,
    pieces,
    recipe_of,
    run,
    text,
)

LONG = text(1, MIB + 12_345)
CUTS = (150_000, 7, 250_000, 128 * KIB, 1)
BLOCK_RECIPES = {
    "zlib": (Packer.ZLIB, 9, 15, 8, 0),
    "GNU gzip": (Packer.GZIP_GNU, 9),
    "gzip of zlib": (Packer.GZIP_ZLIB, 6, 8),
    "xz": (Packer.XZ, 0, 0, 64 * KIB, 1, 0, 0, 0),
    "zstd": (Packer.ZSTD, 3, 0, 0, 0, 0, 0),
    "lz4": (Packer.LZ4, 0),
    "lz4 hc": (Packer.LZ4, 12),
}


class Target:
    """A target on its way: what frames made so far, over what stood there."""

    def __init__(self, made: Made, standing: bytes | None = None) -> None:
        self.made = made
        self.data = bytearray(bytes(len(made.target)) if standing is None else standing)
        self.repacker = Repacker(made.index.frames, self.read)

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self.data[offset : offset + size])

    def feed(self, number: int, content: bytes) -> list[Piece]:
        made = self.repacker.feed(number, content)
        for piece in made:
            self.data[piece.offset : piece.offset + len(piece.data)] = piece.data
        return made


# --- blocks


@pytest.mark.parametrize("name", BLOCK_RECIPES)
def test_blocks_are_packed_again_within_their_frame(name: str) -> None:
    recipe = recipe_of(*BLOCK_RECIPES[name])
    first, second, plain = text(2, 70_000), text(3, 128 * KIB), text(4, 999)
    packed = [pack(recipe, one, 0) for one in (first, second)]
    maker = Maker()
    maker.zero(500)
    maker.data(
        first + plain + second,
        made=packed[0] + plain + packed[1],
        parts=[
            Part(len(first), len(packed[0]), recipe),
            Part(len(plain), len(plain)),
            Part(len(second), len(packed[1]), recipe),
        ],
    )
    maker.packed(recipe, first)
    made = maker.finish()

    assert made.index.libraries == (recipe.library,)
    assert made.target == bytes(500) + packed[0] + plain + packed[1] + packed[0]
    assert run(made) == made.target


def test_an_encoder_sees_content_that_does_not_become_target() -> None:
    """erofs: the encoder of a cluster looks at what follows in the file."""
    recipe = recipe_of(Packer.LZ4_DEST, 0, 4096, 0)
    content, ahead = text(5, 9000), text(6, 4096)
    packed = pack(recipe, content, 8192, ahead)
    maker = Maker()
    maker.data(
        content + ahead,
        made=packed,
        parts=[Part(len(content), len(packed), recipe), Part(len(ahead), 0)],
    )
    assert run(maker.finish()) == packed


def test_content_of_the_source_is_packed_again_too() -> None:
    recipe = recipe_of(*BLOCK_RECIPES["zlib"])
    old = text(7, 100_000)
    packed = pack(recipe, old, 0)
    new = old[:5000] + b"changed" + old[5007:]
    made_of_new = pack(recipe, new, 0)
    maker = Maker(packed, len(made_of_new) + len(packed))
    at = maker.stream(Packing.ZLIB, [ByteRange(0, len(packed))], len(old))
    maker.diff(
        [ByteRange(at, len(old))],
        old,
        new,
        made=made_of_new,
        parts=[Part(len(new), len(made_of_new), recipe)],
    )
    maker.copy(
        [ByteRange(at, len(old))],
        old,
        made=packed,
        parts=[Part(len(old), len(packed), recipe)],
    )
    made = maker.finish()
    assert run(made) == made_of_new + packed


def test_a_block_that_packs_to_another_length_is_refused() -> None:
    recipe = recipe_of(*BLOCK_RECIPES["zlib"])
    content = text(8, 5000)
    size = len(pack(recipe, content, 0))
    for packed_size in (size - 1, size + 1):
        maker = Maker()
        maker.data(content, made=bytes(packed_size), parts=[Part(5000, packed_size, recipe)])
        with pytest.raises(FormatError, match="packs to another length"):
            run(maker.finish())


def test_a_library_that_is_not_here_is_said() -> None:
    recipe = Recipe(Packer.ZLIB, (9, 15, 8, 0), "zlib 0.1")
    maker = Maker()
    maker.data(text(9, 500), made=bytes(100), parts=[Part(500, 100, recipe)])
    with pytest.raises(PackingUnavailable, match=r"zlib 0\.1"):
        run(maker.finish())


# --- long streams


def long_payload(name: str, contents: Sequence[bytes] | None = None) -> Made:
    """Bytes before, a long stream, bytes behind."""
    maker = Maker()
    maker.data(text(10, 5000))
    maker.long(recipe_of(*LONG_RECIPES[name]), contents or pieces(LONG, *CUTS))
    maker.data(text(11, 5000))
    return maker.finish()


@pytest.mark.parametrize("name", LONG_RECIPES)
def test_a_long_stream_comes_out_in_order_and_whole(name: str) -> None:
    made = long_payload(name)
    target = Target(made)
    position = 0
    owed = 0
    contents = [text(10, 5000), *pieces(LONG, *CUTS), text(11, 5000)]
    for number, content in enumerate(contents):
        for piece in target.feed(number, content):
            assert piece.offset == position
            position += len(piece.data)
        end = made.index.frames[number].target.end
        assert target.repacker.due_offset == (None if position == end else position)
        owed += position < end
    assert bytes(target.data) == made.target
    assert owed  # the encoder does give bytes late: without that the test shows nothing


@pytest.mark.parametrize("name", LONG_RECIPES)
def test_a_long_stream_resumes_at_every_frame(name: str) -> None:
    """What the frames before account for stands there, and nothing else of the target."""
    made = long_payload(name)
    for first, frame in enumerate(made.index.frames):
        standing = made.target[: frame.target.offset].ljust(len(made.target), b"\xff")
        numbers = range(first, len(made.index.frames))
        assert run(made, numbers, standing) == made.target


def test_a_device_that_resumes_reads_no_source_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cursor on a source, and the decoder of what stands, are not there at one time."""
    source = gzip.compress(LONG, mtime=0)
    recipe, contents = recipe_of(*LONG_RECIPES["xz"]), pieces(LONG, *CUTS)
    maker = Maker(source, 5000 + len(pack(recipe, LONG, 0)))
    address = maker.stream(Packing.GZIP, [ByteRange(0, len(source))], len(LONG), memory_bytes=MIB)
    maker.copy([ByteRange(address, 5000)], LONG[:5000])
    maker.long(recipe, contents, edited=(address, LONG))
    made = maker.finish()
    open_cursors: list[int] = []
    standing = bytearray(made.target)

    def noted(*arguments: Any) -> Iterator[bytes]:
        open_cursors.append(len(decoder._space._cursors))
        return unpacked(*arguments)

    unpacked = repack._unpacked
    monkeypatch.setattr(repack, "_unpacked", noted)
    read = (
        lambda at, size: source[at : at + size],
        lambda at, size: bytes(standing[at : at + size]),
    )
    with FrameDecoder(made.index, *read) as decoder:
        decoder.feed(0, made.encoded(0))
        assert len(decoder._space._cursors) == 1
        for number in range(3, len(made.index.frames)):
            for piece in decoder.feed(number, made.encoded(number)):
                end = piece.offset + len(piece.data)
                assert made.target[piece.offset : end] == piece.data
        assert decoder.due_offset is None
    assert open_cursors == [0]


@pytest.mark.parametrize("name", LONG_RECIPES)
def test_content_may_come_in_pieces_of_any_size(name: str) -> None:
    for sizes in ((len(LONG),), (128 * KIB,), (128 * KIB - 1, 1), (MIB // 2 - 1,)):
        made = long_payload(name, pieces(LONG, *sizes))
        assert run(made) == made.target


@given(
    sizes=st.lists(st.integers(1, 200_000), min_size=1, max_size=5),
    name=st.sampled_from(["gzip of zlib", "zstd"]),
    data=st.data(),
)
@settings(max_examples=25, deadline=None)
def test_any_cuts_resume_anywhere(sizes: list[int], name: str, data: st.DataObject) -> None:
    sizes.append(150_000)  # some packed bytes are left for the last frame
    contents = pieces(LONG[: sum(sizes)], *sizes)
    made = long_payload(name, contents)
    first = data.draw(st.integers(0, len(contents) + 1))
    done = made.index.frames[first].target.offset
    standing = made.target[:done].ljust(len(made.target), b"\0")
    assert run(made, range(first, len(contents) + 2), standing) == made.target


def test_two_long_streams_follow_each_other() -> None:
    maker = Maker()
    for name in ("gzip of zlib", "xz"):
        maker.long(recipe_of(*LONG_RECIPES[name]), pieces(LONG, *CUTS))
    made = maker.finish()
    assert run(made) == made.target
    half = len(pieces(LONG, *CUTS))
    for first in (half - 1, half, half + 1):
        done = made.index.frames[first].target.offset
        standing = made.target[:done].ljust(len(made.target), b"\0")
        assert run(made, range(first, 2 * half), standing) == made.target


def test_frames_left_out_of_the_middle_of_a_stream_are_missed() -> None:
    """They stand, but the encoder still owes bytes before them: the caller must feed them."""
    made = long_payload("xz")
    contents = [text(10, 5000), *pieces(LONG, *CUTS)]
    target = Target(made, made.target)
    target.feed(1, contents[1])
    assert target.repacker.due_offset is not None
    with pytest.raises(FormatError, match="before the one before it was complete"):
        target.feed(3, contents[3])
    target.repacker.drop()
    assert target.repacker.due_offset is None
    target.feed(3, contents[3])  # begun with again, from what stands


def test_a_stream_that_does_not_stand_is_not_resumed() -> None:
    made = long_payload("gzip of zlib")
    for standing in (bytes(len(made.target)), b"\xff" * len(made.target)):
        with pytest.raises(FormatError):
            run(made, range(3, len(made.index.frames)), standing)


def test_a_stream_of_another_length_is_refused() -> None:
    recipe = recipe_of(*LONG_RECIPES["gzip of zlib"])
    contents = pieces(LONG, *CUTS)
    packed, parts = long_parts(recipe, contents)
    for shift in (-1, 1):
        maker = Maker()
        done = 0
        last = replace(parts[-1], packed_size=parts[-1].packed_size + shift)
        for part, content in zip([*parts[:-1], last], contents, strict=True):
            made = packed[done : done + part.packed_size].ljust(part.packed_size, b"\0")
            maker.data(content, made=made, parts=[part])
            done += part.packed_size
        with pytest.raises(FormatError, match="packs to another length"):
            run(maker.finish())


@pytest.mark.parametrize("name", LONG_RECIPES)
@pytest.mark.parametrize("first", [0, 4])
def test_a_long_stream_keeps_to_the_declared_memory(name: str, first: int) -> None:
    """From its beginning, and resumed: the encoder, one frame, and what waits."""
    made = long_payload(name)
    standing = made.target[: made.index.frames[first].target.offset]
    standing = standing.ljust(len(made.target), b"\0")
    tracemalloc.start()
    assert run(made, range(first, len(made.index.frames)), standing) == made.target
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < made.index.memory_bytes + 3 * len(made.target)  # read, and made, in this test


# --- frames between


def gap_payload(gap_bytes: int, name: str = "xz") -> tuple[Made, list[bytes]]:
    """A long stream with other frames between its parts: a file in several extents."""
    recipe = recipe_of(*LONG_RECIPES[name])
    contents = pieces(LONG, *CUTS)
    packed, parts = long_parts(recipe, contents)
    maker = Maker()
    fed: list[bytes] = []
    done = 0
    for number, (part, content) in enumerate(zip(parts, contents, strict=True)):
        maker.data(content, made=packed[done : done + part.packed_size], parts=[part])
        fed.append(content)
        done += part.packed_size
        if number % 2 == 0:
            between = text(20 + number, gap_bytes)
            maker.data(between)
            maker.zero(77)
            fed += [between, bytes(77)]
    return maker.finish(), fed


@pytest.mark.parametrize("name", LONG_RECIPES)
def test_frames_between_wait_for_the_stream(name: str) -> None:
    made, fed = gap_payload(40_000, name)
    target = Target(made)
    position = 0
    for number, content in enumerate(fed):
        for piece in target.feed(number, content):
            assert piece.offset == position
            position += len(piece.data)
    assert position == len(made.target)
    assert bytes(target.data) == made.target


@pytest.mark.parametrize("name", ["GNU gzip", "xz", "zstd"])
def test_a_stream_with_frames_between_resumes_at_every_frame(name: str) -> None:
    made, fed = gap_payload(40_000, name)
    for first, frame in enumerate(made.index.frames):
        standing = made.target[: frame.target.offset].ljust(len(made.target), b"\xff")
        assert run(made, range(first, len(fed)), standing) == made.target


def test_frames_between_whose_target_stands_may_be_left_out() -> None:
    made, fed = gap_payload(40_000)
    standing = bytearray(made.target)
    stream = [n for n, frame in enumerate(made.index.frames) if frame.long_part is not None]
    for number in stream:
        place = made.index.frames[number].target
        standing[place.offset : place.end] = bytes(place.size)
    assert len(stream) < len(fed)
    assert run(made, stream, bytes(standing)) == made.target


def test_what_waits_for_a_stream_is_bounded() -> None:
    made, fed = gap_payload(HELD_BYTES_MAX // 2)
    target = Target(made)

    def feed_all() -> None:
        for number, content in enumerate(fed):
            target.feed(number, content)

    tracemalloc.start()
    with pytest.raises(FormatError, match="too many bytes wait"):
        feed_all()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < made.index.memory_bytes


def test_a_stream_that_gives_more_than_its_frames_say_is_bounded() -> None:
    """Its frames claim a byte each: the encoder's output would pile up."""
    recipe = recipe_of(*LONG_RECIPES["gzip of zlib"])
    noise = random.Random(1).randbytes(3 * MIB)
    maker = Maker()
    for number in range(4):
        part = Part(len(noise), 1, recipe, begins=number == 0, ends=number == 3)
        maker.data(noise, made=b"x", parts=[part])
    made = maker.finish()
    target = Target(made)
    tracemalloc.start()
    with pytest.raises(FormatError, match="packs to more than its parts say"):
        target.feed(0, noise)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * MIB  # it would give 3 MiB


@pytest.mark.parametrize("name", BLOCK_RECIPES)
def test_a_block_that_gives_more_than_its_frame_says_is_bounded(name: str) -> None:
    """It claims a byte: no more of what it packs to is held than was declared."""
    noise = random.Random(2).randbytes(7 * MIB)
    maker = Maker()
    maker.data(noise, made=b"x", parts=[Part(len(noise), 1, recipe_of(*BLOCK_RECIPES[name]))])
    made = maker.finish()
    tracemalloc.start()
    with pytest.raises(FormatError, match="packs to another length"):
        Target(made).feed(0, noise)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < made.index.memory_bytes - len(noise)


def resumed_payload(said: Recipe, contents: Sequence[bytes], packed: bytes) -> Made:
    """A long stream of two frames, that `said` does not pack to `packed`, whose first stands."""
    maker = Maker()
    for number, content in enumerate(contents):
        last = number == len(contents) - 1
        part = Part(len(content), 1 if last else len(packed), said, not number, last)
        maker.data(content, made=b"x" if last else packed, parts=[part])
    return maker.finish()


def test_what_a_resumed_encoder_gives_too_much_is_bounded_from_the_first_byte() -> None:
    content = text(12, 7 * MIB)
    packed = pack(recipe_of(Packer.GZIP_ZLIB, 9, 8), content, 0)
    made = resumed_payload(recipe_of(Packer.GZIP_ZLIB, 1, 1), [content, b"end"], packed)
    target = Target(made, made.target)
    read: list[int] = []

    def watched(offset: int, size: int) -> bytes:
        read.append(size)
        return target.read(offset, size)

    target.repacker = Repacker(made.index.frames, watched)
    with pytest.raises(FormatError, match="packs to more than its parts say"):
        target.feed(1, b"end")
    assert sum(read) < len(packed) * 3 // 4


@pytest.mark.parametrize("name", LONG_RECIPES)
def test_a_resumed_stream_is_unpacked_with_the_memory_that_its_recipe_says(name: str) -> None:
    recipe = recipe_of(*LONG_RECIPES[name])
    head = pack(recipe, LONG, 0)[: 64 * KIB]
    head = GZIP_PLAIN_HEADER + head if recipe.packing is Packing.GZIP else head
    needed = unpack_memory_bytes(recipe.packing, head)
    assert needed <= decoder_memory_bytes(recipe) <= max(needed, 3 * MIB)


def test_a_stream_that_takes_more_to_unpack_than_its_recipe_says_is_not_resumed() -> None:
    said, greedy = (recipe_of(Packer.XZ, 0, 0, size, 1, 0, 0, 0) for size in (64 * KIB, 32 * MIB))
    packed = pack(greedy, LONG, 0)
    made = resumed_payload(said, [LONG, b"end"], packed)
    with pytest.raises(FormatError, match="broken xz stream"):
        Target(made, made.target).feed(1, b"end")


# --- packed twice


def test_a_block_inside_a_block_is_packed_twice() -> None:
    """A gzip file in a squashfs block."""
    inner, outer = recipe_of(*BLOCK_RECIPES["GNU gzip"]), recipe_of(*BLOCK_RECIPES["zlib"])
    content, before, behind = text(30, 50_000), text(31, 700), text(32, 9000)
    file = pack(inner, content, 0)
    middle = before + file + behind
    packed = pack(outer, middle, 0)
    maker = Maker()
    maker.data(
        before + content + behind,
        made=packed,
        parts=[
            Part(len(before), len(before)),
            Part(len(content), len(file), inner),
            Part(len(behind), len(behind)),
        ],
        outer=[Part(len(middle), len(packed), outer)],
    )
    made = maker.finish()
    assert run(made) == packed
    assert made.index.recipes == (inner, outer)


def twice_payload(name: str, *cuts: int) -> Made:
    """An initrd in a squashfs image: its frames end anywhere within the blocks."""
    maker = Maker()
    maker.data(text(40, 3000))
    maker.long_in_blocks(
        recipe_of(*LONG_RECIPES[name]),
        recipe_of(*BLOCK_RECIPES["zlib"]),
        pieces(LONG, *cuts),
        before=text(41, 40_000),
        behind=text(42, 90_000),
    )
    maker.data(text(43, 3000))
    return maker.finish()


@pytest.mark.parametrize("name", LONG_RECIPES)
def test_a_long_stream_inside_blocks_is_packed_twice(name: str) -> None:
    made = twice_payload(name, *CUTS)
    assert run(made) == made.target


@pytest.mark.parametrize("name", LONG_RECIPES)
def test_a_long_stream_inside_blocks_resumes_where_nothing_is_owed(name: str) -> None:
    """Blocks that wait for a frame's bytes stand, or that frame is not begun with."""
    made = twice_payload(name, 40_000, 90_000)
    frames = made.index.frames
    assert any(frame.owed for frame in frames)
    assert not all(frame.target.size for frame in frames)  # some only fill blocks before them
    for first, frame in enumerate(frames):
        standing = made.target[: frame.target.offset].ljust(len(made.target), b"\xff")
        numbers = range(first, len(frames))
        if frame.owed:
            with pytest.raises(FormatError, match="resumed within a block"):
                run(made, numbers, standing)
        else:
            assert run(made, numbers, standing) == made.target
