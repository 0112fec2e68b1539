"""Trials on the systemd-boot adapter: confirmed, fallen back, lost, cut at every operation."""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from slipstream.delta.digest import Digest
from slipstream.delta.errors import Busy, DeviceFault, NothingToDo, Rejected
from slipstream.delta.limits import REBOOTS_MAX
from slipstream.installer import trial, verdict
from slipstream.installer.boot import chooser
from slipstream.installer.device import Device
from slipstream.installer.findings import (
    LOST_WHILE_IT_RAN,
    NEVER_FINISHED,
    NEVER_REACHED,
    NEVER_STARTED,
    NOTHING_ELSE,
)
from slipstream.installer.ports import EntryState
from slipstream.installer.reboots import note_reboot
from slipstream.installer.slots import Slots
from slipstream.installer.states import Condemned, Idle, Outcome, Trial
from slipstream.installer.verdict import Verdict
from tests.installer.boot.uki import make_uki
from tests.installer.lab import Killed, Lab, LabFetcher, change, make_image

HEALTH = """
[[health]]
name = "app"
command = ["sh", "-c", "test -e {well} || { echo app is down; exit 1; }"]
"""
IMAGE = make_image(1)


class Rig:
    """A lab on the real adapter. Release 1 runs from slot a and is confirmed."""

    def __init__(self, folder: Path, *, first: bool = True) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.well = folder / "well"
        self.well.touch()
        settings = HEALTH.replace("{well}", str(self.well))
        self.lab = Lab(folder, real_boot=True, settings=settings)
        self.boot_root: Digest | None = None
        if first:
            self.release(1)
            self.install()
            self.boot()
            assert self.settle().verdict is Verdict.CONFIRMED
            self.clear_reports()

    def release(self, counter: int, floor: int = 0) -> None:
        image = change(IMAGE, 4096 * 200 * (counter % 3))
        self.lab.publish(f"{counter}.0", counter, image, floor=floor)

    def device(self) -> Device:
        return self.lab.device()

    def install(self) -> None:
        asyncio.run(self.lab.install())

    def boot(self) -> str:
        """Restart; the slot that was started."""
        self.lab.boots += 1
        choice = chooser.boot(self.folder / "esp")
        assert choice is not None
        assert choice.loadable
        (self.folder / "cmdline").write_text(choice.cmdline)
        (self.folder / "selected").write_text(choice.entry.id)
        return choice.entry.id[4]

    def settle(self) -> verdict.Outcome:
        return asyncio.run(trial.settle(self.device()))

    def entry(self, slot: str) -> tuple[EntryState, int | None] | None:
        for one in self.device().boot.entries():
            if one.slot == slot:
                return one.state, one.tries_left
        return None

    def reports(self) -> list[tuple[str, str, str]]:
        return [(one.kind, one.release, one.reason) for one in self.device().slots.reports()]

    def classes(self) -> list[object]:
        """Of the failures among the reports."""
        reports = self.device().slots.reports()
        kinds = ("failed", "fell_back")
        return [one.details.get("class") for one in reports if one.kind in kinds]

    def clear_reports(self) -> None:
        device = self.device()
        for one in device.slots.reports():
            device.slots.delivered(one.key)

    def denied(self) -> list[tuple[str, str]]:
        return [(one.release, one.reason) for one in self.device().slots.denied()]

    def lose_entry(self, slot: str) -> None:
        for path in (self.folder / "esp/loader/entries").glob(f"????{slot}*"):
            path.unlink()

    def lose_journal(self) -> None:
        (self.folder / "state/tx.json").unlink()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Rig:
    return Rig(tmp_path_factory.mktemp("template") / "device")


@pytest.fixture
def rig(template: Rig, tmp_path: Path) -> Rig:
    return copy_of(template, tmp_path / "device")


DOWN = "health check app exited with 1: app is down"


# --- the ways a trial goes


def test_nothing_to_settle(rig: Rig) -> None:
    assert rig.settle().verdict is Verdict.NOTHING
    assert rig.reports() == []


def test_a_healthy_release_is_confirmed_then_the_floor_rises(rig: Rig) -> None:
    rig.release(2, floor=2)
    rig.install()
    assert rig.device().floors.read() == 0
    assert rig.boot() == "b"
    outcome = rig.settle()
    assert (outcome.verdict, outcome.release) == (Verdict.CONFIRMED, "2.0")
    assert [one.passed for one in outcome.health] == [True]
    assert rig.entry("b") == (EntryState.GOOD, None)
    assert rig.device().floors.read() == 2
    assert rig.reports() == [("installed", "2.0", ""), ("confirmed", "2.0", "")]
    report = rig.device().slots.reports()[1]
    assert report.booted_root == rig.lab.releases["2.0"].images["rootfs"].tree.tuple.root.hex
    state = rig.device().journal.state
    assert isinstance(state, Idle)
    assert state.last is not None
    assert state.last.outcome is Outcome.CONFIRMED
    assert rig.settle().verdict is Verdict.NOTHING
    assert [rig.boot() for _ in range(4)] == ["b"] * 4


def test_an_unhealthy_release_is_condemned_and_left(rig: Rig) -> None:
    rig.release(2, floor=2)
    rig.install()
    rig.boot()
    rig.well.unlink()
    outcome = rig.settle()
    assert (outcome.verdict, outcome.reason) == (Verdict.CONDEMNED, DOWN)
    assert outcome.reboot_wanted
    assert rig.entry("b") == (EntryState.BAD, 0)
    assert isinstance(rig.device().journal.state, Condemned)
    # The reboot does not come: the same verdict again, and no second health check.
    rig.well.touch()
    assert rig.settle().verdict is Verdict.CONDEMNED

    assert rig.boot() == "a"
    outcome = rig.settle()
    assert (outcome.verdict, outcome.reason) == (Verdict.FELL_BACK, DOWN)
    assert rig.denied() == [("2.0", DOWN)]
    assert rig.reports()[-1] == ("fell_back", "2.0", DOWN)
    assert rig.classes() == ["boot"]
    assert rig.device().floors.read() == 0
    assert rig.settle().verdict is Verdict.NOTHING
    assert rig.boot() == "a"


def test_a_release_that_fell_back_is_not_taken_again_but_a_newer_one_is(rig: Rig) -> None:
    rig.release(2)
    rig.install()
    rig.boot()
    rig.well.unlink()
    rig.settle()
    rig.boot()
    rig.settle()
    with pytest.raises((NothingToDo, Rejected)):
        rig.install()
    rig.release(3)
    rig.install()
    rig.well.touch()
    assert rig.boot() == "b"
    assert rig.settle().verdict is Verdict.CONFIRMED


def test_a_release_that_never_comes_up(rig: Rig) -> None:
    rig.release(2)
    rig.install()
    assert [rig.boot() for _ in range(4)] == ["b", "b", "b", "a"]
    outcome = rig.settle()
    assert (outcome.verdict, outcome.reason) == (Verdict.FELL_BACK, NEVER_REACHED)
    assert rig.denied() == [("2.0", NEVER_REACHED)]


def test_a_release_that_hangs_in_its_health_check(rig: Rig) -> None:
    rig.release(2)
    rig.install()
    for _ in range(3):
        rig.boot()
        device = rig.device()

        async def hang(device: Device = device) -> None:
            # The watchdog resets the machine while the command runs.
            task = asyncio.create_task(trial.settle(device))
            while not isinstance(device.journal.state, Trial):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        asyncio.run(hang())
    assert rig.boot() == "a"
    outcome = rig.settle()
    assert (outcome.verdict, outcome.reason) == (Verdict.FELL_BACK, NEVER_FINISHED)


def test_the_last_try_still_counts(rig: Rig) -> None:
    rig.release(2)
    rig.install()
    assert [rig.boot() for _ in range(3)] == ["b", "b", "b"]
    assert rig.entry("b") == (EntryState.BAD, 0)
    assert rig.settle().verdict is Verdict.CONFIRMED
    assert rig.boot() == "b"


def test_a_cut_before_the_report_of_the_install_loses_no_report(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: object) -> None:
        raise Killed

    rig.release(2)
    with monkeypatch.context() as patch:
        patch.setattr(Slots, "report", cut)
        with pytest.raises(Killed):
            rig.install()
    assert rig.settle().verdict is Verdict.REBOOT
    assert rig.reports() == [("installed", "2.0", "")]


def test_not_yet_rebooted(rig: Rig) -> None:
    rig.release(2)
    rig.install()
    assert rig.settle().verdict is Verdict.REBOOT
    assert rig.settle().reboot_wanted
    assert rig.boot() == "b"


def test_a_boot_loader_that_never_starts_the_release(rig: Rig) -> None:
    rig.release(2)
    rig.install()
    for _ in range(REBOOTS_MAX):
        assert rig.settle().verdict is Verdict.REBOOT
        note_reboot(rig.device())
        note_reboot(rig.device())  # refused, and asked for again in the same boot
        rig.lab.boots += 1  # and the old one starts
    outcome = rig.settle()
    assert (outcome.verdict, outcome.reason) == (Verdict.FELL_BACK, NEVER_STARTED)
    assert rig.boot() == "a"


def test_a_running_root_that_is_not_the_signed_one(rig: Rig) -> None:
    rig.release(2)
    rig.install()
    rig.boot()
    other = Digest.of(b"other")
    (rig.folder / "cmdline").write_text(f"roothash={other}")
    outcome = rig.settle()
    assert outcome.verdict is Verdict.CONDEMNED
    assert str(other) in outcome.reason
    rig.boot()
    assert rig.settle().verdict is Verdict.FELL_BACK
    assert rig.classes() == ["root"]


# --- the only release


def test_the_only_release_stays_and_is_asked_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path, first=False)
    rig.release(1)
    rig.install()
    rig.boot()
    rig.well.unlink()
    for _ in range(2):
        outcome = rig.settle()
        assert (outcome.verdict, outcome.reason) == (Verdict.UNHEALTHY, DOWN)
        assert not outcome.reboot_wanted
    assert rig.reports()[-1] == ("failed", "1.0", DOWN)
    assert rig.classes() == ["boot"]
    rig.well.touch()
    assert rig.settle().verdict is Verdict.CONFIRMED


def factory_system(rig: Rig) -> Path:
    """A system of somebody else on the boot partition."""
    path = rig.folder / "esp/EFI/Linux/factory.efi"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(make_uki("0", image_id="zz-factory"))
    return path


def test_a_system_of_somebody_else_is_something_to_fall_back_to(tmp_path: Path) -> None:
    """As the deadline has it (test_deadline.py)."""
    rig = Rig(tmp_path, first=False)
    rig.release(1)
    rig.install()
    factory = factory_system(rig)
    assert rig.boot() == "a"
    rig.well.unlink()
    assert rig.settle().verdict is Verdict.CONDEMNED
    assert rig.settle().verdict is Verdict.CONDEMNED
    factory.write_bytes(factory.read_bytes()[:600])  # it would not start
    assert rig.settle().verdict is Verdict.UNHEALTHY


def test_a_good_release_that_would_not_start_is_nothing_to_fall_back_to(rig: Rig) -> None:
    rig.release(2)
    rig.install()
    rig.boot()
    rig.well.unlink()
    for path in (rig.folder / "esp/slipstream/0001a").iterdir():
        path.unlink()
    assert rig.settle().verdict is Verdict.UNHEALTHY
    assert rig.entry("b") == (EntryState.TRIAL, 2)


def test_an_entry_that_is_lost_while_it_runs_with_nothing_else_to_start(tmp_path: Path) -> None:
    rig = Rig(tmp_path, first=False)
    rig.release(1)
    rig.install()
    rig.boot()
    rig.lose_entry("a")
    outcome = rig.settle()
    assert outcome.verdict is Verdict.UNHEALTHY
    assert outcome.reason == f"{LOST_WHILE_IT_RAN}, and {NOTHING_ELSE}"
    assert rig.reports()[-1] == ("failed", "1.0", outcome.reason)
    factory_system(rig)
    assert rig.settle().verdict is Verdict.REBOOT


# --- refusals


def test_settle_waits_for_an_installer(rig: Rig) -> None:
    with rig.device().lock(), pytest.raises(Busy):
        rig.settle()


def test_settle_does_not_guess_what_runs(rig: Rig) -> None:
    rig.release(2)
    rig.install()
    rig.boot()
    (rig.folder / "cmdline").unlink()
    (rig.folder / "selected").unlink()
    with pytest.raises(DeviceFault, match="cannot tell which release runs"):
        rig.settle()
    assert rig.denied() == []


def test_the_root_hash_alone_tells_what_runs(rig: Rig) -> None:
    rig.release(2)
    rig.install()
    rig.boot()
    (rig.folder / "selected").unlink()
    assert rig.settle().verdict is Verdict.CONFIRMED


# --- cut at every operation


@contextmanager
def killed_at(number: int) -> Iterator[list[int]]:
    """Die before the number-th system call that changes or syncs a file; the count so far."""
    names = ("fsync", "fdatasync", "rename", "unlink", "truncate", "mkdir", "rmdir")
    real: dict[str, Callable[..., object]] = {name: getattr(os, name) for name in names}
    count = [0]

    def hooked(name: str) -> Callable[..., object]:
        def call(*args: object, **rest: object) -> object:
            count[0] += 1
            if count[0] == number:
                raise Killed
            return real[name](*args, **rest)

        return call

    for name in names:
        setattr(os, name, hooked(name))
    try:
        yield count
    finally:
        for name in names:
            setattr(os, name, real[name])


def ends_confirmed(rig: Rig) -> None:
    assert rig.entry("b") == (EntryState.GOOD, None)
    assert rig.device().floors.read() == 2
    assert [kind for kind, *_ in rig.reports()] == ["installed", "confirmed"]
    assert rig.denied() == []
    assert rig.boot() == "b"


def ends_condemned(rig: Rig) -> None:
    assert rig.entry("b") == (EntryState.BAD, 0)
    assert rig.boot() == "a"
    rig.settle()
    assert rig.denied() == [("2.0", DOWN)]
    assert [kind for kind, *_ in rig.reports()] == ["installed", "fell_back"]


def ends_fallen_back(rig: Rig) -> None:
    assert rig.denied() == [("2.0", NEVER_REACHED)]
    assert [kind for kind, *_ in rig.reports()] == ["installed", "fell_back"]
    assert rig.boot() == "a"


def ends_restaged(rig: Rig) -> None:
    assert rig.boot() == "b"
    rig.settle()
    assert rig.entry("b") == (EntryState.GOOD, None)
    assert rig.denied() == []


CUTS: dict[str, tuple[Callable[[Rig], object], Callable[[Rig], None]]] = {
    "confirm": (lambda rig: rig.boot(), ends_confirmed),
    "condemn": (lambda rig: (rig.boot(), rig.well.unlink()), ends_condemned),
    "fall back": (lambda rig: [rig.boot() for _ in range(4)], ends_fallen_back),
    "restage": (lambda rig: (rig.lose_entry("b"), rig.boot()), ends_restaged),
}


@pytest.mark.parametrize("restart", [False, True], ids=["process", "machine"])
@pytest.mark.parametrize("case", CUTS)
def test_killed_at_every_operation(rig: Rig, tmp_path: Path, case: str, restart: bool) -> None:
    arrange, check = CUTS[case]
    template = rig
    template.release(2, floor=2)
    template.install()
    arrange(template)
    for number in range(1, 200):
        rig = copy_of(template, tmp_path / f"cut-{number}")
        with killed_at(number) as count:
            try:
                rig.settle()
            except Killed:
                pass
            else:
                assert count[0] < number
                assert number > 3
                break
        if rig.entry("b") == (EntryState.GOOD, None):
            # Once its entry is good, later ill health does not undo the confirmation.
            rig.well.unlink()
        if restart:
            rig.boot()
        rig.settle()
        check(rig)
    else:
        pytest.fail("settle does not end")


def copy_of(template: Rig, folder: Path) -> Rig:
    """The same device and repository; what happens to one does not happen to the other."""
    rig = object.__new__(Rig)
    rig.lab = template.lab.fork(folder)
    rig.lab.files = dict(template.lab.files)
    rig.lab.fetcher = LabFetcher(rig.lab.files)
    rig.lab.releases = dict(template.lab.releases)
    rig.lab._targets = dict(template.lab._targets)
    rig.lab._deltas = dict(template.lab._deltas)
    rig.folder, rig.well = folder, folder / "well"
    text = (folder / "device.toml").read_text()
    (folder / "device.toml").write_text(text.replace(str(template.well), str(rig.well)))
    return rig
