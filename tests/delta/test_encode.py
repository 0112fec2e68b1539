"""encode.py: frames cover their window, decode to it, and are never larger than data frames."""

import zlib
from dataclasses import replace

import numpy as np
import pytest

from slipstream.delta.byterange import ByteRange
from slipstream.delta.codec import Codec, compress
from slipstream.delta.decode import decode_frame
from slipstream.delta.encode import EncodedFrame, encode_full, encode_window
from slipstream.delta.errors import UsageError
from slipstream.delta.frame import FrameKind, Part, frame_memory_bytes
from slipstream.delta.limits import FRAME_ENCODED_BYTES_SOFT, KIB, MIB
from slipstream.delta.packing.libraries import available
from slipstream.delta.packing.recipe import Packer, Recipe
from slipstream.delta.partition import Partition
from slipstream.delta.profile import (
    DEVICE_BASE_BYTES,
    DEVICE_BYTES_MIN,
    PROFILES,
    Profile,
    frame_bytes,
)

FAST, BALANCED = PROFILES["fast"], PROFILES["balanced"]


def _random(size: int, seed: int = 1, letters: int = 256) -> bytes:
    return np.random.default_rng(seed).integers(0, letters, size, dtype=np.uint8).tobytes()


def _plain(target: bytes) -> Partition:
    return Partition((Part(len(target), len(target)),))


def _encode(
    target: bytes, offset: int, source: bytes, sources: tuple[ByteRange, ...], profile: Profile
) -> tuple[EncodedFrame, ...]:
    """A window whose content is the target."""
    return encode_window(target, offset, _plain(target), source, sources, profile)


def _decode(frames: tuple[EncodedFrame, ...], image: bytes, offset: int) -> bytes:
    made = b""
    for one in frames:
        assert one.frame.target.offset == offset + len(made)
        source = b"".join(image[part.offset : part.end] for part in one.frame.sources)
        made += decode_frame(one.frame, one.encoded, source)
    return made


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_a_changed_file_is_one_small_diff(profile) -> None:
    image = _random(300 * KIB)
    target = image[100_000:150_000] + b"new" * 30 + image[150_000:200_000]
    sources = (ByteRange(90_000, 60_000), ByteRange(150_000, 80_000))
    source = image[90_000:230_000]
    frames = _encode(target, 4096, source, sources, profile)
    assert _decode(frames, image, 4096) == target
    (only,) = frames
    assert only.frame.kind is FrameKind.DIFF
    assert len(only.encoded) < 300
    # trimmed to what the instructions read, and joined where extents touch
    assert only.frame.sources == (ByteRange(100_000, 100_000),)


def test_segments_across_extents_keep_their_bytes() -> None:
    image = _random(100_000)
    sources = (ByteRange(50_000, 10_000), ByteRange(0, 10_000), ByteRange(80_000, 10_000))
    source = b"".join(image[part.offset : part.end] for part in sources)
    target = source[5000:25_000]  # a match that runs over two borders of extents
    (only,) = _encode(target, 0, source, sources, FAST)
    assert only.frame.kind is FrameKind.DIFF
    assert _decode((only,), image, 0) == target
    assert [part.size for part in only.frame.sources] == [5000, 10_000, 5000]


@pytest.mark.parametrize("source", [b"", _random(50_000, 9)], ids=["no source", "other source"])
def test_unrelated_bytes_are_data(source: bytes) -> None:
    target = _random(200_000, 2, letters=20)
    sources = (ByteRange(0, len(source)),) if source else ()
    frames = _encode(target, 0, source, sources, BALANCED)
    assert _decode(frames, source, 0) == target
    assert {one.frame.kind for one in frames} == {FrameKind.DATA}
    assert sum(len(one.encoded) for one in frames) <= len(compress(Codec.LZMA2, target)) + 100


def test_dense_bytes_are_aligned_where_one_anchor_stands_in_the_source() -> None:
    other = _random(500_000, 9)
    sources = (ByteRange(0, len(other)),)
    for known in (0, 20_000):
        target = _random(300_000, 2) + other[:known]
        frames = _encode(target, 0, other, sources, BALANCED)
        assert _decode(frames, other, 0) == target
        assert sum(len(one.encoded) for one in frames) < 300_000 + 300
        assert any(one.frame.kind is FrameKind.DIFF for one in frames) == bool(known)


def test_long_frames_are_split_at_the_soft_cap() -> None:
    image = _random(MIB + 600 * KIB)
    target = _random(900 * KIB, 3) + image[: 500 * KIB]
    frames = _encode(target, 0, image, (ByteRange(0, len(image)),), FAST)
    assert _decode(frames, image, 0) == target
    assert len(frames) >= 4
    assert max(len(one.encoded) for one in frames) <= FRAME_ENCODED_BYTES_SOFT
    assert frames[-1].frame.kind is FrameKind.DIFF


@pytest.mark.parametrize("size", [1, 2, 100, 70_000])
def test_incompressible_bytes_are_stored(size: int) -> None:
    target = _random(size)
    for frames in ((encode_full(target, 7, FAST),), _encode(target, 7, b"", (), BALANCED)):
        assert _decode(frames, b"", 7) == target
        assert sum(len(one.encoded) for one in frames) == size


def test_same_input_same_frames() -> None:
    source, target = _random(300_000, 1, 8), _random(300_000, 2, 8)
    sources = (ByteRange(0, len(source)),)
    once, again = (_encode(target, 0, source, sources, BALANCED) for _ in range(2))
    assert once == again


def test_zeros_are_nearly_nothing() -> None:
    assert len(encode_full(bytes(512 * KIB), 0, BALANCED).encoded) < 100


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_shrink_for_small_devices(name: str) -> None:
    profile = PROFILES[name]
    assert profile.within(96 * MIB) == profile
    small = profile.within(DEVICE_BASE_BYTES + 8 * MIB)
    assert small.window_bytes < profile.window_bytes
    assert small.source_bytes == 2 * small.window_bytes
    assert frame_bytes(small.window_bytes) + small.window_bytes <= 8 * MIB
    least = profile.within(DEVICE_BYTES_MIN).window_bytes
    assert frame_bytes(least) + least == DEVICE_BYTES_MIN - DEVICE_BASE_BYTES
    words = rf"expected at least {DEVICE_BYTES_MIN / MIB:g} MiB, got \d+\.99 MiB$"
    with pytest.raises(UsageError, match=words):
        profile.within(DEVICE_BYTES_MIN - 1)


def test_content_that_is_packed_again() -> None:
    """Two files, each a zlib stream in the target, which frames say and content is not."""
    library = next(name for name in sorted(available()) if name.startswith("zlib "))
    recipe = Recipe(Packer.ZLIB, (6, 15, 8, 0), library)
    source = _random(200_000, 4, letters=20)
    contents = [source[:90_000] + b"new", source[90_000:] + b"newer"]
    packed = [zlib.compress(one, 6) for one in contents]
    parts = tuple(
        Part(len(one), len(made), recipe) for one, made in zip(contents, packed, strict=True)
    )
    whole = (ByteRange(0, len(source)),)
    (only,) = encode_window(b"".join(contents), 500, Partition(parts), source, whole, FAST)
    assert only.frame.kind is FrameKind.DIFF
    assert len(only.encoded) < 300
    assert only.frame.parts == parts
    assert only.frame.target == ByteRange(500, sum(map(len, packed)))
    assert decode_frame(only.frame, only.encoded, source) == b"".join(contents)


def test_frames_of_packed_content_are_split_between_its_blocks() -> None:
    library = next(name for name in sorted(available()) if name.startswith("zlib "))
    recipe = Recipe(Packer.ZLIB, (6, 15, 8, 0), library)
    contents = [_random(90_000, seed) for seed in range(8)]
    parts = tuple(Part(len(one), 70_000, recipe) for one in contents)
    frames = encode_window(b"".join(contents), 0, Partition(parts), b"", (), FAST)
    assert len(frames) > 2
    assert [part for one in frames for part in one.frame.parts] == list(parts)
    assert [one.frame.target.offset % 70_000 for one in frames] == [0] * len(frames)
    assert max(len(one.encoded) for one in frames) <= FRAME_ENCODED_BYTES_SOFT


def test_tables_that_change_all_over_hold_no_more_than_they_may() -> None:
    source = _random(600_000, 5, letters=30)
    target = bytearray(source)
    for at in range(0, len(target), 7):
        target[at] ^= at % 251
    whole = (ByteRange(0, len(source)),)
    (only,) = _encode(bytes(target), 0, source, whole, FAST)  # zeros among the values: few numbers
    assert _decode([only], source, 0) == target
    many_numbers = replace(FAST, zeros_min=(4,))
    frames = _encode(bytes(target), 0, source, whole, many_numbers)
    assert _decode(frames, source, 0) == target
    assert len(frames) > 1
    assert max(one.frame.memory_bytes for one in (only, *frames)) <= frame_bytes(len(target))
    # what cannot be split is sent as it is, where that holds less
    library = next(name for name in sorted(available()) if name.startswith("zlib "))
    recipe = Recipe(Packer.ZLIB, (6, 15, 8, 0), library)
    block = Partition((Part(len(target), 1000, recipe),))
    (only,) = encode_window(bytes(target), 0, block, source, whole, many_numbers)
    content = ByteRange(0, len(target))
    held = frame_memory_bytes(only.frame.kind, content, only.frame.sources, only.frame.streams)
    assert held <= frame_bytes(len(target))
