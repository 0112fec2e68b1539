"""The model of a FAT on its medium: against fsck.vfat and mtools, and against what was measured."""

import random
import subprocess
from pathlib import Path

import pytest

from tests.crash.record import Kind, Medium, Op
from tests.crash.vfat import Vfat, eagerly, lazily
from tests.crash.volume import INFO, dump_volume, make_volume, read_volume

FOLDER = "EFI/Linux"


def do(vfat: Vfat, kind: Kind, path: str, **more: object) -> None:
    vfat.apply(Op(kind, Medium.ESP, path, **more))  # type: ignore[arg-type]


def make(cluster_sectors: int = 1, when: object = lazily) -> Vfat:
    vfat = Vfat(make_volume(cluster_sectors), when)  # type: ignore[arg-type]
    do(vfat, Kind.MKDIR, "EFI")
    do(vfat, Kind.MKDIR, FOLDER)
    vfat.sync_all()
    return vfat


def stage(vfat: Vfat, name: str, data: bytes) -> None:
    path = f"{FOLDER}/{name}"
    do(vfat, Kind.CREATE, path)
    do(vfat, Kind.WRITE, path, data=data)


@pytest.mark.parametrize("cluster_sectors", [1, 8])
def test_a_volume_after_many_operations_is_sound(tmp_path: Path, cluster_sectors: int) -> None:
    vfat, chance = make(cluster_sectors), random.Random(cluster_sectors)
    contents: dict[str, bytes] = {}
    for number in range(60):
        name = f"{number:04d}{chance.choice('ab')}{chance.choice(('', '+3-0'))}.efi"
        stage(vfat, f".{number:04d}.tmp", data := chance.randbytes(chance.randrange(9000)))
        do(vfat, Kind.RENAME, f"{FOLDER}/.{number:04d}.tmp", new=f"{FOLDER}/{name}")
        contents[name] = data
        if chance.random() < 0.5:
            gone = chance.choice(sorted(contents))
            do(vfat, Kind.UNLINK, f"{FOLDER}/{gone}")
            del contents[gone]
        if "+3-0" in name and name in contents:
            vfat.sync_all()
            vfat.bump(f"{FOLDER}/{name}", f"{FOLDER}/{name.replace('+3-0', '+2-1')}")
            vfat.sync_all()
            vfat.mount()
            contents[name.replace("+3-0", "+2-1")] = contents.pop(name)
    vfat.sync_all()
    image = tmp_path / "esp.img"
    image.write_bytes(dump_volume(vfat.durable))
    checked = subprocess.run(
        ["fsck.vfat", "-n", image], check=False, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout
    subprocess.run(
        ["mcopy", "-i", image, "-s", f"::{FOLDER}", tmp_path], check=True, capture_output=True
    )
    assert {path.name: path.read_bytes() for path in (tmp_path / "Linux").iterdir()} == contents
    nodes = read_volume(vfat.durable, firmware=True)
    assert {
        path.rpartition("/")[2]: n.data for path, n in nodes.items() if not n.is_folder
    } == contents


def test_a_rename_is_empty_until_its_inode_is_written() -> None:
    """As measured with Linux 6.1: docs/boot.md, "A rename on vfat"."""
    vfat = make()
    stage(vfat, ".0042b.tmp", b"x" * 6000)
    do(vfat, Kind.SYNC, f"{FOLDER}/.0042b.tmp")
    do(vfat, Kind.SYNC_FOLDER, FOLDER)
    do(vfat, Kind.RENAME, f"{FOLDER}/.0042b.tmp", new=f"{FOLDER}/0042b+3-0.efi")
    assert len(set(vfat.pending) - {INFO}) == 1
    do(vfat, Kind.SYNC_FOLDER, FOLDER)
    after = read_volume(vfat.durable, firmware=True)
    assert [(path, node.size) for path, node in after.items() if not node.is_folder] == [
        (f"{FOLDER}/0042b+3-0.efi", 0)
    ]
    do(vfat, Kind.SYNC, f"{FOLDER}/0042b+3-0.efi")
    assert read_volume(vfat.durable, firmware=True)[f"{FOLDER}/0042b+3-0.efi"].size == 6000


def test_a_name_and_its_table_are_written_apart() -> None:
    """The sectors that Linux 6.1 wrote at the fsync of a new file: data, name, both tables."""
    vfat = make(when=eagerly)
    stage(vfat, ".0042b.tmp", b"x" * 6000)
    pending = set(vfat.pending) - {INFO}
    data = {number for number in pending if vfat.cache[number].startswith(b"xxxx")}
    assert (len(data), len(pending - data)) == (12, 3)
    name = next(n for n in pending - data if b"TMP" in vfat.cache[n])
    torn = vfat.durable | {name: vfat.pending[name][-1]}
    assert read_volume(torn, firmware=False)[f"{FOLDER}/.0042b.tmp"].damaged


def test_a_damaged_chain_ends_writing() -> None:
    vfat = make(when=eagerly)
    stage(vfat, ".0042b.tmp", b"x" * 6000)
    name = next(n for n, raw in vfat.cache.items() if b"0042B~1 TMP" in raw)
    torn = Vfat(vfat.durable | {name: vfat.pending[name][-1]})
    torn.allow(Op(Kind.UNLINK, Medium.ESP, f"{FOLDER}/.0042b.tmp"))
    do(torn, Kind.UNLINK, f"{FOLDER}/.0042b.tmp")
    with pytest.raises(OSError, match="Read-only"):
        torn.allow(Op(Kind.CREATE, Medium.ESP, f"{FOLDER}/x"))


def test_clusters_of_a_file_that_is_held_are_freed_at_its_close() -> None:
    vfat = make()
    stage(vfat, "0042b.efi", b"x" * 6000)
    vfat.sync_all()
    do(vfat, Kind.UNLINK, f"{FOLDER}/0042b.efi", new="held")
    tables = {n for n in vfat.pending if n < vfat._layout.data}
    assert tables == set()
    do(vfat, Kind.CLOSE, f"{FOLDER}/0042b.efi")
    assert {n for n in vfat.pending if n < vfat._layout.data} - {INFO}
