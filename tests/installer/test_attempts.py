"""Deaths are counted, and end: of installs, of putting an entry back, of the agent's starts."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from slipstream.delta.errors import (
    DeviceFault,
    NothingToDo,
    Rejected,
    SlipstreamError,
    Unavailable,
)
from slipstream.delta.limits import (
    DEATHS_ALL_MAX,
    DEATHS_MAX,
    REBOOTS_ALL_MAX,
    START_DELAY_S_MAX,
)
from slipstream.installer.attempts import (
    Attempts,
    Progress,
    attempts_of,
    begin_start,
    end_start,
    next_attempts,
)
from slipstream.installer.findings import NEVER_LEFT
from slipstream.installer.install import install as install_release
from slipstream.installer.states import Committed, Condemned, Idle
from slipstream.installer.verdict import Verdict
from tests.installer.lab import Lab, change, make_image
from tests.installer.test_agent import Rig as AgentRig
from tests.installer.test_trial import Rig, rig, template

__all__ = ["rig", "template"]  # fixtures

IMAGE = make_image(1)
NOWHERE = Progress()
STREAMING = Progress("streaming", 100)


class Died(Exception):
    """Stands for the end of the process: an error of nobody's, which nothing records."""


@pytest.mark.parametrize(
    "before, here, deaths",
    [
        (None, NOWHERE, 0),
        (Attempts("other", STREAMING, 7, running=True), NOWHERE, 0),
        (Attempts("t", NOWHERE, 2, running=True), NOWHERE, 3),
        (Attempts("t", NOWHERE, 2, running=False), NOWHERE, 2),  # it ended by itself
        (Attempts("t", NOWHERE, 2, running=True), STREAMING, 1),  # it came farther, and died
        (Attempts("t", NOWHERE, 2, running=False), STREAMING, 0),
        (Attempts("t", STREAMING, 2, running=True), NOWHERE, 3),  # and not as far again
        (Attempts("t", STREAMING, 2, running=True), STREAMING, 3),
        (Attempts("t", STREAMING, 2, running=True), Progress("streaming", 101), 1),
        (Attempts("t", STREAMING, 2, running=True), Progress("verified"), 1),
        (Attempts("t", Progress("verified"), 2, running=True), Progress("streaming", 10**9), 3),
    ],
)
def test_next_attempts(before: Attempts | None, here: Progress, deaths: int) -> None:
    found = next_attempts(before, "t", here)
    assert (found.transaction, found.deaths, found.running) == ("t", deaths, True)
    assert found.hopeless == (deaths >= DEATHS_MAX)


@pytest.mark.parametrize("cuts", [1, 2, 5])
def test_a_device_that_is_switched_off_now_and_then_is_never_given_up(cuts: int) -> None:
    """Each release is superseded before it is installed, and each attempt came farther."""
    attempts, left = None, None
    for release in range(3 * DEATHS_ALL_MAX):
        for cut in range(cuts):
            here = Progress("streaming", cut) if cut else NOWHERE
            attempts = next_attempts(attempts, str(release), here, left)
            assert not attempts.hopeless
            assert not attempts.all_hopeless
        left = Progress("streaming", cuts)


@pytest.mark.parametrize("kept", [2, 3 * DEATHS_ALL_MAX], ids=["in turn", "each a new one"])
def test_an_updater_that_kills_is_stopped_whatever_is_on_offer(kept: int) -> None:
    attempts, died = None, 0
    for release in range(3 * DEATHS_ALL_MAX):
        for _ in range(2):
            attempts = next_attempts(attempts, str(release % kept), NOWHERE)
            if attempts.all_hopeless:
                assert died == DEATHS_ALL_MAX + min(kept, release)
                return
            died += 1
    pytest.fail("it is never stopped")


def dying_lab(folder: Path) -> Lab:
    """A device that dies in every install, before anything is fetched of the payload."""
    lab = Lab(folder)
    lab.publish("1.0", 1, IMAGE)
    lab.fetcher.hook = die_at(".payload")
    return lab


def die_at(part: str) -> Callable[[str], None]:
    def hook(path: str) -> None:
        if part in path:
            raise Died

    return hook


def install(lab: Lab, release: str | None = None) -> None:
    asyncio.run(lab.install(release))


def test_an_install_that_dies_in_one_place_is_given_up(tmp_path: Path) -> None:
    lab = dying_lab(tmp_path)
    for _ in range(DEATHS_MAX):
        with pytest.raises(Died):
            install(lab)
    with pytest.raises(DeviceFault, match=f"died {DEATHS_MAX} times .*at streaming.*--retry"):
        install(lab)

    device = lab.device()
    assert isinstance(device.journal.state, Idle)
    (report,) = device.slots.reports()
    assert (report.kind, report.release, report.details["class"]) == ("failed", "1.0", "device")
    assert f"given up: the device died {DEATHS_MAX} times" in report.reason
    with pytest.raises(NothingToDo):
        install(lab)
    with pytest.raises(Rejected, match="given up"):
        install(lab, "1.0")
    lab.fetcher.hook = lambda _: None
    lab.publish("2.0", 2, change(IMAGE, 4096))
    install(lab)
    assert isinstance(lab.device().journal.state, Committed)


def test_releases_that_are_offered_in_turn_are_given_up(tmp_path: Path) -> None:
    """Each forgets nothing of its deaths while the other one is tried."""
    lab = dying_lab(tmp_path)
    lab.publish("2.0", 2, change(IMAGE, 4096))
    deaths = 0
    for _ in range(3 * DEATHS_MAX):
        for release in ("1.0", "2.0"):
            try:
                install(lab, release)
            except Died:
                deaths += 1
            except (DeviceFault, Rejected):
                continue
    # With the first one given up the other is gone on with, and comes farther once than in turn.
    assert 2 * DEATHS_MAX <= deaths <= 3 * DEATHS_MAX
    assert [one.release for one in lab.device().slots.denied()] == ["1.0", "2.0"]
    reports = lab.device().slots.reports()
    assert [(one.kind, one.release) for one in reports] == [("failed", "1.0"), ("failed", "2.0")]


def test_a_device_that_dies_whatever_is_installed_stops(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    text = lab.config_path.read_text()
    lab.config_path.write_text(text.replace("[boot]\n", '[boot]\ncounting = "trusted"\n'))
    lab.fetcher.hook = die_at(".payload")
    deaths, refused = 0, []
    for counter in range(1, 8):
        release = f"{counter}.0"
        lab.publish(release, counter, IMAGE)
        for _ in range(DEATHS_MAX - 1):  # none is given up for itself
            try:
                asyncio.run(install_release(lab.device(), release, attended=False))
            except Died:
                deaths += 1
            except DeviceFault as error:
                refused.append("without a person at hand" in str(error))
                break
    assert deaths == DEATHS_ALL_MAX + 4, "and the first one of each release"
    assert refused == [True] * 3
    reports = lab.device().slots.reports()
    assert {one.kind for one in reports} == {"failed"}
    assert f"died {DEATHS_ALL_MAX} times in installs" in reports[0].reason

    lab.fetcher.hook = lambda _: None
    assert lab.device().slots.forgive(release)
    install(lab, release)  # by a person
    assert isinstance(lab.device().journal.state, Committed)
    assert attempts_of(lab.device()) is None


def test_what_another_release_takes_the_place_of_is_looked_at_first(tmp_path: Path) -> None:
    """It may have come farther in the attempt that died: that is known before the journal is opened."""
    lab = dying_lab(tmp_path)
    for release in ("1.0", "2.0"):
        lab.publish(release, int(release[0]), IMAGE)
        with pytest.raises(Died):
            install(lab, release)
    attempts = attempts_of(lab.device())
    assert attempts is not None
    (past,) = attempts.others
    assert (past.best.state, past.deaths) == ("streaming", 1)


def test_an_account_of_an_earlier_release_of_the_updater_is_read(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    path = lab.device().state / "attempts.json"
    path.write_text(
        '{"transaction": "t", "state": "streaming", "done_bytes": 9, "deaths": 2, "running": true}'
    )
    found = attempts_of(lab.device())
    assert found == Attempts("t", Progress("streaming", 9), 2, running=True)


def test_an_operator_may_try_it_again(tmp_path: Path) -> None:
    lab = dying_lab(tmp_path)
    for _ in range(DEATHS_MAX):
        with pytest.raises(Died):
            install(lab)
    with pytest.raises(DeviceFault):
        install(lab)
    assert lab.device().slots.forgive("1.0")
    assert not lab.device().slots.forgive("1.0")
    lab.fetcher.hook = lambda _: None
    install(lab)
    assert attempts_of(lab.device()) is None


def test_what_ends_by_itself_is_no_death(tmp_path: Path) -> None:
    lab = dying_lab(tmp_path)

    def hook(path: str) -> None:
        if path.startswith("blobs/"):
            raise Unavailable("away")

    lab.fetcher.hook = hook
    for _ in range(DEATHS_MAX + 2):
        with pytest.raises(Unavailable):
            install(lab)
    lab.fetcher.hook = lambda _: None
    install(lab)


def test_an_install_that_comes_farther_each_time_is_not_given_up(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.publish("1.0", 1, IMAGE)
    died = 0
    for _ in range(60):
        left = 3

        def hook(path: str) -> None:
            nonlocal left
            left -= path.endswith(".payload")
            if not left:
                raise Died

        lab.fetcher.hook = hook
        try:
            install(lab)
        except Died:
            died += 1
            continue
        break
    assert died > DEATHS_MAX
    assert isinstance(lab.device().journal.state, Committed)


def test_putting_an_entry_back_is_given_up_as_well(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.release(2)
    rig.install()
    rig.boot()
    rig.lose_entry("b")
    rig.boot()

    def die(*_: object) -> None:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr("slipstream.installer.boot.systemd_boot.SystemdBoot.stage", die)
        for _ in range(DEATHS_MAX):
            with pytest.raises(Died):
                rig.settle()
        outcome = rig.settle()
    assert outcome.verdict is Verdict.NOTHING
    assert "given up: the device died" in outcome.reason
    assert rig.reports()[-1][0] == "failed"
    assert [release for release, _ in rig.denied()] == ["2.0"]
    assert rig.settle().verdict is Verdict.NOTHING
    rig.release(3)
    rig.install()


def test_a_bad_release_that_the_boot_loader_keeps_starting(tmp_path: Path) -> None:
    """Reboots end after a number, and the device says why it stays."""
    rig = AgentRig(tmp_path, None)
    text = rig.lab.config_path.read_text()
    text = text.replace('root = "root.json"', 'root = "root.json"\ntoken_file = "token"')
    rig.lab.config_path.write_text(text)  # so that there is somebody to tell
    rig.restart()
    for counter in (1, 2):
        rig.publish(counter)
        rig.round()
        rig.boot()
        if counter == 1:
            rig.round()
    rig.well.unlink()
    words = (tmp_path / "cmdline").read_text(), (tmp_path / "selected").read_text()
    for _ in range(REBOOTS_ALL_MAX - 1):  # one took it there
        rig.round()
        rig.start_again()  # the bad one
        (tmp_path / "cmdline").write_text(words[0])
        (tmp_path / "selected").write_text(words[1])
    asked = rig.reboots
    with pytest.raises(SlipstreamError, match=NEVER_LEFT):
        rig.round()
    assert rig.reboots == asked
    assert isinstance(rig.device.journal.state, Condemned)
    assert NEVER_LEFT in rig.device.slots.reports()[-1].reason


def test_starts_that_die_wait_longer_each_time(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    waits = [begin_start(lab.device()) for _ in range(40)]
    assert waits[:5] == [0, 10, 20, 40, 80]
    assert waits[-1] == START_DELAY_S_MAX
    end_start(lab.device())
    assert begin_start(lab.device()) == 0


def test_an_agent_that_died_waits_and_one_that_was_stopped_does_not(tmp_path: Path) -> None:
    rig = AgentRig(tmp_path, None)
    rig.lab.fetcher.hook = die_at("metadata/")
    for _ in range(3):
        rig.restart()
        with pytest.raises(Died):
            asyncio.run(rig.agent.run())
    assert rig.lab.clock.slept_s == [10, 20]
    assert "the agent died in its first round: waiting 20 s before this one" in rig.said
