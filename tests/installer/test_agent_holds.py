"""The agent that may not yet: windows, inhibitors, turns, and what it says meanwhile."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from slipstream.delta.errors import NothingToDo, Unavailable
from slipstream.installer.contact import Answer, Contact
from slipstream.installer.device import Device
from slipstream.installer.poll import Offer, PollAnswer
from slipstream.installer.prepare import prepare
from slipstream.installer.states import Committed, Idle, Streaming, Verified
from slipstream.installer.status import read_status
from tests.installer.test_agent import CountedClock, Enough, FakeServer, Rig, server_of

# The rig's clock begins on Thursday, 2026-01-01 00:00 UTC.
SATURDAY = """
[agent]
window_holds = "{holds}"
reboot_spread_s = {spread}
inhibit_files = ["inhibit"]
[[agent.window]]
days = ["Sat"]
start_time = "01:00"
length_minutes = 60
"""
OPENS = datetime(2026, 1, 3, 1, 0, tzinfo=UTC)
WAITS = "the reboot waits for the window Sat 01:00-02:00 UTC, opens in"


def make_rig(
    folder: Path, server: FakeServer | None = None, holds: str = "reboot", spread: int = 0
) -> Rig:
    rig = Rig(folder, server)
    text = rig.lab.config_path.read_text()
    rig.lab.config_path.write_text(text + SATURDAY.format(holds=holds, spread=spread))
    rig.restart()
    return rig


def run_for(rig: Rig, **span: float) -> None:
    """Let the agent loop for so long, by its clock."""
    clock = rig.lab.clock
    assert isinstance(clock, CountedClock)
    end = clock.time + timedelta(**span)
    while clock.time < end:
        clock.sleeps_max = len(clock.slept_s) + 1
        with pytest.raises(Enough):
            asyncio.run(rig.agent.run())


def looks_of(rig: Rig) -> list[str]:
    """Let the agent look at its static repository, as `device run` does but for the process; for each
    look the state in which it was taken."""
    looks: list[str] = []

    async def look(device: Device) -> Answer:
        looks.append(type(device.journal.state).__name__)
        try:
            manifest = (await prepare(device)).manifest
        except NothingToDo as error:
            return Answer(install=False, reason=str(error))
        return Answer(True, manifest.release, manifest.counter)

    rig.agent.contact = Contact(rig.agent.device, None, look)
    return looks


def status_of(rig: Rig) -> str:
    return read_status(rig.device).to_words()


def test_the_reboot_waits_for_its_window(tmp_path: Path) -> None:
    rig = make_rig(tmp_path)
    rig.publish(1)
    run_for(rig, hours=1)
    assert isinstance(rig.device.journal.state, Committed)
    assert f"Waits: {WAITS} 48 h" in status_of(rig)
    waits = read_status(rig.device).to_json()["waits"]
    assert (waits["step"], waits["for"], waits["until"]) == (
        "reboot", "window", "2026-01-03T01:00:00+00:00"
    )  # fmt: skip
    run_for(rig, hours=47, minutes=55)
    assert rig.reboots == 0
    assert [text for text in rig.said if text.startswith(WAITS)] == [f"{WAITS} 3 days"]
    run_for(rig, minutes=10)
    assert rig.reboots >= 1
    assert rig.lab.clock.now() - OPENS < timedelta(minutes=10)
    assert "Waits" not in status_of(rig)


def test_a_wrong_clock_opens_no_window(tmp_path: Path) -> None:
    rig = make_rig(tmp_path)
    rig.publish(1)
    rig.round()
    rig.lab.clock.time = datetime(1970, 1, 3, 1, 30, tzinfo=UTC)
    rig.round()
    assert rig.reboots == 0
    assert "waits for a clock that is set: it shows 1970-01-03 01:30Z" in status_of(rig)
    rig.lab.clock.time = OPENS + timedelta(minutes=30)
    rig.round()
    assert rig.reboots == 1


def test_an_inhibitor_holds_within_the_window(tmp_path: Path) -> None:
    rig = make_rig(tmp_path)
    rig.lab.clock.time = OPENS
    (tmp_path / "inhibit").write_text("pump 3 runs\n")
    rig.publish(1)
    run_for(rig, minutes=20)
    assert rig.reboots == 0
    assert f"waits for {tmp_path}/inhibit: pump 3 runs" in status_of(rig)
    (tmp_path / "inhibit").unlink()
    run_for(rig, seconds=1)
    assert rig.reboots == 1


def test_a_held_install_fetches_nothing(tmp_path: Path) -> None:
    rig = make_rig(tmp_path, holds="install")
    rig.publish(1)
    fetched: list[str] = []
    rig.lab.fetcher.hook = fetched.append
    rig.round()
    assert fetched == []
    assert isinstance(rig.device.journal.state, Idle)
    assert "the install waits for the window Sat 01:00" in status_of(rig)
    rig.lab.clock.time = OPENS
    rig.round()
    assert rig.reboots == 1


def test_a_held_install_does_not_even_look(tmp_path: Path) -> None:
    rig = make_rig(tmp_path, holds="install")
    looks = looks_of(rig)
    rig.publish(1)
    run_for(rig, hours=48)
    assert looks == []
    assert "the install waits for the window Sat 01:00" in status_of(rig)
    run_for(rig, hours=1, minutes=10)
    assert looks == ["Idle"]
    assert rig.reboots >= 1


def test_a_look_is_not_taken_while_a_reboot_is_held(tmp_path: Path) -> None:
    """It is refused while a release waits for its trial: a round that fails sleeps over the window."""
    rig = make_rig(tmp_path)
    looks = looks_of(rig)
    rig.publish(1)
    run_for(rig, hours=49, minutes=5)
    assert looks == ["Idle"]
    assert rig.agent.failures == 0
    assert rig.reboots >= 1


def test_the_command_is_asked_of_what_a_look_found_and_no_look_is_taken_for_it(
    tmp_path: Path,
) -> None:
    rig = make_rig(tmp_path, holds="install")
    text = rig.lab.config_path.read_text()
    script = f'echo "$SLIPSTREAM_RELEASE" >> {tmp_path}/asked; test -e {tmp_path}/allowed'
    command = f'[agent]\ninhibit_holds = "install"\nallow_command = ["sh", "-c", \'{script}\']\n'
    rig.lab.config_path.write_text(text.replace("[agent]\n", command))
    rig.restart()
    looks = looks_of(rig)
    rig.lab.clock.time = OPENS
    rig.round()
    assert looks == ["Idle"]
    assert not (tmp_path / "asked").exists(), "it may take a lock, and there is nothing to install"
    rig.publish(1)
    for _ in range(3):
        rig.round()
        rig.lab.clock.time += timedelta(minutes=1)
    assert looks == ["Idle", "Idle"]
    assert (tmp_path / "asked").read_text().splitlines() == ["1.0"] * 3
    (tmp_path / "allowed").touch()
    rig.round()
    assert rig.reboots == 1


def test_an_install_pauses_when_the_window_closes(tmp_path: Path) -> None:
    rig = make_rig(tmp_path, holds="install")
    rig.publish(1)
    rig.lab.clock.time = OPENS + timedelta(minutes=60) - timedelta(microseconds=1)
    rig.round()
    assert rig.reboots == 0
    assert "the window closed: the install goes on in the next one" in rig.said
    assert isinstance(rig.device.journal.state, Idle | Streaming)
    rig.lab.clock.time = OPENS + timedelta(days=7)
    rig.round()
    assert rig.reboots == 1


@pytest.mark.parametrize("chance, minutes", [(0.0, 0), (0.5, 27), (0.99, 53)])
def test_reboots_are_spread_within_the_window(tmp_path: Path, chance: float, minutes: int) -> None:
    rig = make_rig(tmp_path, spread=4 * 3600)
    rig.agent.chance = lambda: chance
    rig.publish(1)
    rig.lab.clock.time = OPENS
    while not rig.reboots:
        run_for(rig, seconds=1)
        assert rig.lab.clock.now() < OPENS + timedelta(minutes=61)
    late = rig.lab.clock.now() - OPENS
    assert timedelta(minutes=minutes) <= late <= timedelta(minutes=minutes + 5)


def test_the_way_back_is_never_held(tmp_path: Path) -> None:
    rig = make_rig(tmp_path)
    for counter in (1, 2):
        rig.publish(counter)
        rig.lab.clock.time = OPENS
        rig.round()
        rig.boot()
        rig.lab.clock.time = OPENS + timedelta(days=1)
        if counter == 2:
            rig.well.unlink()
            (tmp_path / "inhibit").touch()
        rig.round()
    assert rig.reboots == 3


def test_a_device_that_waits_still_speaks_with_its_server(tmp_path: Path) -> None:
    rig = make_rig(tmp_path, FakeServer())
    server = server_of(rig)
    rig.publish(1)
    server.answer = PollAnswer(Offer("1.0", 1), 3600, "")
    run_for(rig, hours=6)
    assert 5 <= len(server.polled) <= 8
    assert [report.kind for report in server.reported] == ["installed", "progress"]
    held = server.reported[-1]
    assert (held.release, held.counter) == ("1.0", 1)
    assert (held.reason or "").startswith(WAITS)
    assert held.details == {
        "waits_for": "window", "step": "reboot", "until": "2026-01-03T01:00:00Z"
    }  # fmt: skip
    server.fault["poll"] = Unavailable("away")  # and reboots without it
    rig.lab.clock.time = OPENS
    rig.round()
    assert rig.reboots == 1


def offering(rig: Rig, **how: bool) -> FakeServer:
    """The server, which wants release 1.0 on the device."""
    server = server_of(rig)
    server.answer = PollAnswer(Offer("1.0", 1, **how), 900, "")
    return server


def test_what_the_server_forces_waits_for_no_window(tmp_path: Path) -> None:
    rig = make_rig(tmp_path, FakeServer(), holds="install")
    rig.publish(1)
    offering(rig)
    rig.round()
    assert "the install waits for the window Sat" in status_of(rig)
    offering(rig, forced=True)
    rig.round()
    assert isinstance(rig.device.journal.state, Committed)
    assert rig.reboots == 1


def test_a_reboot_that_waits_hears_that_it_is_forced(tmp_path: Path) -> None:
    """Also one whose agent was started anew meanwhile: nothing of the offer is on disk."""
    rig = make_rig(tmp_path, FakeServer())
    rig.publish(1)
    offering(rig)
    rig.round()
    assert (rig.reboots, isinstance(rig.device.journal.state, Committed)) == (0, True)
    offering(rig, forced=True)
    rig.restart()
    rig.round()
    assert rig.reboots == 1


def test_an_inhibitor_holds_what_is_forced(tmp_path: Path) -> None:
    rig = make_rig(tmp_path, FakeServer())
    (tmp_path / "inhibit").write_text("pump 3 runs\n")
    rig.publish(1)
    offering(rig, forced=True)
    rig.round()
    assert rig.reboots == 0
    assert f"waits for {tmp_path}/inhibit: pump 3 runs" in status_of(rig)


def test_download_only_writes_and_boots_nothing_until_the_server_says_so(tmp_path: Path) -> None:
    rig = Rig(tmp_path, FakeServer())
    rig.publish(1)
    server = offering(rig, download_only=True)

    rig.round()

    assert isinstance(rig.device.journal.state, Verified)
    assert (rig.reboots, rig.device.boot.entries()) == (0, ())
    (report,) = server.reported
    assert (report.kind, report.details["downloaded"]) == ("progress", True)
    assert 0 < report.details["bytes_fetched"] < report.details["full_bytes"]  # without its index
    assert report.details["delta_given_up"] is False
    assert "Waits: the reboot waits for the server: release 1.0 is to be downloaded" in status_of(
        rig
    )
    assert rig.agent.wait_s() == 900.0  # the server's interval, not that of an interrupted install

    files: list[str] = []
    rig.lab.fetcher.hook = files.append
    rig.restart()
    rig.round()  # nothing is read or fetched again
    assert files == []
    assert len(server.reported) == 1

    offering(rig)
    rig.round()
    assert not [name for name in files if name.endswith(".payload")]
    assert isinstance(rig.device.journal.state, Committed)
    assert rig.reboots == 1
    assert [one.kind for one in server.reported] == ["progress", "installed"]
    assert server.reported[1].details["bytes_fetched"] == 0


def test_an_install_that_the_server_takes_back_goes_no_further(tmp_path: Path) -> None:
    """One that was interrupted, and one that was only downloaded; what is written stays."""
    rig = Rig(tmp_path, FakeServer())
    rig.publish(1)
    server = offering(rig)
    rig.lab.fetcher.hook = cut_at_payload
    with pytest.raises(Unavailable):
        rig.round()
    rig.lab.fetcher.hook = lambda _: None
    for state in (Streaming, Verified):
        assert isinstance(rig.device.journal.state, state)
        server.answer = PollAnswer(None, 900, "rollout spring is paused")
        rig.round()
        assert isinstance(rig.device.journal.state, state)
        assert "Waits: the install waits for the server: rollout spring is paused" in status_of(rig)
        assert rig.agent.wait_s() == 900.0  # not each minute, as an install that may go on
        offering(rig, download_only=True)
        rig.round()
    offering(rig)
    rig.round()
    assert (rig.reboots, "Waits" in status_of(rig)) == (1, False)


def cut_at_payload(name: str) -> None:
    if name.endswith(".payload"):
        raise Unavailable("cut", where=name)


def test_a_newer_release_takes_the_place_of_one_that_was_only_downloaded(tmp_path: Path) -> None:
    rig = Rig(tmp_path, FakeServer())
    rig.publish(1)
    server = offering(rig, download_only=True)
    rig.round()
    rig.publish(2)
    server.answer = PollAnswer(Offer("2.0", 2), 900, "")
    rig.round()
    state = rig.device.journal.state
    assert isinstance(state, Committed)
    assert state.transaction.release == "2.0"
