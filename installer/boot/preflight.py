"""What must hold before an update touches anything (S0 of docs/boot.md), or publishes what it staged.

Each check raises DeviceFault: a switch now could not work, or could not be undone. The check of a
staged entry raises Rejected: its bytes will never do.
"""

from collections.abc import Iterable
from pathlib import Path

from slipstream.delta.cmdline import parse_root
from slipstream.delta.errors import DeviceFault, Rejected
from slipstream.installer.boot.chooser import (
    LOADER_CONF,
    Listed,
    compare_entries,
    list_entries,
    read_entry,
    read_setting,
)
from slipstream.installer.boot.entry import EntryName, dump_entry_name, parse_entry_name
from slipstream.installer.boot.esp import SLACK_BYTES, Esp, translated
from slipstream.installer.boot.loader_word import LoaderWord
from slipstream.installer.ports import EntryState

# bootctl copies the distribution's boot loader, which the owner's keys have not signed.
SIGN_FIRST = " (with Secure Boot only once it is signed: docs/uki.md, or no firmware starts it)"


def check_partition(esp: Esp) -> None:
    """The boot partition is there: a folder with EFI or loader in it, not an empty mount point."""
    if not esp.is_folder(esp.root):
        raise DeviceFault(
            "no boot partition", where=esp.root, hint="Mount it, or correct [boot] esp"
        )
    names = esp.names(esp.root)
    if not {name.lower() for name in names} & {"efi", "loader"}:  # FAT knows no case
        raise DeviceFault(
            "the boot partition is not mounted here, or holds no boot loader",
            where=esp.root,
            expected="a folder EFI or loader in it",
            got=", ".join(sorted(names)[:5]) or "an empty folder",
            hint="Mount it, or correct [boot] esp; a new partition gets its boot loader from "
            f"bootctl install{SIGN_FIRST}",
        )


def check_room(esp: Esp, boot_bytes: int, freed_bytes: int) -> None:
    """The boot partition is writable and holds `boot_bytes` more, once `freed_bytes` are gone."""
    free, needed = esp.free_bytes(), SLACK_BYTES + boot_bytes
    if free + freed_bytes < needed:
        raise DeviceFault(
            "boot partition is too small for this release's boot files",
            where=esp.root,
            expected=f"{needed} bytes free",
            got=f"{free}" + (f" and {freed_bytes} of the slot's last release" * bool(freed_bytes)),
            hint="Make the partition larger, or remove what is not Slipstream's and nobody boots",
        )


def check_selection(esp: Path, loader: LoaderWord) -> None:
    """Nothing makes the boot loader pass over its own counting (systemd issues 15256, 31215)."""
    for key in ("default", "preferred"):
        with translated("cannot read", esp / LOADER_CONF):
            pattern = read_setting(esp, key)
        if pattern is not None:
            raise DeviceFault(
                f"loader.conf names a {key} entry, which goes before the counted ones: a new release "
                "would never be started, or one that never comes up for ever",
                where=esp / LOADER_CONF,
                got=f"{key} {pattern}",
                hint="Remove the line: entries are chosen by version and by tries left",
            )
    override = loader.override()
    if override is not None:
        raise DeviceFault(
            f"{override[0]} is set: it goes before the counted entries",
            got=override[1],
            hint="Clear it: bootctl set-default '', set-oneshot '' or set-preferred ''",
        )
    if loader.counts_tries() is False:
        raise DeviceFault(
            "the boot loader does not count tries: a bad release would never be left",
            hint=f"Update systemd-boot on the boot partition: bootctl update{SIGN_FIRST}",
        )


def check_running(esp: Path, names: Iterable[EntryName], slot: str | None) -> None:
    """What we fall back to is not in the slot that an update writes.

    The running release has an entry; while it is on trial, or was given up, another slot may hold
    the only good one. `slot` None is a first install, or a system that Slipstream did not put here.
    """
    if slot is None:
        return
    names = tuple(names)
    mine = [name for name in names if name.slot == slot]
    if not mine:
        raise DeviceFault(
            "the running release has no boot entry any more",
            where=esp,
            expected=f"an entry of slot {slot}",
            hint="Restore it before installing: the other slot may be the only one that boots",
        )
    if any(name.state is EntryState.GOOD for name in mine):
        return
    if any(name.state is EntryState.TRIAL for name in mine):
        raise DeviceFault(
            "the running release is still on trial",
            where=esp / dump_entry_name(mine[0]),
            hint="Wait for its health checks, or run `slipstream device confirm`",
        )
    good = [name for name in names if name.state is EntryState.GOOD]
    if good:
        raise DeviceFault(
            "the running release has no tries left: an update would be written over the good one",
            where=esp / dump_entry_name(good[0]),
            hint="Reboot into it, or run `slipstream device confirm`",
        )


def check_fallback(esp: Path, slot: str | None) -> None:
    """The running release's entry is whole: the other slot's, which an update removes first, may be
    the only one that still boots. `slot` None: see check_running.
    """
    if slot is None:
        return
    with translated("cannot read the boot entries", esp):
        listed = list_entries(esp)
    for entry in listed:
        name = parse_entry_name(entry.path.name)
        if name is not None and name.slot == slot and entry.loadable:
            return
    raise DeviceFault(
        "the running release's boot entry is damaged: an update would remove the only one that boots",
        where=esp,
        expected=f"a whole entry of slot {slot}",
        hint=f"Put its boot files back from files/{slot} in the state folder; `slipstream device "
        "doctor` says what is wrong with it",
    )


def check_not_running(
    esp: Path, menu: Iterable[Listed], loader: LoaderWord, slot: str, verb: str
) -> None:
    """Nothing of the running release is removed or written over.

    By the boot loader's word and by the root hash: either is enough to refuse.

    Releases may share a root hash (only the kernel changed). Then the word alone decides, if
    the entry that it names has that hash; if it names another or none, none of them is touched.
    """
    selected, root = loader.selected(), loader.root()
    word = None if selected is None else selected.slot
    slots = set()
    for entry in menu:
        name = parse_entry_name(entry.path.name)
        if name is not None and root is not None and parse_root(entry.cmdline) == root:
            slots.add(name.slot)
    if slot == word or (slot in slots and word not in slots):
        raise DeviceFault(
            f"will not {verb} the boot entry of the running release",
            where=esp,
            got=f"slot {slot}",
            hint="Reboot into the other release first",
        )


def check_order(esp: Path, hidden: Path, name: str, others: Iterable[Listed]) -> None:
    """The staged entry, once visible as `name`, must be complete and the first of the menu.

    `others` are what the menu has of other slots. Raises Rejected.
    """
    with translated("cannot read the boot entries", hidden):
        staged = read_entry(esp, hidden, name)
    if staged is None or not staged.loadable:
        raise Rejected(
            "boot file is not one that systemd-boot starts",
            where=hidden,
            expected="a unified kernel image with .osrel and .linux, all of it in the file",
            hint="Build the release's boot file again",
        )
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
