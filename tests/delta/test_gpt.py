"""gpt.py: both copies of a GUID partition table, read, compared and mended."""

import struct
import subprocess
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.delta.errors import FormatError
from slipstream.delta.gpt import read_gpt
from tests.delta.gpt_disks import NEW, SLOT, TREE, Bytes, backup_at, copies, disk, raw, seal_header
from tests.partition_tables import SECTOR, make_gpt_disk, places

__all__ = ["disk", "raw"]  # fixtures


def test_reads_what_sfdisk_made(disk: Bytes) -> None:
    gpt = read_gpt(disk)
    primary, backup = copies(gpt)

    assert primary.entries == backup.entries
    assert (gpt.sector_size, gpt.differing(), gpt.mended(), gpt.backup_is_last) == (
        512,
        (),
        None,
        True,
    )
    rows = {row.label: row for row in gpt.counting.rows}
    assert list(rows) == list(places(SLOT, TREE))
    for name, (offset, size) in places(SLOT, TREE).items():
        assert primary.row_at(offset, size) == rows[name]
    assert rows["rootfs-b"].uuid == uuid.UUID("bbbbbbbb-0000-4000-8000-000000000001")
    assert rows["rootfs-b"].attributes == 1 << 60
    assert str(rows["esp"].type) == "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
    assert primary.row_at(0, SLOT) is None


@pytest.mark.parametrize("lost", ["primary", "backup"])
@pytest.mark.parametrize("part", ["header", "rows"])
def test_a_lost_copy_is_mended_from_the_other(
    disk: Bytes, lost: str, part: str, raw: bytes
) -> None:
    header = SECTOR if lost == "primary" else backup_at(disk)
    rows = 2 * SECTOR if lost == "primary" else backup_at(disk) - 32 * SECTOR
    disk.spoil((header if part == "header" else rows) + 60)

    gpt = read_gpt(disk)
    assert isinstance(getattr(gpt, lost), FormatError)
    mended = gpt.mended()
    assert mended is not None
    disk.put(mended)
    assert bytes(disk.raw) == raw  # byte for byte what sfdisk wrote


def test_rows_go_back_where_a_sound_header_has_them(tmp_path: Path) -> None:
    """sgdisk -j: a boot ROM wants the sectors behind the header."""
    path = tmp_path / "disk"
    make_gpt_disk(path, SLOT, TREE)
    subprocess.run(["/usr/sbin/sgdisk", "-j", "20", path], check=True, capture_output=True)
    disk = Bytes(path.read_bytes())
    whole = bytes(disk.raw)
    disk.spoil(20 * SECTOR + 60)

    mended = read_gpt(disk).mended()

    assert mended is not None
    disk.put(mended)
    assert bytes(disk.raw) == whole


def boot_rom_disk(tmp_path: Path) -> Bytes:
    """A disk whose boot ROM has its code behind the header; the rows are in sectors 32 to 63."""
    path = tmp_path / "disk"
    make_gpt_disk(path, SLOT, TREE)
    subprocess.run(["/usr/sbin/sgdisk", "-j", "32", path], check=True, capture_output=True)
    disk = Bytes(path.read_bytes())
    disk.raw[2 * SECTOR : 32 * SECTOR] = bytes(range(1, 241)) * (30 * SECTOR // 240)
    return disk


@pytest.mark.parametrize("lost", ["header", "both"])
def test_code_of_a_boot_rom_behind_the_header_is_not_written_over(
    tmp_path: Path, lost: str
) -> None:
    disk, rows_at = boot_rom_disk(tmp_path), 32
    whole = bytes(disk.raw)
    disk.raw[SECTOR : 2 * SECTOR] = bytes(SECTOR)
    if lost == "both":
        disk.raw[rows_at * SECTOR : (rows_at + 32) * SECTOR] = b"\xff" * (32 * SECTOR)
        with pytest.raises(FormatError, match="where the primary table has its rows is not known"):
            read_gpt(disk).mended()
        return

    mended = read_gpt(disk).mended()

    assert mended is not None
    disk.put(mended)
    assert bytes(disk.raw) == whole


def test_sectors_that_were_cleared_get_the_table_back(disk: Bytes) -> None:
    """There may be room elsewhere, too: zeros are no code."""
    whole = bytes(disk.raw)
    assert read_gpt(disk).counting.fields.first_usable > 34
    disk.raw[SECTOR : 34 * SECTOR] = bytes(33 * SECTOR)
    mended = read_gpt(disk).mended()
    assert mended is not None
    disk.put(mended)
    assert bytes(disk.raw) == whole


def test_rows_of_a_backup_go_back_where_a_sound_header_has_them(disk: Bytes) -> None:
    """They need not stand right before it."""
    header = backup_at(disk)
    rows = bytes(disk.raw[header - 32 * SECTOR : header])
    disk.raw[header - 32 * SECTOR : header] = b"\xff" * (32 * SECTOR)
    disk.raw[header - 33 * SECTOR : header - SECTOR] = rows
    struct.pack_into("<Q", disk.raw, header + 72, header // SECTOR - 33)
    for at in (SECTOR, header):
        last = struct.unpack_from("<Q", disk.raw, at + 48)[0]
        struct.pack_into("<Q", disk.raw, at + 48, last - 1)
        seal_header(disk, at)
    whole = bytes(disk.raw)
    assert read_gpt(disk).mended() is None
    disk.spoil(header - 33 * SECTOR + 60)

    mended = read_gpt(disk).mended()

    assert mended is not None
    disk.put(mended)
    assert bytes(disk.raw) == whole


def test_a_grown_disk_has_its_backup_in_the_middle(disk: Bytes) -> None:
    grown = Bytes(bytes(disk.raw) + bytes(64 * SECTOR))
    assert not read_gpt(grown).backup_is_last
    grown.spoil(SECTOR + 60)  # and is lost with its primary, as firmware and kernel look at the end
    with pytest.raises(FormatError):
        read_gpt(grown)


def test_copies_of_two_tables_are_refused(disk: Bytes) -> None:
    fields = struct.pack("<16s", uuid.uuid5(uuid.NAMESPACE_DNS, "other").bytes_le)
    disk.raw[backup_at(disk) + 56 : backup_at(disk) + 72] = fields
    seal_header(disk, backup_at(disk))
    with pytest.raises(FormatError, match="two different tables"):
        read_gpt(disk)


def test_a_backup_that_would_not_be_found_is_not_written(disk: Bytes) -> None:
    disk.raw[SECTOR + 32] = 0  # where the primary says that its backup is
    seal_header(disk, SECTOR)
    gpt = read_gpt(disk)
    assert isinstance(gpt.backup, FormatError)
    with pytest.raises(FormatError, match="elsewhere than at the end"):
        gpt.mended()


def test_no_table_at_all() -> None:
    for size in (0, 1, SECTOR, 2 * SECTOR, 100 * SECTOR):
        with pytest.raises(FormatError):
            read_gpt(Bytes(bytes(size)))


EDITS = st.lists(st.tuples(st.integers(0, 91 + 6 * 128), st.integers(0, 255)), max_size=4)


@dataclass(frozen=True)
class Sound:
    """A disk's bytes, which hypothesis would otherwise print."""

    raw: bytes = field(repr=False)


@pytest.fixture(scope="module")
def sound(raw: bytes) -> Sound:
    return Sound(raw)


@settings(max_examples=200, deadline=None)
@given(primary=EDITS, backup=EDITS, sealed=st.tuples(st.booleans(), st.booleans()))
def test_hostile_bytes_raise_our_errors_only(
    sound: Sound,
    primary: list[tuple[int, int]],
    backup: list[tuple[int, int]],
    sealed: tuple[bool, bool],
) -> None:
    raw, disk = sound.raw, Bytes(sound.raw)
    last = backup_at(disk)
    for header, rows, edits, seal in (
        (SECTOR, 2 * SECTOR, primary, sealed[0]),
        (last, last - 32 * SECTOR, backup, sealed[1]),
    ):
        for place, value in edits:
            disk.raw[header + place if place < 92 else rows + place - 92] = value
        if seal:
            seal_header(disk, header)
    try:
        gpt = read_gpt(disk)
        if (mended := gpt.mended()) is not None:
            disk.put(mended)
        for copy in copies(read_gpt(disk)):
            disk.put(copy.renamed(NEW))
    except FormatError:
        return
    after = read_gpt(disk)
    assert after.mended() is None
    # Whatever the table said: no partition's bytes, and not the protective MBR, were written.
    usable = after.counting.fields
    begin, end = usable.first_usable * SECTOR, (usable.last_usable + 1) * SECTOR
    assert disk.raw[begin:end] == raw[begin:end]
    assert disk.raw[:SECTOR] == raw[:SECTOR]


def test_sectors_of_4096_bytes(raw: bytes) -> None:
    """The same table moved to larger sectors: every place means another byte."""
    small = read_gpt(Bytes(raw))
    disk = Bytes(bytes(small.sector_count * 4096))
    for copy in copies(small):
        sector = copy.fields.sector * 4096
        disk.raw[sector : sector + SECTOR] = copy.header
        rows = copy.fields.entries_sector * 4096
        disk.raw[rows : rows + len(copy.entries)] = copy.entries
    gpt = read_gpt(disk)
    assert gpt.sector_size == 4096
    assert gpt.counting.rows == small.counting.rows
    with pytest.raises(FormatError):
        read_gpt(disk, 512)
