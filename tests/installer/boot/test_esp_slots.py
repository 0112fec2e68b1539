"""The adapter on a boot partition's bytes: renames of one sector, and files that share clusters."""

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slipstream.delta.errors import DeviceFault
from slipstream.installer.boot.entry import Suffix
from slipstream.installer.boot.esp_bytes import NoBytes
from slipstream.installer.boot.esp_slots import EspSlots
from slipstream.installer.boot.slot_plan import is_pad
from slipstream.installer.boot.systemd_boot import SystemdBoot
from slipstream.installer.ports import Booted
from tests.delta.filesystem.plain_images import MIB
from tests.installer.boot.conformance import install_good
from tests.installer.boot.esp_images import EspImage
from tests.installer.boot.test_systemd_boot import EspRig
from tests.installer.boot.vfat_image import ImageEsp, VfatImage

LINUX = "EFI/Linux"


class Lab(EspRig):
    """The rig of the adapter's tests, with an image beside its folder."""

    def __init__(self, folder: Path, kind: Suffix = Suffix.UKI) -> None:
        super().__init__(folder, kind)
        self.image = EspImage.make(folder / "esp.img", {}, "-F 16 -s 1", 4 * MIB)
        self.mirror = ImageEsp(self.esp, VfatImage(self.image))
        self.mirror.vfat.mkdir("EFI")
        self.notices: list[str] = []
        self.counted: list[tuple[range, range]] = []  # slots of the firmware's renames

    def control(self, esp: Path | ImageEsp | None = None) -> SystemdBoot:  # type: ignore[override]
        return SystemdBoot(
            esp or self.mirror,
            cmdline=self.cmdline,
            selected=self.selected,
            device=self.image.path,
            on_notice=self.notices.append,
        )

    def folder_of(self) -> Path:
        return Path(LINUX if self.kind is Suffix.UKI else "loader/entries")

    def scatter(self, seed: int) -> None:
        """A folder that has seen a lot: some names stay, the holes between them have every length."""
        chance = random.Random(seed)
        folder = self.esp / self.folder_of()
        self.mirror.make_folder(folder)
        names = []
        for number in range(chance.randrange(12, 40)):
            names.append(folder / ("n" * chance.choice((1, 5, 12, 13, 20, 30)) + f"{number:02}"))
            self.mirror.write(names[-1], b"")
        for name in chance.sample(names, len(names) // 2):
            self.mirror.unlink(name)

    def boot(self) -> Booted | None:
        """The boot loader counts through the firmware's FAT driver."""
        before = set(self.mirror.names(self.esp / self.folder_of()))
        booted = super().boot()
        after = set(self.mirror.names(self.esp / self.folder_of()))
        for old, new in zip(before - after, after - before, strict=True):
            folder = self.folder_of().as_posix()
            begin = self.image.file(f"{folder}/{old}").record.slots
            self.mirror.vfat.firmware_rename(f"{folder}/{old}", f"{folder}/{new}")
            self.counted.append((begin, self.image.file(f"{folder}/{new}").record.slots))
        return booted


@pytest.mark.parametrize("kind", Suffix)
@pytest.mark.parametrize("seed", [4])
def test_every_rename_of_an_update_changes_one_sector(
    tmp_path: Path, seed: int, kind: Suffix
) -> None:
    """The firmware's too, that counts the try: so the confirm's has its old name in that sector."""
    rig = Lab(tmp_path, kind)
    rig.scatter(seed)
    install_good(rig, "a", 2)  # type: ignore[arg-type]
    control = rig.control()
    control.retire("b")
    control.stage("b", 3, rig.boot_files(3))
    control.publish("b", 3)
    rig.boot()
    control.confirm("b", 3)

    assert len(rig.mirror.renames) == 4
    assert {sectors for _, _, sectors in rig.mirror.renames} == {1}
    (old, new) = rig.counted[-1]
    assert {slot // 16 for slot in (*old, *new)} == {old.start // 16}
    assert not [notice for notice in rig.notices if "cannot stand" in notice]
    assert [name for name in rig.mirror.names(rig.esp / rig.folder_of()) if is_pad(name)] == []
    names = {file.name for file in rig.image.volume().files if file.folder == str(rig.folder_of())}
    assert names == set(rig.mirror.names(rig.esp / rig.folder_of()))
    assert "differ" not in rig.image.fsck()
    rig.image.fsck("-n", "-V")


def test_pads_that_a_cut_left_are_removed(tmp_path: Path) -> None:
    rig = Lab(tmp_path)
    rig.scatter(1)
    folder = rig.esp / LINUX
    for name in ("pad000.tmp", ".pad001__.tmp"):
        rig.mirror.write(folder / name, b"")
    rig.control().retire("b")

    assert [name for name in rig.mirror.names(folder) if is_pad(name)] == []


class FullFolder(ImageEsp):
    """No room for another name."""

    def write(self, target: Path, data: bytes) -> None:
        if is_pad(target.name):
            raise DeviceFault("cannot write: no space", where=target)
        super().write(target, data)


def test_a_pad_that_cannot_be_made_stops_nothing(tmp_path: Path) -> None:
    """The folder's first sector has one hole of two slots; the staged name goes there."""
    rig = Lab(tmp_path)
    folder = rig.esp / LINUX
    rig.mirror.make_folder(folder)
    for number in range(12):
        rig.mirror.write(folder / f"N{number:02}", b"")  # slots 2 to 13
    rig.mirror = FullFolder(rig.esp, rig.mirror.vfat)
    rig.control().stage("b", 3, rig.boot_files(3))
    rig.control().publish("b", 3)

    assert any("no way is made" in notice for notice in rig.notices)
    assert any("cannot stand in one sector" in notice for notice in rig.notices)
    (entry,) = rig.control().entries()
    assert entry.name == "0003b+3-0.efi"


# --- shared clusters


def twins(rig: Lab, name: str, other: str) -> None:
    """`name` appears beside `other`, with its clusters, as a cut rename leaves it."""
    rig.mirror.write(rig.esp / name, b"")
    (rig.esp / name).write_bytes((rig.esp / other).read_bytes())
    rig.image.cross_link(name, other)


LINKS: dict[str, tuple[str, str, str]] = {
    # name of slot b, what it shares clusters with, what becomes of it
    "visible and the running one": ("0001b.efi", "0002a.efi", ".0001b.old0"),
    "visible and its hidden double": ("0001b+0-3.efi", "0001b.efi", ".0001b.old0"),
    "hidden and the running one": (".0001b.tmp", "0002a.efi", ".0001b.tmp"),
}


@pytest.mark.parametrize("case", LINKS)
def test_a_file_that_shares_clusters_is_hidden_and_not_unlinked(tmp_path: Path, case: str) -> None:
    name, other, becomes = LINKS[case]
    rig = Lab(tmp_path)
    if other == "0001b.efi":
        install_good(rig, "b", 1)  # type: ignore[arg-type]
    install_good(rig, "a", 2)  # type: ignore[arg-type]
    twins(rig, f"{LINUX}/{name}", f"{LINUX}/{other}")
    good = rig.image.get(f"{LINUX}/0002a.efi")
    free = rig.image.volume().free_clusters
    rig.control().retire("b")

    names = rig.mirror.names(rig.esp / LINUX)
    assert becomes in names
    assert not [one for one in names if one.startswith("0001b")]
    assert rig.image.volume().free_clusters == free  # nothing of the two was freed
    assert rig.image.get(f"{LINUX}/0002a.efi") == good
    assert any("fsck.vfat" in notice and becomes in notice for notice in rig.notices)
    control = rig.control()
    control.stage("b", 3, rig.boot_files(3))
    control.publish("b", 3)
    assert rig.image.get(f"{LINUX}/0002a.efi") == good
    assert (
        rig.image.get(f"{LINUX}/0003b+3-0.efi") == (rig.esp / LINUX / "0003b+3-0.efi").read_bytes()
    )


def test_a_file_with_a_broken_chain_is_hidden_and_not_unlinked(tmp_path: Path) -> None:
    rig = Lab(tmp_path)
    install_good(rig, "b", 1)  # type: ignore[arg-type]
    install_good(rig, "a", 2)  # type: ignore[arg-type]
    rig.image.set_next(rig.image.file(f"{LINUX}/0001b.efi").record.cluster + 1, 0)
    rig.control().retire("b")

    assert set(rig.mirror.names(rig.esp / LINUX)) == {".0001b.old0", "0002a.efi"}
    assert "is damaged (its chain leads to a cluster that is marked as free)" in rig.notices[-1]


def test_a_staged_file_that_shares_clusters_is_not_written_over(tmp_path: Path) -> None:
    rig = Lab(tmp_path)
    install_good(rig, "a", 2)  # type: ignore[arg-type]
    twins(rig, f"{LINUX}/.0003b.tmp", f"{LINUX}/0002a.efi")
    good = rig.image.get(f"{LINUX}/0002a.efi")
    rig.control().stage("b", 3, rig.boot_files(3))

    assert ".0003b.old0" in rig.mirror.names(rig.esp / LINUX)
    assert rig.image.get(f"{LINUX}/0002a.efi") == good


@pytest.mark.parametrize("kind", Suffix)
def test_a_staged_file_with_a_broken_chain_is_not_read(
    tmp_path: Path, kind: Suffix, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cut left its name without its clusters in the table: they are free, and given away again."""
    rig = Lab(tmp_path, kind)
    install_good(rig, "a", 2)  # type: ignore[arg-type]
    control = rig.control()
    control.stage("b", 3, rig.boot_files(3))
    damaged = f"{LINUX}/.0003b.tmp" if kind is Suffix.UKI else "slipstream/0003b/linux"
    first = rig.image.file(damaged).chain.runs[0].first
    for run in rig.image.file(damaged).chain.runs:
        for cluster in range(run.first, run.first + run.length):
            rig.image.set_next(cluster, 0)
    rig.mirror.vfat.last_cluster = first - 1
    compared: list[Path] = []
    equal = rig.mirror.equal

    def comparing(a: Path, b: Path, *rest: Any) -> bool:
        compared.append(b)
        if b == rig.esp / damaged and not aside():
            raise DeviceFault("Input/output error")
        return equal(a, b, *rest)

    def aside() -> list[str]:
        names = rig.mirror.names((rig.esp / damaged).parent)
        return [name for name in names if ".old" in name]

    monkeypatch.setattr(rig.mirror, "equal", comparing)
    control.stage("b", 3, rig.boot_files(3))

    assert rig.esp / damaged in compared
    assert rig.image.volume().partners(damaged) == ()
    assert len(aside()) == 2  # the damaged one, and the one that was given its clusters
    control.publish("b", 3)


def test_what_always_shares_clusters_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Lab(tmp_path)
    install_good(rig, "a", 2)  # type: ignore[arg-type]

    def always(path: Path) -> str:
        return "shares" if path.name == ".0003b.tmp" and path.exists() else ""

    monkeypatch.setattr(EspSlots, "hazards", lambda _: always)
    with pytest.raises(DeviceFault, match=r"boot file shares, whatever is written.*doctor"):
        rig.control().stage("b", 3, rig.boot_files(3))


def test_a_shared_kernel_stays(tmp_path: Path) -> None:
    rig = Lab(tmp_path, Suffix.CONF)
    install_good(rig, "b", 1)  # type: ignore[arg-type]
    install_good(rig, "a", 2)  # type: ignore[arg-type]
    rig.image.cross_link("slipstream/0001b/linux", "slipstream/0002a/linux")
    rig.control().retire("b")

    assert rig.mirror.names(rig.esp / "slipstream/0001b") == ("linux",)
    assert "slipstream/0002a/linux" in rig.notices[-1]


def broken(rig: Lab) -> None:
    rig.image.patch(510, b"\0\0")


def missing(rig: Lab) -> None:
    rig.image.path.unlink()


@pytest.mark.parametrize(
    ("damage", "stops"), [(broken, True), (missing, False)], ids=["not a FAT", "not there"]
)
def test_where_the_bytes_cannot_be_read(
    tmp_path: Path, damage: Callable[[Lab], None], stops: bool
) -> None:
    """A volume that cannot be walked stops a retire; bytes that cannot be had are only said."""
    rig = Lab(tmp_path)
    install_good(rig, "a", 2)  # type: ignore[arg-type]
    damage(rig)
    control = rig.control(rig.esp)
    if stops:
        with pytest.raises(DeviceFault, match=r"file system is damaged.*doctor"):
            control.retire("b")
        with pytest.raises(DeviceFault, match="damaged"):
            control.check("b", 1)
        return
    control.retire("b")
    control.stage("b", 3, rig.boot_files(3))
    control.publish("b", 3)
    assert any("are not looked at" in notice for notice in rig.notices)
    assert {entry.slot for entry in control.entries()} == {"a", "b"}


def test_nothing_is_unlinked_where_the_medium_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renames go on: a release that waits for its confirmation does not wait for the medium."""
    rig = Lab(tmp_path)
    install_good(rig, "b", 1)  # type: ignore[arg-type]
    install_good(rig, "a", 2)  # type: ignore[arg-type]
    before = rig.mirror.names(rig.esp / LINUX)

    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(DeviceFault, match="cannot read the boot partition"):
        rig.control().retire("b")
    assert rig.mirror.names(rig.esp / LINUX) == before
    rig.control().condemn("b", 1)


def test_a_folder_says_that_it_has_no_bytes(tmp_path: Path) -> None:
    rig = EspRig(tmp_path, Suffix.UKI)
    notices: list[str] = []
    slots = EspSlots(ImageEsp(rig.esp, None), None, notices.append)  # type: ignore[arg-type]

    found = slots.look()
    assert isinstance(found, NoBytes)
    assert "is not a mounted FAT file system" in found.reason
    assert slots.hazards()(rig.esp / LINUX / "0001a.efi") == ""
    assert notices == []


def test_nothing_is_unlinked_by_the_bytes_of_another_volume(tmp_path: Path) -> None:
    """[boot] esp_device names another partition: what shares clusters on this one is not known."""
    rig = Lab(tmp_path)
    install_good(rig, "a", 2)  # type: ignore[arg-type]
    install_good(rig, "b", 3)  # type: ignore[arg-type]
    rig.image = EspImage.make(tmp_path / "other.img", {}, "-F 16 -s 1", 4 * MIB)
    rig.control(rig.esp).retire("a")

    assert [entry.slot for entry in rig.control(rig.esp).entries()] == ["b"]
    assert ".0002a.old0" in rig.mirror.names(rig.esp / LINUX)
    assert any("esp_device" in notice for notice in rig.notices)
