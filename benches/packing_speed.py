"""How fast content is packed again, by packer and level, and how fast addresses in it are moved: the
figures of server/packing_speed.py.

    python -m benches.packing_speed FILE [MODULE]

MB of content per second of processor time, GNU gzip's own process included, so that other programs
disturb little. FILE stands for content as images have it; the figures there are of the libcrypto.so.3
of Debian 12: code and tables, 4.7 MB. MODULE is a kernel module, unpacked, in whose BTF numbers are moved.
"""

import os
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path

from slipstream.delta.btf import BtfShifts, MovedBtf, Shifts, move_btf
from slipstream.delta.btf_shifts import find_btf, parse_btf
from slipstream.delta.byterange import ByteRange
from slipstream.delta.limits import KIB, MIB
from slipstream.delta.packing.libraries import available
from slipstream.delta.packing.pack import pack
from slipstream.delta.packing.recipe import Packer, Recipe, library_of
from slipstream.delta.references import (
    Holding,
    ImageShifts,
    MovedReferences,
    move_references,
)
from slipstream.server.packing_speed import level_of

_BLOCK_BYTES = 128 * KIB  # squashfs's usual block
_CONTENT_BYTES = 4 * MIB
_BUSY_S_MIN = 1.0  # processor time is counted in hundredths
_ROUNDS = 3  # the best counts: the others were disturbed
_BASE = 0x400000  # of a program that is not loaded elsewhere
_MOVED_BYTES = 256 * KIB  # a block of a program
_CLUSTER_RATIO = 2  # of content to an erofs cluster: what code packs to


def recipes() -> Iterator[tuple[Recipe, int]]:
    """What is measured, and how much content at a time: rows of a packer rise by level."""
    whole = _CONTENT_BYTES
    for level in (1, 6, 9):
        yield _recipe(Packer.ZLIB, level, 15, 8, 0), _BLOCK_BYTES
        yield _recipe(Packer.GZIP_GNU, level), whole
        yield _recipe(Packer.GZIP_ZLIB, level, 8), whole
    for preset in (0, 3, 6, 9):
        yield _recipe(Packer.XZ, preset, 0, 8 * MIB, 4, 0, 0, 0), whole
    for level in (1, 3, 9, 15, 19, 22):
        yield _recipe(Packer.ZSTD, level, 0, 0, 0, 0, 0), _BLOCK_BYTES
    for level in (0, 9, 12):
        yield _recipe(Packer.LZ4, level), _BLOCK_BYTES
        yield _recipe(Packer.LZ4_DEST, level, 0, 0), 8 * KIB
        yield _recipe(Packer.LZ4_LEGACY, level), whole
    yield _recipe(Packer.LZO, 0, 0), _BLOCK_BYTES
    for level in (1, 8, 9):
        yield _recipe(Packer.LZO, 4, level), _BLOCK_BYTES


def _recipe(packer: Packer, *parameters: int) -> Recipe:
    """A recipe of whichever version is here."""
    name = library_of(packer)
    library = next(one for one in sorted(available()) if one.partition(" ")[0] == name)
    return Recipe(packer, parameters, library)


def speed(recipe: Recipe, content: bytes, size: int) -> float:
    """MB of 10^6 bytes per second of one core."""
    blocks = [content[first : first + size] for first in range(0, len(content), size)]
    best = 0.0
    for _ in range(_ROUNDS):
        done = 0
        began = _busy_s()
        while (busy := _busy_s() - began) < _BUSY_S_MIN:
            block = blocks[done % len(blocks)]
            pack(recipe, block, len(block) // _CLUSTER_RATIO)
            done += 1
        best = max(best, done * size / busy / 1e6)
    return best


def moving_speed(holding: Holding, content: bytes) -> float:
    """MB of 10^6 bytes per second of one core, of which each range of 16 KiB moved by another amount."""
    firsts = array("I", range(0, len(content), 16 * KIB))
    amounts = array("i", (16 * number for number in range(len(firsts))))
    image = ImageShifts(_BASE, len(content), ByteRange(0, len(content)), firsts, amounts)
    best = 0.0
    for _ in range(_ROUNDS):
        done = 0
        began = _busy_s()
        while (busy := _busy_s() - began) < _BUSY_S_MIN:
            at = done % (len(content) // _MOVED_BYTES) * _MOVED_BYTES
            block = content[at : at + _MOVED_BYTES]
            move_references(block, MovedReferences(0, at, holding), image)
            done += 1
        best = max(best, done * _MOVED_BYTES / busy / 1e6)
    return best


def btf_speed(module: bytes) -> float:
    """MB of 10^6 bytes of types per second of one core, of which every hundredth moves otherwise."""
    section = find_btf(module)
    parsed = parse_btf(module[section.offset : section.end]) if section else None
    if section is None or parsed is None:
        raise SystemExit("a module without BTF")
    types = ByteRange(section.offset + parsed.types.offset, parsed.types.size)
    steps = Shifts(tuple(range(0, 100_000, 100)), tuple(range(1000)))
    shifts = BtfShifts(steps, steps)
    best = 0.0
    for _ in range(_ROUNDS):
        done = 0
        began = _busy_s()
        while (busy := _busy_s() - began) < _BUSY_S_MIN:
            move_btf(module, MovedBtf(0, types), shifts)
            done += 1
        best = max(best, done * types.size / busy / 1e6)
    return best


def _busy_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main() -> None:
    content = Path(sys.argv[1]).read_bytes()[:_CONTENT_BYTES]
    for recipe, size in recipes():
        got = speed(recipe, content, size)
        name, level = recipe.packer.name, level_of(recipe)
        print(f"{name:10} {level:3} {got:8.2f} MB/s  {recipe.library}", flush=True)
    for holding in Holding:
        got = moving_speed(holding, content)
        print(f"{holding.name:14} {got:8.2f} MB/s  moved", flush=True)
    if len(sys.argv) > 2:
        print(f"BTF            {btf_speed(Path(sys.argv[2]).read_bytes()):8.2f} MB/s  moved")


if __name__ == "__main__":
    main()
