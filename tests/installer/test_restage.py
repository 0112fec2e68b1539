"""restage.py: a boot entry that was lost is put back, once."""

import shutil
from pathlib import Path

import pytest

from slipstream.delta.limits import REBOOTS_ALL_MAX
from slipstream.installer.boot.esp import Esp
from slipstream.installer.findings import LOST_TWICE, LOST_WHILE_IT_RAN
from slipstream.installer.ports import EntryState
from slipstream.installer.reboots import note_reboot
from slipstream.installer.states import Condemn, Idle
from slipstream.installer.verdict import Verdict
from tests.installer.boot.uki import make_uki
from tests.installer.lab import change
from tests.installer.test_trial import DOWN, IMAGE, Rig, rig, template

__all__ = ["rig", "template"]  # fixtures


def test_a_lost_entry_is_put_back_once(rig: Rig) -> None:
    rig.release(2)
    rig.install()
    rig.lose_entry("b")
    assert rig.boot() == "a"
    assert rig.settle().verdict is Verdict.REBOOT
    assert rig.entry("b") == (EntryState.TRIAL, 3)
    assert rig.boot() == "b"
    assert rig.settle().verdict is Verdict.CONFIRMED
    assert rig.denied() == []


def test_an_entry_that_is_lost_twice_is_given_up(rig: Rig) -> None:
    rig.release(2)
    rig.install()
    rig.lose_entry("b")
    rig.boot()
    rig.settle()
    rig.lose_entry("b")
    assert rig.boot() == "a"
    outcome = rig.settle()
    assert (outcome.verdict, outcome.reason) == (Verdict.FELL_BACK, LOST_TWICE)


def test_a_lost_entry_whose_manifest_is_lost_too_is_not_put_back(rig: Rig) -> None:
    rig.release(2)
    rig.install()
    rig.lose_entry("b")
    for path in (rig.folder / "state/manifests").iterdir():
        path.unlink()
    rig.boot()
    assert rig.settle().verdict is Verdict.NOTHING
    assert rig.reports()[-1][0] == "failed"
    assert isinstance(rig.device().journal.state, Idle)


@pytest.mark.parametrize("lost", ["boot files", "a byte of them", "room"])
def test_an_entry_that_cannot_be_put_back_does_not_hold_the_device(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    rig.release(2)
    rig.install()
    rig.boot()
    rig.lose_entry("b")
    assert rig.boot() == "a"
    if lost == "boot files":
        (rig.folder / "state/files/b/kernel").unlink()
    elif lost == "a byte of them":
        path = rig.folder / "state/files/b/kernel"
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    else:
        shutil.rmtree(rig.folder / "esp/slipstream/0002b")
        monkeypatch.setattr(Esp, "free_bytes", lambda _: 1000)
    outcome = rig.settle()
    assert outcome.verdict is Verdict.NOTHING
    assert "could not be put back" in outcome.reason
    assert rig.reports()[-1][0] == "failed"
    assert rig.denied() == []  # its bytes are good: it may be installed again
    monkeypatch.undo()
    rig.install()
    assert rig.boot() == "b"
    assert rig.settle().verdict is Verdict.CONFIRMED


def test_an_entry_that_goes_while_its_release_runs(rig: Rig) -> None:
    rig.release(2)
    rig.install()
    rig.boot()
    rig.lose_entry("b")
    assert rig.settle().verdict is Verdict.REBOOT
    assert rig.boot() == "a"
    assert rig.settle().verdict is Verdict.REBOOT
    assert rig.boot() == "b"
    assert rig.settle().verdict is Verdict.CONFIRMED


def torn_to_its_alias(rig: Rig) -> Path:
    """Release 2, a UKI in slot b, of whose name a cut left the alias: no tries are counted."""
    image = change(IMAGE, 4096 * 400)
    uki = make_uki("2.0", cmdline=f"roothash={rig.lab.root_of(image)}")
    rig.lab.publish("2.0", 2, image, uki=uki)
    rig.install()
    folder = rig.folder / "esp/EFI/Linux"
    return (folder / "0002b+3-0.efi").rename(folder / "0002B_~1.EFI")


def test_a_trial_goes_on_of_whose_entry_only_the_alias_is_left(rig: Rig) -> None:
    torn_to_its_alias(rig)
    assert rig.boot() == "b"
    assert rig.settle().verdict is Verdict.CONFIRMED
    assert rig.entry("b") == (EntryState.GOOD, None)
    assert rig.boot() == "b"


def test_an_unhealthy_release_under_its_alias_is_left(rig: Rig) -> None:
    torn_to_its_alias(rig)
    rig.well.unlink()
    assert rig.boot() == "b"
    assert rig.settle().verdict is Verdict.CONDEMNED
    assert rig.boot() == "a"
    assert rig.settle().verdict is Verdict.FELL_BACK
    assert rig.denied() == [("2.0", DOWN)]


def test_a_name_that_is_not_told_does_not_reboot_the_device_for_ever(rig: Rig) -> None:
    torn_to_its_alias(rig)
    for kept in (rig.folder / "state/files/b").iterdir():
        kept.unlink()
    verdicts = []
    for _ in range(REBOOTS_ALL_MAX + 1):
        assert rig.boot() == "b"
        verdicts.append(rig.settle().verdict)
        note_reboot(rig.device())
    assert verdicts == [*[Verdict.REBOOT] * REBOOTS_ALL_MAX, Verdict.UNHEALTHY]
    words = f"{LOST_WHILE_IT_RAN}, and the boot loader keeps starting it"
    assert rig.reports()[-1] == ("failed", "2.0", words)
    assert rig.classes()[-1] == "device"


def test_a_condemned_release_whose_entry_is_lost_is_left_too(rig: Rig) -> None:
    torn_to_its_alias(rig)
    for kept in (rig.folder / "state/files/b").iterdir():
        kept.unlink()
    assert rig.boot() == "b"
    assert rig.settle().verdict is Verdict.REBOOT
    rig.device().journal.record(Condemn("it was given up"))
    assert rig.settle().verdict is Verdict.REBOOT
