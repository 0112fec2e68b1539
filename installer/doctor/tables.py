"""Findings in both copies of a GUID partition table: valid, equal, where they belong, names unique.

Pure: what delta/gpt.py read goes in, findings come out. Bounds and checksums are its own: a copy
with a partition outside the disk, or with two that overlap, is no valid copy.
"""

import shlex
from collections.abc import Iterator
from pathlib import Path

from slipstream.delta.errors import FormatError
from slipstream.delta.gpt import Gpt
from slipstream.installer.doctor.finding import Check, Finding, Severity
from slipstream.installer.gpt_disk import rewrite_command

_MANY = ("", "_empty")  # labels that any number of partitions may have: none, and being written


def table_findings(disk: Path, table: Gpt | FormatError) -> Iterator[Finding]:
    """What is wrong with the partition table of a disk."""
    where = str(disk)
    rewrite = rewrite_command(disk)
    if isinstance(table, FormatError):
        yield Finding(
            Check.TABLE_INVALID,
            Severity.FAULT,
            where,
            f"neither copy of the partition table is valid: {table}",
            "keep a copy of the disk, then write the table of a device of the same kind (`sfdisk "
            f"--dump` there) with sfdisk --no-reread {shlex.quote(where)}; nothing on it can be found "
            "after the next reboot",
        )
        return
    for name, copy in (("primary", table.primary), ("backup", table.backup)):
        if isinstance(copy, FormatError):
            without = "boots only where `gpt` is on the kernel command line"
            yield Finding(
                Check.TABLE_INVALID,
                Severity.FAULT,
                where,
                f"the {name} partition table is not valid: {copy.what}"
                + (f"; Linux {without}" if name == "primary" else ""),
                rewrite,
            )
    differing = table.differing()
    if differing:
        rows = ", ".join(str(number) for number in differing)
        yield Finding(
            Check.TABLE_COPIES,
            Severity.FAULT,
            where,
            f"the copies of the partition table differ in partitions {rows}: the primary counts now, "
            "the backup when it is lost",
            rewrite,
        )
    if not table.backup_is_last:
        yield Finding(
            Check.TABLE_COPIES,
            Severity.FAULT,
            where,
            "the backup of the partition table is not at the end of the disk, where it is looked "
            "for when the primary is lost",
            rewrite,
        )
    partitions = table.counting.rows
    for what, option, names in (
        ("label", "--part-label", [row.label for row in partitions]),
        ("PARTUUID", "--part-uuid", [str(row.uuid) for row in partitions]),
    ):
        for name in sorted({one for one in names if names.count(one) > 1 and one not in _MANY}):
            numbers = [
                row.number for row, one in zip(partitions, names, strict=True) if one == name
            ]
            yield Finding(
                Check.SAME_NAME,
                Severity.FAULT,
                where,
                f"partitions {', '.join(map(str, numbers))} have one {what}, {name}: which of them "
                "is found is chance",
                # Which of them is not wanted, the table does not say: one of them may be running.
                f"sfdisk {option} {shlex.quote(where)} NUMBER NEW, for one of them that is not in "
                f"use: lsblk -o NAME,PARTLABEL,PARTUUID,MOUNTPOINTS {shlex.quote(where)}",
            )
