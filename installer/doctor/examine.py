"""`slipstream device doctor`: reads what an update depends on, and says what is wrong with it.

Nothing is changed: everything is opened read-only, no lock is taken, broken state files stay where
they are. The one thing it asks of the kernel is to write out what others left in its cache (see
boot/esp_bytes.py). The findings themselves are made in volume.py, tables.py, settings.py, and
entries.py with boot_files.py and selection.py.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from slipstream.delta.errors import DeviceFault, FormatError
from slipstream.delta.filesystem.fat_volume import FatVolume, Read, read_fat_volume, read_file
from slipstream.delta.gpt import Gpt, read_gpt
from slipstream.delta.gpt_layout import MAGIC, SECTOR_SIZES
from slipstream.delta.limits import FAT_FILES_MAX
from slipstream.delta.manifest import Manifest
from slipstream.installer.boot.esp import Esp, translated
from slipstream.installer.boot.esp_bytes import EspBytes, NoBytes, find_esp_bytes
from slipstream.installer.boot.loader_word import LoaderWord
from slipstream.installer.boot.mount import Mount
from slipstream.installer.boot.preflight import SIGN_FIRST
from slipstream.installer.config import Config
from slipstream.installer.doctor.entries import entry_findings
from slipstream.installer.doctor.finding import Check, EspName, Finding, Severity
from slipstream.installer.doctor.menu import Boots, EspFile
from slipstream.installer.doctor.settings import setting_findings
from slipstream.installer.doctor.tables import table_findings
from slipstream.installer.doctor.volume import volume_findings
from slipstream.installer.slots import Slots


@dataclass(frozen=True, slots=True)
class CheckUp:
    """What was found, faults first, and what was looked at."""

    findings: tuple[Finding, ...]
    looked_at: tuple[str, ...]

    @property
    def faults(self) -> int:
        """How many findings would stop or endanger an update."""
        return sum(one.severity is Severity.FAULT for one in self.findings)

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "findings": [finding.to_json() for finding in self.findings],
            "looked_at": list(self.looked_at),
        }

    def to_words(self) -> str:
        """For people."""
        lines = [finding.to_words() for finding in self.findings] or ["nothing is wrong"]
        return "\n".join([*lines, *(f"looked at: {what}" for what in self.looked_at)])


def examine(config: Config) -> CheckUp:
    """Look at the device of a configuration. What cannot be looked at is a finding too."""
    look = _Look(config)
    look.at_everything()
    findings = sorted(look.findings, key=lambda one: one.severity is not Severity.FAULT)
    return CheckUp(tuple(dict.fromkeys(findings)), tuple(look.looked_at))


class _Look:
    """One check-up."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.findings: list[Finding] = []
        self.looked_at: list[str] = []

    def at_everything(self) -> None:
        boots = Boots({}, None, None, None, None)
        try:
            boots = self._boots()
        except DeviceFault as error:
            self._cannot(error)
        try:
            self._look_at_partition(boots)
        except DeviceFault as error:
            self._cannot(error)
        try:
            self.findings += setting_findings(self._config, self._manifests(boots))
        except DeviceFault as error:
            self._cannot(error)
        for disk in self._disks():
            try:
                self._look_at_table(disk)
            except DeviceFault as error:
                self._cannot(error)

    def _cannot(self, error: DeviceFault | FormatError) -> None:
        mend = error.hint or "run it as root; look at dmesg"
        where = str(error.where or self._config.boot.esp)
        text = error.what + (f"; got {error.got}" if error.got else "")
        self.findings.append(Finding(Check.UNREADABLE, Severity.FAULT, where, text, mend))

    def _boots(self) -> Boots:
        boot = self._config.boot
        notices: list[str] = []
        records = Slots(self._config.state, notices.append, repair=False).records()
        for notice in notices:
            self.findings.append(
                Finding(
                    Check.NOT_LOOKED_AT,
                    Severity.NOTE,
                    str(self._config.state),
                    f"{notice}: entries are not compared with what the slots hold",
                    "slipstream device status, which sets the file aside",
                )
            )
        loader = LoaderWord(boot.cmdline, boot.entry)
        override, counts = loader.override(), loader.counts_tries()
        return Boots(records, loader.selected(), loader.root(), override, counts)

    def _manifests(self, boots: Boots) -> list[Manifest]:
        """Of the releases in the slots, as far as they are kept and can be read."""
        slots = Slots(self._config.state, lambda _: None, repair=False)
        named = (one.manifest for one in boots.records.values() if one.manifest is not None)
        found = (slots.manifest(digest) for digest in named)
        return [one for one in found if one is not None]

    def _look_at_partition(self, boots: Boots) -> None:
        boot = self._config.boot
        source = find_esp_bytes(boot.esp, boot.esp_device)
        if isinstance(source, NoBytes):
            self.findings.append(
                Finding(
                    Check.NOT_LOOKED_AT,
                    Severity.NOTE,
                    str(boot.esp),
                    f"{source.reason}: its clusters were not looked at",
                    "mount the boot partition there, or name its device as [boot] esp_device",
                )
            )
            self._look_at_folder(boots)
            return
        esp = EspName(source.folder, str(source.device))
        if source.mount is not None:
            self.findings += _mount_findings(source.mount, esp)
        try:
            self._look_at_bytes(source, boots, esp)
        except FormatError as error:
            self.findings.append(
                Finding(
                    Check.UNREADABLE,
                    Severity.FAULT,
                    str(source.device),
                    f"not a FAT file system that can be read: {error}",
                    f"{esp.fsck()}; if that does not help: keep a copy of {source.device}, mkfs.vfat, "
                    f"bootctl install{SIGN_FIRST}, and install a release again",
                )
            )

    def _look_at_bytes(self, source: EspBytes, boots: Boots, esp: EspName) -> None:
        with source.open() as (read, size):
            volume = read_fat_volume(read, size)
            files = _files_of(volume, read)
            # Linux marks what it may write to as dirty by itself.
            writable = source.mount is not None and "ro" not in source.mount.options
            self.findings += volume_findings(volume, esp, mounted=writable)
            self.findings += entry_findings(files, boots, esp, volume.free_bytes)
        self.looked_at.append(
            f"{source.device}: {volume.layout.name}, {len(volume.files)} names, "
            f"{volume.free_bytes:,} bytes free"
        )

    def _look_at_folder(self, boots: Boots) -> None:
        root = self._config.boot.esp
        files = {file.path.lower(): file for file in _walk(root)}
        esp = EspName(root, None)
        self.findings += entry_findings(files, boots, esp, Esp(root).free_bytes())
        self.looked_at.append(f"{root}: {len(files)} files")

    # --- partition tables

    def _disks(self) -> list[Path]:
        """The disks of the slots and of the boot partition, each once."""
        places = [
            place.path for slot in self._config.slots.values() for place in slot.partitions.values()
        ]
        try:
            source = find_esp_bytes(self._config.boot.esp, self._config.boot.esp_device)
        except DeviceFault:  # said already
            source = None
        if isinstance(source, EspBytes):
            places.append(source.device)
        disks = []
        for place in places:
            try:
                disks.append(_disk_of(place))
            except OSError as error:
                self.findings.append(
                    Finding(
                        Check.UNREADABLE,
                        Severity.FAULT,
                        str(place),
                        f"cannot be looked at: {error.strerror}",
                        "correct [slots] and [boot], or run it as root",
                    )
                )
        return sorted({disk for disk in disks if disk is not None})

    def _look_at_table(self, disk: Path) -> None:
        with EspBytes(disk, None, None).open() as (read, size):
            image = _Image(read, size)
            if not any(_has_table(image, sector) for sector in SECTOR_SIZES):
                if _is_block(disk):
                    self.findings.append(
                        Finding(
                            Check.NOT_LOOKED_AT,
                            Severity.NOTE,
                            str(disk),
                            "it has no GUID partition table",
                            "nothing, if it is meant to have another one",
                        )
                    )
                return
            table: Gpt | FormatError
            try:
                table = read_gpt(image)
            except FormatError as error:
                table = error
        self.findings += table_findings(disk, table)
        if isinstance(table, Gpt):
            self.looked_at.append(f"{disk}: {len(table.counting.rows)} partitions, both tables")


@dataclass(frozen=True, slots=True)
class _Image:
    """A disk as delta/gpt.py reads it."""

    _read: Read
    size: int

    def read(self, offset: int, size: int) -> bytes:
        return self._read(offset, size)


def _has_table(disk: _Image, sector: int) -> bool:
    """Whether either copy's magic is there: after a damage to one, the other says what it was."""
    last = disk.size // sector - 1
    places = [place for place in (1, last) if 0 < place <= last]
    return any(disk.read(place * sector, len(MAGIC)) == MAGIC for place in places)


def _disk_of(place: Path) -> Path | None:
    """The disk that a partition is on; an image file is its own; None for what is no partition.

    Source: Linux, Documentation/ABI/stable/sysfs-block.
    """
    if not _is_block(place):
        return place
    number = place.stat().st_rdev
    folder = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
    if not (folder / "partition").exists():
        return None  # a whole disk, or a mapped device
    return Path("/dev") / folder.parent.name.replace("!", "/")


def _is_block(path: Path) -> bool:
    return stat.S_ISBLK(path.stat().st_mode)


def _mount_findings(mount: Mount, esp: EspName) -> Iterator[Finding]:
    remount = f"mount -o remount,rw,async {mount.point}; correct its line in /etc/fstab"
    for option in sorted({"sync", "dirsync"} & mount.options):
        yield Finding(
            Check.MOUNT,
            Severity.FAULT,
            str(mount.point),
            f"is mounted with {option}: a rename becomes six writes, with cross-linked and empty "
            "files between them",
            remount if option == "sync" else f"remove {option} in /etc/fstab and mount it again",
        )
    if "ro" in mount.options:
        yield Finding(
            Check.MOUNT,
            Severity.FAULT,
            str(mount.point),
            "is mounted read-only: Linux does that itself after a damaged FAT (see dmesg)",
            f"{esp.fsck()}; {remount}",
        )


def _files_of(volume: FatVolume, read: Read) -> dict[str, EspFile]:
    """Files by path in lowercase; of two with one name the first, as firmware finds it."""
    files: dict[str, EspFile] = {}
    for file in volume.files:
        if not file.is_folder and not file.record.is_behind_end:
            reader = partial(read_file, read, volume.layout, file)
            files.setdefault(file.path.lower(), EspFile(file.path, file.size, reader))
    return files


def _walk(root: Path) -> Iterator[EspFile]:
    """The files of a folder, where there is no volume to read."""
    count = 0
    with translated("cannot list", root):
        for folder, _, names in os.walk(root):
            for name in sorted(names):
                path = Path(folder) / name
                count += 1
                if count > FAT_FILES_MAX:
                    raise DeviceFault("too many files", where=root, expected=FAT_FILES_MAX)
                if path.is_file() and not path.is_symlink():
                    size = path.stat().st_size
                    yield EspFile(path.relative_to(root).as_posix(), size, partial(_read, path))


def _read(path: Path, offset: int, size: int) -> bytes:
    with translated("cannot read", path), path.open("rb") as file:
        file.seek(offset)
        return file.read(size)
