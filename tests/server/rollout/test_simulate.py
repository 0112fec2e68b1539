"""simulate.py: the engine's promises hold on a fleet that polls, fails, is silent and comes back."""

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from slipstream.server.rollout.behaviour import Behaviour, Failing, Spread, synthetic_fleet
from slipstream.server.rollout.facts import Facts
from slipstream.server.rollout.outcome import Outcome, figures, span, summarize
from slipstream.server.rollout.plan import (
    AbortRule,
    Budget,
    FailureClass,
    Halting,
    Phase,
    Plan,
    SuccessRule,
)
from slipstream.server.rollout.record import Status
from slipstream.server.rollout.simulate import BEGIN, simulate

BOOT, REGRESSED, SILENT = FailureClass.BOOT, FailureClass.REGRESSED, FailureClass.SILENT
HOUR, DAY = 3600, 86_400
EASY = SuccessRule(percent=80.0)
PLAN = Plan(
    "spring",
    "gateway",
    "2.0",
    2,
    tuple(Phase(percent=percent, soak_s=HOUR, success=EASY) for percent in (2.0, 20.0, 100.0)),
)


def run(
    plan: Plan = PLAN,
    *failing: Failing,
    devices: int = 300,
    seed: int = 1,
    spreads: tuple[Spread, ...] = (),
    **behaviour: float,
) -> Outcome:
    random = Random(seed)
    fleet = synthetic_fleet(plan, devices, spreads, random)
    return simulate(plan, fleet, Behaviour(failing, **behaviour), random)  # type: ignore[arg-type]


def test_a_good_release_reaches_everybody() -> None:
    outcome = run()

    assert outcome.status is Status.FINISHED
    assert outcome.stop is None
    assert (outcome.offered, outcome.confirmed, outcome.failed) == (300, 300, 0)
    assert [one.members for one in outcome.phases] == [6, 54, 240]
    # Two phases soak, then the last one does.
    assert outcome.finished_s is not None
    assert 3 * HOUR < outcome.finished_s < 6 * HOUR
    for early, late in zip(outcome.phases, outcome.phases[1:], strict=False):
        assert early.proved_s is not None
        assert late.opened_s == early.proved_s + HOUR


def test_a_bad_release_is_stopped_in_its_first_phase() -> None:
    outcome = run(PLAN, Failing(BOOT, 0.6))

    assert outcome.status is Status.PAUSED
    assert outcome.stop is not None
    assert outcome.stop.phase == 0
    assert outcome.stop.rule == PLAN.abort[0]
    assert outcome.exposed == outcome.offered == 6
    assert outcome.stop.failed <= outcome.failed == outcome.failures[BOOT]
    assert len(outcome.phases) == 1


def test_a_rule_that_aborts() -> None:
    plan = replace(PLAN, abort=(AbortRule((BOOT,), count=1, action=Halting.ABORT),))

    outcome = run(plan, Failing(BOOT, 0.1))

    assert outcome.status is Status.ABORTED
    assert outcome.stop is not None
    assert outcome.stop.halting is Halting.ABORT
    assert outcome.stop.failed == 1
    assert outcome.stop.in_flight == outcome.stop.offered - outcome.stop.confirmed - 1


def test_the_same_seed_gives_the_same_outcome() -> None:
    failing = (Failing(BOOT, 0.02), Failing(REGRESSED, 0.02))

    assert run(PLAN, *failing, offline=0.1) == run(PLAN, *failing, offline=0.1)
    assert run(PLAN, *failing, seed=2) != run(PLAN, *failing, seed=3)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.builds(Failing, st.sampled_from(FailureClass), st.sampled_from([0.02, 0.1, 0.3])),
        max_size=3,
    ),
    st.sampled_from([0.0, 0.3]),
    st.one_of(st.none(), st.integers(1, 20)),
    st.one_of(st.none(), st.integers(1, 10)),
    st.integers(0, 1000),
)
def test_exposure_is_bounded_at_every_moment(
    failing: list[Failing], offline: float, downloads: int | None, budget: int | None, seed: int
) -> None:
    budgets = () if budget is None else (Budget("attribute.site", budget),)
    plan = replace(PLAN, max_downloads=downloads, budgets=budgets, stratify_by="attribute.site")

    outcome = run(
        plan,
        *failing,
        devices=80,
        seed=seed,
        spreads=(Spread("attribute.site", {"berlin": 5, "oslo": 1}),),
        offline=offline,
    )

    limits = [one.limit for one in outcome.phases]
    for point in outcome.curve:
        opened = [n for n, one in enumerate(outcome.phases) if one.opened_s <= point.at_s]
        bound = sum(80 if (limit := limits[n]) is None else limit for n in opened)
        assert point.confirmed + point.failed <= point.offered <= min(bound, 80)
    assert downloads is None or outcome.downloads_max <= downloads
    assert budget is None or outcome.unavailable_max <= 2 * budget
    if outcome.stop is not None:
        assert outcome.offered == outcome.stop.offered, "nobody is offered it after the stop"
    times = [one.at_s for one in outcome.curve]
    assert times == sorted(times)
    assert sum(one.tally.offered for one in outcome.phases) == outcome.offered
    assert outcome.offered == outcome.confirmed + outcome.failed, "everything came to an end"


def test_silent_devices_time_out_and_count() -> None:
    plan = replace(PLAN, phases=(Phase(percent=100.0, success=EASY),), silent_after_s=HOUR)

    outcome = run(plan, Failing(SILENT, 0.1), devices=100)

    assert outcome.failures == {SILENT: 100 - outcome.confirmed}
    assert outcome.stop is not None  # above 5 % of 20 settled devices
    assert HOUR < outcome.stop.at_s < 3 * HOUR


def test_who_is_offline_holds_a_phase_only_until_silent_after() -> None:
    plan = replace(PLAN, silent_after_s=DAY, abort=())

    outcome = run(plan, offline=0.5, offline_s=30 * DAY, devices=100)

    assert outcome.finished_s is not None
    assert outcome.phases[1].opened_s >= DAY
    late = [one for one in outcome.curve if one.at_s > outcome.finished_s]
    assert late, "a finished rollout still offers to those who come late"
    assert outcome.confirmed == 100


def test_a_regression_after_the_end_pauses() -> None:
    plan = replace(PLAN, phases=(Phase(percent=100.0),), abort=())

    outcome = run(plan, Failing(REGRESSED, 0.3), devices=50, regress_after_s=10 * DAY)

    assert outcome.finished_s is not None
    assert outcome.status is Status.PAUSED
    assert outcome.stop is not None
    assert outcome.stop.rule is None
    assert "not proved any more" in outcome.stop.reason
    assert outcome.stop.at_s > outcome.finished_s


def test_windows_are_kept() -> None:
    plan = replace(PLAN, windows=("Mon 02:00-04:00",), phases=(Phase(percent=100.0),))

    outcome = run(plan, devices=50)

    offered = [
        late.at_s
        for early, late in zip(outcome.curve, outcome.curve[1:], strict=False)
        if late.offered > early.offered
    ]
    assert outcome.begin == BEGIN  # a Monday, 00:00
    assert 2 * HOUR <= offered[0] < offered[-1] < 2 * HOUR + 300  # one poll each
    assert outcome.confirmed == 50


@pytest.mark.parametrize("downloads", [1, 7])
def test_room_is_used_and_kept(downloads: int) -> None:
    plan = replace(PLAN, phases=(Phase(percent=100.0),), max_downloads=downloads)

    outcome = run(plan, devices=30, fetch_s=1000)

    assert outcome.downloads_max == downloads
    assert outcome.confirmed == 30
    # A place stays empty for one poll interval at most.
    assert outcome.finished_s is not None
    assert outcome.finished_s < 30 * (1000 * 1.5 + 300) / downloads + 6000


def test_strata_show_what_chance_may_hide() -> None:
    """One device in twenty is a revision that always fails."""
    spreads = (Spread("hardware", {"rev-a": 19, "rev-b": 1}),)
    bad = Failing(BOOT, 1.0, "hardware==rev-b")
    plan = replace(PLAN, abort=(AbortRule((BOOT,), count=1),), stratify_by="hardware")

    phases = Counter[str]()
    for seed in range(10):
        for by in (None, "hardware"):
            chosen = replace(plan, phases=(Phase(percent=10.0, success=EASY), *PLAN.phases[1:]))
            outcome = run(
                replace(chosen, stratify_by=by, salt=str(seed)),
                bad,
                spreads=spreads,
                devices=100,
                seed=seed,
            )
            phases[f"{by} {'' if outcome.stop is None else outcome.stop.phase}"] += 1

    assert phases["hardware 0"] > phases["None 0"]


def test_a_rollout_that_waits_for_ever_says_for_what() -> None:
    plan = replace(PLAN, phases=(Phase(selector="tag==canary"), Phase(percent=100.0)))

    outcome = run(plan)

    assert (outcome.status, outcome.stop, outcome.finished_s) == (Status.RUNNING, None, None)
    assert outcome.reason == "phase 1: 0 of 0 confirmed, 1 are needed"
    assert outcome.planned == ("tag==canary", "100 %")


def test_only_those_the_plan_is_for() -> None:
    yes = Facts("a", "gateway", counter=1)
    fleet = [
        yes,
        structs.replace(yes, id="b", product="camera"),
        structs.replace(yes, id="c", channel="beta"),
        structs.replace(yes, id="d", counter=2),
        structs.replace(yes, id="e", counter=None, release="2.0"),
        structs.replace(yes, id="f", group="lab"),
    ]
    plan = replace(PLAN, filter="group!=lab", phases=(Phase(percent=100.0),))

    outcome = simulate(plan, fleet, Behaviour(), Random(1))

    assert (outcome.devices, outcome.confirmed) == (1, 1)


def test_nobody() -> None:
    outcome = simulate(PLAN, [], Behaviour(), Random(1))

    assert (outcome.devices, outcome.offered, outcome.status) == (0, 0, Status.RUNNING)


def test_it_ends_when_it_was_told_to() -> None:
    random = Random(1)
    fleet = synthetic_fleet(PLAN, 300, [], random)

    outcome = simulate(PLAN, fleet, Behaviour(), random, until_s=HOUR)

    assert len(outcome.phases) == 1
    assert outcome.ended_s <= HOUR


def test_several_runs_in_figures() -> None:
    outcomes = [run(PLAN, Failing(BOOT, 0.15), seed=seed, devices=60) for seed in range(6)]

    told = summarize(outcomes)

    assert told.runs == 6 == told.stopped + told.finished + told.waiting
    assert told.stopped == sum(one.stop is not None for one in outcomes)
    assert told.exposed.most == max(one.exposed for one in outcomes)
    assert figures([]) is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (3599, "60 min"),
        (3600, "1 h"),
        (12_000, "3 h 20 min"),
        (86_399, "24 h"),
        (86_400, "1 d"),
        (90_000, "1 d 1 h"),
        (172_700, "2 d"),
    ],
)
def test_spans(seconds: float, words: str) -> None:
    assert span(seconds) == words
