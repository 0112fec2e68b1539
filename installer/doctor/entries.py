"""Findings in the boot entries: twins, wrong slots, entries that nothing falls back from.

Pure: the files of the boot partition, by path, and what the device remembers go in; findings come out,
with those of what the entries boot (boot_files.py) and of what chooses among them (selection.py).
"""

from collections.abc import Iterator, Mapping

from slipstream.installer.boot.entry import Suffix, parse_hidden_name, parse_tries
from slipstream.installer.doctor.boot_files import find_missing, find_no_room, find_truncated
from slipstream.installer.doctor.finding import Check, EspName, Finding, Severity
from slipstream.installer.doctor.menu import (
    FOLDERS,
    Boots,
    Entry,
    EspFile,
    out_of_the_menu,
    put_back,
    read_entry,
    running_slot,
    slots_of,
    stem_of,
)
from slipstream.installer.doctor.selection import selection_findings
from slipstream.installer.slots import SlotState


def entry_findings(
    files: Mapping[str, EspFile], boots: Boots, esp: EspName, free_bytes: int
) -> Iterator[Finding]:
    """What is wrong with the boot entries. `files` by path in lowercase: FAT knows no case."""
    entries = [entry for file in files.values() if (entry := read_entry(file)) is not None]
    running = running_slot(entries, boots)
    for entry in entries:
        yield from _uncounted(entry, entries, running, esp)
        yield from find_missing(entry, files, running, esp)
        yield from _wrong_slot(entry, boots, running, esp)
    yield from find_truncated(files, running, esp)
    yield from _twins(files, entries, esp)
    yield from _no_entry(entries, running, esp)
    yield from find_no_room(files, entries, running, esp, free_bytes)
    yield from selection_findings(files, boots, esp)


def _uncounted(
    entry: Entry, entries: list[Entry], running: str | None, esp: EspName
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
        if running in slots_of(entries)
        else "nothing before a release of Slipstream runs from an entry of its own: this may be what "
        "the device boots",
    )


def _wrong_slot(entry: Entry, boots: Boots, running: str | None, esp: EspName) -> Iterator[Finding]:
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
        out_of_the_menu(entry, running, esp),
    )


def _twins(files: Mapping[str, EspFile], entries: list[Entry], esp: EspName) -> Iterator[Finding]:
    """One release under two names: what a cut rename leaves."""
    visible: dict[tuple[str, Suffix], list[Entry]] = {}
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
        if stem is None or folder.lower() not in (one.lower() for one in FOLDERS.values()):
            continue
        shown = [e for twins in visible.values() for e in twins if stem_of(e) == stem]
        if shown:
            yield Finding(
                Check.TWINS,
                Severity.NOTE,
                esp.path(file.path),
                f"a hidden double of {shown[0].name}, from a rename that was cut; it goes when its "
                "slot is next written",
                "nothing: do not remove it by hand, the two may share clusters",
            )


def _no_entry(entries: list[Entry], running: str | None, esp: EspName) -> Iterator[Finding]:
    if running is not None and running not in slots_of(entries):
        yield Finding(
            Check.NO_ENTRY,
            Severity.FAULT,
            esp.path(FOLDERS[Suffix.UKI]),
            f"the running release (slot {running}) has no entry",
            put_back(running, f"{FOLDERS[Suffix.UKI]}/RELEASE{running}.efi", esp),
        )
