"""What a check-up can find, and how it is said. docs/doctor.md has a paragraph on each check.

Pure: values only. The word of a check is a contract with programs, as exit codes are.
"""

import shlex
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any


class Check(StrEnum):
    """What is wrong, in a word."""

    # the boot partition as a file system
    UNREADABLE = "unreadable"
    CROSS_LINKED = "cross-linked"
    BROKEN_CHAIN = "broken-chain"
    WRONG_SIZE = "wrong-size"
    BROKEN_FOLDER = "broken-folder"
    TABLES_DIFFER = "tables-differ"
    DIRTY = "dirty"
    LOST_CLUSTERS = "lost-clusters"
    BACKUP_BOOT_SECTOR = "backup-boot-sector"
    DEBRIS = "debris"
    MOUNT = "mount"
    NO_ROOM = "no-room"
    # what the boot loader makes of it
    TWINS = "twins"
    TRUNCATED = "truncated"
    MISSING_FILE = "missing-file"
    UNCOUNTED = "uncounted"
    WRONG_SLOT = "wrong-slot"
    NO_ENTRY = "no-entry"
    DEFAULT_SET = "default-set"
    NO_COUNTING = "no-counting"
    # the partition tables
    TABLE_INVALID = "table-invalid"
    TABLE_COPIES = "table-copies"
    SAME_NAME = "same-name"
    # the configuration
    CMDLINE = "cmdline"
    SLOTS = "slots"
    NO_HASH_TREE = "no-hash-tree"
    # what could not be looked at
    NOT_LOOKED_AT = "not-looked-at"


class Severity(StrEnum):
    """A FAULT would stop or endanger an update; a NOTE would not."""

    FAULT = "fault"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found. `mend` is a command to type, or what to do in a sentence."""

    check: Check
    severity: Severity
    where: str
    what: str
    mend: str

    def to_words(self) -> str:
        """For people, in two lines, whatever names the boot partition and the tables hold."""
        said = f"{self.severity}: {self.where}: {self.what} [{self.check}]"
        return f"{_printable(said)}\n  mend: {_printable(self.mend)}"

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "check": self.check,
            "severity": self.severity,
            "where": self.where,
            "what": self.what,
            "mend": self.mend,
        }


def _printable(text: str) -> str:
    """A name must not move a terminal's cursor, nor write a line of its own."""
    return "".join(char if char.isprintable() else "?" for char in text)


@dataclass(frozen=True, slots=True)
class EspName:
    """How commands name the boot partition: its folder where it is mounted, its device where known."""

    folder: Path | None
    device: str | None

    def __str__(self) -> str:
        return str(self.device or self.folder)

    def path(self, path: str) -> str:
        """A file on it, as a person types it."""
        if self.folder is None:
            return f"{self.device}:/{path}"
        return str(self.folder / path)

    def remove(self, *paths: str) -> str:
        """The command that removes files."""
        if self.folder is None:
            words = " ".join(shlex.quote(f"::/{path}") for path in paths)
            return f"mdel -i {shlex.quote(str(self.device))} {words}"
        return "rm " + " ".join(shlex.quote(str(self.folder / path)) for path in paths)

    def rename(self, path: str, name: str) -> str:
        """The command that gives a file another name in its folder, which nothing has yet."""
        if self.folder is None:
            old, new = shlex.quote(f"::/{path}"), shlex.quote(name)
            return f"mren -i {shlex.quote(str(self.device))} {old} {new}"
        old_path = self.folder / path
        return f"mv -n {shlex.quote(str(old_path))} {shlex.quote(str(old_path.with_name(name)))}"

    def copy(self, source: str, path: str) -> str:
        """The command that writes a file of another place over one on it. `source` as it is typed."""
        if self.folder is None:
            target = shlex.quote(f"::/{path}")
            return f"mcopy -o -i {shlex.quote(str(self.device))} {source} {target}"
        return f"cp {source} {shlex.quote(str(self.folder / path))} && sync"

    def fsck(self) -> str:
        """The command that repairs the file system: never while it is mounted."""
        repair = f"fsck.vfat -a -w {'DEVICE' if self.device is None else shlex.quote(self.device)}"
        if self.folder is None:
            return repair
        folder = shlex.quote(str(self.folder))
        return f"umount {folder} && {repair}; mount {folder}"

    def fsck_but_keep(self, path: str) -> str:
        """The same, with one file's bytes kept elsewhere and put back if the repair took them."""
        kept = shlex.quote(f"/var/tmp/{path.rpartition('/')[2]}")  # noqa: S108 - a person types it
        if self.folder is None:
            image, place = shlex.quote(str(self.device)), shlex.quote(f"::/{path}")
            out = f"mcopy -n -i {image} {place} {kept}"
            return f"{out} && {self.fsck()}; mcopy -o -i {image} {kept} {place}"
        place = shlex.quote(str(self.folder / path))
        return (
            f"cp {place} {kept} && {self.fsck()} && "
            f"{{ cmp -s {kept} {place} || cp {kept} {place}; }}"
        )
