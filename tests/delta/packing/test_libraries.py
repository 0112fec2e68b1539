"""Libraries: what is here is said exactly, and what is not is no error before it is needed."""

import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import zstandard

from slipstream.delta.errors import PackingUnavailable
from slipstream.delta.filemap import Packing
from slipstream.delta.packing.libraries import available, can_pack, check_can_pack, zstds
from slipstream.delta.packing.recipe import Packer, Recipe, library_of
from slipstream.delta.packing.unpack import unpack
from tests.delta.packing.samples import recipe, run


def test_versions_are_those_of_the_commands() -> None:
    here = available()
    assert f"zlib {zlib.ZLIB_RUNTIME_VERSION}" in here
    for command, library in (("gzip", "gzip"), ("xz", "liblzma"), ("zstd", "libzstd")):
        said = run(command, "--version").decode()
        version = re.search(r"(?:liblzma|gzip|v|,)\s*v?(\d+\.\d+(?:\.\d+)?)", said)
        assert version is not None
        assert f"{library} {version[1]}" in here


def test_both_libzstds_are_found() -> None:
    bundled = ".".join(map(str, zstandard.ZSTD_VERSION))
    assert f"libzstd {bundled}" in zstds()
    assert all(library.version in name for name, library in zstds().items())


def test_every_packer_has_its_library_here() -> None:
    names = {library.partition(" ")[0] for library in available()}
    assert {library_of(packer) for packer in Packer} == names


def test_a_recipe_needs_the_very_version() -> None:
    good = recipe(Packer.LZ4, 0)
    other = Recipe(Packer.LZ4, (0,), good.library + ".1")
    assert can_pack(good)
    assert not can_pack(other)
    check_can_pack(good)
    with pytest.raises(PackingUnavailable, match="not here") as caught:
        check_can_pack(other)
    assert caught.value.got == good.library


# --- a machine without them: libraries that are no libraries, and another gzip

_NAMES = """
from slipstream.delta.packing.libraries import available
print(*(library.partition(" ")[0] for library in sorted(available())))
"""
_UNPACKED = """
from slipstream.delta.errors import PackingUnavailable
from slipstream.delta.filemap import Packing
from slipstream.delta.packing.unpack import unpack
for packing in (Packing.LZ4, Packing.LZ4_PADDED, Packing.LZO):
    try:
        unpack(packing, b"data", 10)
    except PackingUnavailable as error:
        print(packing.value, error.got)
"""


def on_machine(folder: Path, program: str) -> list[str]:
    """What a program prints where libraries and commands in `folder` come first."""
    environment = dict(os.environ, LD_LIBRARY_PATH=str(folder), PATH=str(folder))
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_a_machine_without_system_libraries(tmp_path: Path) -> None:
    for name in ("liblz4.so.1", "liblzo2.so.2", "libzstd.so.1"):
        (tmp_path / name).write_bytes(b"")
    assert on_machine(tmp_path, _NAMES) == ["liblzma libzstd zlib"]
    assert on_machine(tmp_path, _UNPACKED) == [
        "lz4 no liblz4",
        "erofs lz4 no liblz4",
        "lzo no lzo",
    ]


def test_libraries_without_the_functions(tmp_path: Path) -> None:
    libc = next(Path("/lib").glob("*-linux-gnu*/libc.so.6"))
    for name in ("liblz4.so.1", "liblzo2.so.2", "libzstd.so.1"):
        (tmp_path / name).symlink_to(libc)
    assert on_machine(tmp_path, _NAMES)[0] == "liblzma libzstd zlib"


@pytest.mark.parametrize(
    "script",
    [
        "#!/bin/sh\necho 'BusyBox v1.36.1'\n",
        "#!/bin/sh\necho 'gzip 1.12'\n",
        "#!/bin/sh\necho \"gzip: unrecognized option '--version'\" >&2\nexit 1\n",
        "no script",
    ],
)
def test_another_gzip_is_not_taken(script: str, tmp_path: Path) -> None:
    command = tmp_path / "gzip"
    command.write_text(script)
    command.chmod(0o755)
    assert "gzip" not in on_machine(tmp_path, _NAMES)[0].split()


def test_unpacking_needs_no_particular_version() -> None:
    assert unpack(Packing.LZ4, b"\x30abc", 3) == b"abc"
