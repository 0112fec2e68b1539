"""counting.py: what a board is believed about boot counting, and what follows."""

import asyncio
from pathlib import Path

import pytest

from slipstream.delta.errors import DeviceFault
from slipstream.installer import by_hand, trial
from slipstream.installer.counting import STUCK, Proof, read_proof
from slipstream.installer.install import install
from slipstream.installer.ports import EntryState
from slipstream.installer.states import Idle
from slipstream.installer.status import read_status
from slipstream.installer.verdict import Outcome, Verdict
from tests.installer.lab import Lab, change, make_image

IMAGE = make_image(1, 600_000)


class CountingLab(Lab):
    def publish_next(self, counter: int) -> None:
        self.publish(f"{counter}.0", counter, change(IMAGE, 4096 * counter))

    def unattended(self) -> None:
        asyncio.run(install(self.device(), on_event=self.events.append, attended=False))

    def by_hand(self) -> None:
        asyncio.run(self.install())

    def settle(self) -> Outcome:
        return asyncio.run(trial.settle(self.device()))

    def proof(self) -> Proof:
        return read_proof(self.device())


@pytest.fixture
def lab(tmp_path: Path) -> CountingLab:
    """Release 1 runs as a factory put it there: good, and never on trial."""
    lab = CountingLab(tmp_path)
    lab.preinstall(lab.publish("1.0", 1, IMAGE))
    lab.publish_next(2)
    return lab


def test_the_first_release_proves_the_board(tmp_path: Path) -> None:
    lab = CountingLab(tmp_path)
    lab.publish_next(1)
    lab.unattended()  # nothing is there that could be lost
    lab.reboot()
    assert lab.proof() is Proof.UNKNOWN
    assert lab.settle().verdict is Verdict.CONFIRMED
    assert lab.proof() is Proof.PROVED
    lab.publish_next(2)
    lab.unattended()


def test_an_unproved_board_takes_no_update_unattended(lab: CountingLab) -> None:
    with pytest.raises(DeviceFault, match=r"never seen to work.*0001a\+3-0\.efi"):
        lab.unattended()
    assert lab.fetcher.bytes_sent == 0
    assert lab.fake.calls == []
    assert isinstance(lab.device().journal.state, Idle)


def test_by_hand_the_risk_is_told_and_the_trial_proves_the_board(lab: CountingLab) -> None:
    lab.by_hand()
    assert "would need a visit" in lab.words()
    assert "would need a visit" in read_status(lab.device()).to_words()
    lab.reboot()
    assert lab.settle().verdict is Verdict.CONFIRMED
    lab.publish_next(3)
    lab.events.clear()
    lab.unattended()
    assert "visit" not in lab.words()


def test_an_operator_may_vouch_for_it(lab: CountingLab) -> None:
    text = lab.config_path.read_text()
    lab.config_path.write_text(text.replace("[boot]\n", '[boot]\ncounting = "trusted"\n'))
    lab.unattended()


def test_other_firmware_has_to_show_it_again(lab: CountingLab) -> None:
    lab.by_hand()
    lab.reboot()
    lab.settle()
    assert lab.proof() is Proof.PROVED
    lab.fake.loader = "fake boot loader 2"
    assert lab.proof() is Proof.UNKNOWN
    lab.publish_next(3)
    with pytest.raises(DeviceFault, match="never seen"):
        lab.unattended()


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"moved":1,"loader":2}'])
def test_lost_state_is_no_fault_of_the_board(lab: CountingLab, content: bytes | None) -> None:
    lab.by_hand()
    lab.reboot()
    lab.settle()
    path = lab.folder / "state/counting.json"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    assert lab.proof() is Proof.UNKNOWN
    lab.publish_next(3)
    lab.by_hand()
    lab.reboot()
    lab.settle()
    assert lab.proof() is Proof.PROVED


@pytest.mark.parametrize("journal", [True, False])
def test_a_trial_that_is_not_counted_is_given_up(lab: CountingLab, journal: bool) -> None:
    lab.fake.counts = False
    lab.by_hand()
    lab.reboot()
    if not journal:
        (lab.folder / "state/tx.json").unlink()

    outcome = lab.settle()

    assert (outcome.verdict, outcome.reason) == (Verdict.CONDEMNED, STUCK)
    assert lab.proof() is Proof.STUCK
    assert lab.fake.visible["b"].state is EntryState.BAD
    assert lab.reboot() == "a"
    assert lab.settle().verdict is Verdict.FELL_BACK
    assert [(one.kind, one.reason) for one in lab.device().slots.reports()][-1] == (
        "fell_back",
        STUCK,
    )
    lab.publish_next(3)
    with pytest.raises(DeviceFault, match="seen not to work"):
        lab.unattended()
    text = lab.config_path.read_text()
    lab.config_path.write_text(text.replace("[boot]\n", '[boot]\ncounting = "trusted"\n'))
    with pytest.raises(DeviceFault, match="seen not to work"):
        lab.unattended()
    lab.fake.counts = True  # mended: by hand once more, and it is believed
    lab.by_hand()
    assert "seen not to work" in lab.words()
    lab.reboot()
    assert lab.settle().verdict is Verdict.CONFIRMED
    assert lab.proof() is Proof.PROVED


def test_without_another_release_an_uncounted_trial_is_told_and_goes_on(tmp_path: Path) -> None:
    lab = CountingLab(tmp_path)
    lab.publish_next(1)
    lab.fake.counts = False
    lab.unattended()
    lab.reboot()
    assert lab.settle().verdict is Verdict.CONFIRMED
    assert lab.proof() is Proof.STUCK
    lab.publish_next(2)
    with pytest.raises(DeviceFault, match="seen not to work"):
        lab.unattended()


def test_forcing_a_confirm_does_not_lose_the_proof(lab: CountingLab) -> None:
    lab.by_hand()
    lab.reboot()
    asyncio.run(by_hand.confirm(lab.device()))
    assert lab.proof() is Proof.PROVED
