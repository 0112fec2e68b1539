"""Names planned by the slots of their folder, so that a rename changes one sector of it.

Linux's vfat renames in two steps in memory: the new name goes into the first run of free slots that
is long enough, then the old one's slots are marked as free. Where both stand in one sector of 512
bytes, the medium has the old name or the new one. Where they stand in two, it may have both or
neither after a power cut; and a new name that itself crosses a sector may be there as its short
name alone, without tries (docs/boot.md).

Where the new name goes is decided by filling the runs before the wanted place: with empty files
("pads"), whose names take just as many slots, and which are removed after the rename.

Firmware counts a try by a rename of its own, which puts the new name behind the last slot that was
ever used (EDK2, measured: docs/boot.md). So that is where a release's names are put, if it can be.

Pure: the slots of a folder in, pads out. A slot is the place of 32 bytes; `taken` has a byte for
each, 0 where it is free.

Sources: Linux, fs/fat/dir.c (fat_add_entries), fs/fat/namei_vfat.c (vfat_build_slots,
vfat_create_shortname, vfat_rename). Tried on Linux 6.1: docs/boot.md. EDK2, FatPkg/EnhancedFatDxe,
DirectoryManage.c (FatLoadNextDirEnt, FatFirstFitDirEnt).
"""

import re
from dataclasses import dataclass

from slipstream.delta.filesystem.fat_layout import RECORD_BYTES

SECTOR_SLOTS = 512 // RECORD_BYTES  # what a medium writes at once, whatever FAT's sectors are
PADS_MAX = 64  # for one rename: files of four sectors' runs; beyond, two sectors are written

_LONG_CHARS = 13  # UTF-16 units of a long name in one slot
_SHORT = re.compile(r"[^. +,;=\[\]]{1,8}(?:\.[^. +,;=\[\]]{1,3})?\Z")
_PAD = re.compile(r"\.?pad[0-9]{3}_*\.tmp\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SlotPlan:
    """What to put in the way, and what comes of it.

    `pads` are the slots that each pad takes, in the order in which they are made. `place` is where
    the new name goes; `same_sector` whether old and new name stand in one sector, `whole` whether
    the new one does not cross a sector itself.
    """

    pads: tuple[int, ...]
    place: range
    same_sector: bool
    whole: bool


def slots_of(name: str) -> int:
    """How many slots Linux's vfat gives a new name (mounted with shortname=mixed, the default).

    One for a name of at most 8.3 characters without lowercase; else one, and one for each 13
    characters. Measured on Linux 6.1, docs/boot.md.
    """
    if _SHORT.match(name) and name.isascii() and name == name.upper():
        return 1
    units = len(name.encode("utf-16-le")) // 2
    return 1 + -(-units // _LONG_CHARS)


def pad_name(number: int, slots: int) -> str:
    """A name that takes so many slots, and that no boot loader lists."""
    if slots == 1:
        return f"PAD{number:03d}.TMP"
    return f".pad{number:03d}".ljust((slots - 1) * _LONG_CHARS - 4, "_") + ".tmp"


def is_pad(name: str) -> bool:
    """Whether it is such a name: left behind, if nobody is renaming now."""
    return _PAD.match(name) is not None


def plan_stage(taken: bytes, hidden: int, final: int, cluster_slots: int) -> SlotPlan:
    """Pads to make before a hidden name of `hidden` slots is created, so that a name of `final`
    slots can take its place within one sector. `place` is the hidden name's.

    `cluster_slots` is by how much the folder grows when it is full.
    """
    folder = _Folder(taken, cluster_slots)
    while True:
        place = folder.first_fit(hidden)
        with_hidden = folder.with_taken(place)
        after = plan_rename(with_hidden.taken, place, final, cluster_slots)
        if after.same_sector or len(folder.pads) >= PADS_MAX:
            pads = tuple(folder.pads) if after.same_sector else ()
            return SlotPlan(pads, place, after.same_sector, _sectors(place) == 1)
        folder.fill(place.start)


def plan_rename(taken: bytes, old: range, final: int, cluster_slots: int) -> SlotPlan:
    """Pads to make before a name that stands in `old` is renamed to one of `final` slots.

    Where one sector cannot be had, pads that at least keep the new name from crossing a sector.
    """
    folder = _Folder(taken, cluster_slots)
    whole: SlotPlan | None = None
    while len(folder.pads) <= PADS_MAX:
        place = folder.first_fit(final)
        is_whole = _sectors(place) == 1
        if (
            is_whole
            and _sectors(range(min(old.start, place.start), max(old.stop, place.stop))) == 1
        ):
            return SlotPlan(tuple(folder.pads), place, same_sector=True, whole=True)
        if is_whole and whole is None:
            whole = SlotPlan(tuple(folder.pads), place, same_sector=False, whole=True)
        if whole is not None and place.start >= old.stop:
            break
        folder.fill(place.start)
    return whole or SlotPlan((), _Folder(taken, cluster_slots).first_fit(final), False, False)


def plan_together(
    taken: bytes, used: int, hidden: int, final: int, tries: int, cluster_slots: int
) -> SlotPlan | None:
    """As plan_stage, in the sector in which the firmware will put the final name when it counts it.

    `used` slots of the folder are or were taken: behind them it goes. So hidden name, final name and
    up to `tries` counted ones follow each other there. None where that takes too many pads.
    """
    room = SECTOR_SLOTS - hidden - final
    counted = min(tries, room // final) * final
    begin = used
    if begin % SECTOR_SLOTS + hidden + final + counted > SECTOR_SLOTS:
        begin = (begin // SECTOR_SLOTS + 1) * SECTOR_SLOTS
    folder = _Folder(taken, cluster_slots)
    while (place := folder.first_fit(hidden)).start < begin:
        folder.fill(place.start, begin)
        if len(folder.pads) > PADS_MAX:
            return None
    return SlotPlan(tuple(folder.pads), place, same_sector=True, whole=True)


class _Folder:
    """The slots of a folder while pads are put into it."""

    def __init__(self, taken: bytes, cluster_slots: int) -> None:
        self._taken = bytearray(taken)
        self._cluster_slots = cluster_slots
        self.pads: list[int] = []

    @property
    def taken(self) -> bytes:
        return bytes(self._taken)

    def with_taken(self, place: range) -> "_Folder":
        other = _Folder(self.taken, self._cluster_slots)
        other._take(place)
        return other

    def first_fit(self, count: int) -> range:
        """Where a name of `count` slots goes: a folder that has no room grows by a cluster."""
        room = bytes(max(self._cluster_slots, count))
        start = (self._taken + room).find(bytes(count))
        return range(start, start + count)

    def fill(self, start: int, stop: int | None = None) -> None:
        """A pad over the run of free slots from `start` on, up to the end of its sector, or to `stop`."""
        end = start
        bound = (start // SECTOR_SLOTS + 1) * SECTOR_SLOTS
        bound = bound if stop is None else min(bound, stop)
        slots = self._taken + bytes(self._cluster_slots)
        while end < bound and not slots[end]:
            end += 1
        where = self.first_fit(end - start)  # an earlier, shorter run may be long enough for it
        self._take(where)
        self.pads.append(len(where))

    def _take(self, place: range) -> None:
        while len(self._taken) < place.stop:
            self._taken += bytes(self._cluster_slots)
        self._taken[place.start : place.stop] = b"\1" * len(place)


def _sectors(place: range) -> int:
    """How many sectors the slots of a range stand in."""
    return (place.stop - 1) // SECTOR_SLOTS - place.start // SECTOR_SLOTS + 1
