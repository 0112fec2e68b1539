"""Names planned by slots: against what vfat does with the same folder, in every kind of folder."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.installer.boot.slot_plan import (
    PADS_MAX,
    SECTOR_SLOTS,
    is_pad,
    pad_name,
    plan_rename,
    plan_stage,
    plan_together,
    slots_of,
)
from tests.installer.boot.vfat_image import _records

NAMES = [
    *("0042a.efi", ".0042b.tmp", "0042b+3-0.efi", "10000b+3-0.efi", "0042b.conf", ".0042b.old0"),
    *("a", "A.B", "ab.Cd", "Ab.cd", "a.b.c", ".abc", "abcdefgh.ijk", "abcdefghi.jk", "a b"),
    *("0042B+~1.EFI", "x" * 13, "x" * 14, "x" * 26, "x" * 27, "x+", "loader.conf"),
]


@pytest.mark.parametrize("name", NAMES)
def test_slots_of_a_name(name: str) -> None:
    assert slots_of(name) == len(_records(name, []))


@pytest.mark.parametrize("slots", range(1, 17))
def test_pads_take_what_they_say(slots: int) -> None:
    name = pad_name(63, slots)

    assert is_pad(name)
    assert slots_of(name) == len(_records(name, [])) == slots
    assert not name.endswith((".efi", ".conf"))
    assert len(name) <= 255
    assert not any(map(is_pad, NAMES))


class Folder:
    """What the kernel does, slot by slot."""

    def __init__(self, taken: bytes, cluster: int) -> None:
        self.taken = list(taken)
        self._cluster = cluster

    def add(self, count: int) -> range:
        free = slot = 0
        while free < count:
            if slot == len(self.taken):
                self.taken += [0] * self._cluster
            free = 0 if self.taken[slot] else free + 1
            slot += 1
        for n in range(slot - count, slot):
            self.taken[n] = 1
        return range(slot - count, slot)

    def remove(self, place: range) -> None:
        for slot in place:
            self.taken[slot] = 0

    @property
    def bytes(self) -> bytes:
        return bytes(self.taken)


def sector(*places: range) -> bool:
    return len({slot // SECTOR_SLOTS for place in places for slot in place}) == 1


@st.composite
def folders(draw: st.DrawFn) -> tuple[bytes, int]:
    """Any pattern of slots: full, empty, holes of every length."""
    chance = random.Random(draw(st.integers(0, 1 << 32)))
    count, density = chance.choice((16, 32, 64, 128)), chance.random()
    end = chance.randrange(count + 1)
    taken = bytes(slot < end and chance.random() < density for slot in range(count))
    return taken, chance.choice((16, 32, 128))


@settings(max_examples=300, deadline=None)
@given(folders(), st.sampled_from([(2, 2), (2, 3), (3, 3)]))
def test_a_staged_name_and_its_final_one_stand_in_one_sector(
    start: tuple[bytes, int], names: tuple[int, int]
) -> None:
    """Whatever the folder was: pads, hidden name, pads gone; then pads, rename, pads gone."""
    taken, cluster = start
    folder = Folder(taken, cluster)
    plan = plan_stage(taken, *names, cluster)
    assert plan.same_sector
    pads = [folder.add(count) for count in plan.pads]
    hidden = folder.add(names[0])
    assert hidden == plan.place
    for pad in pads:
        folder.remove(pad)

    again = plan_rename(folder.bytes, hidden, names[1], cluster)
    assert again.same_sector
    for count in again.pads:
        folder.add(count)
    final = folder.add(names[1])
    assert final == again.place
    assert sector(hidden, final)
    assert len(plan.pads) <= PADS_MAX
    assert len(again.pads) <= PADS_MAX


@settings(max_examples=300, deadline=None)
@given(folders(), st.integers(0, 20), st.sampled_from([(2, 2), (2, 3)]), st.integers(1, 3))
def test_a_name_and_what_the_firmware_makes_of_it_stand_in_one_sector(
    start: tuple[bytes, int], more: int, names: tuple[int, int], tries: int
) -> None:
    """The firmware takes slots that never were taken, and never those of its last name again."""
    taken, cluster = start
    used = min(taken.rfind(b"\1") + 1 + more, len(taken))
    folder = Folder(taken, cluster)
    plan = plan_together(taken, used, *names, tries, cluster)
    assert plan is not None
    places = [folder.add(count) for count in plan.pads]
    pads = [*places]
    places.append(hidden := folder.add(names[0]))
    assert hidden == plan.place
    for pad in pads:
        folder.remove(pad)

    again = plan_rename(folder.bytes, hidden, names[1], cluster)
    places += [folder.add(count) for count in again.pads]
    places.append(final := folder.add(names[1]))
    used = max(used, *(place.stop for place in places))
    counted = range(used, used + tries * names[1])
    assert sector(hidden, final, counted)


def test_more_tries_than_fit_a_sector() -> None:
    """Six of nine names of two slots do, behind a hidden and a final one."""
    plan = plan_together(bytes(16), 1, 2, 2, 9, 16)
    assert plan is not None
    assert (plan.pads, plan.place) == ((16,), range(16, 18))
    full = bytes(slot % SECTOR_SLOTS > 1 for slot in range((PADS_MAX + 1) * SECTOR_SLOTS))
    assert plan_together(full, len(full), 2, 2, 3, 16) is None


@settings(max_examples=300, deadline=None)
@given(folders(), st.integers(0, 1 << 16), st.integers(1, 3), st.integers(1, 3))
def test_a_rename_of_a_name_that_stands_anywhere(
    start: tuple[bytes, int], at: int, old_count: int, count: int
) -> None:
    """One sector where the old name's has room; else a new name that does not cross one."""
    taken, cluster = start
    at %= len(taken) - old_count
    marked = bytearray(taken)
    marked[at : at + old_count] = b"\1" * old_count
    old = range(at, at + old_count)
    begin = at // SECTOR_SLOTS * SECTOR_SLOTS
    run = bytes(count) in bytes(marked[begin : begin + SECTOR_SLOTS])

    plan = plan_rename(bytes(marked), old, count, cluster)
    assert plan.same_sector == (sector(old) and run)
    assert plan.whole
    folder = Folder(bytes(marked), cluster)
    for pad in plan.pads:
        folder.add(pad)
    new = folder.add(count)
    assert new == plan.place
    assert sector(new)
    assert sector(old, new) == plan.same_sector


def test_too_many_holes_are_not_filled() -> None:
    """One-slot holes in 80 sectors, and the wanted one behind them: two sectors, said so."""
    taken = bytearray(b"\1" * 80 * SECTOR_SLOTS)
    taken[::SECTOR_SLOTS] = bytes(80)
    old = range(79 * SECTOR_SLOTS + 2, 79 * SECTOR_SLOTS + 4)

    plan = plan_rename(bytes(taken), old, 1, 16)
    assert (plan.same_sector, plan.whole, plan.pads) == (False, True, ())


def test_a_folder_is_too_long_after_127_updates() -> None:
    """Each starts its release once and takes six slots, two of them to a sector; docs/boot.md."""
    cluster = 128  # slots, of 4 KiB
    taken, used = bytearray(b"\1\1".ljust(cluster, b"\0")), 2  # the folder itself and the one above
    places = {0: range(0), 1: range(0)}
    for update in range(200):
        old = places[update % 2]
        taken[old.start : old.stop] = bytes(len(old))
        plan = plan_together(bytes(taken), used, 2, 2, 3, cluster)
        if plan is None:
            break
        used = (
            plan.place.stop + 4
        )  # the final name behind the hidden one, the counted one behind that
        places[update % 2] = range(used - 2, used)
        taken.extend(bytes(max(0, used - len(taken))))
        taken[used - 2 : used] = b"\1\1"
    assert update == 127
