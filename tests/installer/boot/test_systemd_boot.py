"""systemd-boot's adapter: the conformance suite, power cuts at every operation, its refusals."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from slipstream.delta.digest import Digest
from slipstream.delta.errors import DeviceFault, FormatError, Rejected, UsageError
from slipstream.delta.manifest import Place
from slipstream.installer.boot.chooser import boot, choose
from slipstream.installer.boot.efivar import LOADER_VENDOR, dump_loader_string
from slipstream.installer.boot.entry import Suffix
from slipstream.installer.boot.esp import SLACK_BYTES, Esp
from slipstream.installer.boot.systemd_boot import SystemdBoot
from slipstream.installer.ports import Booted, BootFiles, EntryState
from tests.installer.boot.conformance import (
    BootControlConformance,
    Rig,
    install,
    install_good,
    root_of,
    states,
)
from tests.installer.boot.power import Medium, RecordingEsp, make, states_after
from tests.installer.boot.uki import make_uki


def used_bytes(esp: Path) -> int:
    return sum(path.stat().st_size for path in esp.rglob("*") if path.is_file())


class SmallEsp(Esp):
    """A boot partition of so many bytes."""

    def __init__(self, root: Path, size: int) -> None:
        super().__init__(root)
        self._size = size

    def free_bytes(self) -> int:
        return self._size - used_bytes(self.root)


class EspRig:
    """A folder as ESP, plain files for what the kernel and the firmware would say."""

    def __init__(self, folder: Path, kind: Suffix) -> None:
        self.folder = folder
        self.kind = kind
        self.size: int | None = None
        self.esp = folder / "esp"
        (self.esp / "EFI").mkdir(parents=True)
        self.cmdline = folder / "cmdline"
        self.selected = folder / f"LoaderEntrySelected-{LOADER_VENDOR}"

    def control(self, esp: Path | Esp | None = None) -> SystemdBoot:
        esp = esp or (self.esp if self.size is None else SmallEsp(self.esp, self.size))
        return SystemdBoot(esp, cmdline=self.cmdline, selected=self.selected)

    def leave_room(self, room_bytes: int) -> None:
        self.size = used_bytes(self.esp) + SLACK_BYTES + room_bytes

    def boot_files(self, counter: int) -> BootFiles:
        title, options = f"Gateway {counter}.0", f"roothash={root_of(counter)} quiet"
        files = {}
        for place, data in self.bytes_of(counter).items():
            files[place] = self.folder / f"{counter}-{place}"
            files[place].write_bytes(data)
        if self.kind is Suffix.UKI:
            options = ""
        return BootFiles(title, f"{counter}.0", options, files)

    def bytes_of(self, counter: int) -> dict[Place, bytes]:
        if self.kind is Suffix.UKI:
            return {Place.UKI: make_uki(f"{counter}.0", cmdline=f"roothash={root_of(counter)}")}
        return {Place.LINUX: b"kernel %d" % counter, Place.INITRD: b"initrd %d" % counter}

    def boot(self) -> Booted | None:
        choice = boot(self.esp)
        if choice is None:
            return None
        assert choice.loadable
        self.cmdline.write_text(choice.cmdline)
        self.selected.write_bytes(dump_loader_string(choice.entry.id))
        return self.control().booted()


@pytest.fixture(params=list(Suffix), ids=["uki", "conf"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> EspRig:
    return EspRig(tmp_path, request.param)


class TestUki(BootControlConformance):
    @pytest.fixture
    def rig(self, tmp_path: Path) -> Rig:
        return EspRig(tmp_path, Suffix.UKI)


class TestKernelAndInitrd(BootControlConformance):
    @pytest.fixture
    def rig(self, tmp_path: Path) -> Rig:
        return EspRig(tmp_path, Suffix.CONF)


# --- power cuts

STEPS: dict[str, tuple[Callable[[SystemdBoot, EspRig], None], str]] = {
    # step: (what it does, slots that may boot when it is cut)
    "retire": (lambda control, _: control.retire("b"), "a"),
    "stage": (lambda control, rig: control.stage("b", 3, rig.boot_files(3)), "a"),
    "publish": (lambda control, _: control.publish("b", 3), "ab"),
    "confirm": (lambda control, _: control.confirm("b", 3), "ab"),
    "condemn": (lambda control, _: control.condemn("b", 3), "ab"),
}
BEFORE = {
    "retire": (),
    "stage": ("retire",),
    "publish": ("retire", "stage"),
    "confirm": ("retire", "stage", "publish", "boot"),
    "condemn": ("retire", "stage", "publish", "boot"),
}


def prepare(rig: EspRig, step: str) -> None:
    """Slot b holds release 1 and leftovers, 2 runs in a; 3 goes to b, up to the step."""
    install(rig, "b", 1)
    folder = next(path for path in rig.esp.rglob("0001b*") if path.is_file()).parent
    for name in (".0001b.tmp", ".0001b.old0"):
        (folder / name).write_bytes(b"left by an interrupted update")
    install_good(rig, "a", 2)
    for name in BEFORE[step]:
        if name == "boot":
            rig.boot()
        else:
            STEPS[name][0](rig.control(), rig)


def whole(rig: EspRig, esp: Path, counter: int) -> bool:
    """Whether the chosen entry's files are, byte for byte, what the release came with."""
    choice = choose(esp)
    assert choice is not None
    if rig.kind is Suffix.UKI:
        return choice.path.read_bytes() == rig.bytes_of(counter)[Place.UKI]
    folder = next((esp / "slipstream").glob(f"{counter:04d}?"))
    return all((folder / place).read_bytes() == b for place, b in rig.bytes_of(counter).items())


@pytest.mark.parametrize("step", STEPS)
def test_power_cut_at_every_operation(rig: EspRig, tmp_path: Path, step: str) -> None:
    prepare(rig, step)
    before = Medium.read(rig.esp)
    recorder = RecordingEsp(rig.esp)
    run, allowed = STEPS[step]
    run(rig.control(recorder), rig)
    assert recorder.log
    tried = 0
    for count in range(len(recorder.log) + 1):
        for names, contents in states_after(before, recorder.log, count):
            tried += 1
            esp = tmp_path / f"cut-{count}-{tried}"
            esp.mkdir()
            make(esp, names, contents)
            choice = choose(esp)
            assert choice is not None, f"nothing boots after {recorder.log[:count]}"
            slot, counter = ("a", 2) if "0002a" in choice.entry.id else ("b", 3)
            assert f"{counter:04d}{slot}" in choice.entry.id
            assert slot in allowed
            assert choice.loadable
            assert whole(rig, esp, counter)
            recover(rig, esp, step)
    assert tried > len(recorder.log)


@pytest.mark.parametrize("steps", [("retire", "stage", "publish"), ("confirm",), ("condemn",)])
def test_what_a_step_did_is_durable_when_it_returns(
    rig: EspRig, tmp_path: Path, steps: tuple[str, ...]
) -> None:
    """One recording over several steps: no step leaves to a later one what it should have synced.

    Slot b holds a release that the next boot would try, so that an entry that outlives its files
    would be chosen.
    """
    prepare(rig, steps[0])
    if "retire" in steps:
        rig.control().retire("b")
        install(rig, "b", 9)
        hidden = [path for path in rig.esp.rglob("0009b*") if path.is_file()]
        hidden[0].with_name(".0009b.old0").write_bytes(b"a double of an earlier time")
    before = Medium.read(rig.esp)
    recorder = RecordingEsp(rig.esp)
    ends: dict[int, str] = {}
    for step in steps:
        STEPS[step][0](rig.control(recorder), rig)
        ends[len(recorder.log)] = step
    tried = 0
    for count in range(len(recorder.log) + 1):
        for names, contents in states_after(before, recorder.log, count):
            tried += 1
            esp = tmp_path / f"cut-{count}-{tried}"
            esp.mkdir()
            make(esp, names, contents)
            choice = choose(esp)
            assert choice is not None
            assert choice.loadable, f"{choice.entry.id} after {recorder.log[:count]}"
            counter = int(choice.entry.id[:4])
            assert whole(rig, esp, counter)
            visible = {e.slot: (e.counter, e.state) for e in rig.control(esp).entries()}
            match ends.get(count):
                case "retire":
                    assert set(visible) == {"a"}
                    assert not list(esp.rglob("*0009b*"))
                case "stage":
                    assert set(visible) == {"a"}
                    rig.control(esp).publish("b", 3)
                    assert choose(esp).loadable  # type: ignore[union-attr]
                    assert whole(rig, esp, 3)
                case "publish":
                    assert visible["b"] == (3, EntryState.TRIAL)
                    assert counter == 3
                case "confirm":
                    assert visible["b"] == (3, EntryState.GOOD)
                    assert counter == 3
                case "condemn":
                    assert visible["b"] == (3, EntryState.BAD)
                    assert counter == 2


def recover(rig: EspRig, esp: Path, step: str) -> None:
    """What the device does next, whatever the medium holds; nothing shared is unlinked."""
    control = rig.control(RecordingEsp(esp))
    if step == "condemn":
        if any(entry.slot == "b" for entry in control.entries()):
            control.condemn("b", 3)
        assert choose(esp) is not None
        assert "0002a" in choose(esp).entry.id  # type: ignore[union-attr]
        return
    if step == "confirm" and any(entry.slot == "b" for entry in control.entries()):
        control.confirm("b", 3)
        entries = [entry for entry in control.entries() if entry.slot == "b"]
        assert [entry.state for entry in entries] == [EntryState.GOOD]
        return
    if step == "retire":
        control.retire("b")
    rig_running_a = SystemdBoot(
        RecordingEsp(esp), cmdline=rig.folder / "none", selected=rig.folder / "none"
    )
    rig_running_a.stage("b", 3, rig.boot_files(3))
    rig_running_a.publish("b", 3)
    choice = boot(esp)
    assert choice is not None
    assert "0003b" in choice.entry.id
    assert choice.loadable
    assert whole(rig, esp, 3)


@pytest.mark.parametrize("step", STEPS)
def test_fault_at_every_operation(tmp_path: Path, rig: EspRig, step: str) -> None:
    """An operation that fails once: DeviceFault, the device boots, the step then completes."""
    for number in range(100):
        case = EspRig(tmp_path / f"case-{number}", rig.kind)
        prepare(case, step)

        def fail(index: int, number: int = number) -> None:
            if index == number:
                raise DeviceFault("the medium said no")

        try:
            STEPS[step][0](case.control(RecordingEsp(case.esp, fail)), case)
        except DeviceFault:
            choice = choose(case.esp)
            assert choice is not None
            assert choice.loadable
            STEPS[step][0](case.control(), case)
        else:
            assert number > 0
            return
    pytest.fail("the step does not end")


# --- doubles


@pytest.mark.parametrize("left", [2, 0])
def test_confirm_with_both_names_leaves_one_good_entry(rig: EspRig, left: int) -> None:
    install_good(rig, "a", 1)
    install(rig, "b", 2)
    rig.boot()
    folder = rig.esp / ("EFI/Linux" if rig.kind is Suffix.UKI else "loader/entries")
    counted = folder / f"0002b+2-1{rig.kind}"
    counted = counted.rename(folder / f"0002b+{left}-1{rig.kind}")
    (folder / f"0002b{rig.kind}").hardlink_to(counted)
    rig.control(RecordingEsp(rig.esp)).confirm("b", 2)
    assert states(rig)["b"] == (2, EntryState.GOOD, None)
    assert len(rig.control().entries()) == 2
    assert rig.boot() == Booted("b", 2, root_of(2))


def test_confirm_prefers_the_double_that_booted(rig: EspRig) -> None:
    install_good(rig, "a", 1)
    install(rig, "b", 2)
    rig.boot()
    folder = rig.esp / ("EFI/Linux" if rig.kind is Suffix.UKI else "loader/entries")
    (folder / f"0002b{rig.kind}").write_bytes(b"torn")
    rig.control().confirm("b", 2)
    assert states(rig)["b"] == (2, EntryState.GOOD, None)
    assert rig.boot() == Booted("b", 2, root_of(2))


def test_two_counted_names_count_as_the_later_one(rig: EspRig) -> None:
    install_good(rig, "a", 1)
    install(rig, "b", 2)
    folder = rig.esp / ("EFI/Linux" if rig.kind is Suffix.UKI else "loader/entries")
    (folder / f"0002b+2-1{rig.kind}").hardlink_to(folder / f"0002b+3-0{rig.kind}")
    rig.control(RecordingEsp(rig.esp)).condemn("b", 2)
    assert states(rig)["b"] == (2, EntryState.BAD, 0)
    assert rig.boot() == Booted("a", 1, root_of(1))


@pytest.mark.parametrize("name", ["0002b+3-0", "0002b"])
def test_an_empty_file_is_no_entry_and_is_replaced(rig: EspRig, name: str) -> None:
    """What a power cut leaves of a rename on vfat; boot loaders do not list it."""
    install_good(rig, "a", 1)
    folder = rig.esp / ("EFI/Linux" if rig.kind is Suffix.UKI else "loader/entries")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}{rig.kind}").touch()
    control = rig.control()
    assert [entry.slot for entry in control.entries()] == ["a"]
    control.check("b", 0)
    control.stage("b", 2, rig.boot_files(2))
    control.publish("b", 2)
    assert rig.boot() == Booted("b", 2, root_of(2))
    rig.control().confirm("b", 2)
    assert states(rig)["b"] == (2, EntryState.GOOD, None)
    assert [path for path in folder.iterdir() if not path.stat().st_size] == []


@pytest.mark.parametrize("alias", ["0002B_~1.EFI", "0002b_~3.efi", "0002B.EFI", "001A2F~1.EFI"])
def test_an_alias_gets_its_name_back_and_its_trial_ends(tmp_path: Path, alias: str) -> None:
    """What a cut leaves of a name in two sectors: listed without tries, and so for ever."""
    rig = EspRig(tmp_path, Suffix.UKI)
    install_good(rig, "a", 1)
    install(rig, "b", 2)
    folder = rig.esp / "EFI/Linux"
    (folder / "0002b+3-0.efi").rename(folder / alias)
    (folder / "0002B_~9.EFI").write_bytes(b"another file's alias")
    rig.boot()
    rig.control().reclaim("b", 2, rig.boot_files(2))
    assert states(rig)["b"] == (2, EntryState.TRIAL, 1)
    assert rig.control().booted() == Booted("b", 2, root_of(2))
    assert (folder / "0002B_~9.EFI").exists()
    assert rig.boot() == Booted("b", 2, root_of(2))
    assert rig.boot() == Booted("a", 1, root_of(1))


def test_an_alias_beside_its_entry_is_hidden_not_unlinked(tmp_path: Path) -> None:
    rig = EspRig(tmp_path, Suffix.UKI)
    install_good(rig, "a", 1)
    install(rig, "b", 2)
    folder = rig.esp / "EFI/Linux"
    (folder / "0002B_~1.EFI").hardlink_to(folder / "0002b+3-0.efi")
    rig.control(RecordingEsp(rig.esp)).reclaim("b", 2, rig.boot_files(2))
    assert states(rig)["b"] == (2, EntryState.TRIAL, 3)
    assert sorted(path.name for path in folder.glob("*2b*")) == [".0002b.old0", "0002b+3-0.efi"]


# --- refusals and preflight


@pytest.mark.parametrize("key", ["default", "preferred"])
def test_loader_conf_with_a_default_is_refused(rig: EspRig, key: str) -> None:
    install_good(rig, "a", 1)
    (rig.esp / "loader").mkdir(exist_ok=True)
    (rig.esp / "loader/loader.conf").write_text(f"timeout 3\n{key} 0001a*\n")
    with pytest.raises(DeviceFault, match=rf"{key} entry.*{key} 0001a\*") as caught:
        rig.control().check("b", 0)
    assert "Remove the line" in str(caught.value)


@pytest.mark.parametrize(
    "variable", ["LoaderEntryDefault", "LoaderEntryPreferred", "LoaderEntryOneShot"]
)
def test_an_efi_variable_that_goes_first_is_refused(rig: EspRig, variable: str) -> None:
    install_good(rig, "a", 1)
    path = rig.folder / f"{variable}-{LOADER_VENDOR}"
    path.write_bytes(dump_loader_string("0001a.efi"))
    with pytest.raises(DeviceFault, match=variable):
        rig.control().check("b", 0)
    path.write_bytes(dump_loader_string(""))
    rig.control().check("b", 0)


@pytest.mark.parametrize("bits, fault", [(0x6F, True), (0x7F, False)])
def test_a_boot_loader_that_does_not_count_is_refused(rig: EspRig, bits: int, fault: bool) -> None:
    path = rig.folder / f"LoaderFeatures-{LOADER_VENDOR}"
    path.write_bytes(b"\x06\0\0\0" + bits.to_bytes(8, "little"))
    if fault:
        with pytest.raises(DeviceFault, match="does not count tries"):
            rig.control().check("b", 0)
    else:
        rig.control().check("b", 0)


def test_a_start_that_left_the_name_alone_is_seen(rig: EspRig) -> None:
    install_good(rig, "a", 1)
    install(rig, "b", 2)
    rig.boot()
    folder = rig.esp / ("EFI/Linux" if rig.kind is Suffix.UKI else "loader/entries")
    (folder / f"0002b+2-1{rig.kind}").rename(folder / f"0002b+3-0{rig.kind}")
    assert rig.control().counted().moved is False
    rig.control().condemn("b", 2)  # a rename of ours is no count
    assert rig.control().counted().moved is None


def test_boot_loader_and_firmware_say_who_they_are(rig: EspRig) -> None:
    assert rig.control().counted().loader == ""
    for variable, value in (
        ("LoaderInfo", "systemd-boot 252.39"),
        ("LoaderFirmwareInfo", "UEFI 2.70 (EDK II 1.00)"),
    ):
        path = rig.folder / f"{variable}-{LOADER_VENDOR}"
        path.write_bytes(dump_loader_string(value))
    assert rig.control().counted().loader == "systemd-boot 252.39; UEFI 2.70 (EDK II 1.00)"


def test_a_running_release_without_entry_is_refused(rig: EspRig) -> None:
    install_good(rig, "a", 1)
    for path in [*rig.esp.rglob("0001a.efi"), *rig.esp.rglob("0001a.conf")]:
        path.unlink()
    with pytest.raises(DeviceFault, match="no boot entry"):
        rig.control().check("b", 0)


def test_a_running_release_that_is_cut_off_is_refused(rig: EspRig) -> None:
    """The other slot's entry, which an update removes first, is the only one that boots."""
    install_good(rig, "a", 1)
    install_good(rig, "b", 2)
    rig.boot()
    [path] = [*rig.esp.rglob("0002b.efi"), *rig.esp.rglob("0002b/linux")]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 if rig.kind is Suffix.UKI else 0])
    with pytest.raises(DeviceFault, match=r"entry is damaged.*files/b"):
        rig.control().check("a", 0)


def test_a_missing_partition_says_so(tmp_path: Path) -> None:
    control = SystemdBoot(tmp_path / "efi", cmdline=tmp_path / "cmdline")
    with pytest.raises(DeviceFault, match=r"no boot partition.*Mount it"):
        control.check("b", 0)


def test_an_empty_mount_point_is_no_partition(tmp_path: Path) -> None:
    (tmp_path / "efi").mkdir()
    control = SystemdBoot(tmp_path / "efi", cmdline=tmp_path / "cmdline")
    with pytest.raises(
        DeviceFault, match=r"not mounted here.*got an empty folder.*bootctl install"
    ):
        control.check("b", 0)


def test_a_full_partition_says_how_much_is_missing(rig: EspRig) -> None:
    class FullEsp(Esp):
        def free_bytes(self) -> int:
            return 1000

    with pytest.raises(
        DeviceFault, match=r"too small for this release.*expected 1048676.*got 1000"
    ):
        rig.control(FullEsp(rig.esp)).check("b", 100)
    with pytest.raises(DeviceFault, match=r"too small for this release.*got 1000"):
        rig.control(FullEsp(rig.esp)).stage("a", 1, rig.boot_files(1))
    assert [path for path in rig.esp.rglob("*") if path.is_file()] == []


def test_a_copy_that_was_cut_does_not_need_its_room_twice(rig: EspRig) -> None:
    """A lost entry is put back without a retire before it."""
    files = rig.boot_files(1)
    rig.control().stage("a", 1, files)
    for path in rig.esp.rglob("*"):
        if path.is_file():
            path.write_bytes(bytes(path.stat().st_size))
    rig.leave_room(0)
    rig.control().stage("a", 1, files)


def test_a_slot_is_booted_by_its_root_hash_too(rig: EspRig) -> None:
    """No EFI variables: the entry whose command line has the running root hash is the booted one."""
    install_good(rig, "a", 1)
    install_good(rig, "b", 2)
    rig.selected.unlink()
    assert rig.control().booted() == Booted("b", 2, root_of(2))
    with pytest.raises(DeviceFault, match="running release"):
        rig.control().retire("b")


def test_releases_that_share_a_root_hash_do_not_block_each_other(tmp_path: Path) -> None:
    """Only the kernel changed: both entries carry the running root hash, and the loader's word counts."""
    rig = EspRig(tmp_path, Suffix.CONF)
    shared = f"roothash={root_of(1)}"
    for slot, counter in (("a", 1), ("b", 2), ("a", 3), ("b", 4)):
        control, files = rig.control(), rig.boot_files(counter)
        control.retire(slot)
        control.stage(slot, counter, replace(files, options=shared))
        control.publish(slot, counter)
        assert rig.boot() == Booted(slot, counter, root_of(1))
        rig.control().confirm(slot, counter)


def test_a_boot_loader_whose_word_does_not_fit_the_root_hash_protects_both(rig: EspRig) -> None:
    install_good(rig, "a", 1)
    install_good(rig, "b", 2)
    rig.cmdline.write_text(f"roothash={root_of(1)}")  # and LoaderEntrySelected says b
    for slot in "ab":
        with pytest.raises(DeviceFault, match="running release"):
            rig.control().retire(slot)


def test_a_boot_loader_that_speaks_of_a_foreign_entry(rig: EspRig) -> None:
    rig.selected.write_bytes(dump_loader_string("gateway-factory.efi"))
    rig.cmdline.write_text(f"root=/dev/sda2 roothash={root_of(7)}")
    assert rig.control().booted() == Booted(None, None, root_of(7))


def test_a_damaged_efi_variable_is_a_fault(rig: EspRig) -> None:
    rig.selected.write_bytes(b"\x06\0\0\0\x00\xd8\x00\xd8")
    with pytest.raises(DeviceFault, match="LoaderEntrySelected"):
        rig.control().booted()


def test_a_release_that_would_not_be_chosen_is_refused(rig: EspRig) -> None:
    install_good(rig, "b", 5)
    with pytest.raises(Rejected, match="sorts behind"):
        rig.control().stage("a", 4, rig.boot_files(4))
    assert rig.boot() == Booted("b", 5, root_of(5))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"MZ no image", id="junk"),
        pytest.param(b"", id="empty"),
        pytest.param(make_uki("3")[:-1], id="cut"),
        pytest.param(make_uki("3", osrel="FOO=1"), id="no name"),
    ],
)
def test_a_uki_that_does_not_start_is_refused(tmp_path: Path, data: bytes) -> None:
    rig = EspRig(tmp_path / "rig", Suffix.UKI)
    install_good(rig, "a", 1)
    source = tmp_path / "bad.efi"
    source.write_bytes(data)
    with pytest.raises(Rejected, match="not one that systemd-boot starts"):
        rig.control().stage("b", 2, BootFiles("t", "2", "", {Place.UKI: source}))
    assert rig.boot() == Booted("a", 1, root_of(1))


def test_a_line_break_in_an_option_is_refused(tmp_path: Path) -> None:
    rig = EspRig(tmp_path, Suffix.CONF)
    files = rig.boot_files(1)
    bad = BootFiles(files.title, files.version, "quiet\nefi /evil.efi", files.files)
    with pytest.raises(FormatError, match="options"):
        rig.control().stage("a", 1, bad)


def test_files_that_make_no_entry_are_refused(tmp_path: Path) -> None:
    rig = EspRig(tmp_path, Suffix.CONF)
    with pytest.raises(FormatError, match="make no boot entry"):
        rig.control().stage("a", 1, BootFiles("t", "1", "", {}))


def test_bytes_that_read_back_differently_are_a_fault(rig: EspRig) -> None:
    class LyingEsp(Esp):
        def sync_file(self, path: Path) -> None:
            super().sync_file(path)
            path.write_bytes(path.read_bytes()[:-1] + b"\xff")

    install_good(rig, "a", 1)
    with pytest.raises(DeviceFault, match="reads back differently"):
        rig.control(LyingEsp(rig.esp)).stage("b", 2, rig.boot_files(2))
    with pytest.raises(DeviceFault):
        # What was refused is not published by mistake: staging again finds and repairs it.
        rig.control(LyingEsp(rig.esp)).stage("b", 2, rig.boot_files(2))
    rig.control().stage("b", 2, rig.boot_files(2))
    rig.control().publish("b", 2)
    assert rig.boot() == Booted("b", 2, root_of(2))


def test_bytes_that_already_stand_are_not_written_again(rig: EspRig) -> None:
    install_good(rig, "a", 1)
    rig.control().stage("b", 2, rig.boot_files(2))
    recorder = RecordingEsp(rig.esp)
    rig.control(recorder).stage("b", 2, rig.boot_files(2))
    copied = [path for kind, path, _ in recorder.log if kind == "write" and "slipstream/" in path]
    copied += [path for kind, path, _ in recorder.log if kind == "write" and "EFI/" in path]
    assert copied == []


def test_an_oserror_becomes_a_fault_with_the_mend(tmp_path: Path) -> None:
    esp = tmp_path / "esp"
    esp.mkdir()
    (esp / "EFI").write_text("a file where a folder should be")
    control = SystemdBoot(esp, cmdline=tmp_path / "cmdline")
    source = tmp_path / "uki"
    source.write_bytes(make_uki("1"))
    with pytest.raises(DeviceFault, match=r"EFI") as caught:
        control.stage("a", 1, BootFiles("t", "1", "", {Place.UKI: source}))
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.hint


def test_names_never_grow_beyond_two_fat_slots(rig: EspRig) -> None:
    install_good(rig, "a", 1)
    install(rig, "b", 2)
    names = [path.name for path in rig.esp.rglob("000*")]
    assert all(len(name) <= 14 for name in names), names


def test_tries_are_bounded(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tries"):
        SystemdBoot(tmp_path, cmdline=tmp_path / "cmdline", tries=10)


def test_digest_is_not_guessed_from_a_short_root_hash(rig: EspRig) -> None:
    rig.cmdline.write_text("roothash=abcd")
    assert rig.control().booted().root is None
    rig.cmdline.write_text(f'x="a b" usrhash={Digest.of(b"x")} quiet')
    assert rig.control().booted().root == Digest.of(b"x")
