"""The boot control adapter for systemd-boot: the state of a release is a file name on the ESP.

Two kinds of entry. A UKI is one file, EFI/Linux/0042a+3-0.efi. A kernel with an initrd is
loader/entries/0042a+3-0.conf, which names files in slipstream/0042a/. docs/boot.md shows the
layout and what a power cut does at every step; the steps are numbered as there (S1, S7, S8, S13).

What holds throughout:
- nothing here writes, renames or removes anything of the booted slot, but its tries;
- no entry is visible unless all that it needs is durable and was read back;
- one rename commits (S8), one rename confirms (S13), one rename condemns;
- a file whose double is to live, or that shares clusters with another, is never unlinked: freeing
  one would destroy the other. It is renamed to a hidden name. So is one with a broken chain, on
  which Linux would make the partition read-only;
- a rename changes one sector of its folder, where that can be had (esp_slots.py).

Not here: partition names (identity.py), what follows from the counters (counting.py), repair of a
damaged FAT.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from slipstream.delta.cmdline import parse_root
from slipstream.delta.errors import DeviceFault, Rejected, UsageError
from slipstream.delta.manifest import Place
from slipstream.installer.boot.chooser import (
    CONF_FOLDER,
    UKI_FOLDER,
    Listed,
    compare_entries,
    list_entries,
    read_entry,
)
from slipstream.installer.boot.entry import (
    TRIES_MAX,
    EntryName,
    Suffix,
    Tries,
    dump_entry_name,
    hidden_name,
    is_alias_of,
    parse_entry_name,
    parse_hidden_name,
    slot_of_stem,
)
from slipstream.installer.boot.esp import Esp, translated
from slipstream.installer.boot.esp_slots import EspSlots, Hazards
from slipstream.installer.boot.loader_word import LoaderWord
from slipstream.installer.boot.preflight import (
    check_fallback,
    check_partition,
    check_room,
    check_running,
    check_selection,
)
from slipstream.installer.boot.type1 import FILES_FOLDER, PLACES, dump_conf, files_of, kind_of
from slipstream.installer.ports import Booted, BootEntry, BootFiles, Counted, EntryState

_FOLDERS = {Suffix.UKI: UKI_FOLDER, Suffix.CONF: CONF_FOLDER}


class SystemdBoot:
    """BootControl on one ESP.

    `cmdline` is the kernel command line's file; `selected` the EFI variable LoaderEntrySelected
    (its neighbours LoaderEntryDefault, LoaderEntryOneShot and LoaderFeatures are read too);
    `tries` how often a new release may be started before the old one is chosen again, 1 to 9.
    `device` is the partition's block device, where it is not found from the mount.
    """

    def __init__(
        self,
        esp: Path | Esp,
        *,
        cmdline: Path,
        selected: Path | None = None,
        tries: int = 3,
        device: Path | None = None,
        on_notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._esp = esp if isinstance(esp, Esp) else Esp(esp)
        self._slots = EspSlots(self._esp, device, on_notice)
        self._notice = on_notice
        self._loader = LoaderWord(cmdline, selected)
        self._tries = tries
        if not 1 <= tries <= TRIES_MAX:
            raise UsageError("tries out of bounds", expected=f"1..{TRIES_MAX}", got=tries)

    # --- what is

    def entries(self) -> tuple[BootEntry, ...]:
        """Every visible entry of Slipstream's naming, from the names on the ESP.

        An empty mount point is no ESP without entries: what is concluded from that (the entry was
        lost, put it back, give it up) would be wrong. Raises DeviceFault.
        """
        check_partition(self._esp)
        return tuple(
            BootEntry(
                slot=name.slot,
                counter=name.counter,
                state=name.state,
                tries_left=None if name.tries is None else name.tries.left,
                tries_done=0 if name.tries is None else name.tries.done,
                name=dump_entry_name(name),
            )
            for name in self._listed()
        )

    def booted(self) -> Booted:
        """The root hash of the kernel command line; slot and counter as the boot loader says.

        Without the boot loader's word (no EFI variables) the entry is found by its root hash.
        """
        root = self._loader.root()
        name = self._loader.selected()
        if name is None and root is not None:
            named = (
                parse_entry_name(entry.path.name)
                for entry in self._menu()
                if parse_root(entry.cmdline) == root
            )
            name = next((name for name in named if name is not None), None)
        if name is None:
            return Booted(slot=None, counter=None, root=root)
        return Booted(slot=name.slot, counter=name.counter, root=root)

    def entry_file(self, slot: str, counter: int, place: Place) -> Path | None:
        """The UKI of that name, or the kernel or initrd beside the entry; None if there is none.

        Of doubles it is the counted one, which is what was started.
        """
        for name in sorted(self._visible(slot, counter), key=lambda name: name.tries is None):
            path = self._esp.root / FILES_FOLDER / name.stem / place.value
            if name.suffix is Suffix.UKI:
                path = self._esp.root / UKI_FOLDER / dump_entry_name(name)
            if place in PLACES[name.suffix] and self._esp.is_file(path):
                return path
        return None

    def check(self, slot: str, boot_bytes: int) -> None:
        """Preflight (S0). DeviceFault if a switch could not work, or could not be undone.

        What retire removes of the slot counts as free.
        """
        check_partition(self._esp)
        check_room(self._esp, boot_bytes, self._size_of(slot))
        check_selection(self._esp.root, self._loader)
        running = self.booted().slot
        check_running(self._esp.root, self._listed(), running)
        check_fallback(self._esp.root, running)

    def counted(self) -> Counted:
        """S11, looked at from behind: the name that the boot loader reports is from before its
        rename, the name on the ESP from after it."""
        before = self._loader.selected()
        moved = None
        if before is not None and before.tries is not None:
            now = self._visible(before.slot, before.counter)
            if replace(before, tries=before.tries.after_try()) in now:
                moved = True
            elif before in now:
                moved = False
        return Counted(moved, self._loader.version())

    # --- S1: make room

    def retire(self, slot: str) -> None:
        """Remove the entry and boot files of a slot, and what an interrupted stage left.

        The entry goes first and durably, then its files: never an entry without what it needs.
        A cut before the first unlink is durable: the old entries stand. After it: the other
        slot's entry boots, and calling again removes the rest. What shares clusters with another
        file, or is damaged, stays, hidden: fsck.vfat frees it.
        """
        self._refuse_booted(slot, "remove")
        hazards = self._slots.hazards()
        for suffix, folder in self._folders():
            for name in self._names(suffix):
                if name.slot == slot and hazards(folder / dump_entry_name(name)):
                    self._hide(name)
            self._remove(folder, self._entries_in(suffix, slot))
        hazards = self._slots.hazards()  # by the names that they have now
        for _, folder in self._folders():
            self._remove(folder, self._unlinkable(folder, self._hidden_in(folder, slot), hazards))
            self._slots.clear(folder)
        for folder in self._kernels_of(slot):
            self._remove_files(folder, hazards)

    def _unlinkable(self, folder: Path, names: Iterable[str], hazards: Hazards) -> list[str]:
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

    def _remove(self, folder: Path, names: list[str]) -> None:
        self._esp.remove(folder / name for name in names)

    def _remove_files(self, folder: Path, hazards: Hazards) -> None:
        self._remove(folder, self._unlinkable(folder, self._esp.names(folder), hazards))
        if not self._esp.names(folder):
            self._esp.remove_folder(folder)
        self._esp.sync_folder(folder.parent)

    # --- S7: everything but the name

    def stage(self, slot: str, counter: int, boot: BootFiles) -> None:
        """Put the entry and its files on the ESP, hidden, durable and read back.

        A cut anywhere in here: the old entries stand, the boot loader does not list names that
        start with a dot; calling again writes what is not there yet. Raises DeviceFault, or
        Rejected for an entry that the boot loader would not choose.
        """
        self._refuse_booted(slot, "write over")
        name = EntryName(counter, slot, None, kind_of(boot)).trial(self._tries)
        if self._visible(slot, counter):
            return  # already published: what it needs is there
        folder = self._esp.root / _FOLDERS[name.suffix]
        self._check_room(name, boot)
        self._esp.make_folder(folder)
        hidden = folder / hidden_name(counter, slot)
        self._set_aside(hidden)
        if name.suffix is Suffix.UKI:
            with self._slots.staging(hidden, folder / dump_entry_name(name)):
                self._put(boot.files[Place.UKI], hidden)
        else:
            files = self._esp.root / FILES_FOLDER / name.stem
            self._esp.make_folder(files)
            for place, source in files_of(boot):
                self._set_aside(files / place.value)
                self._put(source, files / place.value)
            # The entry's own file after the files that it names, though it is still hidden.
            with self._slots.staging(hidden, folder / dump_entry_name(name)):
                self._write(hidden, dump_conf(name, boot))
        self._check_order(name, hidden)

    def _set_aside(self, target: Path) -> None:
        """What must not be unlinked is not written over either: that frees its clusters, too."""
        if self._slots.hazards()(target):
            taken, number = self._esp.names(target.parent), 0
            stem = f".{target.name.strip('.').removesuffix('.tmp')}.old"
            while f"{stem}{number}" in taken:
                number += 1
            self._rename(target, target.with_name(f"{stem}{number}"))

    def _put(self, source: Path, target: Path) -> None:
        """Copy, make durable, read back. Bytes that already stand are not written again."""
        if not self._esp.equal(source, target):
            self._esp.copy(source, target)
        self._sync_new(target)
        if not self._esp.equal(source, target):
            raise DeviceFault(
                "boot file reads back differently from what was written",
                where=target,
                hint="The boot partition or its medium is damaged: check it (fsck.vfat, dmesg)",
            )

    def _sync_new(self, target: Path) -> None:
        """The folder first: that makes the allocation table durable too, while the name has no
        cluster yet. The other way round Linux writes name and clusters before the table (measured),
        and a cut in between leaves a chain that leads nowhere.
        """
        self._esp.sync_folder(target.parent)
        self._esp.sync_file(target)

    def _write(self, target: Path, data: bytes) -> None:
        self._esp.write(target, data)
        self._sync_new(target)
        with translated("cannot read back", target):
            if target.read_bytes() != data:
                raise DeviceFault(
                    "boot entry reads back differently from what was written",
                    where=target,
                    hint="The boot partition or its medium is damaged: check it (fsck.vfat, dmesg)",
                )

    def _check_room(self, name: EntryName, boot: BootFiles) -> None:
        folder = self._esp.root / FILES_FOLDER / name.stem
        needed = freed = 0
        for place, source in files_of(boot):
            target = folder / place.value
            if place is Place.UKI:
                target = self._esp.root / UKI_FOLDER / hidden_name(name.counter, name.slot)
            if not self._esp.equal(source, target):
                needed += self._esp.size(source)
                freed += (
                    self._esp.size(target) if self._esp.is_file(target) else 0
                )  # a cut copy, emptied
        check_room(self._esp, needed, freed)

    def _menu(self) -> tuple[Listed, ...]:
        """All that the boot loader would list. Raises DeviceFault."""
        with translated("cannot read the boot entries", self._esp.root):
            return list_entries(self._esp.root)

    def _check_order(self, name: EntryName, hidden: Path) -> None:
        """The staged entry, once visible, must be complete and the first of the menu."""
        with translated("cannot read the boot entries", hidden):
            staged = read_entry(self._esp.root, hidden, dump_entry_name(name))
        if staged is None or not staged.loadable:
            raise Rejected(
                "boot file is not one that systemd-boot starts",
                where=hidden,
                expected="a unified kernel image with .osrel and .linux, all of it in the file",
                hint="Build the release's boot file again",
            )
        others = [one for one in self._menu() if not _of_slot(one, name.slot)]
        for other in others:
            if compare_entries(staged, other) > 0:
                raise Rejected(
                    "systemd-boot would not start this release: its entry sorts behind another",
                    where=hidden,
                    expected=f"a version above {other.version or other.id!r} and its sort-key",
                    got=f"version {staged.version!r}, sort-key {staged.sort_key!r}",
                    hint="A UKI is ordered by IMAGE_ID or ID, then IMAGE_VERSION or VERSION_ID, of "
                    "its os-release; kernel and initrd by the release counter. Raise it, and do "
                    "not mix the two kinds",
                )

    # --- S8: the commit

    def publish(self, slot: str, counter: int) -> None:
        """The one rename that makes the staged entry visible: after it, the trial boots.

        A cut before the folder's sector is written: the old release. After: the new one. Neither
        name (a rename that straddles two sectors, cut in between): the old one; stage again.
        Both names: the new one; the hidden one is left alone until the slot is retired.
        """
        if self._visible(slot, counter):
            return
        for other in self._listed():
            if other.slot == slot:
                raise DeviceFault(
                    "slot already has a boot entry of another release",
                    where=self._esp.root / dump_entry_name(other),
                    hint="Install again: it removes the old entry first",
                )
        for suffix, folder in self._folders():
            hidden = folder / hidden_name(counter, slot)
            if self._esp.is_file(hidden):
                name = EntryName(counter, slot, None, suffix).trial(self._tries)
                self._rename(hidden, folder / dump_entry_name(name))
                return
        raise DeviceFault(
            "no staged boot entry",
            where=self._esp.root,
            expected=hidden_name(counter, slot),
            hint="Install again: the boot files are written anew",
        )

    # --- S11, torn

    def reclaim(self, slot: str, counter: int, boot: BootFiles) -> None:
        """Give a UKI its name back, of which a cut left the short alias alone ("0042A_~1.EFI").

        The boot loader lists an alias as an entry without tries, which it starts for ever. How many
        tries it had is not known: it gets one more, so that its trial ends. Beside another name of
        the entry the alias is a double, and is hidden. Told by its bytes, since an alias says neither
        slot nor all of the counter. A cut before the rename: calling again; after it: a trial.
        """
        kept = boot.files.get(Place.UKI)
        if kept is None or not self._esp.is_file(kept):
            return  # no boot loader lists "0042A_~1.CON"
        folder = self._esp.root / UKI_FOLDER
        name = EntryName(counter, slot, Tries("1", "1"), Suffix.UKI)
        for file_name in self._esp.names(folder):
            alias = folder / file_name
            if not is_alias_of(file_name, name) or not self._esp.equal(kept, alias):
                continue
            if self._visible(slot, counter):
                self._hide_file(alias, name)
            else:
                self._notice(
                    f"{alias} is what was left of an entry's name: it is put on trial again"
                )
                self._rename(alias, folder / dump_entry_name(name))

    # --- S13, and its opposite

    def confirm(self, slot: str, counter: int) -> None:
        """Rename to the plain name: the entry is not counted any more.

        A cut before: the trial boots again and its health is checked again. After: good.
        """
        counted, plain = self._one_of_doubles(slot, counter)
        if counted is None:
            return
        folder = self._esp.root / _FOLDERS[counted.suffix]
        counted_path = folder / dump_entry_name(counted)
        plain_path = folder / dump_entry_name(counted.good)
        if plain is None:
            self._rename(counted_path, plain_path)
        elif self._esp.equal(counted_path, plain_path):
            # Both names, from a rename that was cut: with both, the counted one is started until
            # its tries are gone, and a good release would end as a bad one (systemd issue 33504).
            self._hide(counted)
        else:
            # The counted one is what booted, so its bytes are whole; the plain one's are not.
            self._hide(plain)
            self._rename(counted_path, plain_path)

    def condemn(self, slot: str, counter: int) -> None:
        """Rename to no tries left: not chosen while another entry is.

        A cut before: as it was, and the caller condemns again. After: the other release boots.
        """
        counted, plain = self._one_of_doubles(slot, counter)
        if counted is not None and plain is not None:
            self._hide(plain)
        name = counted or plain
        if name is not None and name.state is not EntryState.BAD:
            folder = self._esp.root / _FOLDERS[name.suffix]
            self._rename(folder / dump_entry_name(name), folder / dump_entry_name(name.bad))

    def _one_of_doubles(self, slot: str, counter: int) -> tuple[EntryName | None, EntryName | None]:
        """The counted and the plain name of an entry: normally one of them, at least one.

        Two counted names are the boot loader's own rename, cut; the one with fewer tries left is
        the later one, the other is hidden.
        """
        mine = self._visible(slot, counter)
        if not mine:
            raise self._no_entry(slot, counter)
        plain = next((name for name in mine if name.tries is None), None)
        counted = [name for name in mine if name.tries is not None]
        counted.sort(key=lambda name: 0 if name.tries is None else name.tries.left)
        for stale in counted[1:]:
            self._hide(stale)
        return (counted[0] if counted else None), plain

    def _hide(self, name: EntryName) -> None:
        """Take a double out of the menu without freeing its clusters; retire removes it."""
        self._hide_file(self._esp.root / _FOLDERS[name.suffix] / dump_entry_name(name), name)

    def _hide_file(self, path: Path, name: EntryName) -> None:
        stem = hidden_name(name.counter, name.slot, twin=True)
        taken = self._esp.names(path.parent)
        number = 0
        while f"{stem}{number}" in taken:
            number += 1
        self._rename(path, path.with_name(f"{stem}{number}"))

    def _rename(self, old: Path, new: Path) -> None:
        """Durably. The file first: vfat makes the new name without size and clusters, and writes
        those only with the file's inode. Measured on Linux 6.1: fsync of the folder alone leaves an
        empty file under the new name and nothing under the old one; in this order it is one write
        of one sector, where both names stand in it (docs/boot.md).
        """
        if self._esp.names(new.parent).count(new.name) and not self._esp.size(new):
            # Such an empty name, from a cut: no boot loader lists it, and it holds no cluster.
            self._esp.remove([new])
        with self._slots.renaming(old, new):
            self._esp.rename(old, new)
            self._esp.sync_file(new)
            self._esp.sync_folder(new.parent)

    # --- looking

    def _folders(self) -> tuple[tuple[Suffix, Path], ...]:
        return tuple((suffix, self._esp.root / path) for suffix, path in _FOLDERS.items())

    def _names(self, wanted: Suffix | None = None) -> tuple[EntryName, ...]:
        found = []
        for suffix, folder in self._folders():
            if wanted not in (None, suffix):
                continue
            for file_name in self._esp.names(folder):
                name = parse_entry_name(file_name)
                if name is not None and name.suffix is suffix:
                    found.append(name)
        return tuple(found)

    def _listed(self) -> tuple[EntryName, ...]:
        """Names that the boot loader lists too: an empty file is what a cut left of a rename."""
        return tuple(
            name
            for name in self._names()
            if self._esp.size(self._esp.root / _FOLDERS[name.suffix] / dump_entry_name(name))
        )

    def _entries_in(self, suffix: Suffix, slot: str) -> list[str]:
        return [dump_entry_name(name) for name in self._names(suffix) if name.slot == slot]

    def _hidden_in(self, folder: Path, slot: str) -> list[str]:
        return [name for name in self._esp.names(folder) if _hidden_slot(name) == slot]

    def _kernels_of(self, slot: str) -> list[Path]:
        files = self._esp.root / FILES_FOLDER
        return [files / stem for stem in self._esp.names(files) if slot_of_stem(stem) == slot]

    def _size_of(self, slot: str) -> int:
        """Bytes of what retire removes: entries, hidden leftovers, kernels and initrds."""
        paths = [
            folder / name
            for suffix, folder in self._folders()
            for name in self._entries_in(suffix, slot) + self._hidden_in(folder, slot)
        ]
        for folder in self._kernels_of(slot):
            paths += [folder / name for name in self._esp.names(folder)]
        hazards = self._slots.hazards()
        return sum(self._esp.size(path) for path in paths if not hazards(path))

    def _visible(self, slot: str, counter: int) -> list[EntryName]:
        return [name for name in self._listed() if (name.slot, name.counter) == (slot, counter)]

    def _no_entry(self, slot: str, counter: int) -> DeviceFault:
        return DeviceFault(
            "no boot entry of this release",
            where=self._esp.root,
            expected=f"{counter:04d}{slot} in {UKI_FOLDER} or {CONF_FOLDER}",
            got=", ".join(dump_entry_name(name) for name in self._names()) or "none",
            hint="Install the release again",
        )

    def _refuse_booted(self, slot: str, verb: str) -> None:
        """By the boot loader's word and by the root hash: either is enough to refuse.

        Releases may share a root hash (only the kernel changed). Then the word alone decides, if
        the entry that it names has that hash; if it names another or none, none of them is touched.
        """
        selected, root = self._loader.selected(), self._loader.root()
        word = None if selected is None else selected.slot
        slots = set()
        for entry in self._menu():
            name = parse_entry_name(entry.path.name)
            if name is not None and root is not None and parse_root(entry.cmdline) == root:
                slots.add(name.slot)
        if slot == word or (slot in slots and word not in slots):
            raise DeviceFault(
                f"will not {verb} the boot entry of the running release",
                where=self._esp.root,
                got=f"slot {slot}",
                hint="Reboot into the other release first",
            )


def _of_slot(entry: Listed, slot: str) -> bool:
    name = parse_entry_name(entry.path.name)
    return name is not None and name.slot == slot


def _hidden_slot(name: str) -> str | None:
    stem = parse_hidden_name(name)
    return None if stem is None else slot_of_stem(stem)
