"""deadline.py: a reset at the deadline has to lead somewhere."""

from pathlib import Path

from slipstream.installer.deadline import NOT_IN_TIME, PROVED, why_to_stay
from tests.installer.boot.uki import make_uki
from tests.installer.test_trial import Rig, rig, template

__all__ = ["rig", "template"]  # fixtures


def first_release(folder: Path) -> Rig:
    rig = Rig(folder, first=False)
    rig.release(1)
    rig.install()
    return rig


def test_the_first_release_is_not_reset_for_ever(tmp_path: Path) -> None:
    """It hangs before its health is asked; nothing else is on the boot partition."""
    rig = first_release(tmp_path)
    for _ in range(5):  # past its tries
        rig.boot()
        assert why_to_stay(rig.device()) == f"release 1.0: {NOT_IN_TIME}"
    assert rig.reports()[-1] == ("failed", "1.0", NOT_IN_TIME)
    assert rig.classes()[-1] == "boot"


def test_a_release_with_another_behind_it_is_reset(rig: Rig) -> None:
    rig.release(2)
    rig.install()
    rig.boot()
    before = rig.reports()
    assert why_to_stay(rig.device()) is None
    assert rig.reports() == before


def test_a_system_of_somebody_else_is_something_to_fall_back_to(tmp_path: Path) -> None:
    rig = first_release(tmp_path)
    other = tmp_path / "esp/EFI/Linux/factory.efi"
    other.parent.mkdir(exist_ok=True)
    other.write_bytes(make_uki("0", image_id="zz-factory"))
    assert rig.boot() == "a"
    assert why_to_stay(rig.device()) is None
    other.write_bytes(other.read_bytes()[:600])  # it would not start
    assert why_to_stay(rig.device()) is not None


def test_a_release_without_a_record_stays_as_well(tmp_path: Path) -> None:
    rig = first_release(tmp_path)
    rig.boot()
    (tmp_path / "state/slots.json").unlink()
    assert why_to_stay(rig.device()) == f"counter 1: {NOT_IN_TIME}"


def test_a_release_whose_entry_is_lost_is_not_reset_into_nothing(tmp_path: Path) -> None:
    """S11: the firmware lost the only entry that there was."""
    rig = first_release(tmp_path)
    rig.boot()
    rig.lose_entry("a")
    assert why_to_stay(rig.device()) == f"release 1.0: {NOT_IN_TIME}"
    (tmp_path / "state/slots.json").unlink()
    assert why_to_stay(rig.device()) == f"counter 1: {NOT_IN_TIME}"


def test_a_release_whose_entry_is_lost_is_reset_to_the_one_that_puts_it_back(rig: Rig) -> None:
    rig.release(2)
    rig.install()
    rig.boot()
    rig.lose_entry("b")
    assert why_to_stay(rig.device()) is None


def test_a_release_that_was_confirmed_is_not_reset(rig: Rig) -> None:
    assert why_to_stay(rig.device()) == f"counter 1: {PROVED}"
