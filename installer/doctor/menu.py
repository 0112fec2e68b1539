"""The boot menu as the doctor sees it: entries from files, whose they are, and the mend for a bad one.

Pure: it does not matter whether the files were read from a FAT volume or from a folder.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from slipstream.delta.cmdline import parse_root
from slipstream.delta.digest import Digest
from slipstream.delta.errors import FormatError
from slipstream.delta.os_release import read_pairs
from slipstream.delta.pe import HEADER_BYTES_MAX, first_section, parse_sections
from slipstream.installer.boot.chooser import CONF_FOLDER, UKI_FOLDER
from slipstream.installer.boot.entry import EntryName, Suffix, parse_entry_name, parse_hidden_name
from slipstream.installer.boot.type1 import FILES_FOLDER
from slipstream.installer.doctor.finding import EspName
from slipstream.installer.slots import SlotRecord

TEXT_BYTES_MAX = 64 * 1024  # as much of .cmdline or a .conf as boot loaders read
FOLDERS = {Suffix.UKI: UKI_FOLDER.as_posix(), Suffix.CONF: CONF_FOLDER.as_posix()}


@dataclass(frozen=True, slots=True)
class EspFile:
    """A file of the boot partition: `read(offset, size)` gives its bytes, fewer at its end."""

    path: str
    size: int
    read: Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True)
class Boots:
    """What the device knows besides the files.

    `records` by slot; `selected` is what the boot loader started, `root` the booted root hash;
    `override` an EFI variable that goes before the counted entries, with its value; `counts`
    whether the boot loader says that it counts.
    """

    records: Mapping[str, SlotRecord]
    selected: EntryName | None
    root: Digest | None
    override: tuple[str, str] | None
    counts: bool | None


@dataclass(frozen=True, slots=True)
class Entry:
    """A visible entry: a file whose name ends as an entry's does."""

    file: EspFile
    suffix: Suffix
    ours: EntryName | None
    needs: tuple[str, ...]  # paths of what a .conf names
    root: Digest | None

    @property
    def name(self) -> str:
        return self.file.path.rpartition("/")[2]


def read_entry(file: EspFile) -> Entry | None:
    """The entry that a file is; None for one that the boot loader does not list."""
    folder, _, name = file.path.rpartition("/")
    for suffix, wanted in FOLDERS.items():
        if folder.lower() != wanted.lower() or not name.lower().endswith(suffix):
            continue
        if name.startswith(".") or name.lower().startswith("auto-"):
            return None
        ours = parse_entry_name(name)
        if suffix is Suffix.UKI:
            return Entry(file, suffix, ours, (), parse_root(_cmdline(file)))
        pairs = read_pairs(file.read(0, TEXT_BYTES_MAX), " \t")
        keys = ("linux", "efi", "uki", "initrd", "devicetree")
        needs = tuple(value.replace("\\", "/").strip("/") for key, value in pairs if key in keys)
        options = " ".join(value for key, value in pairs if key == "options")
        return Entry(file, suffix, ours, needs, parse_root(options))
    return None


def _cmdline(file: EspFile) -> str:
    try:
        section = first_section(parse_sections(file.read(0, HEADER_BYTES_MAX)), ".cmdline")
    except FormatError:
        return ""
    if section is None:
        return ""
    raw = file.read(section.offset, min(section.size, TEXT_BYTES_MAX))
    return raw.decode("utf-8", "replace").strip("\0\n\t ")


def running_slot(entries: list[Entry], boots: Boots) -> str | None:
    """The slot that runs: by the boot loader's word, else by the root hash."""
    if boots.selected is not None:
        return boots.selected.slot
    names = (one.ours for one in entries if boots.root is not None and one.root == boots.root)
    return next((name.slot for name in names if name is not None), None)


def slots_of(entries: list[Entry]) -> set[str]:
    """The slots that have an entry of ours."""
    return {entry.ours.slot for entry in entries if entry.ours is not None and entry.file.size}


def stem_of(entry: Entry) -> str | None:
    """Counter and slot as an entry of ours is named, "0042a"; None for another's."""
    return None if entry.ours is None else entry.ours.stem


def release_of(path: str) -> tuple[str | None, str | None]:
    """The stem and slot of the release that a file belongs to, visible or hidden."""
    folder, _, name = path.rpartition("/")
    if folder in (one.lower() for one in FOLDERS.values()):
        ours = parse_entry_name(name)
        stem = parse_hidden_name(name) if ours is None else ours.stem
    elif folder.startswith(f"{FILES_FOLDER.as_posix()}/"):
        stem = folder.rpartition("/")[2]
    else:
        stem = None
    return (None, None) if stem is None else (stem, stem[-1])


def out_of_the_menu(entry: Entry, running: str | None, esp: EspName) -> str:
    """The mend for an entry that must not be started: another name, which can be taken back.

    Never removed: it may share clusters with a good one, and records that are older than the boot
    partition blame the wrong one. Never the running release's, or the only one that is known to boot.
    """
    if running is None:
        return f"find out which release runs; if it is not this one: {_hide(entry, esp)}"
    if entry.ours is not None and entry.ours.slot == running:
        return put_back(running, entry.file.path, esp)
    return f"{_hide(entry, esp)}; then install the release again"


def put_back(running: str, path: str, esp: EspName) -> str:
    """The mend for what the running release boots with: no update is installed before it."""
    return (
        f"put its copy back before anything else: {esp.copy(f'STATE/files/{running}/NAME', path)} (STATE "
        "is [device] state, NAME the boot file's; mend first what shares clusters with it)"
    )


def _hide(entry: Entry, esp: EspName) -> str:
    """A hidden name: of ours one that retire knows, which removes it once that is safe."""
    stem = stem_of(entry)
    name = f".{entry.name}.off" if stem is None else f".{stem}.old0"
    return esp.rename(entry.file.path, name)
