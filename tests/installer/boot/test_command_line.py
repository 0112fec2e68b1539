"""command_line.py: what a release's kernel command line must say, and what is told where it does not."""

from pathlib import Path

import pytest

from slipstream.delta.digest import Digest
from slipstream.delta.errors import Rejected, WrongDevice
from slipstream.delta.limits import CHUNK_BYTES
from slipstream.delta.manifest import (
    BootEntryTemplate,
    ImageEntry,
    Manifest,
    PayloadRef,
    Place,
)
from slipstream.delta.tree import VerityTuple
from slipstream.installer.boot.command_line import (
    check_command_line,
    check_trees,
    command_line_of,
)
from slipstream.installer.ports import BootFiles
from tests.installer.boot.uki import make_uki

A, B = Digest.of(b"a"), Digest.of(b"b")


def manifest(**roots: Digest) -> Manifest:
    """A release with these partition images and a UKI."""
    images = [
        ImageEntry(
            name,
            Place.UKI if name == "uki" else Place.PARTITION,
            VerityTuple(1, "sha256", 4096, 4096, CHUNK_BYTES // 4096, bytes(32), CHUNK_BYTES, root),
            A,
            PayloadRef(A, 1, 1),
        )
        for name, root in {**roots, "uki": Digest.of(b"uki")}.items()
    ]
    return Manifest(
        "gateway", "2.0", 2, 0, "stable", (), 0, "", tuple(images), BootEntryTemplate("Gateway", "")
    )


@pytest.mark.parametrize(
    "images, cmdline",
    [
        ({"rootfs": A}, f"quiet roothash={A} panic=10"),
        ({"rootfs": A}, f'"roothash={A}"'),
        ({"rootfs": A}, f"roothash='{A}'"),
        ({"root": A}, f"roothash={A} roothash={A}"),
        ({"usr": A}, f"usrhash={A} gpt"),
        ({"rootfs": A, "usr": B}, f"usrhash={B} roothash={A}"),
        ({"rootfs": A, "data": B}, f"roothash={A}"),
        ({"system": A}, f"roothash={A}"),
        ({"system": A}, "quiet"),  # nobody's standard name: its own initrd finds it
        ({}, "quiet"),
    ],
)
def test_what_boots_the_signed_images_is_taken(images: dict[str, Digest], cmdline: str) -> None:
    check_command_line(cmdline, manifest(**images), gpt=False)


@pytest.mark.parametrize(
    "images, cmdline, words",
    [
        ({"rootfs": A}, "quiet", f"expected roothash={A}, got no roothash="),
        ({"rootfs": A}, "", "got no roothash="),
        ({"rootfs": A}, f"roothash={B}", f"expected roothash={A}, got roothash={B}"),
        ({"rootfs": A}, f"roothash={A} roothash={B}", f"got roothash={B}"),
        ({"rootfs": A}, f"roothash={A.hex[:32]}", "got roothash="),
        ({"rootfs": A}, f"roothash={A} usrhash={B}", f"got usrhash={B}"),
        ({"rootfs": A}, f"usrhash={A}", "got no roothash="),
        ({"rootfs": A}, f"quiet -- roothash={A}", "got no roothash="),
        ({"rootfs": A}, f"roothash={A} -- roothash={B}", f"got roothash={B}"),
        ({"rootfs": A}, f'x="roothash={A}"', "got no roothash="),
        ({"rootfs": A}, f'x="a roothash={A}"', "got no roothash="),
        ({"rootfs": A}, f"roothash={A} rd.roothash={B}", f"got roothash={B}"),
        ({"usr": A}, f"roothash={A}", "got no usrhash="),
        ({"rootfs": A, "usr": B}, f"roothash={A}", f"expected usrhash={B}, got no usrhash="),
        ({"rootfs": A, "usr": B}, f"roothash={B} usrhash={B}", f"expected roothash={A}"),
        ({"system": A}, f"roothash={B}", "the root hash of system"),
        ({}, f"roothash={B}", "expected no roothash="),
    ],
)
def test_what_boots_another_image_is_refused_with_the_way_out(
    images: dict[str, Digest], cmdline: str, words: str
) -> None:
    with pytest.raises(Rejected) as caught:
        check_command_line(cmdline, manifest(**images), gpt=False)
    assert words in str(caught.value)
    assert "slipstream repo root-hash" in str(caught.value)


def test_what_has_no_hash_tree_is_not_opened() -> None:
    release = manifest(rootfs=A, data=B, system=Digest.of(b"c"))
    named = f"roothash={A} usrhash={Digest.of(b'c')}"

    check_command_line(named, release, gpt=False, bare={"data"})
    check_trees(release, {"data", "system"})  # what a UKI says of them is not known yet
    with pytest.raises(WrongDevice, match=r"opens system .*system-verity in each slot"):
        check_command_line(named, release, gpt=False, bare={"data", "system"})
    with pytest.raises(WrongDevice, match=r"opens rootfs .*verity = \"initrd\""):
        check_trees(release, {"rootfs"})


@pytest.mark.parametrize("rest", ["", "nogpt", "gpt=1", "x.gpt", "-- gpt", '"a gpt"'])
def test_names_in_the_table_need_the_word_gpt(rest: str) -> None:
    check_command_line(f"roothash={A} gpt", manifest(rootfs=A), gpt=True)
    with pytest.raises(Rejected, match=r"lacks the word gpt.*build and sign"):
        check_command_line(f"roothash={A} {rest}", manifest(rootfs=A), gpt=True)


def test_a_uki_carries_its_own(tmp_path: Path) -> None:
    path = tmp_path / "uki"
    path.write_bytes(make_uki("2.0", cmdline=f"roothash={A} gpt"))
    before = path.read_bytes()
    boot = BootFiles("Gateway", "2.0", "", {Place.UKI: path})
    assert command_line_of(boot) == f"roothash={A} gpt"
    assert command_line_of(BootFiles("Gateway", "2.0", "x y")) == "x y"
    assert path.read_bytes() == before
    path.write_bytes(b"MZ nothing")
    with pytest.raises(Rejected, match="unified kernel image"):
        command_line_of(boot)
