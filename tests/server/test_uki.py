"""Unified kernel images: made of real parts, read back by binutils, accepted by publisher and menu."""

import re
import subprocess
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from slipstream.delta.errors import UsageError
from slipstream.delta.manifest import Place
from slipstream.installer.boot.chooser import list_entries
from slipstream.server.keys import no_passphrase
from slipstream.server.publish import publish
from slipstream.server.releases import scan_image
from slipstream.server.repo import Repository
from slipstream.server.request import ReleaseRequest
from slipstream.server.uki import UkiRequest, build_uki
from tests.server.boot_parts import OS_RELEASE, any_kernel, make_bzimage
from tests.server.repositories import NOW, SALT, make_repo


@pytest.fixture
def repo(tmp_path: Path) -> Repository:
    return make_repo(tmp_path)


@pytest.fixture
def request_(tmp_path: Path) -> UkiRequest:
    files = {
        "root.img": b"root file system" * 1000, "one.cpio": b"0707" * 5 + b"x", "two.cpio": b"later",
        "os-release": OS_RELEASE.encode(), "logo.bmp": b"BM picture",
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    return UkiRequest(
        images={"rootfs": tmp_path / "root.img"},
        linux=any_kernel(),
        os_release=tmp_path / "os-release",
        initrds=(tmp_path / "one.cpio", tmp_path / "two.cpio"),
        cmdline="quiet",
        version="2",
        splash=tmp_path / "logo.bmp",
        uname="6.1.0-50",
    )


def sections_of(path: Path, folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Address, size and bytes of every section, as objdump and objcopy see them."""
    table = subprocess.run(
        ["objdump", "-h", path], check=True, capture_output=True, text=True
    ).stdout
    rows = re.findall(r"^ +\d+ (\S+) +([0-9a-f]+) +([0-9a-f]+) ", table, re.MULTILINE)
    words = [word for name, _, _ in rows for word in ("--dump-section", f"{name}={folder}/{name}")]
    subprocess.run(["objcopy", *words, path, folder / "ignored"], check=True)
    return {name: (int(at, 16), int(size, 16), (folder / name).read_bytes()) for name, size, at in rows}  # fmt: skip


def test_binutils_read_back_what_went_in(
    tmp_path: Path, repo: Repository, request_: UkiRequest
) -> None:
    built = build_uki(repo, request_, tmp_path / "2.efi")

    root = scan_image(tmp_path / "root.img", SALT).tree.tuple.root.hex
    line = f"roothash={root} gpt panic=10 systemd.verity_root_options=panic-on-corruption quiet"
    osrel = '# a comment\nID=debian\nPRETTY_NAME="Größe 1"\nIMAGE_ID=gateway\nIMAGE_VERSION=2\n'
    found = sections_of(tmp_path / "2.efi", tmp_path)
    assert (built.cmdline, built.roots, built.signed_by) == (line, {"rootfs": root}, None)
    (note,) = built.notes
    assert "a device with Secure Boot refuses it" in note
    assert found[".osrel"][2].rstrip(b"\0") == osrel.encode()
    assert found[".cmdline"][2].rstrip(b"\0") == line.encode()
    assert found[".uname"][2].rstrip(b"\0") == b"6.1.0-50"
    assert found[".splash"][2].rstrip(b"\0") == b"BM picture"
    assert found[".initrd"][2].rstrip(b"\0") == b"0707" * 5 + b"x\0\0\0" + b"later"
    kernel = any_kernel().read_bytes()
    assert found[".linux"][2][: len(kernel)] == kernel
    places = sorted((at, at + size) for at, size, _ in found.values())
    assert all(one[1] <= after[0] for one, after in pairwise(places)), "none overlap"
    assert list(found)[-1] == ".linux", "what it needs of memory besides comes behind it"
    assert (tmp_path / "2.efi").stat().st_size == built.size


def test_the_same_files_make_the_same_bytes(
    tmp_path: Path, repo: Repository, request_: UkiRequest
) -> None:
    for name in ("a.efi", "b.efi"):
        build_uki(repo, request_, tmp_path / name)

    assert (tmp_path / "a.efi").read_bytes() == (tmp_path / "b.efi").read_bytes()
    assert not list(tmp_path.glob(".*.tmp"))


def test_publisher_and_menu_take_it(tmp_path: Path, repo: Repository, request_: UkiRequest) -> None:
    folder = tmp_path / "esp/EFI/Linux"
    folder.mkdir(parents=True)
    for version in ("9", "10"):
        uki = folder / f"00{version:>02}a.efi"
        build_uki(repo, replace(request_, version=version), uki)
        images = {"rootfs": (Place.PARTITION, tmp_path / "root.img"), "uki": (Place.UKI, uki)}
        wanted = ReleaseRequest(version=version, images=images, jobs=1)
        notes = publish(repo, wanted, passphrases=no_passphrase, now=NOW).notes
        assert [note[:40] for note in notes] == ["rootfs is opened by its root hash: devic"] * (
            version == "9"
        )

    menu = list_entries(tmp_path / "esp")
    assert [(one.sort_key, one.version, one.loadable) for one in menu] == [
        ("gateway", "10", True),
        ("gateway", "9", True),
    ]


def test_a_kernel_says_its_version_and_its_memory(
    tmp_path: Path, repo: Repository, request_: UkiRequest
) -> None:
    kernel = make_bzimage(tmp_path / "vmlinuz", "6.1.0-50-amd64", memory=3 << 20)
    build_uki(repo, replace(request_, linux=kernel, uname=None), tmp_path / "2.efi")

    found = sections_of(tmp_path / "2.efi", tmp_path)
    assert found[".uname"][2].rstrip(b"\0") == b"6.1.0-50-amd64"
    # objdump shows the bytes of the file; the header's SizeOfImage covers what the kernel needs.
    head = subprocess.run(["objdump", "-p", tmp_path / "2.efi"], check=True, capture_output=True, text=True).stdout  # fmt: skip
    (size,) = re.findall(r"SizeOfImage\s+([0-9a-f]+)", head)
    assert int(size, 16) == found[".linux"][0] + (3 << 20)


def test_without_the_optional_parts(tmp_path: Path, repo: Repository, request_: UkiRequest) -> None:
    bare = UkiRequest(images=request_.images, linux=request_.linux, os_release=request_.os_release)

    built = build_uki(repo, bare, tmp_path / "2.efi")

    assert built.key.version == "0.9", "the file's own"
    assert list(sections_of(tmp_path / "2.efi", tmp_path))[-3:] == [".osrel", ".cmdline", ".linux"]


@pytest.mark.parametrize(
    "part, content, words",
    [
        ("linux", b"\x7fELF", "no EFI stub"),
        ("linux", b"MZ", "no EFI stub"),
        ("linux", b"", "no EFI stub"),
        ("stub", b"\x1f\x8b\x08", "the stub cannot be used"),
        ("splash", b"\x89PNG", "not a BMP file"),
        ("os_release", b"what is this\n", "line 1 of the os-release file"),
        ("os_release", b"\xff\xfe", "not UTF-8"),
        ("os_release", b"A=" + b"x" * 70000, "too large"),
        ("os_release", b"IMAGE_ID=My Gateway\n", "IMAGE_ID is not a name"),
    ],
)
def test_parts_that_make_no_image_are_refused(
    tmp_path: Path, repo: Repository, request_: UkiRequest, part: str, content: bytes, words: str
) -> None:
    bad = tmp_path / "bad"
    bad.write_bytes(content)

    with pytest.raises(UsageError, match=words):
        build_uki(repo, replace(request_, **{part: bad}), tmp_path / "2.efi")
    assert not (tmp_path / "2.efi").exists()
    assert not list(tmp_path.glob(".*.tmp"))


def test_stub_and_kernel_of_two_machines_are_refused(
    tmp_path: Path, repo: Repository, request_: UkiRequest
) -> None:
    other = make_bzimage(tmp_path / "vmlinuz", "6", machine=0xAA64)

    with pytest.raises(UsageError, match="different machines"):
        build_uki(repo, replace(request_, linux=other, stub=any_kernel()), tmp_path / "2.efi")
    with pytest.raises(UsageError, match="systemd-boot-efi"):
        build_uki(repo, replace(request_, linux=other), tmp_path / "2.efi")


def test_requests_that_cannot_be(tmp_path: Path, repo: Repository, request_: UkiRequest) -> None:
    def refused(words: str, **changes: object) -> None:
        with pytest.raises(UsageError, match=words):
            build_uki(repo, replace(request_, **changes), tmp_path / "2.efi")

    image = request_.images["rootfs"]
    refused("rootfs=FILE", images={})
    refused("rootfs=FILE", images={"data": image})
    refused("rootfs=FILE", images={"rootfs": image, "root": image})
    refused("IMAGE_VERSION is not a name", version="1 2")
    refused("--uname", uname="6.1\n")
    refused("contradicts", cmdline="roothash=00")
    (tmp_path / "empty").touch()
    refused("initrd is empty", initrds=(tmp_path / "empty",))
    refused("image", images={"rootfs": tmp_path / "empty"})
    (tmp_path / "no-version").write_text("ID=x\n")
    refused("--version", version=None, os_release=tmp_path / "no-version")
    with pytest.raises(UsageError, match="also an input"):
        build_uki(repo, request_, request_.os_release)
    assert (tmp_path / "os-release").read_text() == OS_RELEASE
