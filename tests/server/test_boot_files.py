"""What a release boots from is looked into before it is signed."""

from pathlib import Path

import pytest

from slipstream.delta.digest import Digest
from slipstream.delta.errors import SignatureError, UsageError
from slipstream.delta.manifest import (
    BootEntryTemplate,
    ImageEntry,
    Manifest,
    PayloadRef,
    Place,
)
from slipstream.delta.os_release import MenuKey
from slipstream.delta.pe import dump_pe
from slipstream.delta.tree import tree_of
from slipstream.server.boot_files import BootFiles, check_boot_files
from tests.server.boot_parts import make_signer

TREE = tree_of([b"root file system"], bytes(32)).tuple
OTHER = "ab" * 32
NOTHING = Digest(bytes(32))
RESETS = "gpt panic=10 systemd.verity_root_options=panic-on-corruption"
SOUND = f"{RESETS} roothash={TREE.root.hex} quiet\n"


def release(*places: Place) -> Manifest:
    return Manifest(
        product="gateway", release="1", counter=1, floor=0, channel="stable", hardware=(), issued=0,
        notes="",
        images=tuple(ImageEntry(p.value, p, TREE, NOTHING, PayloadRef(NOTHING, 1, 1)) for p in places),
        boot=BootEntryTemplate("Gateway 1", "quiet" if Place.LINUX in places else ""),
    )  # fmt: skip


def uki(folder: Path, **sections: bytes) -> dict[str, Path]:
    path = folder / "uki.efi"
    path.write_bytes(dump_pe({f".{name}": content for name, content in sections.items()}))
    return {"uki": path}


def test_a_uki_that_names_its_image_is_fine(tmp_path: Path) -> None:
    paths = uki(tmp_path, osrel=b"ID=x\nVERSION_ID=7", cmdline=SOUND.encode(), linux=b"kernel")

    checked = check_boot_files(release(Place.PARTITION, Place.UKI), paths)

    assert checked == BootFiles((), MenuKey("x", "7"))


@pytest.mark.parametrize(
    "cmdline",
    [f"roothash={OTHER}", f'"usrhash={OTHER}"', f"roothash={TREE.root.hex} usrhash={OTHER}",
     f"quiet\troothash={OTHER}", f"roothash={TREE.root.hex} -- rd.roothash={OTHER}"],
)  # fmt: skip
def test_a_uki_that_names_another_image_is_refused(tmp_path: Path, cmdline: str) -> None:
    paths = uki(tmp_path, osrel=b"ID=x", cmdline=cmdline.encode(), linux=b"kernel")

    with pytest.raises(UsageError, match="repo uki") as refused:
        check_boot_files(release(Place.PARTITION, Place.UKI), paths)

    assert TREE.root.hex in str(refused.value)
    assert OTHER in str(refused.value)


@pytest.mark.parametrize("missing", ["osrel", "cmdline", "linux"])
def test_a_uki_without_a_section_is_refused(tmp_path: Path, missing: str) -> None:
    sections = {"osrel": b"ID=x", "cmdline": b"quiet", "linux": b"kernel"}
    del sections[missing]

    with pytest.raises(UsageError, match=rf"\.{missing}"):
        check_boot_files(release(Place.PARTITION, Place.UKI), uki(tmp_path, **sections))


def test_a_cut_uki_is_refused(tmp_path: Path) -> None:
    paths = uki(tmp_path, osrel=b"ID=x", cmdline=b"quiet", linux=b"kernel")
    paths["uki"].write_bytes(paths["uki"].read_bytes()[:-1])

    with pytest.raises(UsageError, match=r"no whole section \.linux"):
        check_boot_files(release(Place.PARTITION, Place.UKI), paths)


def test_what_is_no_pe_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ls").write_bytes(b"\x7fELF" + bytes(1000))

    with pytest.raises(UsageError, match="no unified kernel image"):
        check_boot_files(release(Place.PARTITION, Place.UKI), {"uki": tmp_path / "ls"})


def test_what_no_menu_lists_is_refused(tmp_path: Path) -> None:
    paths = uki(tmp_path, osrel=b"VERSION_ID=1", cmdline=SOUND.encode(), linux=b"kernel")

    with pytest.raises(UsageError, match="no boot menu lists it"):
        check_boot_files(release(Place.PARTITION, Place.UKI), paths)


@pytest.mark.parametrize(
    "cmdline, note",
    [
        (RESETS, "no roothash="),
        (SOUND.replace("gpt ", ""), "no gpt"),
        (SOUND.replace("panic=10 ", ""), "no panic=10"),
        (SOUND.replace("verity_root_options", "verity_usr_options"), "no systemd.verity_root_options"),
        ("root=/dev/sda2 " + SOUND, "not what the root hash covers"),
    ],
)  # fmt: skip
def test_notes_for_what_may_be_meant(tmp_path: Path, cmdline: str, note: str) -> None:
    paths = uki(tmp_path, osrel=b"ID=x", cmdline=cmdline.encode(), linux=b"kernel")

    (told,) = check_boot_files(release(Place.PARTITION, Place.UKI), paths).notes

    assert note in told


def test_other_boot_files() -> None:
    (unbootable,) = check_boot_files(release(Place.PARTITION), {}).notes

    assert "refuses this release" in unbootable
    assert check_boot_files(release(Place.PARTITION, Place.LINUX), {}) == BootFiles(())


@pytest.mark.parametrize(
    "osrel, outcome",
    [
        ("IMAGE_ID=gateway\nIMAGE_VERSION=11", None),
        ("IMAGE_ID=gateway\nIMAGE_VERSION=10", "version of release 10, 10: only the names"),
        ("IMAGE_ID=gateway\nIMAGE_VERSION=9.9", "release 10 would be started instead"),
        ("IMAGE_ID=gateway2\nIMAGE_VERSION=11", "release 9 would be started instead"),
        ("NAME=gateway", "release 9 would be started instead"),
    ],
)
def test_the_version_must_rise(tmp_path: Path, osrel: str, outcome: str | None) -> None:
    paths = uki(tmp_path, osrel=osrel.encode(), cmdline=SOUND.encode(), linux=b"kernel")
    earlier = {"9": MenuKey("gateway", "9"), "10": MenuKey("gateway", "10")}

    def check() -> tuple[str, ...]:
        return check_boot_files(release(Place.PARTITION, Place.UKI), paths, earlier=earlier).notes

    if outcome is not None and "instead" in outcome:
        with pytest.raises(UsageError, match=outcome):
            check()
    else:
        notes = check()
        assert [str(outcome) in note for note in notes] == ([] if outcome is None else [True])


def test_certificates_ask_for_a_uki(tmp_path: Path) -> None:
    signer = make_signer("db")
    paths = uki(tmp_path, osrel=b"ID=x", cmdline=SOUND.encode(), linux=b"kernel")

    with pytest.raises(UsageError, match="boots a kernel and an initrd"):
        check_boot_files(
            release(Place.PARTITION, Place.LINUX), {}, certificates=[signer.certificate]
        )
    with pytest.raises(SignatureError, match="no valid signature"):
        check_boot_files(
            release(Place.PARTITION, Place.UKI), paths, certificates=[signer.certificate]
        )
