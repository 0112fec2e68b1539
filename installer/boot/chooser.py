"""systemd-boot, simulated: which entry it would start, and what it does to the entry's name.

Used by the tests, by `slipstream demo`, and by the adapter before it stages an entry: an
entry that would not be chosen is refused while that can still be mended.

What is here: Type #1 and Type #2 entries on one ESP, their order, boot counting, and the
`default` and `preferred` patterns of loader.conf. What is not: EFI variables (one-shot, saved
entry), XBOOTLDR, multi-profile images, automatic entries, Secure Boot, and the menu.

Sources: systemd, src/boot/boot.c (boot_entry_add_type1, boot_entry_add_type2,
boot_entry_compare, config_select_default_entry, boot_entry_bump_counters); man loader.conf.
Measured on systemd-boot 252 with OVMF: names that start with a dot and empty files are not
listed; a truncated UKI is, is chosen, and burns a try (docs/boot.md).
"""

import fnmatch
import os
from dataclasses import dataclass
from functools import cmp_to_key
from pathlib import Path

from slipstream.delta.durable import rename_durably
from slipstream.delta.errors import FormatError
from slipstream.delta.os_release import parse_menu_key, read_pairs
from slipstream.delta.pe import HEADER_BYTES_MAX, first_section, parse_sections
from slipstream.delta.version_order import compare_versions
from slipstream.installer.boot.entry import Suffix, Tries, bump_name, parse_tries

UKI_FOLDER = Path("EFI/Linux")
CONF_FOLDER = Path("loader/entries")
LOADER_CONF = Path("loader/loader.conf")

_TEXT_BYTES_MAX = 64 * 1024  # .osrel, .cmdline, *.conf: boot loaders read them whole
_BOOTABLE_KEYS = ("linux", "efi", "uki")


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of the boot menu.

    `id` is what LoaderEntrySelected reports: the file name in lowercase, as it was before the
    counters changed. `loadable` is False where starting it must fail: a truncated UKI, a missing
    initrd. The boot loader finds that out only after it has counted the try.
    """

    id: str
    path: Path
    suffix: Suffix
    tries: Tries | None
    sort_key: str | None
    machine_id: str
    version: str
    cmdline: str
    loadable: bool
    counted: bool

    @property
    def exhausted(self) -> bool:
        return self.tries is not None and self.tries.left == 0


@dataclass(frozen=True, slots=True)
class Choice:
    """What is started: the entry, its kernel command line, the file as it is named now."""

    entry: Listed
    cmdline: str
    path: Path

    @property
    def loadable(self) -> bool:
        return self.entry.loadable


def choose(esp: Path) -> Choice | None:
    """What the boot loader would start next. None: it has nothing to start. Changes nothing."""
    entries = list_entries(esp)
    if not entries:
        return None
    settings = _read_settings(esp)
    # `preferred` passes over entries without tries left; `default` does not: with it, a release
    # that never comes up is started for ever (systemd issues 31215 and 40324).
    for pattern, skip in ((settings.get("preferred"), True), (settings.get("default"), False)):
        if pattern is None or pattern.startswith("@"):
            continue
        for entry in entries:
            if fnmatch.fnmatchcase(entry.id, pattern.lower()) and not (skip and entry.exhausted):
                return Choice(entry, entry.cmdline, entry.path)
    return Choice(entries[0], entries[0].cmdline, entries[0].path)


def boot(esp: Path) -> Choice | None:
    """Choose, count the try in the name, start: the result says what runs, if it is loadable."""
    choice = choose(esp)
    if choice is None or not choice.entry.counted:
        return choice
    path = choice.path.with_name(bump_name(choice.path.name, choice.entry.suffix))
    if path != choice.path:
        rename_durably(choice.path, path)
    return Choice(choice.entry, choice.cmdline, path)


def list_entries(esp: Path) -> tuple[Listed, ...]:
    """The boot menu in the boot loader's order: the first is the one that it starts."""
    found = [
        _unless_damaged(esp, path)
        for folder, suffix in ((UKI_FOLDER, Suffix.UKI), (CONF_FOLDER, Suffix.CONF))
        for path in _names(esp / folder, suffix)
    ]
    entries = [entry for entry in found if entry is not None]
    return tuple(sorted(entries, key=cmp_to_key(compare_entries)))


def compare_entries(a: Listed, b: Listed) -> int:
    """Negative if `a` stands before `b`. Source: boot.c, boot_entry_compare."""
    if a.exhausted != b.exhausted:
        return 1 if a.exhausted else -1
    if (a.sort_key is None) != (b.sort_key is None):
        return 1 if a.sort_key is None else -1
    if a.sort_key is not None and b.sort_key is not None:
        order = _order(a.sort_key, b.sort_key) or _order(a.machine_id, b.machine_id)
        order = order or -compare_versions(a.version, b.version)
        if order:
            return order
    if order := -compare_versions(a.id, b.id):
        return order
    if a.tries is None or b.tries is None:
        return 0
    return (b.tries.left - a.tries.left) or (a.tries.done - b.tries.done)


def read_entry(esp: Path, path: Path, name: str) -> Listed | None:
    """How the file at `path` would be listed if it were called `name`; None: not at all."""
    if name.lower().endswith(Suffix.UKI):
        return _read_uki(path, name)
    return _read_conf(esp, path, name)


def read_setting(esp: Path, key: str) -> str | None:
    """A setting of loader.conf."""
    return _read_settings(esp).get(key)


def _unless_damaged(esp: Path, path: Path) -> Listed | None:
    """A file that cannot be read is passed over: firmware does not open a damaged chain either."""
    try:
        return read_entry(esp, path, path.name)
    except OSError:
        return None


def _names(folder: Path, suffix: Suffix) -> list[Path]:
    try:
        names = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [
        folder / name
        for name in names
        if name.lower().endswith(suffix)
        and not name.lower().startswith((".", "auto-"))
        and (folder / name).is_file()
    ]


def _read_uki(path: Path, name: str) -> Listed | None:
    """One Type #2 entry; None where the boot loader passes over it."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            sections = parse_sections(file.read(HEADER_BYTES_MAX))
        except FormatError:
            return None
        texts = {}
        for wanted in (".osrel", ".cmdline"):
            section = first_section(sections, wanted)
            if section is not None:
                file.seek(section.offset)
                texts[wanted] = file.read(min(section.size, _TEXT_BYTES_MAX))
    key = parse_menu_key(texts.get(".osrel", b""))
    if key is None:
        return None
    return Listed(
        id=name.lower(),
        path=path,
        suffix=Suffix.UKI,
        tries=parse_tries(name, Suffix.UKI)[1],
        sort_key=key.sort_key,
        machine_id="",
        version=key.version,
        cmdline=texts.get(".cmdline", b"").decode("utf-8", "replace").strip("\0\n\t "),
        loadable=first_section(sections, ".linux") is not None
        and all(section.end <= size for section in sections),
        counted=True,
    )


def _read_conf(esp: Path, path: Path, name: str) -> Listed | None:
    """One Type #1 entry; None where the boot loader passes over it."""
    with path.open("rb") as file:
        pairs = read_pairs(file.read(_TEXT_BYTES_MAX), " \t")
    values = dict(pairs)
    kinds = {key for key, _ in pairs if key in _BOOTABLE_KEYS}
    if len(kinds) != 1:
        return None
    kind = kinds.pop()
    loader = _on_esp(esp, values[kind])
    if not loader.is_file():
        return None
    initrds = [value for key, value in pairs if key == "initrd"]
    options = [value for key, value in pairs if key == "options"]
    if kind == "linux":
        options = ["initrd=" + value.replace("/", "\\") for value in initrds] + options
    return Listed(
        id=name.lower(),
        path=path,
        suffix=Suffix.CONF,
        tries=parse_tries(name, Suffix.CONF)[1],
        sort_key=values.get("sort-key"),
        machine_id=values.get("machine-id", ""),
        version=values.get("version", ""),
        cmdline=" ".join(options),
        # Only the kernel's existence is checked before the try is counted.
        loadable=loader.stat().st_size > 0
        and all(_on_esp(esp, value).is_file() for value in initrds),
        counted=kind != "efi",  # LOADER_TYPE_BUMP_COUNTERS
    )


def _read_settings(esp: Path) -> dict[str, str]:
    """loader.conf; a file that is not there is an empty one."""
    try:
        with (esp / LOADER_CONF).open("rb") as file:
            return dict(read_pairs(file.read(_TEXT_BYTES_MAX), " \t"))
    except FileNotFoundError:
        return {}


def _on_esp(esp: Path, value: str) -> Path:
    return esp / value.replace("\\", "/").lstrip("/")


def _order(a: str, b: str) -> int:
    return (a > b) - (a < b)
