"""Files on the ESP that must not be unlinked or written over: taken out of the way by a rename.

A double of an entry, from a rename that was cut, may share its clusters; so may, by the chains of the
whole partition, any other file. Freeing one would destroy the other. On a broken chain Linux would make
the partition read-only. Such a file gets a hidden name, and goes once that is safe: when its slot is
retired and it shares nothing any more, or by fsck.vfat.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from slipstream.installer.boot.entry import EntryName, dump_entry_name, hidden_name
from slipstream.installer.boot.esp import Esp
from slipstream.installer.boot.esp_entries import FOLDERS, EspEntries
from slipstream.installer.boot.esp_slots import EspSlots, Hazards


class Doubles:
    """Hides, sets aside and removes on one ESP. `rename` renames durably. Raises DeviceFault."""

    def __init__(
        self,
        esp: Esp,
        slots: EspSlots,
        entries: EspEntries,
        rename: Callable[[Path, Path], None],
        on_notice: Callable[[str], None],
    ) -> None:
        self._esp = esp
        self._slots = slots
        self._entries = entries
        self._rename = rename
        self._notice = on_notice

    def one_of(self, slot: str, counter: int) -> tuple[EntryName | None, EntryName | None]:
        """The counted and the plain name of an entry: normally one of them, at least one.

        Two counted names are the boot loader's own rename, cut; the one with fewer tries left is
        the later one, the other is hidden.
        """
        mine = self._entries.visible(slot, counter)
        if not mine:
            raise self._entries.no_entry(slot, counter)
        plain = next((name for name in mine if name.tries is None), None)
        counted = [name for name in mine if name.tries is not None]
        counted.sort(key=lambda name: 0 if name.tries is None else name.tries.left)
        for stale in counted[1:]:
            self.hide(stale)
        return (counted[0] if counted else None), plain

    def hide(self, name: EntryName) -> None:
        """Take a double out of the menu without freeing its clusters; retire removes it."""
        self.hide_file(self._esp.root / FOLDERS[name.suffix] / dump_entry_name(name), name)

    def hide_file(self, path: Path, name: EntryName) -> None:
        """The same for a file of another name: the alias of an entry."""
        stem = hidden_name(name.counter, name.slot, twin=True)
        taken = self._esp.names(path.parent)
        number = 0
        while f"{stem}{number}" in taken:
            number += 1
        self._rename(path, path.with_name(f"{stem}{number}"))

    def set_aside(self, target: Path) -> None:
        """What must not be unlinked is not written over either: that frees its clusters, too."""
        if self._slots.hazards()(target):
            taken, number = self._esp.names(target.parent), 0
            stem = f".{target.name.strip('.').removesuffix('.tmp')}.old"
            while f"{stem}{number}" in taken:
                number += 1
            self._rename(target, target.with_name(f"{stem}{number}"))

    def unlinkable(self, folder: Path, names: Iterable[str], hazards: Hazards) -> list[str]:
        """Those of the names that may be unlinked; of the others a notice says why not."""
        found = []
        for name in names:
            if why := hazards(folder / name):
                self._notice(
                    f"{folder / name} {why}: it is hidden and not removed. `slipstream device "
                    "doctor` says how to mend it (fsck.vfat)"
                )
            else:
                found.append(name)
        return found

    def remove(self, folder: Path, names: list[str]) -> None:
        """Remove files of a folder durably."""
        self._esp.remove(folder / name for name in names)

    def remove_files(self, folder: Path, hazards: Hazards) -> None:
        """Remove a folder with all in it that may be unlinked."""
        self.remove(folder, self.unlinkable(folder, self._esp.names(folder), hazards))
        if not self._esp.names(folder):
            self._esp.remove_folder(folder)
        self._esp.sync_folder(folder.parent)
