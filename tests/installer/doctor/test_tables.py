"""Findings in partition tables, on a disk that sfdisk made and on the same one damaged."""

import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from slipstream.delta.errors import FormatError
from slipstream.delta.gpt import read_gpt
from slipstream.installer.doctor.finding import Check, Finding
from slipstream.installer.doctor.tables import table_findings

MIB = 1 << 20
SIZE = 4 * MIB
SCRIPT = """label: gpt
first-lba: 64
start=64, size=64, name=esp
size=512, name=_empty
size=512, name=_empty
size=512, name=rootfs-b
size=64, name=state
"""


class Disk:
    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def read(self, offset: int, size: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def patch(self, offset: int, data: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def findings(self) -> list[Finding]:
        try:
            table = read_gpt(self)
        except FormatError as error:
            return list(table_findings(self.path, error))
        return list(table_findings(self.path, table))


def sfdisk(*words: str, script: str | None = None) -> None:
    subprocess.run(
        ["/usr/sbin/sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", *words],
        input=script, text=True, capture_output=True, check=True,
    )  # fmt: skip


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(SIZE)
    sfdisk(str(path), script="grain: 512\n" + SCRIPT)
    return Disk(path)


def reseal(disk: Disk) -> None:
    """Valid checksums for the backup, after a change of its rows."""
    rows = disk.read(SIZE - 33 * 512, 32 * 512)
    header = bytearray(disk.read(SIZE - 512, 92))
    header[88:92] = zlib.crc32(rows).to_bytes(4, "little")
    header[16:20] = bytes(4)
    header[16:20] = zlib.crc32(header).to_bytes(4, "little")
    disk.patch(SIZE - 512, bytes(header))


def other_row(disk: Disk) -> None:
    disk.patch(SIZE - 33 * 512 + 3 * 128 + 56, "x".encode("utf-16-le"))
    reseal(disk)


def grow(disk: Disk) -> None:
    with disk.path.open("r+b") as file:
        file.truncate(SIZE + MIB)


DAMAGES: dict[str, tuple[Callable[[Disk], object], Check, str, bool]] = {
    # damage, finding, words of it, whether the mend is a command that runs by itself
    "primary": (
        lambda disk: disk.patch(1024 + 5, b"xx"),
        *(Check.TABLE_INVALID, "the primary partition table is not valid: wrong checksum", True),
    ),
    "primary header": (
        lambda disk: disk.patch(512, bytes(512)),
        *(Check.TABLE_INVALID, "the primary partition table is not valid: no GPT header", True),
    ),
    "backup": (
        lambda disk: disk.patch(SIZE - 512, bytes(512)),
        *(Check.TABLE_INVALID, "the backup partition table is not valid: no GPT header", True),
    ),
    "both": (
        lambda disk: (disk.patch(1024, b"xxx"), disk.patch(SIZE - 33 * 512, b"xxx")),
        *(Check.TABLE_INVALID, "neither copy", False),
    ),
    "rows differ": (other_row, Check.TABLE_COPIES, "differ in partitions 4", True),
    "grown": (grow, Check.TABLE_COPIES, "not at the end of the disk", True),
    "same label": (
        lambda disk: sfdisk("--part-label", str(disk.path), "5", "rootfs-b"),
        *(Check.SAME_NAME, "partitions 4, 5 have one label, rootfs-b", False),
    ),
    "same PARTUUID": (
        lambda disk: sfdisk("--part-uuid", str(disk.path), "5", str(read_gpt(disk).counting.rows[0].uuid)),
        *(Check.SAME_NAME, "partitions 1, 5 have one PARTUUID", False),
    ),
}  # fmt: skip


def test_a_sound_disk(disk: Disk) -> None:
    assert disk.findings() == []  # two partitions called _empty are fine


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_finding_and_its_mend(disk: Disk, damage: str) -> None:
    change, check, words, mends = DAMAGES[damage]
    change(disk)

    (found,) = disk.findings()
    assert found.check is check
    assert words in found.what
    if check is Check.SAME_NAME:  # which of them runs is not known here
        assert " NUMBER NEW, for one of them that is not in use" in found.mend
    if mends:
        command = f"PATH=$PATH:/usr/sbin {found.mend}"
        done = subprocess.run(command, shell=True, capture_output=True, check=False, text=True)
        assert disk.findings() == [], done.stderr
