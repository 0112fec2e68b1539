"""device.py and clock.py: what a signed time means beside a clock that is kept right."""

import asyncio
import ctypes
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from slipstream.installer.clock import SystemClock
from slipstream.installer.holds import Step
from slipstream.installer.permission import find_reason_to_wait
from tests.installer.lab import START, Lab, make_image

DAY = timedelta(days=1)
WINDOW = """
[[agent.window]]
days = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
start_time = "00:00"
length_minutes = 1440
"""


@pytest.mark.parametrize(
    "synchronised, days, stored, noticed",
    [(False, 9, 9, False), (True, 9, 1, True), (True, 0.5, 0.5, False), (True, -3, -3, False)],
)
def test_a_build_machine_whose_clock_is_ahead(
    tmp_path: Path, *, synchronised: bool, days: float, stored: float, noticed: bool
) -> None:
    lab = Lab(tmp_path)
    lab.clock.is_synchronised = synchronised
    signed = START + days * DAY
    lab.publish("1.0", 1, make_image(1), issued=int(signed.timestamp()))

    asyncio.run(lab.install())

    assert lab.device().times.read() == START + stored * DAY
    device = lab.device()
    device.note_signed_time(signed)
    assert any("is ahead" in notice for notice in device.notices) == noticed


def test_a_build_machine_that_is_ahead_costs_a_write_a_day(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.clock.is_synchronised = True
    written = []
    for hours in (0, 1, 23, 24, 47):
        lab.clock.time = START + timedelta(hours=hours)
        lab.device().note_signed_time(START + 9 * DAY)
        stat = (lab.folder / "state" / "time.0").stat()
        written.append((stat.st_ino, stat.st_mtime_ns))
        assert lab.device().times.read() == START + (1 + hours // 24) * DAY

    assert [a == b for a, b in pairwise(written)] == [True, True, False, True]


@pytest.mark.parametrize("synchronised", [False, True])
def test_windows_open_by_a_clock_that_is_kept_right(tmp_path: Path, *, synchronised: bool) -> None:
    """Whatever was signed before it was."""
    lab = Lab(tmp_path, settings=WINDOW)
    lab.device().note_signed_time(START + 9 * DAY)
    lab.clock.is_synchronised = synchronised
    device = lab.device()
    policy = device.config.agent.policy
    hold = asyncio.run(find_reason_to_wait(device, Step.REBOOT, "2.0", policy))
    assert (hold is None) == synchronised


@pytest.mark.parametrize(
    "state, error_us, expected",
    [(0, 15_999_999, True), (5, 500, True), (5, 16_000_000, False), (-1, 0, False)],
)
def test_synchronised_is_what_the_kernel_says(
    monkeypatch: pytest.MonkeyPatch, *, state: int, error_us: int, expected: bool
) -> None:
    class Library:
        def adjtimex(self, pointer: object) -> int:
            timex = pointer._obj  # type: ignore[attr-defined]
            assert timex.modes == 0
            timex.maxerror = error_us
            return state

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Library())
    assert SystemClock().synchronised() is expected


def test_the_kernel_of_this_machine_answers() -> None:
    assert SystemClock().synchronised() in (True, False)
