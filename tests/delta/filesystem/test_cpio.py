"""cpio: archives of GNU cpio read back file by file, several in a row, and hostile ones refused."""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.delta.errors import FormatError
from slipstream.delta.filesystem.cpio import read_cpio
from tests.delta.filesystem.packed_images import MemoryImage, make_tree


def archive(folder: Path, form: str = "newc") -> bytes:
    names = subprocess.run(["find", ".", "-print0"], cwd=folder, capture_output=True, check=True)
    return subprocess.run(
        ["cpio", "--null", "--quiet", "-o", "-H", form],
        cwd=folder,
        input=names.stdout,
        capture_output=True,
        check=True,
    ).stdout


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        os.fspath(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and path.stat().st_size
    }


def read(data: bytes) -> dict[str, bytes]:
    found = read_cpio(MemoryImage(data))
    assert len({path for path, _, _ in found}) == len(found)
    return {path: data[offset : offset + size] for path, offset, size in found}


def header(name: bytes, size: int = 0, mode: int = 0o100644, name_size: int | None = None) -> bytes:
    fields = [1, mode, 0, 0, 1, 0, size, 0, 0, 0, 0]
    fields += [len(name) + 1 if name_size is None else name_size, 0]
    whole = b"070701" + b"".join(b"%08X" % field for field in fields) + name + b"\0"
    return whole + bytes(-len(whole) % 4)


END = header(b"TRAILER!!!", mode=0)
SMALL = header(b"./etc/a", 5) + b"12345\0\0\0" + header(b"dir", mode=0o040755) + END


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("cpio") / "files")


@pytest.mark.parametrize("form", ["newc", "crc"])
def test_every_file_is_where_the_list_says(form: str, folder: Path) -> None:
    expected = files_of(folder)
    found = read(archive(folder, form))
    # Of two hard links, the archive has the bytes under one name only.
    linked = {"a-linked", "z-linked"}
    assert found.keys() - linked == expected.keys() - linked
    assert len(found.keys() & linked) == 1
    assert all(content == expected[path] for path, content in found.items())


def test_archives_in_a_row(folder: Path, tmp_path: Path) -> None:
    microcode = tmp_path / "kernel" / "x86" / "microcode"
    microcode.mkdir(parents=True)
    (microcode / "AuthenticAMD.bin").write_bytes(b"code" * 999)
    first, second = archive(tmp_path), archive(folder)

    found = read(first + bytes(1024 - len(first) % 4) + second + bytes(8196))

    assert found["kernel/x86/microcode/AuthenticAMD.bin"] == b"code" * 999
    assert found["text-100"] == (folder / "text-100").read_bytes()


@pytest.mark.parametrize("rest", [b"", bytes(7), bytes(512) + b"\x1f\x8b\x08" + b"packed" * 99])
def test_what_follows_the_last_archive_is_left_alone(rest: bytes) -> None:
    assert read(SMALL + rest) == {"etc/a": b"12345"}


def test_a_name_that_is_not_text() -> None:
    assert list(read(header(b"/not-\xff", 4) + b"1234" + END)) == ["not-\udcff"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "ends before"),
        (bytes(4096), "no header"),
        (b"070707" + SMALL[6:], "no header"),
        (b"070701" + b"x" * 200, "no header"),
        (header(b"a", 0xFFFF_FFFF) + END, "cut off"),
        (header(b"a", name_size=0) + END, "name size"),
        (header(b"a", name_size=0xFFFF_FFFF) + END, "name size"),
        (SMALL[: -len(END)], "ends before"),
    ],
)
def test_broken_archives(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read_cpio(MemoryImage(data))


def test_cut_at_every_byte() -> None:
    for size in range(len(SMALL) - 3):  # the last three are padding
        with pytest.raises(FormatError):
            read_cpio(MemoryImage(SMALL[:size]))


@given(st.integers(0, len(SMALL) - 1), st.binary(min_size=1, max_size=8))
def test_hostile_bytes_raise_only_our_errors(offset: int, new: bytes) -> None:
    data = SMALL[:offset] + new + SMALL[offset + len(new) :]
    try:
        found = read_cpio(MemoryImage(data))
    except FormatError:
        return
    assert all(0 < offset < offset + size <= len(data) for _, offset, size in found)
