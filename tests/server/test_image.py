"""image.py: files and block devices alike, exact reads from several threads, clear refusals."""

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from slipstream.delta.errors import UsageError
from slipstream.delta.limits import MIB
from slipstream.server.image import ImageFile

DATA = np.random.default_rng(3).bytes(MIB)


@pytest.fixture(params=["file", "block device"])
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """DATA as a regular file and, where this machine allows one, as a block device."""
    path = tmp_path / "image"
    path.write_bytes(DATA)
    if request.param == "file":
        yield path
        return
    if os.geteuid() != 0:
        pytest.skip("loop devices need root")
    found = subprocess.run(
        ["losetup", "--find", "--show", str(path)], capture_output=True, text=True, check=False
    )
    if found.returncode:
        pytest.skip(f"no loop device: {found.stderr.strip()}")
    yield Path(found.stdout.strip())
    subprocess.run(["losetup", "--detach", found.stdout.strip()], check=True)


def test_size_and_kind(image: Path) -> None:
    with ImageFile(image) as opened:
        assert opened.size == MIB
        assert opened.is_device == image.is_block_device()
        assert opened.path == image


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 0), (0, 1), (0, MIB), (1, 4095), (4095, 2), (MIB - 1, 1), (MIB, 0)]
)
def test_reads_are_exact(image: Path, offset: int, size: int) -> None:
    with ImageFile(image) as opened:
        assert opened.read(offset, size) == DATA[offset : offset + size]


def test_threads_do_not_move_each_other(image: Path) -> None:
    with ImageFile(image) as opened, ThreadPoolExecutor(4) as threads:
        offsets = [n * 7919 % (MIB - 5000) for n in range(400)]
        read = threads.map(lambda offset: opened.read(offset, 5000), offsets)
        assert list(read) == [DATA[offset : offset + 5000] for offset in offsets]


def test_reading_past_the_end_says_where(image: Path) -> None:
    with ImageFile(image) as opened, pytest.raises(UsageError, match="ended early") as refused:
        opened.read(MIB - 10, 11)
    assert str(image) in str(refused.value)


def test_a_file_cut_short_meanwhile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(DATA)
    with ImageFile(path) as opened:
        os.truncate(path, 5000)
        assert opened.read(0, 5000) == DATA[:5000]
        with pytest.raises(UsageError, match="ended early"):
            opened.read(0, 5001)


def test_an_empty_file_is_an_image(tmp_path: Path) -> None:
    (tmp_path / "image").touch()
    with ImageFile(tmp_path / "image") as opened:
        assert (opened.size, opened.read(0, 0)) == (0, b"")


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("path", ["/dev/null", "/dev/zero"])
def test_other_kinds_are_refused_and_closed(path: str) -> None:
    before = _open_files()
    with pytest.raises(UsageError, match="neither a regular file nor a block device"):
        ImageFile(Path(path))
    assert _open_files() == before


def test_missing_files_and_folders_are_the_systems_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ImageFile(tmp_path / "missing")
    with pytest.raises(IsADirectoryError):
        ImageFile(tmp_path)


def test_closing_twice_is_fine(tmp_path: Path) -> None:
    (tmp_path / "image").touch()
    before = _open_files()
    opened = ImageFile(tmp_path / "image")
    opened.close()
    opened.close()
    assert _open_files() == before
