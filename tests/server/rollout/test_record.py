"""record.py: what may be done with a rollout in each status, and what may not."""

import pytest

from slipstream.delta.errors import UsageError
from slipstream.server.rollout.order import Opening
from slipstream.server.rollout.plan import Phase, Plan
from slipstream.server.rollout.record import (
    OFFERING,
    OVER,
    TRANSITIONS,
    Act,
    Rollout,
    Status,
    step,
)

PLAN = Plan("spring", "gateway", "2.0", 2, (Phase(percent=100.0),))


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("act", Act)
def test_the_table_is_all_there_is(status: Status, act: Act) -> None:
    if (status, act) in TRANSITIONS:
        assert step(status, act) is TRANSITIONS[status, act]
    else:
        with pytest.raises(UsageError, match=f"cannot {act.value}"):
            step(status, act)


def test_the_refusal_names_what_is_possible() -> None:
    with pytest.raises(UsageError, match="that is paused cannot finish; expected resume or abort"):
        step(Status.PAUSED, Act.FINISH)
    with pytest.raises(UsageError, match="nothing: it is over"):
        step(Status.ABORTED, Act.RESUME)


def test_what_is_over_stays_over_and_offers_nothing() -> None:
    assert [status for status, _ in TRANSITIONS if status in OVER] == []
    assert not OFFERING & OVER


def test_every_status_that_is_not_over_can_be_aborted() -> None:
    for status in set(Status) - OVER:
        assert step(status, Act.ABORT) is Status.ABORTED


def test_nothing_offers_without_approval() -> None:
    """From waiting, no way that leaves out `approve` leads to a status that offers."""
    reached, found = {Status.WAITING}, True
    while found:
        found = False
        for (status, act), to in TRANSITIONS.items():
            if status in reached and act is not Act.APPROVE and to not in reached:
                reached.add(to)
                found = True
    assert reached & OFFERING == set()


def test_the_newest_phase() -> None:
    rollout = Rollout(1, PLAN, Status.RUNNING, (), 1, 0)

    assert rollout.phase == -1
    assert Rollout(1, PLAN, Status.RUNNING, (Opening(1, None),), 2, 0).phase == 0
