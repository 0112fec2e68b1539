"""forecast.py: what a device will need, against what is known of payloads and images."""

import random
from dataclasses import dataclass

import pytest

from slipstream.delta.byterange import ByteRange
from slipstream.delta.frame import Part
from slipstream.delta.limits import BLOCK_BYTES, MIB
from slipstream.delta.packing.pack import pack
from slipstream.delta.packing.recipe import Packer
from slipstream.delta.references import Holding, ImageShifts, MovedReferences
from slipstream.server.forecast import estimate_full_bytes, forecast, written_bytes
from slipstream.server.packing_speed import MOVING_SPEEDS
from tests.delta.payloads import Maker, recipe_of

CHANCE = random.Random(3)


@dataclass(frozen=True)
class Image:
    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, size: int) -> bytes:
        assert 0 <= offset <= offset + size <= self.size
        return self.data[offset : offset + size]


def test_what_is_packed_again_is_counted_by_recipe() -> None:
    recipe, other = recipe_of(Packer.ZLIB, 9, 15, 8, 0), recipe_of(Packer.ZLIB, 1, 15, 8, 0)
    content = CHANCE.randbytes(300).hex().encode()
    maker = Maker(content)
    for one in (recipe, recipe, other):
        maker.packed(one, content)
    packed = pack(recipe, content[:400], 0)
    maker.data(content[:400], made=packed, outer=[Part(400, len(packed), recipe)])
    maker.copy([ByteRange(0, 600)], content)
    index = maker.finish().index
    found = forecast(index)

    assert found.packed_bytes == {recipe: 1600, other: 600}
    assert found.libraries == (recipe.library,)
    assert found.memory_bytes == index.memory_bytes
    assert found.scratch_bytes == 0
    assert found.pack_s > 0


def test_nothing_to_pack_takes_no_time() -> None:
    maker = Maker(None)
    maker.data(b"content")

    assert forecast(maker.finish().index).pack_s == 0
    assert forecast(maker.finish().index).moving_s == 0


def test_what_is_moved_is_counted_once() -> None:
    program = CHANCE.randbytes(8192)
    maker = Maker(program, 4096)
    maker.shifts.append(ImageShifts(0, 8192, ByteRange(0, 8192)))
    moved = maker.moved([ByteRange(0, 4096)], MovedReferences(0, 0, Holding.CODE))
    maker.copy([ByteRange(moved, 1000), ByteRange(moved + 1000, 3096)], program[:4096])
    found = forecast(maker.finish().index)
    assert found.moved_bytes == 4096
    assert found.moving_s == pytest.approx(4096 / 1e6 / MOVING_SPEEDS[Holding.CODE])


@pytest.mark.parametrize(
    "changed, written",
    [
        ([], 0),
        ([0], BLOCK_BYTES),
        ([1, BLOCK_BYTES - 1], BLOCK_BYTES),
        ([BLOCK_BYTES - 1, BLOCK_BYTES], 2 * BLOCK_BYTES),
        ([MIB, 2 * MIB + 5], BLOCK_BYTES + 10),
    ],
)
def test_blocks_that_differ_are_written(changed: list[int], written: int) -> None:
    target = bytearray(CHANCE.randbytes(2 * MIB + 10))
    standing = bytes(target)
    for place in changed:
        target[place] ^= 1

    assert written_bytes(Image(standing), Image(bytes(target))) == written


def test_what_the_source_does_not_reach_is_written() -> None:
    target = CHANCE.randbytes(2 * MIB)

    assert written_bytes(Image(target[: MIB + 100]), Image(target)) == MIB
    assert written_bytes(Image(b""), Image(target)) == 2 * MIB
    assert written_bytes(Image(target + b"more"), Image(target)) == 0


def test_a_full_payload_is_estimated_from_samples() -> None:
    # Half of it is noise: the samples must meet both halves alike.
    image = Image(CHANCE.randbytes(24 * MIB) + bytes(24 * MIB))

    assert estimate_full_bytes(image) == pytest.approx(24 * MIB, rel=0.05)
    assert estimate_full_bytes(Image(bytes(MIB))) == 0
    assert estimate_full_bytes(Image(b"")) == 0
