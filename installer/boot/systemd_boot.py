"""The boot control adapter for systemd-boot: the state of a release is a file name on the ESP.

Two kinds of entry. A UKI is one file, EFI/Linux/0042a+3-0.efi. A kernel with an initrd is
loader/entries/0042a+3-0.conf, which names files in slipstream/0042a/. docs/boot.md shows the
layout and what a power cut does at every step; the steps are numbered as there (S1, S7, S8, S13).

What holds throughout:
- nothing here writes, renames or removes anything of the booted slot, but its tries;
- no entry is visible unless all that it needs is durable and was read back;
- one rename commits (S8), one rename confirms (S13), one rename condemns;
- a file whose double is to live, or that shares clusters with another, is never unlinked (doubles.py);
- a rename changes one sector of its folder, where that can be had (esp_slots.py).

Not here: partition names (identity.py), what follows from the counters (counting.py), repair of a
damaged FAT.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from slipstream.delta.cmdline import parse_root
from slipstream.delta.errors import DeviceFault, UsageError
from slipstream.delta.manifest import Place
from slipstream.installer.blocking import GoOn, unasked
from slipstream.installer.boot.chooser import UKI_FOLDER
from slipstream.installer.boot.doubles import Doubles
from slipstream.installer.boot.entry import (
    TRIES_MAX,
    EntryName,
    Suffix,
    Tries,
    dump_entry_name,
    hidden_name,
    is_alias_of,
    parse_entry_name,
)
from slipstream.installer.boot.esp import Esp, translated
from slipstream.installer.boot.esp_entries import FOLDERS, EspEntries, is_of_slot
from slipstream.installer.boot.esp_slots import EspSlots
from slipstream.installer.boot.loader_word import LoaderWord
from slipstream.installer.boot.preflight import (
    check_fallback,
    check_not_running,
    check_order,
    check_partition,
    check_room,
    check_running,
    check_selection,
)
from slipstream.installer.boot.type1 import FILES_FOLDER, PLACES, dump_conf, files_of, kind_of
from slipstream.installer.ports import Booted, BootEntry, BootFiles, Counted, EntryState

_PLACES_MAX = 2  # one set of clusters that a damaged file leads to, and one that it does not


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
        self._entries = EspEntries(self._esp)
        self._doubles = Doubles(self._esp, self._slots, self._entries, self._rename, on_notice)
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
            for name in self._entries.listed()
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
                for entry in self._entries.menu()
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
        for name in sorted(
            self._entries.visible(slot, counter), key=lambda name: name.tries is None
        ):
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
        check_room(self._esp, boot_bytes, self._removable_bytes(slot))
        check_selection(self._esp.root, self._loader)
        running = self.booted().slot
        check_running(self._esp.root, self._entries.listed(), running)
        check_fallback(self._esp.root, running)

    def alternatives(self, slot: str) -> tuple[str, ...]:
        """What the menu has besides the slot's entries, and starts before one without tries."""
        check_partition(self._esp)
        return tuple(
            entry.path.name
            for entry in self._entries.menu()
            if not is_of_slot(entry, slot) and entry.loadable and not entry.exhausted
        )

    def counted(self) -> Counted:
        """S11, looked at from behind: the name that the boot loader reports is from before its
        rename, the name on the ESP from after it."""
        before = self._loader.selected()
        moved = None
        if before is not None and before.tries is not None:
            now = self._entries.visible(before.slot, before.counter)
            if replace(before, tries=before.tries.after_try()) in now:
                moved = True
            elif before in now:
                moved = False
        return Counted(moved, self._loader.version())

    def _removable_bytes(self, slot: str) -> int:
        """Bytes of what retire removes."""
        hazards = self._slots.hazards()
        return sum(self._esp.size(path) for path in self._entries.all_of(slot) if not hazards(path))

    # --- S1: make room

    def retire(self, slot: str) -> None:
        """Remove the entry and boot files of a slot, and what an interrupted stage left.

        The entry goes first and durably, then its files: never an entry without what it needs.
        A cut before the first unlink is durable: the old entries stand. After it: the other
        slot's entry boots, and calling again removes the rest. What shares clusters with another
        file, or is damaged, stays, hidden: fsck.vfat frees it.
        """
        check_not_running(self._esp.root, self._entries.menu(), self._loader, slot, "remove")
        hazards = self._slots.hazards()
        for suffix, folder in self._entries.folders():
            for name in self._entries.names(suffix):
                if name.slot == slot and hazards(folder / dump_entry_name(name)):
                    self._doubles.hide(name)
            self._doubles.remove(folder, self._entries.entries_in(suffix, slot))
        hazards = self._slots.hazards()  # by the names that they have now
        for _, folder in self._entries.folders():
            self._doubles.remove(
                folder,
                self._doubles.unlinkable(folder, self._entries.hidden_in(folder, slot), hazards),
            )
            self._slots.clear(folder)
        for folder in self._entries.kernels_of(slot):
            self._doubles.remove_files(folder, hazards)

    # --- S7: everything but the name

    def stage(self, slot: str, counter: int, boot: BootFiles, go_on: GoOn = unasked) -> None:
        """Put the entry and its files on the ESP, hidden, durable and read back.

        A cut anywhere in here: the old entries stand, the boot loader does not list names that
        start with a dot; calling again writes what is not there yet. Raises DeviceFault, or
        Rejected for an entry that the boot loader would not choose.
        """
        check_not_running(self._esp.root, self._entries.menu(), self._loader, slot, "write over")
        name = EntryName(counter, slot, None, kind_of(boot)).trial(self._tries)
        if self._entries.visible(slot, counter):
            return  # already published: what it needs is there
        folder = self._esp.root / FOLDERS[name.suffix]
        self._check_room(name, boot, go_on)
        self._esp.make_folder(folder)
        hidden = folder / hidden_name(counter, slot)
        if name.suffix is Suffix.CONF:
            files = self._esp.root / FILES_FOLDER / name.stem
            self._esp.make_folder(files)
            for place, source in files_of(boot):
                target = files / place.value
                self._place(target, partial(self._put, source, target, go_on))
            # The entry's own file after the files that it names, though it is still hidden.
            put = partial(self._write, hidden, dump_conf(name, boot))
        else:
            put = partial(self._put, boot.files[Place.UKI], hidden, go_on)
        self._place(
            hidden, put, partial(self._slots.staging, hidden, folder / dump_entry_name(name))
        )
        self._check_order(name, hidden)

    def _place(
        self,
        target: Path,
        put: Callable[[], None],
        way: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Write a file that shares its clusters with no other. Raises DeviceFault.

        One that was damaged and set aside may lead to clusters that are marked as free, and so are
        given to the new one. That keeps them, set aside as well, and the next one gets others.
        """
        why = ""
        for _ in range(_PLACES_MAX):
            self._doubles.set_aside(target)
            with way():
                put()
            if not (why := self._slots.hazards()(target)):
                return
        raise DeviceFault(
            f"boot file {why}, whatever is written",
            where=target,
            hint="Run `slipstream device doctor`, which says how to mend the boot partition",
        )

    def _put(self, source: Path, target: Path, go_on: GoOn) -> None:
        """Copy, make durable, read back. Bytes that already stand are not written again."""
        if not self._esp.equal(source, target, go_on):
            self._esp.copy(source, target, go_on)
        self._sync_new(target)
        if not self._esp.equal(source, target, go_on):
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

    def _check_room(self, name: EntryName, boot: BootFiles, go_on: GoOn) -> None:
        folder = self._esp.root / FILES_FOLDER / name.stem
        hazards = self._slots.hazards()
        needed = freed = 0
        for place, source in files_of(boot):
            target = folder / place.value
            if place is Place.UKI:
                target = self._esp.root / UKI_FOLDER / hidden_name(name.counter, name.slot)
            if hazards(target):  # it is set aside, and not read: Linux would end writing
                needed += self._esp.size(source)
            elif not self._esp.equal(source, target, go_on):
                needed += self._esp.size(source)
                freed += (
                    self._esp.size(target) if self._esp.is_file(target) else 0
                )  # a cut copy, emptied
        check_room(self._esp, needed, freed)

    def _check_order(self, name: EntryName, hidden: Path) -> None:
        others = [one for one in self._entries.menu() if not is_of_slot(one, name.slot)]
        check_order(self._esp.root, hidden, dump_entry_name(name), others)

    # --- S8: the commit

    def publish(self, slot: str, counter: int) -> None:
        """The one rename that makes the staged entry visible: after it, the trial boots.

        A cut before the folder's sector is written: the old release. After: the new one. Neither
        name (a rename that straddles two sectors, cut in between): the old one; stage again.
        Both names: the new one; the hidden one is left alone until the slot is retired.
        """
        if self._entries.visible(slot, counter):
            return
        for other in self._entries.listed():
            if other.slot == slot:
                raise DeviceFault(
                    "slot already has a boot entry of another release",
                    where=self._esp.root / dump_entry_name(other),
                    hint="Install again: it removes the old entry first",
                )
        for suffix, folder in self._entries.folders():
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
            if self._entries.visible(slot, counter):
                self._doubles.hide_file(alias, name)
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
        counted, plain = self._doubles.one_of(slot, counter)
        if counted is None:
            return
        folder = self._esp.root / FOLDERS[counted.suffix]
        counted_path = folder / dump_entry_name(counted)
        plain_path = folder / dump_entry_name(counted.good)
        if plain is None:
            self._rename(counted_path, plain_path)
        elif self._esp.equal(counted_path, plain_path):
            # Both names, from a rename that was cut: with both, the counted one is started until
            # its tries are gone, and a good release would end as a bad one (systemd issue 33504).
            self._doubles.hide(counted)
        else:
            # The counted one is what booted, so its bytes are whole; the plain one's are not.
            self._doubles.hide(plain)
            self._rename(counted_path, plain_path)

    def condemn(self, slot: str, counter: int) -> None:
        """Rename to no tries left: not chosen while another entry is.

        A cut before: as it was, and the caller condemns again. After: the other release boots.
        """
        counted, plain = self._doubles.one_of(slot, counter)
        if counted is not None and plain is not None:
            self._doubles.hide(plain)
        name = counted or plain
        if name is not None and name.state is not EntryState.BAD:
            folder = self._esp.root / FOLDERS[name.suffix]
            self._rename(folder / dump_entry_name(name), folder / dump_entry_name(name.bad))

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
