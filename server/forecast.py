"""What applying a payload will take of a device, and what a full payload would have taken.

Seconds of packing are those of the machine that packing_speed.py was measured on: a device's
processor may take several times as long.
"""

from collections import Counter
from dataclasses import dataclass

from slipstream.delta.codec import Codec, compress
from slipstream.delta.limits import BLOCK_BYTES, KIB, MIB
from slipstream.delta.packing.recipe import Recipe
from slipstream.delta.payload import Index
from slipstream.delta.reader import Reader
from slipstream.server.packing_speed import moving_s, packing_s

_COMPARED_BYTES = MIB  # of two images, read at a time
_SAMPLE_BYTES = 256 * KIB
_SAMPLES = 64  # and of larger images one every ...
_SAMPLE_EVERY_BYTES = 2 * MIB  # ... so many bytes: 8 s for the samples of 1 GiB
_SAMPLE_LEVEL = 12  # of zstd: that of full payloads in the default profile


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a device needs, by the index alone. Sizes in bytes.

    memory_bytes    peak of decoding, besides the process itself; an upper bound
    packed_bytes    content that is packed again, by recipe
    pack_s          seconds of one processor core for that
    moved_bytes     of the source, in which numbers are moved
    moving_s        seconds for that, once for each
    scratch_bytes   room needed on a disk: none, everything is rebuilt from the slots
    libraries       that pack, by name and exact version
    """

    memory_bytes: int
    packed_bytes: dict[Recipe, int]
    pack_s: float
    moved_bytes: int
    moving_s: float
    scratch_bytes: int
    libraries: tuple[str, ...]


def forecast(index: Index) -> Forecast:
    """The forecast of one payload."""
    packed: Counter[Recipe] = Counter()
    for frame in index.frames:
        for part in (*frame.parts, *frame.outer):
            if part.recipe is not None:
                packed[part.recipe] += part.size
    streams = map(index.streams.__getitem__, range(len(index.streams)))
    moved = [(one.moved, one.size) for one in streams if one.moved is not None]
    return Forecast(
        memory_bytes=index.memory_bytes,
        packed_bytes=dict(packed),
        pack_s=sum(packing_s(recipe, size) for recipe, size in packed.items()),
        moved_bytes=sum(size for _, size in moved),
        moving_s=sum(moving_s(one, size) for one, size in moved),
        scratch_bytes=0,
        libraries=index.libraries,
    )


def written_bytes(standing: Reader, target: Reader) -> int:
    """Bytes of the target in blocks that differ from what stands in a slot at the same offset.

    A device writes no others (installer/slot.py).
    """
    written = 0
    for offset in range(0, target.size, _COMPARED_BYTES):
        size = min(_COMPARED_BYTES, target.size - offset)
        made = target.read(offset, size)
        left = max(0, standing.size - offset)
        there = standing.read(offset, min(size, left)) if left else b""
        if made == there:
            continue
        for first in range(0, size, BLOCK_BYTES):
            block = made[first : first + BLOCK_BYTES]
            if block != there[first : first + BLOCK_BYTES]:
                written += len(block)
    return written


def estimate_full_bytes(target: Reader) -> int:
    """About what a payload without a source would take: samples compressed, and scaled up.

    In the default profile. 119.9 MB where a payload had 120.7 (Debian, 503 MB of ext4); with fewer
    samples it was off by a tenth. What `target` raises passes.
    """
    sampled = encoded = 0
    every = max(_SAMPLE_BYTES, min(_SAMPLE_EVERY_BYTES, target.size // _SAMPLES))
    for offset in range(0, target.size, every):
        data = target.read(offset, min(_SAMPLE_BYTES, target.size - offset))
        sampled += len(data)
        encoded += len(compress(Codec.ZSTD, data, _SAMPLE_LEVEL)) if any(data) else 0
    return encoded * target.size // sampled if sampled else 0
