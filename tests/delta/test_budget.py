"""budget.py: what frames really hold is within what it says, and that is within the device's memory."""

import random
from dataclasses import replace

import pytest

from slipstream.delta.budget import MemoryBudget, cursor_bytes, unpacking_bytes
from slipstream.delta.byterange import ByteRange
from slipstream.delta.encode import encode_window
from slipstream.delta.filemap import Packing
from slipstream.delta.frame import FrameKind, Part, make_frame, resume_memory_bytes
from slipstream.delta.limits import EARLY_BYTES_MAX, KIB, MIB, UNPACK_CACHE_BYTES
from slipstream.delta.packing.recipe import Packer, Recipe, pack_memory_bytes
from slipstream.delta.partition import Partition
from slipstream.delta.profile import DEVICE_BASE_BYTES, PROFILES, frame_bytes
from slipstream.delta.stream_table import PackedStream, read_streams, write_streams
from slipstream.delta.unfold import OpenBlock, Window

FAST = PROFILES["fast"]
XZ = Recipe(Packer.XZ, (6, 0, MIB, 1, 0, 0, 0), "liblzma 5.4.1")
LARGE_XZ = Recipe(Packer.XZ, (6, 0, 8 * MIB, 1, 0, 0, 0), "liblzma 5.4.1")
GZIP = Recipe(Packer.GZIP_GNU, (9,), "gzip 1.12")


def _block(size: int, packed: int, recipe: Recipe | None = None, memory: int = 0) -> OpenBlock:
    places = (ByteRange(0, packed),)
    return OpenBlock(
        places, ByteRange(10 * MIB, size), Packing.GZIP, recipe=recipe, memory_bytes=memory
    )


@pytest.mark.parametrize("change", [0, 50, 7], ids=["alike", "some change", "all over"])
@pytest.mark.parametrize("name", PROFILES)
def test_frames_hold_no_more_than_is_said(name: str, change: int) -> None:
    chance = random.Random(change)
    source = chance.randbytes(300_000).hex().encode()
    content = bytearray(source[:300_100])
    if change:
        for at in range(0, len(content), change):
            content[at] = chance.randrange(256)
    partition = Partition((Part(len(content), len(content)),))
    profile = replace(PROFILES[name], aheads=(0,))
    sources = (ByteRange(0, len(source)),)
    for one in encode_window(bytes(content), 0, partition, source, sources, profile):
        assert one.frame.memory_bytes <= frame_bytes(len(content))


@pytest.mark.parametrize("memory", [72 * MIB, 96 * MIB, 512 * MIB])
def test_a_copy_holds_no_more_than_a_coded_frame(memory: int) -> None:
    budget = MemoryBudget(FAST.within(memory))
    size = budget.copy_bytes
    assert size >= MIB
    source = (ByteRange(0, size),)
    copy = make_frame(FrameKind.COPY, ByteRange(0, size), sources=source)
    assert copy.memory_bytes <= frame_bytes(budget.profile.window_bytes)


def test_unpacking_is_counted_as_payloads_count_it() -> None:
    block = _block(128 * KIB, 40_000)
    rows = bytearray()
    stream = PackedStream(Packing.GZIP, block.places, block.content.size)
    write_streams(rows, [stream])
    table, _ = read_streams(bytes(rows), 0, 1, MIB)
    budget, too_large = MemoryBudget(FAST).with_blocks([block], 1)
    assert budget.block_bytes == table.block_bytes
    assert not too_large
    long = PackedStream(Packing.GZIP, block.places, 2 * MIB, 64 * KIB, MIB)
    assert cursor_bytes(_block(2 * MIB, 9, memory=64 * KIB), MIB) == long.cursor_bytes


def test_blocks_too_large_for_a_device_are_named() -> None:
    small, large = _block(64 * KIB, 20_000), _block(MIB, 600_000)
    large = replace(large, content=ByteRange(50 * MIB, MIB))
    for memory, expected in ((96 * MIB, frozenset()), (72 * MIB, {50 * MIB})):
        budget, too_large = MemoryBudget(FAST.within(memory)).with_blocks([small, large], 1)
        assert too_large == expected
        assert budget.room_bytes >= frame_bytes(budget.profile.window_bytes)
    _, nested = MemoryBudget(FAST.within(96 * MIB)).with_blocks([small, large], 5)
    assert nested == {50 * MIB}


def test_single_blocks_give_way_to_a_long_stream_that_is_packed_again() -> None:
    large = replace(_block(MIB, 900_000), content=ByteRange(50 * MIB, MIB))
    encoder = pack_memory_bytes(XZ, 30 * MIB)
    kernel = _block(30 * MIB, 9 * MIB, XZ, memory=2 * MIB)
    memory = DEVICE_BASE_BYTES + encoder + 20 * MIB
    budget, too_large = MemoryBudget(FAST.within(memory)).with_blocks([large], 1)
    assert not too_large
    budget, too_large = MemoryBudget(FAST.within(memory)).with_blocks([large, kernel], 1)
    assert too_large == {50 * MIB}
    assert budget.long_window_bytes(kernel) >= 512 * KIB


def test_packers_have_what_is_left() -> None:
    budget = MemoryBudget(FAST.within(96 * MIB))
    block = _block(128 * KIB, 40_000)
    assert pack_memory_bytes(GZIP, 1) < budget.packer_bytes(block)
    assert pack_memory_bytes(XZ, 1) < budget.packer_bytes(block)
    assert pack_memory_bytes(LARGE_XZ, 1) > budget.packer_bytes(block)
    assert pack_memory_bytes(LARGE_XZ, 1) < MemoryBudget(FAST.within(256 * MIB)).packer_bytes(block)
    # of a long one there is also the source that it is made from, with its decoder
    long = _block(20 * MIB, 5 * MIB, memory=9 * MIB)
    assert budget.packer_bytes(replace(long, memory_bytes=0)) - 9 * MIB == budget.packer_bytes(long)


def test_windows_of_long_streams_grow_with_the_room() -> None:
    long = _block(20 * MIB, 5 * MIB, XZ, memory=2 * MIB)
    sizes = [
        MemoryBudget(FAST.within(memory * MIB)).long_window_bytes(long) for memory in (80, 96, 512)
    ]
    assert sizes == [512 * KIB, 512 * KIB, MIB]


def test_target_streams_are_kept_whole_while_there_is_room() -> None:
    budget = MemoryBudget(FAST.within(96 * MIB))
    blocks = [
        replace(_block(size * MIB, MIB, GZIP, memory=64 * KIB), content=ByteRange(at, size * MIB))
        for at, size in ((100 * MIB, 12), (200 * MIB, 12), (300 * MIB, 2))
    ]
    source = replace(_block(50 * MIB, MIB, memory=64 * KIB), content=ByteRange(0, 50 * MIB))
    assert budget.kept_windows([source], blocks) == {
        0: 4 * MIB,
        100 * MIB: 12 * MIB,
        200 * MIB: 4 * MIB,
        300 * MIB: 2 * MIB,
    }
    # Sources as well, where they fit beside the encoder of what may be made from them.
    large = MemoryBudget(FAST.within(512 * MIB))
    source = replace(source, content=ByteRange(0, 70 * MIB))
    assert large.kept_windows([source], blocks)[0] == 70 * MIB
    recipe = Recipe(Packer.XZ, (6, 0, 32 * MIB, 1, 4, 0, 0), "liblzma 5.4.1")
    blocks[0] = replace(blocks[0], recipe=recipe)
    assert large.kept_windows([source], blocks)[0] == 4 * MIB


def test_cursors_have_what_a_frame_leaves() -> None:
    budget = MemoryBudget(FAST.within(96 * MIB))

    def left(parts: tuple[Part, ...], long: int = -1) -> int:
        partition = Partition(parts, long=long)
        place = ByteRange(0, partition.target_size)
        return budget.cursors_bytes(Window(place, (place,), partition))

    plain = left((Part(MIB, MIB),))
    assert plain == budget.room_bytes - frame_bytes(MIB)
    assert left((Part(1000, 1000),)) == plain  # copies stand beside it
    assert left((Part(MIB - 10, 1000, GZIP), Part(10, 10))) == plain
    assert left((Part(MIB, 1000, XZ),)) < plain
    assert left((Part(MIB, 1000, LARGE_XZ),)) < 0
    begun = Part(512 * KIB, 1000, XZ, ends=False)
    held = frame_bytes(512 * KIB) + pack_memory_bytes(XZ, 1) + EARLY_BYTES_MAX
    assert left((begun,), 0) == budget.room_bytes - held
    # The decoder that resumes such a stream is there while no cursor is.
    large = replace(begun, recipe=LARGE_XZ)
    held = resume_memory_bytes(large, (large,), 512 * KIB, 0) + EARLY_BYTES_MAX
    needed = frame_bytes(512 * KIB) + pack_memory_bytes(LARGE_XZ, 1) + EARLY_BYTES_MAX
    assert held > needed + MIB
    for room, expected in ((held, held - needed), (held - 1, -1)):
        budget = MemoryBudget(FAST.within(DEVICE_BASE_BYTES + UNPACK_CACHE_BYTES + room))
        assert left((large,), 0) == expected


def test_unpacking_holds_packed_bytes_and_content_several_times() -> None:
    assert unpacking_bytes(_block(MIB, 500 * KIB)) > 2 * 500 * KIB + 2 * MIB
