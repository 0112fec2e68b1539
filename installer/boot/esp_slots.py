"""The boot partition's folders by their slots: makes way for a name, so that a rename is one sector.

The shell around slot_plan.py: reads where names stand, makes the pads, removes them. All of it is a
precaution that a rename can do without: where the bytes cannot be read, or there is no room for a
pad, the rename goes on and a notice says what is not had.

Also here: which files must not be unlinked, because they share clusters or are damaged.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from slipstream.delta.errors import DeviceFault, FormatError
from slipstream.delta.filesystem.fat_layout import RECORD_BYTES
from slipstream.delta.filesystem.fat_volume import ChainEnd, FatFolder, FatVolume
from slipstream.installer.boot.entry import parse_entry_name
from slipstream.installer.boot.esp import Esp
from slipstream.installer.boot.esp_bytes import NoBytes, find_esp_bytes
from slipstream.installer.boot.slot_plan import (
    SlotPlan,
    is_pad,
    pad_name,
    plan_rename,
    plan_stage,
    plan_together,
    slots_of,
)

Hazards = Callable[[Path], str]  # a file -> why it must not be unlinked, or nothing


class EspSlots:
    """One boot partition. `device` is its block device or image, where that is configured."""

    def __init__(self, esp: Esp, device: Path | None, on_notice: Callable[[str], None]) -> None:
        self._esp = esp
        self._device = device
        self._notice = on_notice

    def look(self, *, removing: bool = False) -> FatVolume | NoBytes:
        """The volume as it is now; NoBytes where there is none to read, or none that may be read.

        Raises DeviceFault for a volume that cannot be walked: nothing may be removed from it; and, to
        one who is `removing` something, where the medium fails.
        """
        try:
            source = find_esp_bytes(self._esp.root, self._device)
            if isinstance(source, NoBytes):
                return source
            return source.read_volume()
        except FormatError as error:
            raise DeviceFault(
                f"the boot partition's file system is damaged: {error}",
                where=self._esp.root,
                hint="Run `slipstream device doctor`, which says how to mend it",
            ) from error
        except DeviceFault as error:
            cause = error.__cause__
            if removing and isinstance(cause, OSError) and cause.errno == errno.EIO:
                raise  # a failing medium: the very one on which files come to share clusters
            self._notice(f"the boot partition's clusters and slots are not looked at: {error}")
            return NoBytes(str(error))

    def hazards(self) -> Hazards:
        """Which files must not be unlinked now. None where there is nothing to read: in a plain folder
        a file shares nothing with another. Raises DeviceFault where reading fails, or gives nonsense.
        """
        volume = self.look(removing=True)
        if isinstance(volume, NoBytes):
            return lambda _: ""
        root = self._esp.root

        def why(path: Path) -> str:
            name = path.relative_to(root).as_posix()
            if others := volume.partners(name):
                return f"shares clusters with {', '.join(others)}"
            file = volume.find(name)
            if file is None and os.path.lexists(path):
                return "is not on the volume that was looked at (is [boot] esp_device right?)"
            if file is not None and file.chain.end is not ChainEnd.END:
                # Freeing it, Linux meets what is no chain and makes the file system read-only:
                # fs/fat/fatent.c, fat_free_clusters.
                return f"is damaged (its chain {file.chain.end.value})"
            return ""

        return why

    @contextmanager
    def staging(self, hidden: Path, final: Path) -> Iterator[None]:
        """While a hidden name is created that is to be renamed to `final` later."""
        self.clear(hidden.parent)
        volume = self.look()
        folder = self._folder_of(hidden, volume)
        if isinstance(volume, NoBytes) or folder is None or hidden.is_file():
            yield
        else:
            with self._pads(hidden.parent, _plan_new(folder, volume, hidden, final)):
                yield
        self._check_staged(hidden, final)

    def _check_staged(self, hidden: Path, final: Path) -> None:
        """Where the hidden name really lies: another kernel may place it otherwise."""
        plan = self._plan(hidden, final)
        if plan is not None and not plan.same_sector:
            self._notice(_two_sectors(hidden, final))

    @contextmanager
    def renaming(self, old: Path, new: Path) -> Iterator[None]:
        """While a name is renamed within its folder."""
        self.clear(old.parent)
        plan = self._plan(old, new)
        if plan is None:
            yield
            return
        if not plan.same_sector:
            self._notice(_two_sectors(old, new))
        with self._pads(old.parent, plan):
            yield

    def clear(self, folder: Path) -> None:
        """Remove pads that a cut left."""
        self._remove([name for name in self._esp.names(folder) if is_pad(name)], folder)

    def _plan(self, old: Path, new: Path) -> SlotPlan | None:
        """None where the slots cannot be read."""
        volume = self.look()
        folder = self._folder_of(old, volume)
        if isinstance(volume, NoBytes) or folder is None:
            return None
        for record in folder.slots.records:
            if record.name.lower() == old.name.lower():
                taken, count = folder.slots.taken, slots_of(new.name)
                return plan_rename(taken, record.slots, count, _cluster_slots(volume))
        return None

    def _folder_of(self, path: Path, volume: FatVolume | NoBytes) -> FatFolder | None:
        if isinstance(volume, NoBytes):
            return None
        return volume.folder(path.parent.relative_to(self._esp.root).as_posix())

    @contextmanager
    def _pads(self, folder: Path, plan: SlotPlan) -> Iterator[None]:
        made: list[str] = []
        try:
            for number, slots in enumerate(plan.pads):
                made.append(pad_name(number, slots))
                self._esp.write(folder / made[-1], b"")
        except DeviceFault as error:
            self._notice(f"no way is made for a rename within one sector: {error}")
            self._remove(made, folder)
            made = []
        yield
        self._remove(made, folder)  # after a fault in between the next one finds them (clear)

    def _remove(self, names: list[str], folder: Path) -> None:
        """Pads are empty: removing one frees its slots and nothing else. Before the next rename
        they must be gone from the folder, not from the medium: that is synced with the next name.
        """
        for name in names:
            self._esp.unlink(folder / name)


def _plan_new(folder: FatFolder, volume: FatVolume, hidden: Path, final: Path) -> SlotPlan:
    """For a hidden name that will be `final`, and then be counted by the firmware."""
    slots, cluster = folder.slots, _cluster_slots(volume)
    names = slots_of(hidden.name), slots_of(final.name)
    name = parse_entry_name(final.name)
    tries = 0 if name is None or name.tries is None else name.tries.left
    together = plan_together(slots.taken, slots.used, *names, tries, cluster)
    return together or plan_stage(slots.taken, *names, cluster)


def _cluster_slots(volume: FatVolume) -> int:
    return volume.layout.cluster_size // RECORD_BYTES


def _two_sectors(old: Path, new: Path) -> str:
    return (
        f"{old.name} and {new.name} cannot stand in one sector of {old.parent}: a power cut during "
        "the rename may leave both or neither (docs/boot.md)"
    )
