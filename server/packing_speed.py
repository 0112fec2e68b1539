"""How fast content is packed again, and numbers are moved: measured figures, and what follows.

To compare packers and to see what takes long, not to promise a device's seconds. Measured again by
benches/packing_speed.py.
"""

from slipstream.delta.btf import MovedBtf
from slipstream.delta.moves import Moved
from slipstream.delta.packing.recipe import Packer, Recipe
from slipstream.delta.references import Holding

# MB (10^6) of content per second, up to a level of the packer's own scale; rising by level. One core
# of an Intel Xeon virtual machine, the libcrypto.so.3 of Debian 12; zlib 1.2.13, gzip 1.12, liblzma
# 5.4.1, libzstd 1.5.4, liblz4 1.9.4, lzo 2.10.
SPEEDS: dict[Packer, tuple[tuple[int, float], ...]] = {
    Packer.ZLIB: ((1, 61), (6, 21), (9, 5.2)),
    Packer.GZIP_GNU: ((1, 42), (6, 16), (9, 5.1)),
    Packer.GZIP_ZLIB: ((1, 60), (6, 19), (9, 5.7)),
    Packer.XZ: ((0, 7.4), (3, 3.4), (6, 2.0), (9, 2.0)),
    Packer.ZSTD: ((1, 281), (3, 165), (9, 48), (15, 5.5), (19, 3.2), (22, 3.3)),
    Packer.LZ4: ((0, 485), (9, 32), (12, 8.9)),
    Packer.LZ4_DEST: ((0, 426), (9, 81), (12, 23)),
    Packer.LZO: ((0, 352), (1, 43), (8, 4.8), (9, 4.1)),  # 0: the algorithms without levels
    Packer.LZ4_LEGACY: ((0, 390), (9, 27), (12, 8.4)),
}

# Likewise, of what is moved: bytes of a program by what they hold, and types of a module.
MOVING_SPEEDS: dict[Holding, float] = {
    Holding.POINTERS: 87,
    Holding.TABLES: 9.4,
    Holding.CODE: 22,
    Holding.FIXED_CODE: 14,
}
BTF_SPEED = 9.5  # of the fuse.ko of Debian's 6.1 kernel


def level_of(recipe: Recipe) -> int:
    """What decides how fast a packer is: its level or preset; 0 where it has none."""
    return recipe.parameters[1 if recipe.packer is Packer.LZO else 0]


def packing_s(recipe: Recipe, size: int) -> float:
    """Seconds of one core for `size` bytes of content; of a level between two, those of the higher."""
    level = level_of(recipe)
    speed = next(speed for most, speed in SPEEDS[recipe.packer] if level <= most)
    return size / 1e6 / speed


def moving_s(moved: Moved, size: int) -> float:
    """Seconds of one core to move what is moved in `size` bytes."""
    if isinstance(moved, MovedBtf):
        return moved.types.size / 1e6 / BTF_SPEED
    return size / 1e6 / MOVING_SPEEDS[moved.holding]
