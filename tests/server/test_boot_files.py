"""What a release boots from is looked into before it is signed."""

from pathlib import Path

import pytest

from slipstream.delta.digest import Digest
from slipstream.delta.errors import UsageError
from slipstream.delta.manifest import (
    BootEntryTemplate,
    ImageEntry,
    Manifest,
    PayloadRef,
    Place,
)
from slipstream.delta.pe import dump_pe
from slipstream.delta.tree import tree_of
from slipstream.server.boot_files import check_boot_files

TREE = tree_of([b"root file system"], bytes(32)).tuple
OTHER = "ab" * 32
NOTHING = Digest(bytes(32))


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
    line = f"root=/dev/x roothash={TREE.root.hex} quiet\n".encode()
    paths = uki(tmp_path, osrel=b"ID=x", cmdline=line, linux=b"kernel")

    assert check_boot_files(release(Place.PARTITION, Place.UKI), paths) == ()


@pytest.mark.parametrize(
    "cmdline",
    [f"roothash={OTHER}", f'"usrhash={OTHER}"', f"roothash={TREE.root.hex} usrhash={OTHER}"],
)
def test_a_uki_that_names_another_image_is_refused(tmp_path: Path, cmdline: str) -> None:
    paths = uki(tmp_path, osrel=b"ID=x", cmdline=cmdline.encode(), linux=b"kernel")

    with pytest.raises(UsageError, match="root-hash") as refused:
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


def test_notes_for_what_may_be_meant(tmp_path: Path) -> None:
    paths = uki(tmp_path, osrel=b"ID=x", cmdline=b"quiet", linux=b"kernel")

    (untied,) = check_boot_files(release(Place.PARTITION, Place.UKI), paths)
    (unbootable,) = check_boot_files(release(Place.PARTITION), {})

    assert "no roothash=" in untied
    assert "refuses this release" in unbootable
    assert check_boot_files(release(Place.UKI), paths) == ()
    assert check_boot_files(release(Place.PARTITION, Place.LINUX), {}) == ()
