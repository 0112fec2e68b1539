"""gpt_copy.py: one copy of a partition table, judged and renamed."""

import struct
import subprocess
import uuid
from pathlib import Path

import pytest

from slipstream.delta.errors import FormatError
from slipstream.delta.gpt import read_gpt
from slipstream.delta.gpt_copy import GptCopy, Identity
from tests.delta.gpt_disks import NEW, Bytes, backup_at, copies, disk, raw, seal_header
from tests.partition_tables import SECTOR

__all__ = ["disk", "raw"]  # fixtures


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
