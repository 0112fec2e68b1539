"""What a payload of profile small, 512 MiB, should be at most, as a share of the smallest peer's.

The goals were set before the engine was written. A row that has none of its own is held to the one
for all: a delta that is worth its trouble is a tenth smaller than whatever else there is.
"""

from benches.corpus import Row

ANY = 0.9
# By release pair, then whether the file system packs its files.
_GOALS = {
    ("full", False): 0.33,
    ("small", False): 0.5,
    ("full", True): 0.15,
    ("small", True): 0.2,
}
_RAW = ("ext4-4k", "ext4-1k", "ext4-written", "erofs")
_PACKED = ("squashfs-", "erofs-")


def size_goal(row: Row) -> float:
    """The ratio that was wanted: payload bytes to those of the smallest peer."""
    kind = row.kind.name
    if kind in _RAW:
        return _GOALS.get((row.pair.name, False), ANY)
    if kind.startswith(_PACKED):
        return _GOALS.get((row.pair.name, True), ANY)
    return ANY
