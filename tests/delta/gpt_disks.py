"""Disks in memory with a GUID partition table that sfdisk made, for tests of its readers."""

import struct
import uuid
import zlib

import pytest

from slipstream.delta.gpt import Gpt
from slipstream.delta.gpt_copy import GptCopy, Identity
from tests.partition_tables import SECTOR, make_gpt_disk

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


def seal_header(disk: Bytes, at: int) -> None:
    """Make both checksums of a header right again."""
    rows_at, count, size = struct.unpack_from("<QII", disk.raw, at + 72)
    rows = disk.raw[rows_at * SECTOR : rows_at * SECTOR + min(count * size, 1 << 20)]
    struct.pack_into("<I", disk.raw, at + 88, zlib.crc32(rows))
    length = min(struct.unpack_from("<I", disk.raw, at + 12)[0], SECTOR)
    struct.pack_into("<I", disk.raw, at + 16, 0)
    struct.pack_into("<I", disk.raw, at + 16, zlib.crc32(disk.raw[at : at + length]))
