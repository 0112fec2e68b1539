"""The log of a disk's writes: made here as QEMU makes it, and what is read out of it."""

import struct
from pathlib import Path

import pytest

from e2e.disk import SECTOR, offset_of
from e2e.write_log import FLUSH, MAGIC, Write, long_names, read_write_log, windows_of
from slipstream.delta.errors import FormatError

ESP, SLOT = offset_of("esp"), offset_of("rootfs-b")


def dump_log(writes: list[tuple[int, bytes] | None]) -> bytes:
    """None is a flush."""
    rows = [struct.pack("<QQQI", MAGIC, 1, len(writes), SECTOR).ljust(SECTOR, b"\0")]
    for one in writes:
        where, data = one or (0, b"")
        flags = FLUSH if one is None else 0
        head = struct.pack("<QQQQ", where // SECTOR, len(data) // SECTOR, flags, 0)
        rows.append(head.ljust(SECTOR, b"\0") + data)
    return b"".join(rows)


def folder(*names: str) -> bytes:
    """A sector of a FAT folder: for each name of at most 13 characters a record of its long name."""
    raw = b""
    for name in names:
        part = (name.encode("utf-16-le") + b"\0\0").ljust(26, b"\xff")[:26]
        raw += b"\x41" + part[:10] + b"\x0f\0\0" + part[10:22] + b"\0\0" + part[22:]
        raw += b"0002B   EFI".ljust(32, b"\0")
    return raw.ljust(SECTOR, b"\0")


def test_requests_come_in_their_order(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(dump_log([(SLOT, b"x" * 1024), None, (ESP, b"y" * SECTOR)]))

    assert list(read_write_log(log)) == [
        Write(0, SLOT, b"x" * 1024, flush=False),
        Write(1, 0, b"", flush=True),
        Write(2, ESP, b"y" * SECTOR, flush=False),
    ]
    assert [one.partition for one in read_write_log(log)] == ["rootfs-b", "", "esp"]


@pytest.mark.parametrize("raw", [bytes(SECTOR), dump_log([(0, bytes(SECTOR))])[: SECTOR + 8]])
def test_what_is_no_log(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "log").write_bytes(raw)

    with pytest.raises(FormatError):
        list(read_write_log(tmp_path / "log"))


@pytest.mark.parametrize("name", ["0002b.efi", "0002b+3-0.efi"])
def test_names_of_a_folder_but_not_those_that_are_gone(name: str) -> None:
    sector = folder(name)

    assert long_names(sector) == {name}
    assert long_names(b"\xe5" + sector[1:]) == set()


def test_the_window_of_a_name(tmp_path: Path) -> None:
    log, base = tmp_path / "log", tmp_path / "disk"
    with base.open("wb") as disk:
        disk.truncate(SLOT + 4096)
    before, after = folder(".0002b.tmp"), folder("0002b+3-0.efi")
    log.write_bytes(
        dump_log([
            (SLOT, b"x" * 1024), (ESP, before), None,
            (ESP, after), (SLOT, b"x" * SECTOR), None,
            (ESP, folder("0002b.efi")), (SLOT, b"y" * SECTOR), (ESP + 4096, b"z" * 1024), None,
        ])
    )  # fmt: skip

    found = windows_of(log, base, {"commit": "0002b+3-0.efi", "confirm": "0002b.efi", "no": "n"})

    # The bytes that stood there already are no change.
    assert found["commit"].changed == {"esp": [ESP]}
    assert (found["commit"].first, found["commit"].last, found["commit"].writes) == (3, 5, 2)
    assert {k: len(v) for k, v in found["confirm"].changed.items()} == {"esp": 3, "rootfs-b": 1}
    assert (
        found["confirm"].describe() == "3 writes, changed: 3 sectors of esp, 1 sectors of rootfs-b"
    )
    assert "no" not in found
