"""gpt.py: both copies of a GUID partition table, read, checked, renamed and mended."""

import struct
import subprocess
import uuid
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.delta.errors import FormatError
from slipstream.delta.gpt import Gpt, GptCopy, Identity, read_gpt
from tests.partition_tables import SECTOR, make_gpt_disk, places

SLOT, TREE = 64 * 1024, 16 * 1024
NEW = {
    4: Identity("rootfs_2.0", uuid.UUID("01234567-89ab-cdef-0123-456789abcdef")),
    5: Identity("rootfs-verity_2.0", uuid.UUID("fedcba98-7654-3210-fedc-ba9876543210")),
}


class Bytes:
    """A disk in memory."""

    def __init__(self, raw: bytes) -> None:
        self.raw = bytearray(raw)
        self.size = len(raw)

    def read(self, offset: int, size: int) -> bytes:
        assert 0 <= offset <= offset + size <= self.size
        return bytes(self.raw[offset : offset + size])

    def put(self, copy: GptCopy) -> None:
        for offset, raw in copy.dump():
            self.raw[offset : offset + len(raw)] = raw

    def spoil(self, offset: int) -> None:
        self.raw[offset] ^= 0x10


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gpt") / "disk"
    make_gpt_disk(path, SLOT, TREE)
    return path.read_bytes()


@pytest.fixture
def disk(raw: bytes) -> Bytes:
    return Bytes(raw)


def copies(gpt: Gpt) -> tuple[GptCopy, GptCopy]:
    assert isinstance(gpt.primary, GptCopy)
    assert isinstance(gpt.backup, GptCopy)
    return gpt.primary, gpt.backup


def backup_at(disk: Bytes) -> int:
    return disk.size - SECTOR


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


def test_renames_some_rows_and_nothing_else(disk: Bytes, tmp_path: Path) -> None:
    before = bytes(disk.raw)
    for copy in copies(read_gpt(disk)):
        disk.put(copy.renamed(NEW))

    after = read_gpt(disk)
    assert after.differing() == ()
    rows = after.counting.rows
    assert [(rows[n - 1].label, rows[n - 1].uuid) for n in NEW] == list(NEW.values())
    old = read_gpt(Bytes(before)).counting
    for number, (ours, theirs) in enumerate(zip(rows, old.rows, strict=True), 1):
        assert (ours.type, ours.first, ours.last, ours.attributes) == (
            theirs.type, theirs.first, theirs.last, theirs.attributes,
        )  # fmt: skip
        if number not in NEW:
            at = (number - 1) * 128
            assert after.counting.entries[at : at + 128] == old.entries[at : at + 128]
    # Checksums, and bytes 16..32 and 56..128 of two rows, twice: no more; the protective MBR neither.
    last = backup_at(disk)
    for at in (at for at in range(len(before)) if before[at] != disk.raw[at]):
        if at // SECTOR in (1, last // SECTOR):
            continue
        row, inside = divmod(
            at - (2 * SECTOR if at < last - 32 * SECTOR else last - 32 * SECTOR), 128
        )
        assert row + 1 in NEW, at
        assert 16 <= inside < 32 or inside >= 56, at
    path = tmp_path / "disk"
    path.write_bytes(disk.raw)
    said = subprocess.run(
        ["/usr/sbin/sgdisk", "--verify", "--print", path],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "No problems found" in said
    assert "rootfs_2.0" in said


def test_text_of_a_uuid_is_the_digits_in_order(disk: Bytes, tmp_path: Path) -> None:
    """sfdisk shows what udev makes by-partuuid links of."""
    for copy in copies(read_gpt(disk)):
        disk.put(copy.renamed(NEW))
    path = tmp_path / "disk"
    path.write_bytes(disk.raw)
    said = subprocess.run(
        ["/usr/sbin/sfdisk", "--part-uuid", path, "4"], capture_output=True, text=True, check=True
    ).stdout
    assert said.strip().lower() == "01234567-89ab-cdef-0123-456789abcdef"


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


def seal_header(disk: Bytes, at: int) -> None:
    """Make both checksums of a header right again."""
    rows_at, count, size = struct.unpack_from("<QII", disk.raw, at + 72)
    rows = disk.raw[rows_at * SECTOR : rows_at * SECTOR + min(count * size, 1 << 20)]
    struct.pack_into("<I", disk.raw, at + 88, zlib.crc32(rows))
    length = min(struct.unpack_from("<I", disk.raw, at + 12)[0], SECTOR)
    struct.pack_into("<I", disk.raw, at + 16, 0)
    struct.pack_into("<I", disk.raw, at + 16, zlib.crc32(disk.raw[at : at + length]))


@pytest.mark.parametrize(
    "at, form, value",
    [
        (8, "<I", 0x20000),  # revision
        (12, "<I", 91),
        (12, "<I", 513),
        (24, "<Q", 2),  # a header that was written somewhere else
        (32, "<Q", 1),  # the other copy is this one
        (40, "<Q", 33),  # first usable sector among the rows
        (48, "<Q", 1 << 40),  # last usable sector behind the disk
        (72, "<Q", 1),  # rows over their own header
        (72, "<Q", 0),
        (72, "<Q", 100),  # rows in a partition
        (72, "<Q", (1 << 64) - 1),
        (80, "<I", 0),
        (80, "<I", 257),
        (84, "<I", 256),
        (84, "<I", 0),
        (2 * SECTOR + 32 - SECTOR, "<Q", 40),  # a partition among the rows
        (2 * SECTOR + 32 - SECTOR, "<Q", 140),  # one that begins in the next
        (2 * SECTOR + 40 - SECTOR, "<Q", 63),  # one that ends before it begins
    ],
)
def test_a_sealed_lie_is_no_copy(disk: Bytes, at: int, form: str, value: int) -> None:
    struct.pack_into(form, disk.raw, SECTOR + at, value)
    seal_header(disk, SECTOR)

    gpt = read_gpt(disk)

    assert isinstance(gpt.primary, FormatError)
    assert isinstance(gpt.backup, GptCopy)
    assert gpt.counting is gpt.backup


def test_what_cannot_be_a_name_is_refused(disk: Bytes) -> None:
    table = read_gpt(disk).counting
    some = uuid.UUID(int=5)
    table.renamed({4: Identity("x" * 36, some)})
    for number, identity in (
        (4, Identity("x" * 37, some)),
        (4, Identity("\U0001f600" * 19, some)),
        (4, Identity("a\0b", some)),
        (7, Identity("x", some)),
        (4, Identity("x", table.rows[1].uuid)),
    ):
        with pytest.raises(FormatError):
            table.renamed({number: identity})


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
