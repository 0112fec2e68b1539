"""The doctor: each finding on an image damaged for it, beside what fsck.vfat says of the same."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from slipstream.cli import main
from slipstream.delta.digest import Digest
from slipstream.delta.pe import dump_pe
from slipstream.installer.boot.efivar import LOADER_VENDOR, dump_loader_string
from slipstream.installer.boot.mount import parse_mounts
from slipstream.installer.config import load_config
from slipstream.installer.doctor.examine import examine
from slipstream.installer.doctor.finding import Check, Finding, Severity
from slipstream.installer.slots import SlotRecord, Slots, SlotState
from tests.installer.boot.esp_images import END, EspImage
from tests.installer.boot.uki import make_uki
from tests.installer.doctor.test_tables import sfdisk

LINUX = "EFI/Linux"
GOOD, TRIAL = f"{LINUX}/0041a.efi", f"{LINUX}/0042b+2-1.efi"
ROOTS = {41: Digest.of(b"41"), 42: Digest.of(b"42")}
LOADER = "EFI/systemd/systemd-bootx64.efi"


def uki(counter: int, size: int = 3000) -> bytes:
    return make_uki(f"{counter}.0", cmdline=f"roothash={ROOTS[counter]}", kernel=b"K" * size)


FILES = {
    LOADER: dump_pe({".text": b"loader"}),
    GOOD: uki(41),
    TRIAL: uki(42),
    "loader/loader.conf": b"timeout 0\n# default is not set\n",
}


@dataclass
class Lab:
    """A device whose boot partition is an image; release 41 runs from slot a, 42 is on trial in b."""

    folder: Path
    image: EspImage
    config: Path
    selected: Path

    def findings(self, *wanted: Check) -> list[Finding]:
        found = examine(load_config(self.config)).findings
        return [one for one in found if one.check in wanted or not wanted]

    def remember(self, slot: str, counter: int, state: SlotState = SlotState.INSTALLED) -> None:
        images = {"rootfs": ROOTS[counter]}
        record = SlotRecord(slot, state, f"{counter}.0", counter, None, images)
        Slots(self.folder / "state", lambda _: None).remember(record)

    def variable(self, name: str) -> Path:
        return self.folder / f"{name}-{LOADER_VENDOR}"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return EspImage.make(tmp_path_factory.mktemp("esp") / "esp", FILES).path


@pytest.fixture
def lab(template: Path, tmp_path: Path) -> Lab:
    image = tmp_path / "esp.img"
    subprocess.run(["cp", "--sparse=always", template, image], check=True)
    for name in ("esp", "state"):
        (tmp_path / name).mkdir()
    for name in ("a.img", "b.img"):
        (tmp_path / name).write_bytes(bytes(8192))
    config = tmp_path / "device.toml"
    config.write_text(
        '[device]\nid = "gw"\nproduct = "gateway"\nhardware = "x86"\nstate = "state"\n'
        '[server]\nurl = "http://localhost"\nroot = "root.json"\n'
        '[slots.a]\nrootfs = "a.img"\n[slots.b]\nrootfs = "b.img"\n'
        f'[boot]\nesp = "esp"\nesp_device = "esp.img"\ncmdline = "cmdline"\n'
        f'entry = "LoaderEntrySelected-{LOADER_VENDOR}"\n'
        '[install]\nverity = "initrd"\n'
    )
    (tmp_path / "cmdline").write_text(f"roothash={ROOTS[41]} quiet")
    made = Lab(tmp_path, EspImage(image), config, tmp_path / f"LoaderEntrySelected-{LOADER_VENDOR}")
    made.selected.write_bytes(dump_loader_string("0041a.efi"))
    made.remember("a", 41)
    made.remember("b", 42)
    return made


def test_a_sound_device(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert lab.findings() == []
    with pytest.raises(SystemExit) as ended:
        main(["device", "doctor", "--config", str(lab.config)])
    assert ended.value.code in (0, None)
    out, error = capsys.readouterr()
    assert out.startswith("nothing is wrong\nlooked at: ")
    assert "FAT32, 512-byte clusters, 8 names" in out
    assert error == ""


def cut_end(lab: Lab) -> None:
    """The chain ends two clusters early, in both copies of the table."""
    run = lab.image.file(TRIAL).chain.runs[0]
    lab.image.set_next(run.first + run.length - 3, END)


def put(name: str, data: bytes) -> Callable[[Lab], None]:
    return lambda lab: lab.image.put(name, data)


def cross_link(name: str, other: str) -> Callable[[Lab], None]:
    def change(lab: Lab) -> None:
        lab.image.put(name, b"x")
        lab.image.cross_link(name, other)

    return change


DAMAGES: dict[str, tuple[Callable[[Lab], object], Check, Severity, str, str]] = {
    # name: damage, what is found, how bad, words of it, words of fsck.vfat -n
    "cross-linked twin": (
        cross_link(f"{LINUX}/.0042b.tmp", TRIAL),
        *(Check.CROSS_LINKED, Severity.FAULT, "share 7 clusters", "share clusters"),
    ),
    "chain ends early": (
        cut_end,
        *(Check.WRONG_SIZE, Severity.FAULT, "its clusters hold", "cluster chain length is"),
    ),
    "size too small": (
        lambda lab: lab.image.set_size("loader/loader.conf", 0),
        *(Check.WRONG_SIZE, Severity.NOTE, "for 0 bytes, which need 0", "cluster chain length is"),
    ),
    "size too large": (
        lambda lab: lab.image.set_size(TRIAL, 1 << 20),
        *(Check.WRONG_SIZE, Severity.FAULT, "1,048,576 bytes", "cluster chain length is"),
    ),
    "free cluster": (
        lambda lab: lab.image.set_next(lab.image.file(TRIAL).record.cluster + 2, 0),
        *(Check.BROKEN_CHAIN, Severity.FAULT, "marked as free, after 2 clusters", "free cluster"),
    ),
    "tables differ": (
        lambda lab: lab.image.set_next(lab.image.file(TRIAL).record.cluster, 70_000, (1,)),
        *(Check.TABLES_DIFFER, Severity.FAULT, "firmware may follow another", "FATs differ"),
    ),
    "not unmounted": (
        lambda lab: lab.image.patch(65, b"\1"),
        *(Check.DIRTY, Severity.FAULT, "it was not unmounted", "Dirty bit is set"),
    ),
    "firmware cut": (
        lambda lab: lab.image.set_next(1, 0x07FF_FFFF),
        *(Check.DIRTY, Severity.FAULT, "the firmware was cut", ""),
    ),
    "lost clusters": (
        lambda lab: lab.image.set_next(60_000, END),
        *(Check.LOST_CLUSTERS, Severity.NOTE, "1 clusters (512 bytes)", "Reclaimed 1 unused"),
    ),
    "backup boot sector": (
        lambda lab: lab.image.patch(6 * 512 + 3, b"other"),
        *(Check.BACKUP_BOOT_SECTOR, Severity.NOTE, "differs", "boot sector and its backup"),
    ),
    "folder with a size": (
        lambda lab: lab.image.set_size("loader", 7),
        *(Check.BROKEN_FOLDER, Severity.FAULT, "a folder with a size", "non-zero size"),
    ),
    "debris": (
        put("FSCK0000.REC", b"x" * 700),
        *(Check.DEBRIS, Severity.NOTE, "1 files", ""),
    ),
    "no file system": (
        lambda lab: lab.image.patch(510, b"\0\0"),
        *(Check.UNREADABLE, Severity.FAULT, "no boot sector", ""),
    ),
    "plain and counted": (
        put(f"{LINUX}/0042b.efi", uki(42)),
        *(Check.TWINS, Severity.FAULT, "0042b+2-1.efi, 0042b.efi are one release", ""),
    ),
    "hidden and visible": (
        put(f"{LINUX}/.0042b.old0", uki(42)),
        *(Check.TWINS, Severity.NOTE, "a hidden double of 0042b+2-1.efi", ""),
    ),
    "cut off": (
        put(TRIAL, uki(42)[:-100]),
        *(Check.TRUNCATED, Severity.FAULT, "is cut off: section .linux ends", ""),
    ),
    "empty": (put(TRIAL, b""), Check.TRUNCATED, Severity.FAULT, "is empty", ""),
    "no kernel in it": (
        put(TRIAL, dump_pe({".osrel": b"ID=x\n"})),
        *(Check.TRUNCATED, Severity.FAULT, "has no section .linux", ""),
    ),
    "boot loader cut off": (
        put(LOADER, FILES[LOADER][:-3]),
        *(Check.TRUNCATED, Severity.FAULT, "section .text", ""),
    ),
    "somebody else's": (
        put(f"{LINUX}/debian.efi", uki(41)),
        *(Check.UNCOUNTED, Severity.NOTE, "not Slipstream's and is not counted", ""),
    ),
    "short name": (
        put(f"{LINUX}/0042B_~1.EFI", uki(42)),
        *(Check.UNCOUNTED, Severity.FAULT, "lost its long name", ""),
    ),
    "another release": (
        lambda lab: lab.remember("b", 41),
        *(Check.WRONG_SLOT, Severity.FAULT, "but slot b holds release 41.0", ""),
    ),
    "being written": (
        lambda lab: lab.remember("b", 42, SlotState.WRITING),
        *(Check.WRONG_SLOT, Severity.FAULT, "which is being written", ""),
    ),
    "another root": (
        put(TRIAL, uki(41)),
        *(Check.WRONG_SLOT, Severity.FAULT, f"root hash {ROOTS[41]}", ""),
    ),
    "no entry": (
        lambda lab: lab.image.patch(lab.image.record_offset(GOOD), b"\xe5"),
        *(Check.NO_ENTRY, Severity.FAULT, "(slot a) has no entry", ""),
    ),
    "default": (
        put("loader/loader.conf", b"default 0041*\n"),
        *(Check.DEFAULT_SET, Severity.FAULT, "default 0041*", ""),
    ),
    "preferred": (
        put("loader/loader.conf", b"preferred 0041*\n"),
        *(Check.DEFAULT_SET, Severity.FAULT, "preferred 0041*", ""),
    ),
    "default variable": (
        lambda lab: lab.variable("LoaderEntryDefault").write_bytes(dump_loader_string("x.efi")),
        *(Check.DEFAULT_SET, Severity.FAULT, "'x.efi'", ""),
    ),
    "preferred variable": (
        lambda lab: lab.variable("LoaderEntryPreferred").write_bytes(dump_loader_string("x.efi")),
        *(Check.DEFAULT_SET, Severity.FAULT, "'x.efi'", ""),
    ),
    "one-shot": (
        lambda lab: lab.variable("LoaderEntryOneShot").write_bytes(dump_loader_string("x.efi")),
        *(Check.DEFAULT_SET, Severity.FAULT, "'x.efi'", ""),
    ),
    "no counting": (
        lambda lab: lab.variable("LoaderFeatures").write_bytes(b"\6\0\0\0" + bytes(8)),
        *(Check.NO_COUNTING, Severity.FAULT, "does not count tries", ""),
    ),
    "full": (
        put("filler", b"x" * (39 << 20)),
        *(Check.NO_ROOM, Severity.FAULT, "bytes free", ""),
    ),
    "no command line": (
        lambda lab: (lab.folder / "cmdline").unlink(),
        *(Check.CMDLINE, Severity.FAULT, "boot.cmdline cannot be read; got ", ""),
    ),
    "slots overlap": (
        lambda lab: (
            (lab.folder / "b.img").unlink()
            or (lab.folder / "b.img").hardlink_to(lab.folder / "a.img")
        ),
        *(Check.SLOTS, Severity.FAULT, "slot b rootfs and slot a rootfs share bytes", ""),
    ),
    "no hash tree": (
        lambda lab: lab.config.write_text(lab.config.read_text().replace('"initrd"', '"none"')),
        *(Check.NO_HASH_TREE, Severity.FAULT, "opens rootfs by its root hash", ""),
    ),
    "no records": (
        lambda lab: (lab.folder / "state/slots.json").write_text("{"),
        *(Check.NOT_LOOKED_AT, Severity.NOTE, "slots.json is not readable", ""),
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_finding(lab: Lab, damage: str) -> None:
    change, check, severity, words, fsck_words = DAMAGES[damage]
    change(lab)

    found = [one for one in lab.findings(check) if one.severity is severity]
    assert [one for one in found if words in one.what], lab.findings()
    assert all(one.mend and one.where for one in found)
    if damage == "no file system":
        return
    said = lab.image.fsck()
    if fsck_words:
        assert fsck_words in said
    else:
        assert "share clusters" not in said
        assert "cluster chain length" not in said


@pytest.mark.parametrize(
    "damage",
    ["cross-linked twin", "chain ends early", "free cluster", "tables differ", "lost clusters"],
)
def test_what_the_mend_says_mends_it(lab: Lab, damage: str) -> None:
    change, check, *_ = DAMAGES[damage]
    change(lab)
    (found,) = lab.findings(check)
    mend = found.mend.partition("; then")[0].replace("/var/tmp/", f"{lab.folder}/")
    subprocess.run(mend, shell=True, check=False, capture_output=True)

    assert lab.findings(check) == []
    assert "Filesystem was changed" not in lab.image.fsck()
    if damage == "cross-linked twin":
        assert lab.image.get(TRIAL) == uki(42)


def test_entries_with_kernel_and_initrd(lab: Lab) -> None:
    conf = "title x\nlinux /slipstream/0042b/linux\ninitrd /slipstream/0042b/initrd\n"
    files = {
        "EFI/x": b"",
        "loader/entries/0041a.conf": conf.replace("0042b", "0041A").encode(),
        "loader/entries/0042b+3-0.conf": conf.encode(),
        "slipstream/0041a/linux": b"k",
        "slipstream/0041a/initrd": b"i",
        "slipstream/0042b/linux": b"",
    }
    lab.image.path.unlink()
    EspImage.make(lab.image.path, files)
    found = lab.findings(Check.MISSING_FILE)

    assert [one.what for one in found] == [
        "names /slipstream/0042b/linux, which is empty",
        "names /slipstream/0042b/initrd, which is not there",
    ]
    assert len(lab.findings()) == 2


def test_the_disk_of_a_slot(lab: Lab) -> None:
    """An image with a table is looked at as a disk; a place that is not there is said."""
    path = lab.folder / "a.img"
    path.write_bytes(bytes(1 << 20))
    sfdisk(str(path), script="label: gpt\nsize=100, name=one\nsize=100, name=one\n")
    assert [one.check for one in lab.findings()] == [Check.SAME_NAME]
    path.unlink()
    (found,) = lab.findings()
    assert (found.check, found.where) == (Check.UNREADABLE, str(path))


def test_what_cannot_be_read_does_not_hide_the_rest(lab: Lab) -> None:
    lab.variable("LoaderFeatures").write_bytes(b"strange")
    lab.image.put(TRIAL, b"")

    assert [one.check for one in lab.findings()] == [Check.UNREADABLE, Check.TRUNCATED]


def test_exit_code_and_json(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.image.put(TRIAL, b"")
    with pytest.raises(SystemExit) as ended:
        main(["device", "doctor", "--json", "--config", str(lab.config)])
    out, error = capsys.readouterr()

    assert ended.value.code == 6
    (finding,) = json.loads(out)["findings"]
    assert (finding["check"], finding["severity"]) == ("truncated", "fault")
    assert finding["mend"].startswith(f"mren -i {lab.image.path} ::/{TRIAL} .0042b.old0")
    assert "1 fault would stop or endanger an update" in error


def test_a_folder_has_no_clusters_and_that_is_said(lab: Lab) -> None:
    """A simulation: entries are looked at all the same."""
    text = lab.config.read_text().replace('esp_device = "esp.img"\n', "")
    lab.config.write_text(text)
    (lab.folder / "esp" / LINUX).mkdir(parents=True)
    for name in (GOOD, TRIAL):
        (lab.folder / "esp" / name).write_bytes(FILES[name])
    (lab.folder / "esp" / LINUX / "0042b.efi").write_bytes(b"")

    found = {one.check: one for one in lab.findings()}
    assert set(found) == {Check.NOT_LOOKED_AT, Check.TRUNCATED}
    assert "is not a mounted FAT file system" in found[Check.NOT_LOOKED_AT].what
    linux = lab.folder / "esp" / LINUX
    assert found[Check.TRUNCATED].mend.startswith(f"mv -n {linux}/0042b.efi {linux}/.0042b.old0")


def test_no_mend_of_an_entry_frees_its_clusters(lab: Lab) -> None:
    """What is truncated, or in the wrong slot by the records, may share clusters with a good one."""
    lab.image.put(TRIAL, b"")
    lab.remember("b", 41)
    found = lab.findings(Check.TRUNCATED, Check.WRONG_SLOT)

    assert len(found) == 2
    assert all(one.mend.startswith("mren ") for one in found)


def test_no_mend_takes_the_running_entry_away(lab: Lab) -> None:
    """By old records, or by a medium that lost a part of it: the device would refuse every update."""
    lab.remember("a", 42)
    lab.image.put(GOOD, FILES[GOOD][:2000])
    found = lab.findings(Check.TRUNCATED, Check.WRONG_SLOT)
    assert len(found) == 2
    for one in found:
        assert one.mend.startswith("put its copy back before anything else: mcopy -o -i ")
        assert f" STATE/files/a/NAME ::/{GOOD} " in one.mend

    lab.selected.unlink()
    (lab.folder / "cmdline").write_text("quiet")
    found = lab.findings(Check.TRUNCATED, Check.WRONG_SLOT)
    assert all(one.mend.startswith("find out which release runs") for one in found)


def test_no_mend_takes_away_what_slipstream_did_not_put_there(lab: Lab) -> None:
    """Before the first release runs, somebody else's entry is what the device boots."""
    lab.image.put(f"{LINUX}/debian.efi", uki(41, 39 << 20))
    (found,) = lab.findings(Check.NO_ROOM)
    assert found.mend.startswith("make the boot partition larger")
    (found,) = lab.findings(Check.UNCOUNTED)
    assert found.mend.startswith("mren ")

    lab.selected.write_bytes(dump_loader_string("debian.efi"))
    (lab.folder / "cmdline").write_text("root=/dev/vda2")
    (found,) = lab.findings(Check.UNCOUNTED)
    assert found.mend.startswith("nothing before a release of Slipstream runs")


def test_a_boot_loader_is_signed_before_it_is_replaced(lab: Lab) -> None:
    lab.image.put(LOADER, b"")
    lab.variable("LoaderFeatures").write_bytes(b"\6\0\0\0" + bytes(8))
    mends = [one.mend for one in lab.findings(Check.TRUNCATED, Check.NO_COUNTING)]
    assert len(mends) == 2
    assert all("bootctl" in mend and "signed" in mend for mend in mends)


def test_a_name_writes_no_line_of_its_own() -> None:
    name = "x\n  mend: rm -r /efi\x1b[2J"
    said = Finding(Check.UNCOUNTED, Severity.NOTE, name, name, name).to_words()
    assert len(said.splitlines()) == 2
    assert "\x1b" not in said


MOUNTINFO = """22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/vda2 rw
30 22 0:30 / {esp} rw,relatime - autofs systemd-1 rw,fd=35
40 30 254:1 / {esp} {options} shared:9 - vfat {image} rw,fmask=0022
41 22 254:9 /sub /elsewhere rw - vfat /dev/vdz9 rw
not a line
"""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("rw,relatime", []),
        ("rw,sync", ["mounted with sync"]),
        ("rw,dirsync,sync", ["mounted with dirsync", "mounted with sync"]),
        ("ro,relatime", ["mounted read-only", "it was not unmounted"]),
    ],
)
def test_the_mount(
    lab: Lab, options: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device is found from the mount; what Linux marks itself while it is mounted is no finding."""
    lab.config.write_text(lab.config.read_text().replace('esp_device = "esp.img"\n', ""))
    mountinfo = lab.folder / "mountinfo"
    esp = str(lab.folder / "esp").replace(" ", "\\040")
    mountinfo.write_text(MOUNTINFO.format(esp=esp, options=options, image=lab.image.path))
    monkeypatch.setattr("slipstream.installer.boot.mount.MOUNTINFO", mountinfo)
    lab.image.patch(65, b"\1")
    found = lab.findings()

    assert {one.check for one in found} <= {Check.MOUNT, Check.DIRTY}
    assert len(found) == len(words)
    assert all(word in one.what for word, one in zip(words, found, strict=True))
    assert examine(load_config(lab.config)).looked_at[0].startswith(str(lab.image.path))


def test_mountinfo_is_read_as_linux_writes_it() -> None:
    first, auto, esp, sub = parse_mounts(
        MOUNTINFO.format(esp="/a\\040b", options="rw,sync", image="/dev/vda1")
    )
    assert (str(esp.point), esp.device, esp.source) == ("/a b", "254:1", "/dev/vda1")
    assert esp.options >= {"rw", "sync", "fmask=0022"}
    assert [one.is_fat for one in (first, auto, esp, sub)] == [False, False, True, False]


def test_a_device_that_took_the_name_over_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/sda1 was the boot partition when it was mounted, and is a stick now."""
    mount = parse_mounts(MOUNTINFO.format(esp="/efi", options="rw", image="/dev/sda1"))[2]
    found = SimpleNamespace(st_mode=stat.S_IFBLK, st_rdev=os.makedev(254, 1))
    system = SimpleNamespace(stat=lambda _: found, major=os.major, minor=os.minor)
    monkeypatch.setattr("slipstream.installer.boot.mount.os", system)

    assert mount.block_device == Path("/dev/sda1")
    found.st_rdev = os.makedev(8, 1)
    assert mount.block_device == Path("/dev/block/254:1")


WATCHED = """
import os, sys
opened = []
def watch(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        if isinstance(path, (str, bytes)) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
            opened.append(os.fsdecode(path))
    elif event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link",
                   "os.symlink", "os.chmod", "os.utime", "subprocess.Popen", "os.posix_spawn"):
        opened.append(f"{event} {arguments}")
from slipstream.cli import main
sys.addaudithook(watch)
try:
    main(sys.argv[1:])
finally:
    print("changed:", *opened)
"""


def test_nothing_is_written(lab: Lab) -> None:
    """No open for writing, no change of a name, by Python's own audit events; a broken state stays."""
    (lab.folder / "state/slots.json").write_text("{")
    before = {path: path.stat().st_mtime_ns for path in lab.folder.rglob("*")}
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, "device", "doctor", "--config", str(lab.config)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "changed:"
    assert {path: path.stat().st_mtime_ns for path in lab.folder.rglob("*")} == before
