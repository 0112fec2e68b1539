"""Findings in the files that are booted: cut off, not there, no room for the next ones. Pure."""

from collections.abc import Iterator, Mapping

from slipstream.delta.errors import FormatError
from slipstream.delta.pe import HEADER_BYTES_MAX, first_section, parse_sections
from slipstream.installer.boot.entry import Suffix
from slipstream.installer.boot.esp import SLACK_BYTES
from slipstream.installer.boot.preflight import SIGN_FIRST
from slipstream.installer.doctor.finding import Check, EspName, Finding, Severity
from slipstream.installer.doctor.menu import Entry, EspFile, out_of_the_menu, read_entry, release_of

_LOADERS = "efi/"  # whatever firmware may start from


def find_missing(
    entry: Entry, files: Mapping[str, EspFile], running: str | None, esp: EspName
) -> Iterator[Finding]:
    """What a .conf names and is not there, or empty."""
    for path in entry.needs:
        found = files.get(path.lower())
        if found is None or not found.size:
            yield Finding(
                Check.MISSING_FILE,
                Severity.FAULT,
                esp.path(entry.file.path),
                f"names /{path}, which is " + ("not there" if found is None else "empty"),
                out_of_the_menu(entry, running, esp),
            )


def find_truncated(
    files: Mapping[str, EspFile], running: str | None, esp: EspName
) -> Iterator[Finding]:
    """Everything that firmware or boot loader may start: UKIs, and the boot loader itself."""
    for path, file in files.items():
        if not path.startswith(_LOADERS) or not path.endswith(Suffix.UKI):
            continue
        entry = read_entry(file)
        what = _fault_of(file, is_uki=entry is not None)
        if what is not None:
            yield Finding(
                Check.TRUNCATED,
                Severity.FAULT,
                esp.path(file.path),
                what,
                out_of_the_menu(entry, running, esp)
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


def find_no_room(
    files: Mapping[str, EspFile],
    entries: list[Entry],
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
        stem, slot = release_of(path)
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
