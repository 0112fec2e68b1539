"""track.py: whatever the order of what a device says, and however often, it ends in one state."""

from itertools import permutations

import pytest

from slipstream.server.rollout.plan import FailureClass
from slipstream.server.rollout.track import (
    FAILURES,
    IN_FLIGHT,
    QUARANTINED,
    SETTLED,
    TRANSITIONS,
    Event,
    State,
    class_of,
    step,
)

SAID = (Event.FETCHING, Event.INSTALLED, Event.FAILED, Event.CONFIRMED, Event.FELL_BACK)


def after(*events: Event, start: State = State.OFFERED) -> State:
    state = start
    for event in events:
        state = step(state, event)
    return state


def strongest(said: set[Event]) -> State:
    """What a set of words means, without a table."""
    if {Event.CONFIRMED, Event.FELL_BACK} <= said:
        return State.REGRESSED
    for event in (Event.FELL_BACK, Event.CONFIRMED, Event.FAILED, Event.INSTALLED, Event.FETCHING):
        if event in said:
            return State(event.value)
    return State.OFFERED


def test_every_order_ends_in_the_same_state() -> None:
    for count in range(len(SAID) + 1):
        for order in permutations(SAID, count):
            assert after(*order) is strongest(set(order)), order


def test_words_said_twice_change_nothing() -> None:
    for count in range(1, len(SAID) + 1):
        for order in permutations(SAID, count):
            for again in range(count):
                late = (*order, order[again])  # the same words, much later
                at_once = (*order[:again], order[again], *order[again:])
                assert after(*late) is after(*at_once) is after(*order)


def test_what_the_server_did_is_undone_by_a_device_that_speaks() -> None:
    for event in SAID:
        assert after(Event.TIMED_OUT, event) is after(event)
        for before in (Event.FETCHING, Event.INSTALLED):
            assert after(before, Event.TIMED_OUT, Event.CONFIRMED) is State.CONFIRMED
    assert after(Event.CANCELLED, Event.CONFIRMED, Event.FELL_BACK) is State.REGRESSED


def test_the_server_cannot_take_back_what_a_device_has_said() -> None:
    for state in State:
        timed_out = step(state, Event.TIMED_OUT)
        assert timed_out is (State.SILENT if state in IN_FLIGHT else state)
        cancelled = step(state, Event.CANCELLED)
        able = {State.OFFERED, State.FETCHING, State.SILENT, State.FAILED}
        assert cancelled is (State.CANCELLED if state in able else state)


def test_no_state_is_left_for_one_that_says_less() -> None:
    rank = [
        State.OFFERED,
        State.FETCHING,
        State.INSTALLED,
        State.FAILED,
        State.CONFIRMED,
        State.FELL_BACK,
        State.REGRESSED,
    ]
    for (state, _), to in TRANSITIONS.items():
        assert state is not to
        if state in rank and to in rank:
            assert rank.index(to) > rank.index(state)
    assert not [state for state, _ in TRANSITIONS if state is State.REGRESSED]


def test_every_state_is_counted_once() -> None:
    assert IN_FLIGHT | SETTLED | {State.CANCELLED} == set(State)
    assert not IN_FLIGHT & SETTLED
    assert QUARANTINED < FAILURES < SETTLED
    assert list(SETTLED - FAILURES) == [State.CONFIRMED]


@pytest.mark.parametrize(
    ("state", "said", "counts"),
    [
        (State.FAILED, None, FailureClass.DEVICE),
        (State.FAILED, FailureClass.FETCH, FailureClass.FETCH),
        (State.FELL_BACK, None, FailureClass.BOOT),
        (State.FELL_BACK, FailureClass.ROOT, FailureClass.ROOT),
        (State.FELL_BACK, FailureClass.FETCH, FailureClass.BOOT),
        (State.REGRESSED, FailureClass.FETCH, FailureClass.REGRESSED),
        (State.SILENT, None, FailureClass.SILENT),
    ],
)
def test_how_a_failure_counts(
    state: State, said: FailureClass | None, counts: FailureClass
) -> None:
    assert class_of(state, said) is counts


def test_every_failure_counts_and_nothing_else_does() -> None:
    assert {state for state in State if class_of(state, None) is not None} == FAILURES
