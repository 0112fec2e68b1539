"""workspace.py: source, target and contents at the addresses of a payload."""

import os
from pathlib import Path

import pytest

from slipstream.delta.byterange import ByteRange
from slipstream.delta.errors import UsageError
from slipstream.server.workspace import WorkFiles, WorkSpace


@pytest.fixture
def files(tmp_path: Path) -> WorkFiles:
    (tmp_path / "source").write_bytes(b"0123456789")
    (tmp_path / "target").write_bytes(b"abcdef")
    (tmp_path / "scratch").write_bytes(b"UVWXYZ")
    return WorkFiles(tmp_path / "source", tmp_path / "target", tmp_path / "scratch", 10, 6)


@pytest.mark.parametrize(
    ("offset", "size", "expected"),
    [
        (0, 10, b"0123456789"),
        (10, 6, b"abcdef"),
        (16, 6, b"UVWXYZ"),
        (8, 4, b"89ab"),
        (15, 2, b"fU"),
        (9, 8, b"9abcdefU"),
        (3, 0, b""),
    ],
)
def test_read(files: WorkFiles, offset: int, size: int, expected: bytes) -> None:
    assert files.base == 16
    with WorkSpace(files) as space:
        assert space.read(offset, size) == expected
        assert space.read_all([ByteRange(offset, size), ByteRange(0, 1)]) == expected + b"0"


def test_without_a_source(tmp_path: Path, files: WorkFiles) -> None:
    with WorkSpace(WorkFiles(None, files.target, None, 0, 6)) as space:
        assert space.read(1, 3) == b"bcd"


def test_what_is_written_meanwhile_is_read(files: WorkFiles) -> None:
    assert files.scratch is not None
    with WorkSpace(files) as space:
        with files.scratch.open("ab") as scratch:
            scratch.write(b"more")
        assert space.read(20, 6) == b"YZmore"
        with pytest.raises(UsageError, match="file ended early"):
            space.read(20, 7)


def test_files_are_closed_with_the_last_reference(files: WorkFiles) -> None:
    before = len(os.listdir("/proc/self/fd"))
    space = WorkSpace(files)
    assert len(os.listdir("/proc/self/fd")) == before + 3
    del space
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(FileNotFoundError):
        WorkSpace(WorkFiles(files.source, files.target, Path("/nowhere"), 10, 6))
    assert len(os.listdir("/proc/self/fd")) == before
