"""What a device is told next."""

from dataclasses import replace

import pytest

from slipstream.server.ddi.step import (
    Cancel,
    Confirm,
    Deploy,
    Rest,
    bound_step,
    is_stopping,
    next_step,
    superseded,
)
from slipstream.server.rollout.offer import Install, Stay
from slipstream.server.rollout.plan import Phase, Plan
from slipstream.server.rollout.record import Rollout, Status
from slipstream.server.rollout.track import State
from slipstream.server.store.attempts import Attempt

PLAN = Plan("p", "gateway", "2.0", 2, (Phase(percent=100),))
ROLLOUT = Rollout(1, PLAN, Status.RUNNING, (), 1, 0)
OFFER = Attempt(
    id=5,
    rollout=1,
    device="d1",
    phase=0,
    release="2.0",
    state=State.OFFERED,
    failure=None,
    reason="",
    source=None,
    offered_at=0,
    changed_at=0,
)
NEWER = replace(OFFER, id=6, rollout=2, release="3.0")
INSTALL = Install("2.0", 2, "", ROLLOUT)


def bound(*attempts, status=Status.RUNNING):
    return bound_step(attempts, {1: status, 2: status})


@pytest.mark.parametrize("state", [State.OFFERED, State.FETCHING, State.SILENT])
@pytest.mark.parametrize(
    "status", [Status.PAUSED, Status.ABORTED, Status.DENIED, "of a later version"]
)
def test_what_its_rollout_no_longer_offers_is_cancelled(state, status):
    attempt = replace(OFFER, state=state)
    assert bound(attempt, status=status) == Cancel(attempt)
    assert bound(replace(attempt, closed_at=1), status=status) is None
    # A device that would not stop is let go on, so that it can report.
    assert bound(replace(attempt, refused_at=1), status=status) == Deploy(
        replace(attempt, refused_at=1)
    )


@pytest.mark.parametrize("status", [Status.RUNNING, Status.FINISHED])
def test_nothing_binds_while_it_is_offered(status):
    assert bound(OFFER, status=status) is None
    recalled = replace(OFFER, recalled_at=1)
    assert bound(recalled, status=status) == Cancel(recalled)


@pytest.mark.parametrize("status", [*Status, "of a later version"])
def test_what_is_installed_can_always_be_reported_on(status):
    installed = replace(OFFER, state=State.INSTALLED)
    assert bound(NEWER, installed, status=status) == Deploy(installed)
    assert not is_stopping(installed, Status.ABORTED)
    recalled = replace(installed, recalled_at=1)  # nobody wants to hear of it any more
    assert bound(recalled, status=status) == Cancel(recalled)


@pytest.mark.parametrize(
    "state",
    [
        one
        for one in State
        if one not in (State.OFFERED, State.FETCHING, State.SILENT, State.INSTALLED)
    ],
)
def test_what_is_not_on_its_way_is_not_cancelled(state):
    assert not is_stopping(replace(OFFER, state=state, recalled_at=1), Status.ABORTED)


def test_one_action_at_a_time():
    newer = replace(INSTALL, release="3.0", rollout=replace(ROLLOUT, id=2))
    assert superseded([OFFER], newer) == Cancel(OFFER)
    # What it already installs does not begin again for another rollout.
    assert superseded([OFFER], replace(newer, release="2.0")) is None
    assert superseded([OFFER], INSTALL) is None
    assert superseded([OFFER], Stay("")) is None
    assert superseded([replace(OFFER, closed_at=1)], newer) is None


def decide(decision=INSTALL, *attempts, window=True, agreed=False):
    return next_step(attempts, decision, open_window=window, agreed=agreed)


def test_deployments():
    assert decide(INSTALL, OFFER) == Deploy(OFFER)
    assert decide(INSTALL, OFFER, window=False) == Rest()
    assert decide(INSTALL, replace(OFFER, closed_at=1)) == Rest()
    assert decide(Stay(""), OFFER) == Rest()
    assert decide(Install("2.0", 2, ""), OFFER) == Rest()


def test_the_person_at_the_device_is_asked():
    asks = replace(INSTALL, rollout=replace(ROLLOUT, plan=replace(PLAN, needs_consent=True)))
    assert decide(asks, OFFER) == Confirm(OFFER)
    assert decide(asks, OFFER, agreed=True) == Deploy(OFFER)
    agreed = replace(OFFER, consent_at=1)
    assert decide(asks, agreed) == Deploy(agreed)
