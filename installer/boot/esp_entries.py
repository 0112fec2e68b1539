"""The boot entries on the ESP, by their names: what is there, whose it is, what it takes. Reads only."""

from pathlib import Path

from slipstream.delta.errors import DeviceFault
from slipstream.installer.boot.chooser import CONF_FOLDER, UKI_FOLDER, Listed, list_entries
from slipstream.installer.boot.entry import (
    EntryName,
    Suffix,
    dump_entry_name,
    parse_entry_name,
    parse_hidden_name,
    slot_of_stem,
)
from slipstream.installer.boot.esp import Esp, translated
from slipstream.installer.boot.type1 import FILES_FOLDER

FOLDERS = {Suffix.UKI: UKI_FOLDER, Suffix.CONF: CONF_FOLDER}


class EspEntries:
    """Names on one ESP, read anew at each call. Raises DeviceFault."""

    def __init__(self, esp: Esp) -> None:
        self._esp = esp

    def folders(self) -> tuple[tuple[Suffix, Path], ...]:
        """The folders that the boot loader lists, with the kind of entry that stands in each."""
        return tuple((suffix, self._esp.root / path) for suffix, path in FOLDERS.items())

    def names(self, wanted: Suffix | None = None) -> tuple[EntryName, ...]:
        """Names of ours, empty files too; of one kind only where `wanted`."""
        found = []
        for suffix, folder in self.folders():
            if wanted not in (None, suffix):
                continue
            for file_name in self._esp.names(folder):
                name = parse_entry_name(file_name)
                if name is not None and name.suffix is suffix:
                    found.append(name)
        return tuple(found)

    def listed(self) -> tuple[EntryName, ...]:
        """Names that the boot loader lists too: an empty file is what a cut left of a rename."""
        return tuple(
            name
            for name in self.names()
            if self._esp.size(self._esp.root / FOLDERS[name.suffix] / dump_entry_name(name))
        )

    def entries_in(self, suffix: Suffix, slot: str) -> list[str]:
        """File names of a slot's entries of one kind."""
        return [dump_entry_name(name) for name in self.names(suffix) if name.slot == slot]

    def hidden_in(self, folder: Path, slot: str) -> list[str]:
        """Hidden file names of a slot in a folder: staged, doubles, set aside."""
        return [name for name in self._esp.names(folder) if _hidden_slot(name) == slot]

    def kernels_of(self, slot: str) -> list[Path]:
        """The folders with a slot's kernels and initrds."""
        files = self._esp.root / FILES_FOLDER
        return [files / stem for stem in self._esp.names(files) if slot_of_stem(stem) == slot]

    def visible(self, slot: str, counter: int) -> list[EntryName]:
        """The names under which a release is listed: one, but for doubles."""
        return [name for name in self.listed() if (name.slot, name.counter) == (slot, counter)]

    def no_entry(self, slot: str, counter: int) -> DeviceFault:
        """The fault that a release has no entry."""
        return DeviceFault(
            "no boot entry of this release",
            where=self._esp.root,
            expected=f"{counter:04d}{slot} in {UKI_FOLDER} or {CONF_FOLDER}",
            got=", ".join(dump_entry_name(name) for name in self.names()) or "none",
            hint="Install the release again",
        )

    def menu(self) -> tuple[Listed, ...]:
        """All that the boot loader would list. Raises DeviceFault."""
        with translated("cannot read the boot entries", self._esp.root):
            return list_entries(self._esp.root)

    def all_of(self, slot: str) -> list[Path]:
        """Files of a slot: entries, hidden leftovers, kernels and initrds."""
        paths = [
            folder / name
            for suffix, folder in self.folders()
            for name in self.entries_in(suffix, slot) + self.hidden_in(folder, slot)
        ]
        for folder in self.kernels_of(slot):
            paths += [folder / name for name in self._esp.names(folder)]
        return paths


def is_of_slot(entry: Listed, slot: str) -> bool:
    """Whether a line of the menu is an entry of ours of that slot."""
    name = parse_entry_name(entry.path.name)
    return name is not None and name.slot == slot


def _hidden_slot(name: str) -> str | None:
    stem = parse_hidden_name(name)
    return None if stem is None else slot_of_stem(stem)
