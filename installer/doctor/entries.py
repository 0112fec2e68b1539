"""Findings in the boot entries: twins, truncated files, missing kernels, wrong slots, no room.

Pure: the files of the boot partition, by path, and what the device remembers go in; findings come
out. It does not matter whether the files were read from a FAT volume or from a folder.
"""

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from slipstream.delta.cmdline import parse_root
from slipstream.delta.digest import Digest
from slipstream.delta.errors import FormatError
from slipstream.delta.os_release import read_pairs
from slipstream.delta.pe import HEADER_BYTES_MAX, first_section, parse_sections
from slipstream.installer.boot.chooser import CONF_FOLDER, LOADER_CONF, UKI_FOLDER
from slipstream.installer.boot.entry import (
    EntryName,
    Suffix,
    parse_entry_name,
    parse_hidden_name,
    parse_tries,
)
from slipstream.installer.boot.esp import SLACK_BYTES
from slipstream.installer.boot.preflight import SIGN_FIRST
from slipstream.installer.boot.type1 import FILES_FOLDER
from slipstream.installer.doctor.finding import Check, EspName, Finding, Severity
from slipstream.installer.slots import SlotRecord, SlotState

_TEXT_BYTES_MAX = 64 * 1024  # as much of .cmdline or a .conf as boot loaders read
_LOADERS = "efi/"  # whatever firmware may start from
_FOLDERS = {Suffix.UKI: UKI_FOLDER.as_posix(), Suffix.CONF: CONF_FOLDER.as_posix()}
_CLEAR = {
    "LoaderEntryDefault": "bootctl set-default ''",
    "LoaderEntryOneShot": "bootctl set-oneshot ''",
}


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
class _Entry:
    """A visible entry: a file whose name ends as an entry's does."""

    file: EspFile
    suffix: Suffix
    ours: EntryName | None
    needs: tuple[str, ...]  # paths of what a .conf names
    root: Digest | None

    @property
    def name(self) -> str:
        return self.file.path.rpartition("/")[2]


def entry_findings(
    files: Mapping[str, EspFile], boots: Boots, esp: EspName, free_bytes: int
) -> Iterator[Finding]:
    """What is wrong with the boot entries. `files` by path in lowercase: FAT knows no case."""
    entries = [entry for file in files.values() if (entry := _read_entry(file)) is not None]
    running = _running(entries, boots)
    for entry in entries:
        yield from _uncounted(entry, entries, running, esp)
        yield from _missing(entry, files, running, esp)
        yield from _wrong_slot(entry, boots, running, esp)
    yield from _truncated(files, running, esp)
    yield from _twins(files, entries, esp)
    yield from _no_entry(entries, running, esp)
    yield from _no_room(files, entries, running, esp, free_bytes)
    yield from _selection(files, boots, esp)


def _running(entries: list[_Entry], boots: Boots) -> str | None:
    """The slot that runs: by the boot loader's word, else by the root hash."""
    if boots.selected is not None:
        return boots.selected.slot
    names = (one.ours for one in entries if boots.root is not None and one.root == boots.root)
    return next((name.slot for name in names if name is not None), None)


def _read_entry(file: EspFile) -> _Entry | None:
    folder, _, name = file.path.rpartition("/")
    for suffix, wanted in _FOLDERS.items():
        if folder.lower() != wanted.lower() or not name.lower().endswith(suffix):
            continue
        if name.startswith(".") or name.lower().startswith("auto-"):
            return None
        ours = parse_entry_name(name)
        if suffix is Suffix.UKI:
            return _Entry(file, suffix, ours, (), parse_root(_cmdline(file)))
        pairs = read_pairs(file.read(0, _TEXT_BYTES_MAX), " \t")
        keys = ("linux", "efi", "uki", "initrd", "devicetree")
        needs = tuple(value.replace("\\", "/").strip("/") for key, value in pairs if key in keys)
        options = " ".join(value for key, value in pairs if key == "options")
        return _Entry(file, suffix, ours, needs, parse_root(options))
    return None


def _cmdline(file: EspFile) -> str:
    try:
        section = first_section(parse_sections(file.read(0, HEADER_BYTES_MAX)), ".cmdline")
    except FormatError:
        return ""
    if section is None:
        return ""
    raw = file.read(section.offset, min(section.size, _TEXT_BYTES_MAX))
    return raw.decode("utf-8", "replace").strip("\0\n\t ")


def _uncounted(
    entry: _Entry, entries: list[_Entry], running: str | None, esp: EspName
) -> Iterator[Finding]:
    """An entry without tries is good for ever: it must be one of ours, confirmed, or known.

    It may be all that boots: hidden only where a release of ours runs, from an entry of its own.
    """
    if entry.ours is not None or parse_tries(entry.name, entry.suffix)[1] is not None:
        return
    ours = any(one.ours is not None for one in entries)
    torn = "~" in entry.name  # the short name of an entry whose long name was cut off
    yield Finding(
        Check.UNCOUNTED,
        Severity.FAULT if torn else Severity.NOTE,
        esp.path(entry.file.path),
        "the short name of an entry that lost its long name, with its tries: started for ever"
        if torn
        else "an entry that is not Slipstream's and is not counted: nothing falls back from it"
        + (", and it may stand before ours" if ours else ""),
        esp.rename(entry.file.path, f".{entry.name}.off")
        if running in _slots(entries)
        else "nothing before a release of Slipstream runs from an entry of its own: this may be what "
        "the device boots",
    )


def _out_of_the_menu(entry: _Entry, running: str | None, esp: EspName) -> str:
    """The mend for an entry that must not be started: another name, which can be taken back.

    Never removed: it may share clusters with a good one, and records that are older than the boot
    partition blame the wrong one. Never the running release's, or the only one that is known to boot.
    """
    if running is None:
        return f"find out which release runs; if it is not this one: {_hide(entry, esp)}"
    if entry.ours is not None and entry.ours.slot == running:
        return _put_back(running, entry.file.path, esp)
    return f"{_hide(entry, esp)}; then install the release again"


def _put_back(running: str, path: str, esp: EspName) -> str:
    """The mend for what the running release boots with: no update is installed before it."""
    return (
        f"put its copy back before anything else: {esp.copy(f'STATE/files/{running}/NAME', path)} (STATE "
        "is [device] state, NAME the boot file's; mend first what shares clusters with it)"
    )


def _hide(entry: _Entry, esp: EspName) -> str:
    """A hidden name: of ours one that retire knows, which removes it once that is safe."""
    stem = _stem(entry)
    name = f".{entry.name}.off" if stem is None else f".{stem}.old0"
    return esp.rename(entry.file.path, name)


def _missing(
    entry: _Entry, files: Mapping[str, EspFile], running: str | None, esp: EspName
) -> Iterator[Finding]:
    for path in entry.needs:
        found = files.get(path.lower())
        if found is None or not found.size:
            yield Finding(
                Check.MISSING_FILE,
                Severity.FAULT,
                esp.path(entry.file.path),
                f"names /{path}, which is " + ("not there" if found is None else "empty"),
                _out_of_the_menu(entry, running, esp),
            )


def _wrong_slot(
    entry: _Entry, boots: Boots, running: str | None, esp: EspName
) -> Iterator[Finding]:
    """By the records: the entry's release is what its slot holds."""
    name = entry.ours
    record = None if name is None else boots.records.get(name.slot)
    if name is None or record is None or record.state is SlotState.EMPTY:
        return
    if record.state is SlotState.WRITING:
        what = f"boots slot {name.slot}, which is being written"
    elif record.counter != name.counter:
        what = (
            f"is of release counter {name.counter}, but slot {name.slot} holds "
            f"release {record.release} (counter {record.counter})"
        )
    elif entry.root is not None and entry.root not in record.images.values():
        what = f"starts root hash {entry.root}, which slot {name.slot} does not hold"
    else:
        return
    yield Finding(
        Check.WRONG_SLOT,
        Severity.FAULT,
        esp.path(entry.file.path),
        what,
        _out_of_the_menu(entry, running, esp),
    )


def _truncated(
    files: Mapping[str, EspFile], running: str | None, esp: EspName
) -> Iterator[Finding]:
    """Everything that firmware or boot loader may start: UKIs, and the boot loader itself."""
    for path, file in files.items():
        if not path.startswith(_LOADERS) or not path.endswith(Suffix.UKI):
            continue
        entry = _read_entry(file)
        what = _fault_of(file, is_uki=entry is not None)
        if what is not None:
            yield Finding(
                Check.TRUNCATED,
                Severity.FAULT,
                esp.path(file.path),
                what,
                _out_of_the_menu(entry, running, esp)
                if entry is not None
                else f"bootctl install --esp-path={esp.folder or 'ESP'}{SIGN_FIRST}",
            )


def _fault_of(file: EspFile, *, is_uki: bool) -> str | None:
    if not file.size:
        return "is empty"
    try:
        sections = parse_sections(file.read(0, HEADER_BYTES_MAX))
    except FormatError as error:
        return f"cannot be started: {error}"
    for section in sections:
        if section.end > file.size:
            return (
                f"is cut off: section {section.name} ends at byte {section.end:,}, "
                f"the file at {file.size:,}; the boot loader lists it and burns a try"
            )
    missing = [name for name in (".osrel", ".linux") if first_section(sections, name) is None]
    if is_uki and missing:
        return f"has no section {' and no '.join(missing)}: not a unified kernel image"
    return None


def _twins(files: Mapping[str, EspFile], entries: list[_Entry], esp: EspName) -> Iterator[Finding]:
    """One release under two names: what a cut rename leaves."""
    visible: dict[tuple[str, Suffix], list[_Entry]] = {}
    for entry in entries:
        if entry.ours is not None and entry.file.size:
            visible.setdefault((entry.ours.stem, entry.suffix), []).append(entry)
    for twins in visible.values():
        if len(twins) > 1:
            names = ", ".join(sorted(one.name for one in twins))
            yield Finding(
                Check.TWINS,
                Severity.FAULT,
                esp.path(twins[0].file.path),
                f"{names} are one release: the counted name is started until its tries are gone, "
                "and a good release ends as a bad one",
                "slipstream device confirm, while that release runs: it hides one of them. Do not "
                "remove either, they may share clusters",
            )
    for file in files.values():
        folder, _, name = file.path.rpartition("/")
        stem = parse_hidden_name(name)
        if stem is None or folder.lower() not in (one.lower() for one in _FOLDERS.values()):
            continue
        shown = [e for twins in visible.values() for e in twins if _stem(e) == stem]
        if shown:
            yield Finding(
                Check.TWINS,
                Severity.NOTE,
                esp.path(file.path),
                f"a hidden double of {shown[0].name}, from a rename that was cut; it goes when its "
                "slot is next written",
                "nothing: do not remove it by hand, the two may share clusters",
            )


def _stem(entry: _Entry) -> str | None:
    return None if entry.ours is None else entry.ours.stem


def _slots(entries: list[_Entry]) -> set[str]:
    """The slots that have an entry of ours."""
    return {entry.ours.slot for entry in entries if entry.ours is not None and entry.file.size}


def _no_entry(entries: list[_Entry], running: str | None, esp: EspName) -> Iterator[Finding]:
    if running is not None and running not in _slots(entries):
        yield Finding(
            Check.NO_ENTRY,
            Severity.FAULT,
            esp.path(_FOLDERS[Suffix.UKI]),
            f"the running release (slot {running}) has no entry",
            _put_back(running, f"{_FOLDERS[Suffix.UKI]}/RELEASE{running}.efi", esp),
        )


def _no_room(
    files: Mapping[str, EspFile],
    entries: list[_Entry],
    running: str | None,
    esp: EspName,
    free_bytes: int,
) -> Iterator[Finding]:
    """Room for the next release's boot files, if they are as large as the largest that are there.

    What an update removes first, of the slot that does not run, counts as free.
    """
    sizes: dict[str, int] = {}
    by_slot: dict[str, int] = {}
    for path, file in files.items():
        stem, slot = _release_of(path)
        if stem is not None and slot is not None:
            sizes[stem] = sizes.get(stem, 0) + file.size
            by_slot[slot] = by_slot.get(slot, 0) + file.size
    needed = max(sizes.values(), default=0) + SLACK_BYTES
    freed = max((size for slot, size in by_slot.items() if slot != running), default=0)
    if len(by_slot) == 1 and running is None:
        freed = 0  # the only release: it stays
    if free_bytes + freed < needed:
        others = [one.file.path for one in entries if one.ours is None]
        yield Finding(
            Check.NO_ROOM,
            Severity.FAULT,
            str(esp),
            f"{free_bytes:,} bytes free and {freed:,} to be freed; the next release's boot files "
            f"need about {needed:,}",
            "make the boot partition larger"
            + (f", or remove what nobody boots of {', '.join(others)}" if others else ""),
        )


def _release_of(path: str) -> tuple[str | None, str | None]:
    """The stem and slot of the release that a file belongs to, visible or hidden."""
    folder, _, name = path.rpartition("/")
    if folder in (one.lower() for one in _FOLDERS.values()):
        ours = parse_entry_name(name)
        stem = parse_hidden_name(name) if ours is None else ours.stem
    elif folder.startswith(f"{FILES_FOLDER.as_posix()}/"):
        stem = folder.rpartition("/")[2]
    else:
        stem = None
    return (None, None) if stem is None else (stem, stem[-1])


def _selection(files: Mapping[str, EspFile], boots: Boots, esp: EspName) -> Iterator[Finding]:
    """What goes before the counted entries, so that nothing is counted (systemd issue 31215)."""
    conf = files.get(LOADER_CONF.as_posix().lower())
    settings = {} if conf is None else dict(read_pairs(conf.read(0, _TEXT_BYTES_MAX), " \t"))
    if conf is not None and "default" in settings:
        path = esp.path(conf.path)
        yield Finding(
            Check.DEFAULT_SET,
            Severity.FAULT,
            path,
            f"default {settings['default']}: goes before the counted entries, a release that "
            "never comes up is started for ever",
            f"sed -i '/^[[:space:]]*default[[:space:]]/d' {shlex.quote(path)}",
        )
    if boots.override is not None:
        variable, value = boots.override
        yield Finding(
            Check.DEFAULT_SET,
            Severity.FAULT,
            variable,
            f"is set to {value!r}: it goes before the counted entries",
            _CLEAR[variable],
        )
    if boots.counts is False:
        yield Finding(
            Check.NO_COUNTING,
            Severity.FAULT,
            "LoaderFeatures",
            "the boot loader does not count tries: a bad release would never be left",
            f"bootctl update{SIGN_FIRST}",
        )
