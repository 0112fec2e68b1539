"""The guest's initrd: the archive is what cpio reads, and modules come behind what they need."""

import subprocess
from pathlib import Path

import pytest

from e2e.initrd import dump_newc, module_files, order_modules
from slipstream.delta.errors import SlipstreamError


def test_cpio_unpacks_the_archive(tmp_path: Path) -> None:
    archive = dump_newc(
        {"init": b"#!/bin/sh\n", "usr/bin/busybox": bytes(4097), "modules/order": b""},
        {"usr/bin/sh": "busybox", "bin": "usr/bin"},
    )

    subprocess.run(["cpio", "-i", "--quiet"], input=archive, cwd=tmp_path, check=True)

    assert (tmp_path / "init").read_bytes() == b"#!/bin/sh\n"
    assert (tmp_path / "init").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "bin/sh").resolve() == tmp_path / "usr/bin/busybox"
    assert (tmp_path / "bin/sh").read_bytes() == bytes(4097)
    assert (tmp_path / "modules/order").read_bytes() == b""


def modules_in(folder: Path, depends: dict[str, str]) -> dict[str, Path]:
    for name, needs in depends.items():
        raw = b"\x7fELF\0name=x\0depends=" + needs.encode() + b"\0retpoline=Y\0"
        (folder / f"{name}.ko").write_bytes(raw)
    return module_files(folder)


def test_modules_come_behind_what_they_need(tmp_path: Path) -> None:
    files = modules_in(
        tmp_path, {"vfat": "fat", "fat": "", "dm-verity": "dm-mod,dm_bufio", "dm-mod": "", "dm-bufio": "dm-mod"}
    )  # fmt: skip

    ordered = [path.name for path in order_modules(("dm_verity", "vfat"), files)]

    assert ordered == ["dm-mod.ko", "dm-bufio.ko", "dm-verity.ko", "fat.ko", "vfat.ko"]


def test_a_module_that_is_not_there(tmp_path: Path) -> None:
    files = modules_in(tmp_path, {"fat": ""})

    assert order_modules(("fat", "ext4"), files, optional=("ext4",)) == [files["fat"]]
    with pytest.raises(SlipstreamError, match="no such modules"):
        order_modules(("fat", "ext4"), files)
