"""What an install and a reboot wait for: a table of worlds, and the turn in a spread."""

from datetime import UTC, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.delta.maintenance import Schedule, Window
from slipstream.installer.holds import (
    CHECK_S,
    CLOCK_CHECK_S,
    Facts,
    Hold,
    HoldKind,
    Policy,
    Step,
    draw_turn,
    find_hold,
    recheck_s,
    span_words,
    stop_after_s,
)

INSTALL, REBOOT = Step.INSTALL, Step.REBOOT
SCHEDULE = Schedule((Window(frozenset({5}), time(23, 30), 60),), UTC, "UTC")
BEFORE = datetime(2026, 1, 3, 18, 30, tzinfo=UTC)  # a Saturday, five hours early
WITHIN = datetime(2026, 1, 3, 23, 45, tzinfo=UTC)
SIGNED = datetime(2026, 1, 2, tzinfo=UTC)
UNSET = datetime(1970, 1, 3, 23, 45, tzinfo=UTC)  # a Saturday in the window, as it happens
CAR = ("/run/inhibit: driving",)

for_reboot = Policy(SCHEDULE)
for_both = Policy(SCHEDULE, window_holds=INSTALL)
free = Policy()
strict = Policy(inhibit_holds=INSTALL)


@pytest.mark.parametrize(
    "policy, step, facts, kind, words",
    [
        (free, REBOOT, Facts(BEFORE, SIGNED), None, ""),
        (free, REBOOT, Facts(UNSET, SIGNED), None, ""),  # nothing asks for the time
        (for_reboot, INSTALL, Facts(BEFORE, SIGNED), None, ""),
        (for_reboot, REBOOT, Facts(BEFORE, SIGNED), "window",
         "the reboot waits for the window Sat 23:30-00:30 UTC, opens in 5 h"),
        (for_reboot, REBOOT, Facts(WITHIN, SIGNED), None, ""),
        (for_both, INSTALL, Facts(BEFORE, SIGNED), "window",
         "the install waits for the window Sat 23:30-00:30 UTC, opens in 5 h"),
        (for_both, INSTALL, Facts(WITHIN, SIGNED), None, ""),
        (for_both, REBOOT, Facts(BEFORE, SIGNED), "window",
         "the reboot waits for the window Sat 23:30-00:30 UTC, opens in 5 h"),
        # a clock that cannot be right opens no window
        (for_reboot, REBOOT, Facts(UNSET, SIGNED), "clock",
         "the reboot waits for a clock that is set: it shows 1970-01-03 23:45Z"),
        (for_reboot, REBOOT, Facts(WITHIN, WITHIN + timedelta(days=7)), "clock",
         "the reboot waits for a clock that is set: it shows 2026-01-03 23:45Z"),
        # the build machine's clock was ahead, and this one is kept right
        (for_reboot, REBOOT, Facts(WITHIN, WITHIN + timedelta(days=7), synchronised=True), None, ""),
        (for_reboot, REBOOT, Facts(UNSET, SIGNED, synchronised=True), "clock",
         "the reboot waits for a clock that is set: it shows 1970-01-03 23:45Z"),
        (for_reboot, REBOOT, Facts(UNSET, datetime(1970, 1, 1, tzinfo=UTC)), "clock",
         "the reboot waits for a clock that is set: it shows 1970-01-03 23:45Z"),
        (for_both, INSTALL, Facts(UNSET, SIGNED), "clock",
         "the install waits for a clock that is set: it shows 1970-01-03 23:45Z"),
        # inhibitors
        (free, REBOOT, Facts(BEFORE, SIGNED, CAR), "inhibitor",
         "the reboot waits for /run/inhibit: driving"),
        (free, INSTALL, Facts(BEFORE, SIGNED, CAR), None, ""),
        (strict, INSTALL, Facts(BEFORE, SIGNED, CAR), "inhibitor",
         "the install waits for /run/inhibit: driving"),
        (strict, REBOOT, Facts(BEFORE, SIGNED, CAR), "inhibitor",
         "the reboot waits for /run/inhibit: driving"),
        (for_reboot, REBOOT, Facts(WITHIN, SIGNED, CAR), "inhibitor",
         "the reboot waits for /run/inhibit: driving"),
        # the turn in a spread holds the reboot alone
        (free, REBOOT, Facts(WITHIN, SIGNED, (), WITHIN + timedelta(seconds=40)), "turn",
         "the reboot waits for its turn among other devices, due in 40 s"),
        (free, REBOOT, Facts(WITHIN, SIGNED, (), WITHIN), None, ""),
        (free, INSTALL, Facts(WITHIN, SIGNED, (), WITHIN + timedelta(seconds=40)), None, ""),
    ],
)  # fmt: skip
def test_table(policy: Policy, step: Step, facts: Facts, kind: str | None, words: str) -> None:
    hold = find_hold(step, policy, facts)
    assert (hold and hold.kind.value) == kind
    assert (hold.words(facts.clock) if hold else "") == words


@given(
    st.integers(0, 86_400),
    st.integers(0, 59),
    st.floats(0, 1, exclude_max=True),
)
def test_a_turn_comes_within_the_spread_and_the_window(
    spread_s: int, minute: int, chance: float
) -> None:
    policy = Policy(SCHEDULE, reboot_spread_s=spread_s)
    clock = datetime(2026, 1, 3, 23, 30, tzinfo=UTC) + timedelta(minutes=minute)
    turn = draw_turn(policy, clock, chance)
    assert clock <= turn <= clock + timedelta(seconds=spread_s)
    assert SCHEDULE.open_at(turn) is not None or turn == clock
    assert find_hold(REBOOT, policy, Facts(turn, SIGNED, (), turn)) is None


def test_turns_without_windows_fill_the_spread() -> None:
    policy = Policy(reboot_spread_s=3600)
    assert draw_turn(policy, BEFORE, 0.0) == BEFORE
    assert draw_turn(policy, BEFORE, 0.5) == BEFORE + timedelta(minutes=30)


@pytest.mark.parametrize(
    "policy, clock, seconds",
    [
        (free, BEFORE, None),
        (for_reboot, BEFORE, None),
        (for_both, WITHIN, 45 * 60),
        (for_both, BEFORE, 0),
    ],
)
def test_an_install_pauses_when_its_window_closes(
    policy: Policy, clock: datetime, seconds: float | None
) -> None:
    assert stop_after_s(policy, clock) == seconds


@pytest.mark.parametrize(
    "until_s, expected", [(None, CHECK_S), (-5, 1), (40, 40), (90_000, CLOCK_CHECK_S)]
)
def test_looked_at_again(until_s: float | None, expected: float) -> None:
    until = None if until_s is None else BEFORE + timedelta(seconds=until_s)
    assert recheck_s(Hold(REBOOT, HoldKind.WINDOW, "", until), BEFORE) == expected


@pytest.mark.parametrize(
    "seconds, words",
    [(0, "0 s"), (0.2, "1 s"), (120, "120 s"), (121, "3 min"), (7200, "120 min"), (7201, "3 h"),
     (18_000, "5 h"), (172_800, "48 h"), (172_801, "3 days")],
)  # fmt: skip
def test_spans(seconds: float, words: str) -> None:
    assert span_words(timedelta(seconds=seconds)) == words
