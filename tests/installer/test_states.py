"""The table of states: complete, and the same as its page."""

import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import get_args

import pytest

from slipstream.delta.digest import Digest
from slipstream.installer.states import (
    REFUSED,
    TABLE,
    Abandon,
    BootedNew,
    BootStaged,
    Committed,
    Condemn,
    Condemned,
    Confirm,
    EntryLost,
    Event,
    Failed,
    FellBack,
    Idle,
    Open,
    Opened,
    Outcome,
    Published,
    ReadBack,
    Refused,
    Result,
    Retired,
    Staged,
    State,
    Streaming,
    Transaction,
    Trial,
    Verified,
    delay_of,
    step,
)

ROOT = Path(__file__).resolve().parents[2]
TX = Transaction("id", Digest.of(b"1"), "1.0", 1, "b", ("rootfs",))
OTHER = Transaction("other", Digest.of(b"2"), "2.0", 2, "b", ("rootfs",))
STATES: dict[type, State] = {
    Idle: Idle(),
    Opened: Opened(TX),
    Streaming: Streaming(TX),
    Verified: Verified(TX),
    Staged: Staged(TX),
    Committed: Committed(TX),
    Trial: Trial(TX),
    Condemned: Condemned(TX, "sick"),
}
EVENTS: dict[type, Event] = {
    Open: Open(OTHER),
    Retired: Retired(),
    ReadBack: ReadBack(),
    BootStaged: BootStaged(),
    Published: Published(),
    BootedNew: BootedNew(),
    EntryLost: EntryLost(),
    Confirm: Confirm(),
    Condemn: Condemn("ill"),
    Abandon: Abandon(OTHER, "operator"),
    FellBack: FellBack("tries ran out"),
    Failed: Failed("bad bytes"),
}
PAIRS = list(product(STATES, EVENTS))


def test_the_samples_are_all_states_and_events() -> None:
    assert set(STATES) == set(get_args(State))
    assert set(EVENTS) == set(get_args(Event))


def test_every_pair_is_in_the_table_or_refused_and_never_both() -> None:
    assert set(TABLE) | set(REFUSED) == set(PAIRS)
    assert not set(TABLE) & set(REFUSED)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair[0].__name__}-{pair[1].__name__}")
def test_step_does_what_the_table_says(pair: tuple[type, type]) -> None:
    state, event = STATES[pair[0]], EVENTS[pair[1]]
    if pair in REFUSED:
        with pytest.raises(Refused, match=REFUSED[pair][:20]):
            step(state, event)
        return

    after, effects = step(state, event)

    assert type(after) is TABLE[pair].to
    assert effects == TABLE[pair].effects
    expected = OTHER if isinstance(event, Open | Abandon) else TX
    held = after.last.transaction if isinstance(after, Idle) and after.last else None
    held = held if isinstance(after, Idle) else after.transaction
    assert held is not None
    assert held.id == expected.id


def test_no_release_is_opened_while_one_is_on_trial() -> None:
    for state in (Committed, Trial, Condemned):
        assert (state, Open) in REFUSED


def test_the_whole_way_ends_confirmed() -> None:
    state: State = Idle()
    for event in (
        Open(TX),
        Retired(),
        ReadBack(),
        BootStaged(),
        Published(),
        BootedNew(),
        Confirm(),
    ):
        state, _ = step(state, event)

    assert state == Idle(Result(Outcome.CONFIRMED, TX, ""))


def test_a_condemned_release_keeps_its_reason_until_the_device_fell_back() -> None:
    state, _ = step(Trial(TX), Condemn("health: dns failed"))
    again, _ = step(state, BootedNew())
    end, _ = step(again, FellBack("health: dns failed"))

    assert state == again == Condemned(TX, "health: dns failed")
    assert end == Idle(Result(Outcome.FELL_BACK, TX, "health: dns failed"))


def test_a_lost_entry_is_counted() -> None:
    after, _ = step(Committed(TX), EntryLost())

    assert isinstance(after, Verified)
    assert after.transaction.restages == 1


def test_every_state_has_a_delay() -> None:
    for state in STATES.values():
        assert 0 <= delay_of(state).seconds <= 300
    assert delay_of(Idle()).jitter
    assert not delay_of(Trial(TX)).jitter


def test_the_page_is_current() -> None:
    made = subprocess.run(
        [sys.executable, ROOT / "scripts" / "states"], capture_output=True, text=True, check=True
    )

    assert made.stdout == (ROOT / "docs" / "states.md").read_text(), (
        "docs/states.md is stale: scripts/states > docs/states.md"
    )
