"""by_hand.py: what an operator may do to a trial, and what is refused."""

import asyncio

import pytest

from slipstream.delta.errors import DeviceFault, NothingToDo, Rejected
from slipstream.installer import by_hand
from slipstream.installer.boot.systemd_boot import SystemdBoot
from slipstream.installer.findings import NEVER_REACHED
from slipstream.installer.ports import EntryState
from slipstream.installer.states import Refused
from slipstream.installer.verdict import Verdict
from tests.installer.lab import Killed
from tests.installer.test_trial import DOWN, Rig, rig, template

__all__ = ["rig", "template"]  # fixtures


def test_confirm_by_hand_skips_the_health_checks(rig: Rig) -> None:
    rig.release(2, floor=2)
    rig.install()
    rig.boot()
    rig.well.unlink()
    assert asyncio.run(by_hand.confirm(rig.device())).verdict is Verdict.CONFIRMED
    assert rig.entry("b") == (EntryState.GOOD, None)
    assert rig.device().floors.read() == 2
    with pytest.raises(NothingToDo):
        asyncio.run(by_hand.confirm(rig.device()))


def test_confirm_before_the_reboot_has_nothing_to_confirm(rig: Rig) -> None:
    rig.release(2)
    rig.install()
    with pytest.raises(NothingToDo):
        asyncio.run(by_hand.confirm(rig.device()))


def test_confirm_after_a_fall_back_has_nothing_to_confirm(rig: Rig) -> None:
    rig.release(2)
    rig.install()
    for _ in range(4):
        rig.boot()
    with pytest.raises(NothingToDo, match=r"release 2\.0 does not run.*without --force"):
        asyncio.run(by_hand.confirm(rig.device()))


def test_confirm_of_a_condemned_release_is_refused(rig: Rig) -> None:
    rig.release(2)
    rig.install()
    rig.boot()
    rig.well.unlink()
    rig.settle()
    with pytest.raises(Refused, match="found bad"):
        asyncio.run(by_hand.confirm(rig.device()))


@pytest.mark.parametrize("settled", [True, False], ids=["confirmed", "on trial"])
def test_rollback_goes_back_and_denies(rig: Rig, settled: bool) -> None:
    rig.release(2)
    rig.install()
    rig.boot()
    if settled:
        rig.settle()
    outcome = asyncio.run(by_hand.rollback(rig.device()))
    assert outcome.reboot_wanted
    assert asyncio.run(by_hand.rollback(rig.device())).reboot_wanted
    assert rig.boot() == "a"
    assert rig.settle().verdict is Verdict.FELL_BACK
    assert rig.denied() == [("2.0", by_hand.ROLLED_BACK)]
    with pytest.raises((NothingToDo, Rejected)):
        rig.install()


def test_rollback_before_the_reboot_takes_the_update_back(rig: Rig) -> None:
    rig.release(2)
    rig.install()
    assert asyncio.run(by_hand.rollback(rig.device())).verdict is Verdict.FELL_BACK
    assert rig.boot() == "a"
    assert rig.denied() == [("2.0", by_hand.ROLLED_BACK)]


def test_rollback_of_a_lost_entry_gives_the_release_up(rig: Rig) -> None:
    rig.release(2)
    rig.install()
    rig.lose_entry("b")
    assert asyncio.run(by_hand.rollback(rig.device())).verdict is Verdict.FELL_BACK
    assert rig.settle().verdict is Verdict.NOTHING
    assert rig.denied() == [("2.0", by_hand.ROLLED_BACK)]


@pytest.mark.parametrize("settled", [True, False], ids=["condemned", "tries ran out"])
def test_rollback_after_a_fall_back_keeps_the_reason(rig: Rig, settled: bool) -> None:
    rig.release(2)
    rig.install()
    rig.well.unlink()
    for _ in range(1 if settled else 3):
        rig.boot()
    if settled:
        rig.settle()
    assert rig.boot() == "a"
    outcome = asyncio.run(by_hand.rollback(rig.device()))
    reason = DOWN if settled else NEVER_REACHED
    assert (outcome.verdict, outcome.reason) == (Verdict.FELL_BACK, reason)
    assert not outcome.reboot_wanted
    assert rig.entry("a") == (EntryState.GOOD, None)


def test_rollback_is_refused_while_an_install_is_under_way(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.release(2)

    def cut(*_: object) -> None:
        raise Killed

    for verb in ("retire", "stage", "publish"):
        with monkeypatch.context() as patch:
            patch.setattr(SystemdBoot, verb, cut)
            with pytest.raises(Killed):
                rig.install()
        with pytest.raises(Refused, match="under way"):
            asyncio.run(by_hand.rollback(rig.device()))
        assert rig.denied() == []


def test_rollback_without_another_good_release_is_refused(rig: Rig) -> None:
    with pytest.raises(DeviceFault, match="no other good release"):
        asyncio.run(by_hand.rollback(rig.device()))
    assert rig.entry("a") == (EntryState.GOOD, None)
