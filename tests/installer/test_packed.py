"""Compressed content in an install: packed again, cut off anywhere, and come out differently."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import current_thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.delta.byterange import ByteRange
from slipstream.delta.errors import FormatError, Rejected, Unavailable
from slipstream.delta.filemap import Packing
from slipstream.delta.frame import Frame, Part, make_frame
from slipstream.delta.limits import CHUNK_BYTES, KIB, MIB
from slipstream.delta.packing.headers import GZIP_PLAIN_HEADER, unpack_memory_bytes
from slipstream.delta.packing.pack import pack
from slipstream.delta.packing.recipe import Packer, Recipe
from slipstream.delta.payload import dump_index, parse_index
from slipstream.installer import pipe, stream
from slipstream.installer.frame_numbers import chunk_span, frames_of
from slipstream.installer.frames import FrameSource
from slipstream.installer.status import read_status
from tests.delta.payloads import (
    BLOCK_RECIPES,
    LONG_RECIPES,
    Made,
    Maker,
    everything,
    long_parts,
    noise,
    pieces,
    recipe_of,
    text,
    touched,
    with_table,
)
from tests.installer.lab import Killed, Lab, LabRelease, make_payload
from tests.installer.rig import Rig

CUTS = (400_000, 300_001, 64 * KIB)  # content of the frames of a long stream


def rig_of(folder: Path, made: Made, standing: bytes = b"") -> Rig:
    source = made.source or b"nothing is read of it"
    return Rig(folder, made.target, source, standing, (made.index, made.raw))


def add_long(maker: Maker, name: str, old: bytes, packed_old: ByteRange, head: bytes) -> None:
    """A changed long stream, as frames that edit the old one's content."""
    recipe = recipe_of(*LONG_RECIPES[name])
    at = maker.stream(
        recipe.packing,
        [packed_old],
        len(old),
        memory_bytes=unpack_memory_bytes(recipe.packing, head),
        window_bytes=MIB,
    )
    new = touched(old, 5, 40_000)
    maker.long(recipe, pieces(new, *CUTS), edited=(at, old))


@cache
def images(name: str, size: int = 3 * MIB + 100_000) -> Made:
    """A changed long stream between other bytes: an initrd, or a kernel, on a boot partition."""
    old = noise(1, size)
    recipe = recipe_of(*LONG_RECIPES[name])
    packed = pack(recipe, old, 0)
    before, behind = text(2, 700_000), text(3, 900_000)
    source = before + packed + behind
    packed_new = pack(recipe, touched(old, 5, 40_000), 0)
    maker = Maker(source, len(before) + len(packed_new) + len(behind))
    maker.copy([ByteRange(0, len(before))], before)
    head = GZIP_PLAIN_HEADER if recipe.packing is Packing.GZIP else packed[: 64 * KIB]
    add_long(maker, name, old, ByteRange(len(before), len(packed)), head)
    maker.data(behind)
    return maker.finish()


@cache
def images_of_blocks() -> Made:
    """Blocks of every packer, changed and not, some of them twice."""
    recipes = [recipe_of(*one) for one in BLOCK_RECIPES]
    old = [text(10 + number, 128 * KIB) for number in range(len(recipes) * 6)]
    new = [touched(one, 7, 30_000) if number % 3 else one for number, one in enumerate(old)]
    made_of = [recipes[number % len(recipes)] for number in range(len(old))]
    packed = [pack(recipe, one, 0) for recipe, one in zip(made_of, old, strict=True)]
    packed_new = [pack(recipe, one, 0) for recipe, one in zip(made_of, new, strict=True)]
    source = b"".join(packed)
    # The last block of the target stands in it before, and its content is read there.
    maker = Maker(source, sum(map(len, packed_new)) + len(packed_new[1]))
    offset = 0
    for number, one in enumerate(packed):
        place = ByteRange(offset, len(one))
        offset += len(one)
        if new[number] == old[number]:
            maker.copy([place], one)
            continue
        recipe = made_of[number]
        at = maker.stream(recipe.packing, [place], len(old[number]))
        part = Part(len(new[number]), len(packed_new[number]), recipe)
        content = ByteRange(at, len(old[number]))
        maker.edit(content, old[number], new[number], made=packed_new[number], parts=[part])
    again = ByteRange(maker.base + len(packed_new[0]), len(packed_new[1]))
    at = maker.stream(made_of[1].packing, [again], len(new[1]))
    part = Part(len(new[1]), len(packed_new[1]), made_of[1])
    maker.copy([ByteRange(at, len(new[1]))], new[1], made=packed_new[1], parts=[part])
    return maker.finish()


def made_by_delta(rig: Rig, made: Made) -> bool:
    """Run it: whether the target stands, and nothing came from the full payload."""
    stands = rig.run()[: len(made.target)] == made.target
    return stands and rig.words == [] and rig.sent(rig.full) == 0


def test_blocks_of_every_packer_are_packed_again(tmp_path: Path) -> None:
    made = images_of_blocks()
    assert len(made.index.libraries) == len(BLOCK_RECIPES)
    assert made_by_delta(rig_of(tmp_path, made, os.urandom(MIB)), made)


@pytest.mark.parametrize("name", LONG_RECIPES)
def test_a_long_stream_is_packed_again_over_many_frames(tmp_path: Path, name: str) -> None:
    made = images(name, 6 * MIB)
    rig = rig_of(tmp_path, made)

    assert made_by_delta(rig, made)
    assert sum(frame.long_part is not None for frame in made.index.frames) > 15
    assert rig.sent(made.index) == made.index.body_size < len(made.target) // 5
    assert rig.writer.counts.bytes_written < len(made.target) + CHUNK_BYTES


# --- cut off


@pytest.mark.parametrize("name", ["GNU gzip", "xz", "zstd"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_link_that_breaks_inside_a_long_stream_costs_no_byte(
    tmp_path: Path, name: str, part: float
) -> None:
    cut_off(tmp_path, images(name), part)


def cut_off(folder: Path, made: Made, part: float) -> Rig:
    """Break the link after a part of the body; what comes then is fetched, and no byte again.

    Gives the rig of the second attempt.
    """
    first = rig_of(folder, made)
    cut = int(made.index.body_size * part)

    def broken(_: str) -> None:
        if first.sent(made.index) >= cut:
            raise Unavailable("the link is gone")

    first.fetcher.hook = broken
    with pytest.raises(Unavailable):
        first.run()
    second = rig_of(folder, made, (folder / "target").read_bytes())

    assert made_by_delta(second, made)
    assert first.sent(made.index) + second.sent(made.index) == made.index.body_size
    return second


@pytest.mark.parametrize("name", ["GNU gzip", "xz"])
@pytest.mark.parametrize("writes", [2, 3, 4])
def test_a_device_that_dies_inside_a_long_stream_fetches_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, writes: int
) -> None:
    monkeypatch.setattr(pipe, "CHECKPOINT_TARGET_BYTES", MIB)
    made = images(name)
    first = rig_of(tmp_path, made)
    done = 0
    write = os.pwrite

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        nonlocal done
        if os.path.samestat(os.fstat(descriptor), (tmp_path / "target").stat()):
            done += len(data)
            if done > writes * CHUNK_BYTES:
                raise Killed
        return write(descriptor, data, offset)

    with monkeypatch.context() as dying:
        dying.setattr(os, "pwrite", pwrite)
        with pytest.raises(Killed):
            first.run()
    second = rig_of(tmp_path, made, (tmp_path / "target").read_bytes())

    assert made_by_delta(second, made)
    # Of the frame that was on the way some bytes may not have reached the disk.
    largest = max(frame.encoded.size for frame in made.index.frames)
    assert first.sent(made.index) + second.sent(made.index) <= made.index.body_size + largest


@given(
    missing=st.sets(st.integers(0, 6)), name=st.sampled_from(["gzip of zlib", "zstd", "GNU gzip"])
)
@settings(max_examples=12, deadline=None)
def test_a_long_stream_is_completed_whatever_stands(missing: set[int], name: str) -> None:
    made = images(name)
    standing = bytearray(made.target)
    for chunk in missing:
        standing[chunk * CHUNK_BYTES] ^= 1
    with TemporaryDirectory() as folder:
        assert made_by_delta(rig_of(Path(folder), made, bytes(standing)), made)


def test_frames_that_make_a_chunk_are_all_that_follow_in_its_stream() -> None:
    made = images("zstd")
    stream = [n for n, frame in enumerate(made.index.frames) if frame.long_part is not None]
    before, behind = stream[0] - 1, stream[-1] + 1
    first = made.index.frames[stream[3]].target.offset // CHUNK_BYTES
    wanted = frames_of(made.index, {first})

    assert wanted == list(range(wanted[0], stream[-1] + 1))
    assert frames_of(made.index, {0}) == [before]
    assert frames_of(made.index, {(len(made.target) - 1) // CHUNK_BYTES}) == [behind]


# --- frames between


@cache
def images_with_gaps() -> Made:
    """A file in several extents: other bytes between those of a long stream, some of them copied."""
    recipe = recipe_of(*LONG_RECIPES["GNU gzip"])
    source = text(30, 200_000)
    contents = pieces(noise(31, 2 * MIB), *CUTS)
    packed, parts = long_parts(recipe, contents)
    maker = Maker(source)
    done = 0
    for number, (part, content) in enumerate(zip(parts, contents, strict=True)):
        maker.data(content, made=packed[done : done + part.packed_size], parts=[part])
        done += part.packed_size
        if number % 3 == 0:
            maker.copy([ByteRange(0, len(source))], source)
        if number % 3 == 1:
            maker.zero(CHUNK_BYTES + 5)
            maker.data(text(32 + number, 9000))
    return maker.finish()


@given(missing=st.sets(st.integers(0, 8)))
@settings(max_examples=12, deadline=None)
def test_frames_between_come_out_whatever_stands(missing: set[int]) -> None:
    made = images_with_gaps()
    standing = bytearray(made.target)
    for chunk in missing:
        if chunk * CHUNK_BYTES < len(standing):
            standing[chunk * CHUNK_BYTES] ^= 1
    with TemporaryDirectory() as folder:
        assert made_by_delta(rig_of(Path(folder), made, bytes(standing)), made)


# --- packed twice


@cache
def images_in_blocks() -> Made:
    """A long stream in the blocks of a compressed file system."""
    maker = Maker()
    maker.data(text(70, 200_000))
    maker.long_in_blocks(
        recipe_of(*LONG_RECIPES["GNU gzip"]),
        recipe_of(Packer.XZ, 0, 0, 64 * KIB, 1, 0, 0, 0),
        pieces(noise(71, 4 * MIB), 90_000, 400_000),
        before=text(72, 100_000),
        behind=text(73, 100_000),
        block_bytes=256 * KIB,
    )
    maker.data(text(74, 200_000))
    return maker.finish()


@given(missing=st.sets(st.integers(0, 5)))
@settings(max_examples=12, deadline=None)
def test_a_stream_inside_blocks_is_completed_whatever_stands(missing: set[int]) -> None:
    made = images_in_blocks()
    standing = bytearray(made.target)
    for chunk in missing:
        if chunk * CHUNK_BYTES < len(standing):
            standing[chunk * CHUNK_BYTES] ^= 1
    with TemporaryDirectory() as folder:
        assert made_by_delta(rig_of(Path(folder), made, bytes(standing)), made)


@pytest.mark.parametrize("part", [0.2, 0.4, 0.6, 0.8])
def test_a_link_that_breaks_inside_a_block_costs_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: float
) -> None:
    monkeypatch.setattr(pipe, "CHECKPOINT_TARGET_BYTES", 1)
    made = images_in_blocks()
    frames = made.index.frames
    second = cut_off(tmp_path, made, part)

    points = second.journal.checkpoints()
    assert len(points) > 10
    # Frames before the first one needed leave the spool: a decoder must be able to begin with it.
    assert all(point.frame == len(frames) or not frames[point.frame].owed for point in points)


# --- come out differently


def test_a_long_stream_that_comes_out_differently_comes_from_the_full_payload(
    tmp_path: Path,
) -> None:
    """A library of the right name that makes other bytes: simulated by a recipe that is wrong."""
    right = recipe_of(Packer.GZIP_GNU, 6)
    before, behind = text(40, 2 * MIB), text(41, 2 * MIB)
    maker = Maker()
    maker.data(before)
    maker.long(right, pieces(text(42, 5 * MIB), *CUTS), said=recipe_of(Packer.GZIP_GNU, 9))
    maker.data(behind)
    made = maker.finish()
    rig = rig_of(tmp_path, made)

    assert rig.run()[: len(made.target)] == made.target
    [words] = rig.words
    assert "could not be made from the running slot: taken from the full payload" in words
    assert f"packed again on the device by {right.library}, came out differently)" in words
    assert rig.writer.counts.notes == [words]
    stream = [frame.target for frame in made.index.frames if frame.long_part is not None]
    lost = stream[-1].end // CHUNK_BYTES - stream[0].offset // CHUNK_BYTES + 1
    assert words.startswith(f"rootfs: {lost} chunks could not")
    # What stands before and behind is the delta's all the same.
    assert rig.sent(rig.full) <= (lost + 1) * CHUNK_BYTES


@pytest.mark.parametrize("level", [1, 8])
def test_blocks_that_come_out_differently_come_from_the_full_payload(
    tmp_path: Path, level: int
) -> None:
    """Of another length, or of the same with other bytes."""
    right, wrong = recipe_of(Packer.ZLIB, 9, 15, 8, 0), recipe_of(Packer.ZLIB, level, 15, 8, 0)
    content = text(50, 128 * KIB)
    packed = pack(right, content, 0)
    maker = Maker()
    for number in range(40):
        part = Part(len(content), len(packed), wrong if number == 25 else right)
        maker.data(content, made=packed, parts=[part])
    made = maker.finish()
    rig = rig_of(tmp_path, made)

    assert rig.run()[: len(made.target)] == made.target
    if pack(wrong, content, 0) != packed:
        assert "came out differently" in rig.words[0]
        assert "rootfs: 1 chunk " in rig.words[0] or "rootfs: 2 chunks" in rig.words[0]


def test_a_library_that_went_away_costs_the_full_payload_and_no_more(tmp_path: Path) -> None:
    content = text(51, 100_000)
    maker = Maker()
    maker.data(text(52, MIB))
    gone = Recipe(Packer.LZ4, (0,), "liblz4 0.0.1")
    maker.data(content, made=noise(53, 60_000), parts=[Part(len(content), 60_000, gone)])
    made = maker.finish()
    rig = rig_of(tmp_path, made)

    assert rig.run()[: len(made.target)] == made.target
    assert "by liblz4 0.0.1, came out differently" in rig.words[0]


def test_a_stream_whose_source_drifted_is_lost_from_there_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One wrong byte: the chunks behind it are lost and count once, and nothing is done for them."""
    made = images("GNU gzip", 6 * MIB)
    rig = rig_of(tmp_path, made)
    source = bytearray(made.source)
    source[len(source) // 3] ^= 1
    (tmp_path / "source").write_bytes(source)
    place, pread = (tmp_path / "source").stat(), os.pread
    read: list[int] = []

    def watched(descriptor: int, size: int, offset: int) -> bytes:
        is_install = current_thread().name.startswith(("decode", "write"))
        if is_install and os.path.samestat(os.fstat(descriptor), place):
            read.append(offset + size)
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", watched)
    monkeypatch.setattr(pipe, "DRIFTS_MAX", 1)

    assert rig.run()[: len(made.target)] == made.target
    [words] = rig.words
    assert "the running slot is not as it was installed" in words
    assert "came out differently" not in words  # no library is at fault
    assert rig.sent(rig.full) < len(made.target) * 3 // 4
    assert len(source) // 3 < max(read) < len(source) * 2 // 3


def test_a_source_that_cannot_be_read_inside_a_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = images("GNU gzip")
    rig = rig_of(tmp_path, made)
    bad = len(made.source) // 2
    source, pread = (tmp_path / "source").stat(), os.pread

    def faulty(descriptor: int, size: int, offset: int) -> bytes:
        if os.path.samestat(os.fstat(descriptor), source) and offset <= bad < offset + size:
            raise OSError(5, "Input/output error")
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", faulty)
    assert rig.run()[: len(made.target)] == made.target
    [words] = rig.words
    assert "the running slot cannot be read" in words
    assert "came out differently" not in words


WRONG_RECIPES = {"GNU gzip": (Packer.GZIP_GNU, 9), "xz": (Packer.XZ, 1, 0, 256 * KIB, 4, 0, 0, 0)}


@pytest.mark.parametrize("name", WRONG_RECIPES)
def test_what_follows_in_a_stream_that_was_given_up_is_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """What it would have made comes from the full payload, what stands behind it does not."""
    monkeypatch.setattr(stream, "FrameSource", partial(FrameSource, spool_bytes_max=1))
    wrong = WRONG_RECIPES[name]
    maker = Maker()
    maker.data(noise(90, MIB))
    contents = pieces(text(91, 8 * MIB), *CUTS)
    maker.long(recipe_of(*LONG_RECIPES[name]), contents, said=recipe_of(*wrong))
    maker.data(noise(92, MIB))
    made = maker.finish()
    rig = rig_of(tmp_path, made)

    assert rig.run()[: len(made.target)] == made.target
    frames = made.index.frames
    ends = frames[0].encoded.size + frames[len(frames) - 1].encoded.size
    of_stream = made.index.body_size - ends
    assert ends < rig.sent(made.index) < ends + of_stream // 2
    assert len(rig.words) == 1


# --- frames at fault between those of a stream


@cache
def images_around(between_bytes: int = 3 * CHUNK_BYTES) -> Made:
    """Bytes of the source between the frames of a long stream."""
    recipe = recipe_of(*LONG_RECIPES["xz"])
    source = noise(95, between_bytes)
    contents = pieces(noise(96, 5 * MIB), *CUTS)
    packed, parts = long_parts(recipe, contents)
    maker = Maker(source)
    done = 0
    for number, (part, content) in enumerate(zip(parts, contents, strict=True)):
        maker.data(content, made=packed[done : done + part.packed_size], parts=[part])
        done += part.packed_size
        if number == 4:
            maker.copy([ByteRange(0, len(source))], source)
    return maker.finish()


def between_of(made: Made) -> Sequence[int]:
    """The chunks that the frames between have a share in."""
    [place] = [one.target for one in made.index.frames if one.long_part is None]
    first, last = chunk_span(place)
    return range(first, last + 1)


@pytest.mark.parametrize("at", [5, CHUNK_BYTES * 3 // 2])
def test_a_frame_between_whose_source_drifted_loses_its_own_chunk(tmp_path: Path, at: int) -> None:
    made = images_around()
    rig = rig_of(tmp_path, made)
    source = bytearray(made.source)
    source[at] ^= 1
    (tmp_path / "source").write_bytes(source)

    assert rig.run()[: len(made.target)] == made.target
    assert rig.words[0].startswith("rootfs: 1 chunk could not")
    assert rig.sent(made.index) == made.index.body_size


def test_a_frame_between_that_cannot_be_read_loses_its_own_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = images_around()
    rig = rig_of(tmp_path, made)
    place, pread = (tmp_path / "source").stat(), os.pread

    def faulty(descriptor: int, size: int, offset: int) -> bytes:
        if os.path.samestat(os.fstat(descriptor), place):
            raise OSError(5, "Input/output error")
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", faulty)
    assert rig.run()[: len(made.target)] == made.target
    assert rig.words[0].startswith(f"rootfs: {len(between_of(made))} chunks could not")
    assert "the running slot cannot be read" in rig.words[0]
    assert rig.sent(made.index) == made.index.body_size


def test_a_frame_between_is_made_though_the_stream_around_it_is_given_up(tmp_path: Path) -> None:
    good = images_around()
    recipe = recipe_of(Packer.XZ, 1, 0, 256 * KIB, 4, 0, 0, 0)  # another check: in its first bytes
    made = with_recipe(good, recipe)
    rig = rig_of(tmp_path, made)

    assert rig.run()[: len(made.target)] == made.target
    chunks = -(-len(made.target) // CHUNK_BYTES)
    inside = len(between_of(made)) - 2
    assert inside >= 2
    assert rig.words[0].startswith(f"rootfs: {chunks - inside} chunks could not")


def with_recipe(made: Made, recipe: Recipe) -> Made:
    """The same payload, with another recipe for its long stream."""
    frames = [
        make_frame(
            one.kind,
            one.target,
            sources=one.sources,
            encoded_offset=one.encoded.offset,
            digest=one.digest,
            streams=one.streams,
            parts=[replace(part, recipe=recipe) for part in one.parts],
        )
        for one in made.index.frames
    ]
    index = made.index
    raw = dump_index(
        index.source_size, index.source_digest, index.target_size, index.target_digest, frames
    )
    return Made(parse_index(raw), raw + made.body, made.source, made.target)


# --- frames without a target of their own


@cache
def images_with_empty_frames(shift: int) -> Made:
    """Frames that only fill a block before them; the first of these `shift` bytes from a chunk."""

    def payload(before: int) -> Made:
        maker = Maker()
        maker.data(text(74, before))
        maker.long_in_blocks(
            recipe_of(*LONG_RECIPES["GNU gzip"]),
            recipe_of(Packer.ZLIB, 9, 15, 8, 0),
            pieces(noise(71, 3 * MIB), 60_000),
            before=text(72, 1000),
            behind=text(73, 1000),
            block_bytes=256 * KIB,
        )
        maker.data(text(75, 300_000))
        return maker.finish()

    first = empty_of(payload(1000))[0].target.offset - 1000
    return payload((shift - first) % CHUNK_BYTES or CHUNK_BYTES)


def empty_of(made: Made) -> list[Frame]:
    return [one for one in made.index.frames if not one.target.size]


@pytest.mark.parametrize("shift", [-1, 0, 1])
def test_an_empty_frame_at_the_edge_of_a_chunk_is_asked_for_once(
    tmp_path: Path, shift: int
) -> None:
    """Whichever chunk is missing: it is made, of what was fetched once, and nothing else is lost."""
    made = images_with_empty_frames(shift)
    assert (empty_of(made)[0].target.offset - shift) % CHUNK_BYTES == 0
    for missing in range(-(-len(made.target) // CHUNK_BYTES)):
        standing = bytearray(made.target)
        standing[missing * CHUNK_BYTES] ^= 1
        wanted = frames_of(made.index, {missing})
        folder = tmp_path / str(missing)
        folder.mkdir()
        rig = rig_of(folder, made, bytes(standing))
        assert made_by_delta(rig, made)
        fetched = [made.index.frames[number].encoded for number in wanted]
        # All of them, each once; frames between that are cheaper to read over than to ask for apart.
        assert rig.sent(made.index) == fetched[-1].end - fetched[0].offset
        assert made.index.frames[wanted[0]].owed == 0


@pytest.mark.parametrize("shift", [-1, 0, 1])
def test_an_empty_frame_of_a_stream_that_was_given_up_takes_no_chunk_along(
    tmp_path: Path, shift: int
) -> None:
    right = images_with_empty_frames(shift)
    made = with_wrong_blocks(right)
    rig = rig_of(tmp_path, made)

    assert rig.run()[: len(made.target)] == made.target
    stream = [one.target for one in made.index.frames if one.parts]
    first, last = chunk_span(ByteRange(stream[0].offset, stream[-1].end - stream[0].offset))
    assert rig.words[0].startswith(f"rootfs: {last - first + 1} chunks could not")


def with_wrong_blocks(made: Made) -> Made:
    """The same payload, but that no block becomes what it says."""
    wrong = recipe_of(Packer.ZLIB, 1, 9, 1, 0)
    frames = [
        make_frame(
            one.kind,
            one.target,
            encoded_offset=one.encoded.offset,
            digest=one.digest,
            streams=one.streams,
            parts=one.parts,
            outer=[replace(part, recipe=wrong) for part in one.outer],
            owed=one.owed,
        )
        for one in made.index.frames
    ]
    index = made.index
    raw = dump_index(
        index.source_size, index.source_digest, index.target_size, index.target_digest, frames
    )
    return Made(parse_index(raw), raw + made.body, made.source, made.target)


# --- reading the target


def reader(places: Sequence[ByteRange], contents: Sequence[bytes], tail: bytes) -> Made:
    """Data, then copies of target bytes."""
    maker = Maker()
    for content in pieces(noise(60, 3 * MIB), 300_000):
        maker.data(content)
    for place, content in zip(places, contents, strict=True):
        maker.copy([place], content)
    maker.data(tail)
    return maker.finish()


@given(missing=st.sets(st.integers(0, 8)))
@settings(max_examples=12, deadline=None)
def test_frames_read_what_earlier_frames_made(missing: set[int]) -> None:
    data = noise(60, 3 * MIB)
    places = [ByteRange(5, 400_000), ByteRange(2 * MIB, CHUNK_BYTES)]
    made = reader(places, [data[5:400_005], data[2 * MIB :][:CHUNK_BYTES]], text(61, 9))
    standing = bytearray(made.target)
    for chunk in missing:
        if chunk * CHUNK_BYTES < len(standing):
            standing[chunk * CHUNK_BYTES] ^= 1
    with TemporaryDirectory() as folder:
        assert made_by_delta(rig_of(Path(folder), made, bytes(standing)), made)


@pytest.mark.parametrize("ahead", [0, CHUNK_BYTES])
def test_what_is_not_made_yet_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    """A frame that reads itself, or what comes behind it, makes no chunk that anyone believes."""
    place = ByteRange(3 * MIB + ahead, 100_000)
    tail = noise(62, 2 * CHUNK_BYTES)
    content = tail[ahead - 100_000 : ahead] if ahead else bytes(100_000)
    made = reader([place], [content], tail)
    rig = rig_of(tmp_path, made, os.urandom(4 * MIB))
    target, pread = (tmp_path / "target").stat(), os.pread
    read: list[int] = []

    def watched(descriptor: int, size: int, offset: int) -> bytes:
        if current_thread().name.startswith("decode"):
            assert os.path.samestat(os.fstat(descriptor), target)
            read.append(offset)
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", watched)
    assert rig.run()[: len(made.target)] == made.target
    assert "could not be made" in rig.words[0]
    assert read == []


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_hostile_delta_costs_the_full_payload_and_no_more(data: st.DataObject) -> None:
    """Whatever a signed table makes a decoder do, the image is made."""
    made = everything()

    def change(table: bytearray) -> None:
        for _ in range(data.draw(st.integers(1, 3))):
            place = data.draw(st.integers(0, len(table) - 1))
            patch = data.draw(st.binary(min_size=1, max_size=3))
            table[place : place + data.draw(st.integers(0, 3))] = patch

    try:
        index = parse_index(with_table(made, change))
    except FormatError:
        return
    with TemporaryDirectory() as folder:
        delta = (index, index.raw + made.body)
        rig = Rig(Path(folder), made.target, made.source, b"", delta)
        assert rig.run()[: len(made.target)] == made.target


# --- the whole device


def delta_of(made: Made, lab: Lab) -> LabRelease:
    """Publish what the payload makes, and the payload as its delta; the device runs its source."""
    lab.preinstall(lab.publish("1.0", 1, made.source))
    lab.make_payload = lambda target, source: (
        make_payload(target, None) if source is None else (made.index, made.raw)
    )
    return lab.publish("2.0", 2, made.target, source=made.source)


def packed_by(right: Recipe, said: Recipe) -> Made:
    """A block that one recipe made, though the payload says another."""
    content, source = text(80, 500_000), text(81, 300_000)
    packed = pack(right, content, 0)
    maker = Maker(source)
    maker.copy([ByteRange(0, len(source))], source)
    maker.data(content, made=packed, parts=[Part(len(content), len(packed), said)])
    return maker.finish()


ZLIB = recipe_of(Packer.ZLIB, 9, 15, 8, 0)


def test_a_delta_of_a_library_that_is_not_here_is_passed_over_in_words(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    release = delta_of(packed_by(ZLIB, Recipe(Packer.ZLIB, (9, 15, 8, 0), "zlib 0.1")), lab)
    asyncio.run(lab.install())

    why = "it needs zlib 0.1, which this device does not have"
    assert lab.holds("b", release)
    assert f"not used: rootfs: delta from release 1.0: {why}" in lab.words()
    status = read_status(lab.device())
    assert why in status.to_words()
    assert why in status.to_json()["slots"][1]["notes"][0]
    [report] = lab.device().slots.reports()
    assert report.kind == "installed"
    assert why in report.reason


def test_an_install_that_came_out_differently_says_so_to_person_and_server(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    release = delta_of(packed_by(ZLIB, recipe_of(Packer.ZLIB, 1, 15, 8, 0)), lab)
    asyncio.run(lab.install())

    words = f"by {ZLIB.library}, came out differently"
    assert lab.holds("b", release)
    assert words in lab.words()
    assert words in read_status(lab.device()).to_words()
    [report] = lab.device().slots.reports()
    assert words in report.reason


def test_an_install_that_goes_as_planned_has_nothing_to_say(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    proved = lab.config_path.read_text().replace("[boot]\n", '[boot]\ncounting = "trusted"\n')
    lab.config_path.write_text(proved)  # else that is a risk, and is said
    release = delta_of(packed_by(ZLIB, ZLIB), lab)
    asyncio.run(lab.install())

    assert lab.holds("b", release)
    assert read_status(lab.device()).to_json()["slots"][1]["notes"] == []
    [report] = lab.device().slots.reports()
    assert report.reason == ""


def test_a_full_payload_that_needs_a_library_is_refused(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    maker = Maker(None)
    content = text(82, 9000)
    packed = maker.packed(ZLIB, content)
    made = maker.finish()
    lab.make_payload = lambda target, source: (
        (made.index, made.raw) if target == packed else make_payload(target, source)
    )
    lab.publish("1.0", 1, packed)

    with pytest.raises(Rejected, match="no source and no library"):
        asyncio.run(lab.install())
