"""identity.py and release_set.py in a whole install: partitions lose their names before the first
byte and get new ones when all of the release was read back, before its entry is staged."""

import asyncio
import contextlib
import copy
import os
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slipstream.delta.digest import Digest
from slipstream.delta.errors import DeviceFault, Rejected, UsageError, WrongDevice
from slipstream.delta.gpt import read_gpt
from slipstream.delta.limits import CHUNK_BYTES
from slipstream.delta.manifest import BootEntryTemplate
from slipstream.installer import install as install_module
from slipstream.installer.config import Verity, load_config
from slipstream.installer.identity import identities_of
from slipstream.installer.image import ImageInstall
from slipstream.installer.prepare import Prepared, gather
from slipstream.installer.release_set import ReleaseSet, parts_of
from slipstream.installer.trial import settle
from slipstream.installer.verdict import Verdict
from tests.delta.gpt_disks import Bytes
from tests.installer.boot.uki import make_uki
from tests.installer.lab import Killed, Lab, LabRelease, change, make_image
from tests.partition_tables import make_gpt_disk, places

SLOT, TREE = 4 * CHUNK_BYTES, 64 * 1024
PLACES = places(SLOT, TREE)
ONE = make_image(1)
TWO = change(ONE, 700_000)
VERITYSETUP = "/usr/sbin/veritysetup"


class DiskLab(Lab):
    """A device whose slots are partitions of one disk image, found by their names."""

    def __init__(self, folder: Path, *, verity: str = "partition", identity: str = "gpt") -> None:
        super().__init__(
            folder, settings=f'[install]\nverity = "{verity}"\nidentity = "{identity}"\n'
        )
        make_gpt_disk(self.disk, SLOT, TREE)
        text = self.config_path.read_text()
        for slot in "ab":
            rows = "".join(
                f'{image} = {{ path = "disk.img", offset = {offset}, size = {size} }}\n'
                for image in ("rootfs", "rootfs-verity")
                for offset, size in [PLACES[f"{image}-{slot}"]]
            )
            text = text.replace(f'rootfs = "slot-{slot}.img"\n', rows)
        self.config_path.write_text(text)

    @property
    def disk(self) -> Path:
        return self.folder / "disk.img"

    def publish_named(self, release: str, counter: int, image: bytes) -> LabRelease:
        """A release whose command line finds its partitions by their names."""
        options = f"roothash={self.root_of(image)} gpt quiet"
        return self.publish(release, counter, image, boot=BootEntryTemplate("Gateway", options))

    def prove(self) -> None:
        """Reboot into the trial, and end it well."""
        self.reboot()
        assert asyncio.run(settle(self.device())).verdict is Verdict.CONFIRMED

    def names(self) -> dict[int, tuple[str, str]]:
        gpt = read_gpt(Bytes(self.disk.read_bytes()))
        assert gpt.differing() == ()
        assert gpt.mended() is None
        return {row.number: (row.label, row.uuid.hex) for row in gpt.counting.rows}

    def bytes_of(self, name: str) -> bytes:
        offset, size = PLACES[name]
        return self.disk.read_bytes()[offset : offset + size]


@pytest.fixture
def lab(tmp_path: Path) -> DiskLab:
    return DiskLab(tmp_path)


def test_a_release_is_found_by_its_root_hash(lab: DiskLab) -> None:
    before = lab.names()
    one = lab.publish_named("1.0", 1, ONE)

    asyncio.run(lab.install())

    root = one.images["rootfs"].tree.tuple.root.hex
    after = lab.names()
    assert after[2] == ("rootfs_1.0", root[:32])
    assert after[3] == ("rootfs-verity_1.0", root[32:])
    assert {n: after[n] for n in (1, 4, 5, 6)} == {n: before[n] for n in (1, 4, 5, 6)}

    lab.prove()
    two = lab.publish_named("2.0", 2, TWO)
    asyncio.run(lab.install())
    root_two = two.images["rootfs"].tree.tuple.root.hex
    assert lab.names() == after | {
        4: ("rootfs_2.0", root_two[:32]),
        5: ("rootfs-verity_2.0", root_two[32:]),
    }


def test_veritysetup_accepts_the_partitions(lab: DiskLab, tmp_path: Path) -> None:
    one = lab.publish_named("1.0", 1, ONE)
    asyncio.run(lab.install())
    for name in ("rootfs-a", "rootfs-verity-a"):
        (tmp_path / name).write_bytes(lab.bytes_of(name))
    root = one.images["rootfs"].tree.tuple.root.hex
    words = [VERITYSETUP, "verify", tmp_path / "rootfs-a", tmp_path / "rootfs-verity-a", root]
    subprocess.run(words, check=True, capture_output=True)
    tree = bytearray(lab.bytes_of("rootfs-verity-a"))
    tree[4096 + 40] ^= 1
    (tmp_path / "rootfs-verity-a").write_bytes(tree)
    assert subprocess.run(words, check=False, capture_output=True).returncode != 0


def test_names_go_before_the_first_byte_and_come_after_the_last(
    lab: DiskLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every write to the slot nothing finds it; when the entry is staged, its own names do."""
    lab.publish_named("1.0", 1, ONE)
    asyncio.run(lab.install())
    lab.prove()
    lab.publish_named("2.0", 2, TWO)
    spans = [PLACES["rootfs-b"], PLACES["rootfs-verity-b"]]
    labels: list[set[str]] = []
    staged: list[set[str]] = []
    real, stage = os.pwrite, lab.fake.stage

    def now() -> set[str]:
        names = read_gpt(Bytes(lab.disk.read_bytes())).counting.rows
        return {row.label for row in names if row.number in (4, 5)}

    def writing(descriptor: int, data: Any, offset: int) -> int:
        if os.readlink(f"/proc/self/fd/{descriptor}") == str(lab.disk) and any(
            begin <= offset < begin + size for begin, size in spans
        ):
            labels.append(now())
        return real(descriptor, data, offset)

    def staging(*arguments: Any) -> None:
        staged.append(now())
        stage(*arguments)

    monkeypatch.setattr(os, "pwrite", writing)
    monkeypatch.setattr(lab.fake, "stage", staging)
    asyncio.run(lab.install())

    assert len(labels) > 3
    assert all(names == {"_empty"} for names in labels)
    assert staged == [{"rootfs_2.0", "rootfs-verity_2.0"}]


def test_an_interrupted_install_is_not_renamed_twice(lab: DiskLab) -> None:
    lab.publish_named("1.0", 1, ONE)

    def kill(path: str) -> None:
        if path.endswith(".payload"):
            raise Killed

    lab.fetcher.hook = kill
    with pytest.raises(Killed):
        asyncio.run(lab.install())
    names = lab.names()
    assert [names[n][0] for n in (2, 3)] == ["_empty", "_empty"]
    assert names[2][1] != "aaaaaaaa000040008000000000000001"
    with pytest.raises(Killed):
        asyncio.run(lab.install())
    assert lab.names() == names
    lab.fetcher.hook = lambda _: None
    asyncio.run(lab.install())
    assert lab.names()[2][0] == "rootfs_1.0"


def test_one_image_in_both_slots_is_refused_before_anything_is_touched(lab: DiskLab) -> None:
    lab.publish_named("1.0", 1, ONE)
    asyncio.run(lab.install())
    lab.prove()
    lab.publish_named("2.0", 2, ONE)
    before = lab.disk.read_bytes()
    with pytest.raises(Rejected, match="two partitions would have one PARTUUID"):
        asyncio.run(lab.install())
    assert lab.disk.read_bytes() == before


def test_without_gpt_on_the_command_line_nothing_is_fetched(lab: DiskLab) -> None:
    lab.publish("1.0", 1, ONE)  # roothash= and nothing else
    before = lab.disk.read_bytes()
    with pytest.raises(Rejected, match="lacks the word gpt"):
        asyncio.run(lab.install())
    assert lab.disk.read_bytes() == before
    assert lab.fetcher.bytes_sent == 0


@pytest.mark.parametrize("cmdline", ["quiet gpt", "quiet", "quiet -- gpt"])
def test_the_running_release_must_find_the_backup_table_too(lab: DiskLab, cmdline: str) -> None:
    """A table that is torn while the target's rows are renamed is what the old release boots from."""
    lab.publish_named("1.0", 1, ONE)
    asyncio.run(lab.install())
    lab.prove()
    lab.publish_named("2.0", 2, TWO)
    (lab.folder / "cmdline").write_text(cmdline)
    before = lab.disk.read_bytes()
    if cmdline == "quiet gpt":
        asyncio.run(install_module.install(lab.device(), attended=False))
        return
    with pytest.raises(DeviceFault, match="started without the word gpt"):
        asyncio.run(install_module.install(lab.device(), attended=False))
    assert lab.disk.read_bytes() == before
    asyncio.run(lab.install())  # by a person, who is told
    assert "at risk: the running release was started without the word gpt" in lab.words()


@pytest.mark.parametrize("word, cmdline", [("root hash of rootfs", "gpt"), ("word gpt", "{root}")])
def test_a_uki_that_boots_something_else_gets_no_name_and_no_entry(
    lab: DiskLab, word: str, cmdline: str
) -> None:
    line = cmdline.format(root=f"roothash={lab.root_of(ONE)}")
    lab.publish("1.0", 1, ONE, uki=make_uki("1.0", cmdline=line))
    with pytest.raises(Rejected, match=word):
        asyncio.run(lab.install())
    assert lab.names()[2][0] == "_empty"
    assert ("stage", "a", 1) not in lab.fake.calls
    assert lab.device().slots.reports()[-1].kind == "failed"


def test_a_uki_that_names_what_was_written_is_staged(lab: DiskLab) -> None:
    line = f"roothash={lab.root_of(ONE)} gpt panic=10"
    lab.publish("1.0", 1, ONE, uki=make_uki("1.0", cmdline=line))
    asyncio.run(lab.install())
    assert lab.names()[2][0] == "rootfs_1.0"
    assert lab.fake.entries()[0].tries_left == 3


def test_without_identity_names_stay(tmp_path: Path) -> None:
    lab = DiskLab(tmp_path, identity="none")
    before = lab.names()
    lab.publish("1.0", 1, ONE)
    asyncio.run(lab.install())
    assert lab.names() == before


def test_a_place_that_is_no_partition_is_refused(lab: DiskLab) -> None:
    text = lab.config_path.read_text()
    size = PLACES["rootfs-b"][1]
    lab.config_path.write_text(text.replace(f"size = {size} }}", f"size = {size - 4096} }}"))
    lab.publish_named("1.0", 1, ONE)
    with pytest.raises(DeviceFault, match="no partition"):
        asyncio.run(lab.install())


def test_a_tree_that_does_not_fit_is_refused_before_anything_is_fetched(
    tmp_path: Path,
) -> None:
    lab = DiskLab(tmp_path, identity="none")
    offset, size = PLACES["rootfs-verity-a"]
    text = lab.config_path.read_text()
    lab.config_path.write_text(
        text.replace(f"offset = {offset}, size = {size}", f"offset = {offset}, size = 4096")
    )
    lab.publish("1.0", 1, ONE)
    with pytest.raises(WrongDevice, match="hash tree is larger"):
        asyncio.run(lab.install())
    assert lab.fetcher.bytes_sent == 0


# --- all or nothing


def leave_out(name: str) -> Callable[..., Any]:
    """A gather that loses one image of the plan: the fault of systemd issue 41288."""

    async def gathered(*arguments: Any, **rest: Any) -> Prepared:
        prepared = await gather(*arguments, **rest)
        images = tuple(one for one in prepared.plan.images if one.image.name != name)
        return replace(prepared, plan=replace(prepared.plan, images=images))

    return gathered


@pytest.mark.parametrize("name", ["rootfs", "kernel"])
def test_a_release_without_one_of_its_images_never_boots(
    lab: DiskLab, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    lab.publish_named("1.0", 1, ONE)
    monkeypatch.setattr(install_module, "gather", leave_out(name))
    with pytest.raises(DeviceFault, match="not all of the release"):
        asyncio.run(lab.install())
    assert lab.fake.entries() == ()
    assert ("stage", "a", 1) not in lab.fake.calls
    assert lab.names()[2][0] == "_empty"


def test_a_release_without_its_hash_tree_never_boots(
    lab: DiskLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*_: Any) -> None:
        pass

    lab.publish_named("1.0", 1, ONE)
    monkeypatch.setattr(ImageInstall, "_write_tree", nothing)
    with pytest.raises(DeviceFault, match="rootfs-verity"):
        asyncio.run(lab.install())
    assert lab.fake.entries() == ()


def test_the_set_is_one_digest_over_every_part(lab: DiskLab) -> None:
    manifest = lab.publish_named("1.0", 1, ONE).manifest
    wanted = parts_of(manifest, Verity.PARTITION)
    assert sorted(wanted) == ["kernel", "rootfs", "rootfs-verity"]
    assert sorted(parts_of(manifest, Verity.APPEND)) == ["kernel", "rootfs"]
    ReleaseSet(wanted, dict(wanted)).check_complete("a")
    for name in wanted:
        missing = {key: root for key, root in wanted.items() if key != name}
        with pytest.raises(DeviceFault, match=f"slot a: {name}:"):
            ReleaseSet(wanted, missing).check_complete("a")
        with pytest.raises(DeviceFault, match=f"slot a: {name}:"):
            ReleaseSet(wanted, wanted | {name: Digest.of(b"another")}).check_complete("a")


# --- the configuration


@pytest.mark.parametrize("by", ["by-partlabel", "by-partuuid", "by-label", "by-uuid"])
def test_links_that_would_move_are_refused(lab: DiskLab, by: str) -> None:
    text = lab.config_path.read_text()
    begin = text.index("rootfs = ", text.index("[slots.b]"))
    end = text.index("\n", begin)
    text = text[:begin] + f'rootfs = "/dev/disk/{by}/rootfs-b"' + text[end:]
    lab.config_path.write_text(text)
    with pytest.raises(UsageError, match=r"slots\.b\.rootfs.*by-path"):
        load_config(lab.config_path)
    lab.config_path.write_text(text.replace('identity = "gpt"', 'identity = "none"'))
    load_config(lab.config_path)


def test_a_slot_without_a_place_for_its_tree_is_refused(lab: DiskLab) -> None:
    text = lab.config_path.read_text().replace("rootfs-verity = ", "other-verity = ")
    lab.config_path.write_text(text)
    with pytest.raises(UsageError, match="other-verity: the hash tree of nothing"):
        load_config(lab.config_path)
    lines = [line for line in text.splitlines() if not line.startswith("other-verity")]
    lab.config_path.write_text("\n".join(lines))
    with pytest.raises(UsageError, match="no rootfs-verity"):
        load_config(lab.config_path)


def test_labels_and_uuids(lab: DiskLab) -> None:
    long = "v" * 40
    manifest = replace(lab.publish_named("1.0", 1, ONE).manifest, release=long)
    made = identities_of(manifest, Verity.PARTITION)
    root = manifest.image("rootfs").tree.root.hex
    assert made["rootfs"] == (f"rootfs_{long}"[:36], uuid.UUID(root[:32]))
    assert made["rootfs-verity"] == (f"rootfs-verity_{long}"[:36], uuid.UUID(root[32:]))
    assert sorted(identities_of(manifest, Verity.NONE)) == ["rootfs"]


# --- cuts in the order of the whole install


def test_killed_at_every_sync_a_slot_with_a_name_is_whole(
    lab: DiskLab, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the table names is there, byte for byte; the other rows are as they were; the next
    install completes. S2 and S6b sync the disk twice each, the rest is chunks and trees."""
    lab.publish_named("1.0", 1, ONE)
    asyncio.run(lab.install())
    lab.prove()
    two = lab.publish_named("2.0", 2, TWO)
    before = lab.names()
    real, number, seen = os.fdatasync, 0, set()
    while True:
        twin = lab.fork(tmp_path_factory.mktemp("cut") / "device")
        twin.boot = twin.fake = copy.deepcopy(lab.fake)
        calls = 0

        def cut(descriptor: int, disk: Path = twin.disk, number: int = number) -> None:
            nonlocal calls
            if os.readlink(f"/proc/self/fd/{descriptor}") == str(disk):
                calls += 1
                if calls > number:
                    raise Killed
            real(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", cut)
            with contextlib.suppress(Killed):
                asyncio.run(twin.install())
        gpt = read_gpt(Bytes(twin.disk.read_bytes()))
        labels = tuple(row.label for row in gpt.counting.rows if row.number in (4, 5))
        seen.add(labels)
        assert labels[0] == labels[1] == "_empty" or "_empty" not in labels
        if labels[0] == "rootfs_2.0":
            assert twin.bytes_of("rootfs-b")[: len(TWO)] == TWO
        now = {r.number: (r.label, r.uuid.hex) for r in gpt.counting.rows if r.number not in (4, 5)}
        assert now == {n: name for n, name in before.items() if n not in (4, 5)}
        if calls > number:
            asyncio.run(twin.install())
        assert twin.names()[4] == ("rootfs_2.0", two.images["rootfs"].tree.tuple.root.hex[:32])
        if calls <= number:
            break
        number += 1
    assert number >= 6
    assert seen == {
        ("rootfs-b", "rootfs-verity-b"),
        ("_empty", "_empty"),
        ("rootfs_2.0", "rootfs-verity_2.0"),
    }
