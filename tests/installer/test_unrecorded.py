"""unrecorded.py: a trial of which the journal knows nothing."""

from slipstream.installer.findings import NEVER_REACHED
from slipstream.installer.ports import EntryState
from slipstream.installer.verdict import Verdict
from tests.installer.test_trial import DOWN, Rig, factory_system, rig, template

__all__ = ["rig", "template"]  # fixtures


def test_a_trial_without_journal_is_confirmed(rig: Rig) -> None:
    rig.release(2, floor=1)
    rig.install()
    rig.boot()
    rig.lose_journal()
    assert rig.settle().verdict is Verdict.CONFIRMED
    assert rig.entry("b") == (EntryState.GOOD, None)
    assert rig.device().floors.read() == 1
    assert rig.reports()[-1][:2] == ("confirmed", "2.0")


def test_a_trial_without_journal_falls_back(rig: Rig) -> None:
    rig.release(2)
    rig.install()
    rig.boot()
    rig.lose_journal()
    rig.well.unlink()
    assert rig.settle().verdict is Verdict.CONDEMNED
    assert rig.boot() == "a"
    assert rig.settle().verdict is Verdict.FELL_BACK
    assert rig.denied() == [("2.0", DOWN)]


def test_a_trial_without_journal_falls_back_to_whatever_else_would_start(rig: Rig) -> None:
    rig.release(2)
    rig.install()
    rig.boot()
    rig.lose_journal()
    rig.well.unlink()
    for path in (rig.folder / "esp/slipstream/0001a").iterdir():
        path.unlink()
    assert rig.settle().verdict is Verdict.UNHEALTHY
    factory_system(rig)
    assert rig.settle().verdict is Verdict.CONDEMNED


def test_exhausted_tries_without_journal_are_still_a_fall_back(rig: Rig) -> None:
    rig.release(2)
    rig.install()
    rig.lose_journal()
    assert [rig.boot() for _ in range(4)][-1] == "a"
    assert rig.settle().verdict is Verdict.FELL_BACK
    assert rig.denied() == [("2.0", NEVER_REACHED)]
    assert rig.settle().verdict is Verdict.NOTHING


def test_a_trial_without_any_record_is_confirmed_all_the_same(rig: Rig) -> None:
    rig.release(2)
    rig.install()
    rig.boot()
    rig.lose_journal()
    (rig.folder / "state/slots.json").unlink()
    outcome = rig.settle()
    assert (outcome.verdict, outcome.counter) == (Verdict.CONFIRMED, 2)
    assert rig.entry("b") == (EntryState.GOOD, None)


def test_a_fallen_release_that_an_operator_starts_is_not_confirmed(rig: Rig) -> None:
    rig.release(2)
    rig.install()
    rig.boot()
    rig.well.unlink()
    rig.settle()
    rig.boot()
    rig.settle()
    rig.well.touch()
    (rig.folder / "selected").write_text("0002b+0-1.conf")  # chosen in the boot menu
    assert rig.settle().verdict is Verdict.NOTHING
    assert rig.entry("b") == (EntryState.BAD, 0)
