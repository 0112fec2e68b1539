"""The agent that may not yet: windows, inhibitors, turns, and what it says meanwhile."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from slipstream.delta.errors import Unavailable
from slipstream.installer.poll import Offer, PollAnswer
from slipstream.installer.states import Committed, Idle, Streaming
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
