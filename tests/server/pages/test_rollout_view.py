"""A rollout in words and figures: margins, time left, bytes saved."""

import pytest

from slipstream.server.pages.rollout_view import estimate_left_s, make_card, make_live
from slipstream.server.pages.words import Mark
from slipstream.server.rollout.judge import PhaseRecord, Tally
from slipstream.server.rollout.order import Opening
from slipstream.server.rollout.plan import AbortRule, FailureClass, Phase, Plan
from slipstream.server.rollout.record import Act, Rollout, Status
from slipstream.server.store.attempts import Traffic
from slipstream.server.store.rollouts import OpenPhase

PLAN = Plan(
    "r",
    "gateway",
    "2.0",
    2,
    (Phase(count=100, soak_s=600), Phase(percent=100)),
    abort=(AbortRule(count=5), AbortRule(percent=50, min_sample=10)),
)


def live(status, tally, *, soaked_s=0, proved=False):
    opened = (OpenPhase(Opening(100, 100), 0, tally.offered, proved, soaked_s, {}),)
    rollout = Rollout(7, PLAN, status, (opened[0].opening,), 3, 0, "somebody said so")
    counted = {0: tally}
    return make_live(rollout, opened, counted, Traffic(300, 2000, 2), 1000)


@pytest.mark.parametrize(
    "failed, in_flight, figures, mark",
    [
        (0, 0, ["–", "–"], Mark.NONE),
        (0, 3, ["3", "3"], Mark.GOOD),  # 4 may fail, 3 can
        (1, 40, ["3", "39"], Mark.GOING),
        (3, 40, ["1", "37"], Mark.WARN),
        (5, 40, ["0", "35"], Mark.BAD),
    ],
)
def test_the_margin_is_what_may_still_fail(failed, in_flight, figures, mark):
    tally = Tally(40 + failed + in_flight, 40, {FailureClass.BOOT: failed})
    rules = live(Status.RUNNING, tally).rules
    assert [one.margin for one in rules] == figures
    assert rules[0].mark is mark


@pytest.mark.parametrize(
    "confirmed, soaked_s, left",
    [
        (0, 0, None),  # no pace yet
        (50, 0, 1500),  # 45 more at one in 20 s, and 600 s of soak
        (95, 0, 600),
        (95, 400, 200),
        (100, 900, 0),
    ],
)
def test_time_left_follows_the_pace_so_far(confirmed, soaked_s, left):
    record = PhaseRecord(100, 0, confirmed >= 95, soaked_s, Tally(100, confirmed))
    assert estimate_left_s(PLAN, 0, record, 1000) == left


def test_only_what_runs_has_a_time_left():
    tally = Tally(100, 50)
    assert live(Status.RUNNING, tally).left == "≈ 25 min"
    assert "1 phase after it" in live(Status.RUNNING, tally).left_note
    for status in (Status.PAUSED, Status.ABORTED):
        assert not live(status, tally).left_is_known


def test_a_running_rollout_says_what_it_waits_for_and_any_other_why_not():
    tally = Tally(60, 50, {FailureClass.FETCH: 2})
    assert live(Status.RUNNING, tally).card.stands == "phase 1: 50 of 100 confirmed, 95 are needed"
    assert live(Status.PAUSED, tally).card.stands == "somebody said so"


def test_saved_is_what_devices_say_that_they_did_not_fetch():
    assert live(Status.RUNNING, Tally(20, 15)).traffic.saved_bytes == 1700
    assert Traffic(300, 200).saved_bytes == 0  # tries that were cut off cost more


@pytest.mark.parametrize(
    "status, acts, next_phase",
    [
        (Status.WAITING, (Act.ABORT, Act.APPROVE, Act.DENY), False),
        (Status.SCHEDULED, (Act.START, Act.ABORT), False),
        (Status.RUNNING, (Act.PAUSE, Act.ABORT), True),
        (Status.PAUSED, (Act.RESUME, Act.ABORT), False),
        (Status.ABORTED, (), False),
    ],
)
def test_only_possible_acts_are_offered(status, acts, next_phase):
    view = live(status, Tally(1))
    assert (view.acts, view.can_open_next) == (acts, next_phase)


def test_before_the_start_there_is_nothing_to_count():
    card = make_card(Rollout(7, PLAN, Status.SCHEDULED, (), 1, 0), (), {})
    assert (card.phase, card.bar, card.offered) == ("not started", (), 0)
