"""What of a target stays packed for want of device memory, in words.

Pure: opened blocks in, lines out. How much each lacks is found in prove.py.
"""

from collections.abc import Iterable, Iterator

from slipstream.delta.limits import MIB
from slipstream.delta.unfold import OpenBlock
from slipstream.server.reasons import printable

_NAMED_MAX = 5  # the others are counted


def lacking_memory(
    blocks: Iterable[OpenBlock], image_offset: int, device_bytes: int
) -> Iterator[str]:
    """A line for each of the largest that stay packed, and one for the others.

    The image stands at the address `image_offset`; `device_bytes` is what there is. How much memory
    would do is the least: a search that would have been in vain did not take place.
    """
    lacking = sorted(
        (one for one in blocks if one.lacking_bytes), key=lambda one: -one.content.size
    )
    for one in lacking[:_NAMED_MAX]:
        needed = _needed([one], device_bytes)
        yield f"{_name(one, image_offset)} stays packed: packing it again takes {needed}"
    if others := lacking[_NAMED_MAX:]:
        needed = _needed(others, device_bytes)
        yield f"{len(others)} more, smaller, stay packed: packing them again takes {needed}"


def _name(block: OpenBlock, image_offset: int) -> str:
    file = block.name.rpartition("#")[0]  # behind it a number, in an image without files too
    if file:
        return f"{printable(file)} ({block.packing.value})"
    return f"what is packed at byte {block.places[0].offset - image_offset} ({block.packing.value})"


def _needed(blocks: Iterable[OpenBlock], device_bytes: int) -> str:
    needed = device_bytes + max(one.lacking_bytes for one in blocks)
    return f"--memory {-(-needed // MIB)}MiB at least"
