"""judge.py: each rule alone, the rules together, and how far a phase is from each."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.server.rollout.judge import (
    Advance,
    Finish,
    Halt,
    PhaseRecord,
    Tally,
    Verdict,
    Wait,
    fires,
    judge,
    margin,
    phase_rules,
    reached,
    unmet,
)
from slipstream.server.rollout.plan import (
    AbortRule,
    FailureClass,
    Halting,
    Phase,
    Plan,
    SuccessRule,
)

FETCH, BOOT, REGRESSED = FailureClass.FETCH, FailureClass.BOOT, FailureClass.REGRESSED
DAY = 86_400
NOW = 100 * DAY
PLAN = Plan(
    "spring",
    "gateway",
    "2.0",
    2,
    (Phase(percent=10.0, soak_s=600), Phase(percent=100.0)),
    abort=(),
    silent_after_s=DAY,
)


def record(
    members: int = 100,
    offered: int | None = None,
    confirmed: int = 0,
    *,
    soaked_s: int = 0,
    opened_at: int = NOW,
    **failures: int,
) -> PhaseRecord:
    counted = {FailureClass(name): count for name, count in failures.items()}
    tally = Tally(members if offered is None else offered, confirmed, counted)
    return PhaseRecord(members, opened_at, soaked_s > 0, soaked_s, tally)


def seen_for(one: PhaseRecord, seconds: int) -> PhaseRecord:
    """After so many seconds in which it was offered."""
    return replace(one, watched_s=seconds)


def abort(plan: Plan, *rules: AbortRule) -> Plan:
    return replace(plan, abort=rules)


@pytest.mark.parametrize(
    ("rule", "confirmed", "failures", "words"),
    [
        (AbortRule(count=3), 0, {FETCH: 2}, None),
        (AbortRule(count=3), 0, {FETCH: 2, BOOT: 1}, "3 failed, at most 2 may"),
        (AbortRule((BOOT,), count=2), 0, {FETCH: 9, BOOT: 1}, None),
        (AbortRule((BOOT,), count=2), 0, {BOOT: 2}, "2 failed (boot), at most 1 may"),
        (AbortRule((BOOT, FETCH), count=2), 0, {BOOT: 1, FETCH: 1}, "2 failed (boot or fetch)"),
        (AbortRule(percent=10.0), 90, {BOOT: 10}, None),  # above, not at
        (AbortRule(percent=10.0), 89, {BOOT: 11}, "11 failed of 100, at most 10 % may"),
        (AbortRule(percent=10.0, min_sample=5), 2, {BOOT: 2}, None),
        (AbortRule(percent=10.0, min_sample=5), 3, {BOOT: 2}, "2 failed of 5"),
        (AbortRule(percent=0.0), 99, {}, None),
        (AbortRule(percent=0.0), 99, {BOOT: 1}, "1 failed of 100, at most 0 % may"),
        (AbortRule(percent=100.0), 0, {BOOT: 9}, None),
        (AbortRule(percent=50.0, count=2, min_sample=9), 7, {BOOT: 2}, "2 failed, at most 1"),
        (AbortRule(percent=50.0, count=9), 1, {BOOT: 2}, "2 failed of 3"),
        (AbortRule((BOOT,), percent=50.0), 1, {BOOT: 1, FETCH: 8}, None),  # of all settled
        (AbortRule(percent=0.07, min_sample=1), 9993, {BOOT: 7}, None),  # exactly 0.07 %
    ],
)
def test_when_a_rule_fires(
    rule: AbortRule, confirmed: int, failures: dict[FailureClass, int], words: str | None
) -> None:
    tally = Tally(confirmed + sum(failures.values()), confirmed, failures)

    found = fires(rule, tally)

    assert (found is None) if words is None else (found is not None and words in found)


@pytest.mark.parametrize(
    ("opened", "expected"),
    [
        ([record(confirmed=0)], Wait("phase 1: 0 of 100 confirmed, 95 are needed")),
        ([record(confirmed=94)], Wait("phase 1: 94 of 100 confirmed, 95 are needed")),
        (
            [record(confirmed=95, soaked_s=599)],
            Wait("phase 1 is proved and soaks for 1 s more", proved=True),
        ),
        ([record(confirmed=95, soaked_s=600)], Advance("phase 1: 95 of 100 confirmed")),
        (
            [record(confirmed=95, soaked_s=600), record(900, confirmed=854)],
            Wait("phase 2: 854 of 900 confirmed, 855 are needed"),
        ),
        (
            [record(confirmed=95, soaked_s=600), record(900, confirmed=855)],
            Finish("phase 2: 855 of 900 confirmed"),
        ),
        # A regression of a phase before the newest opens its verdict again.
        (
            [record(confirmed=94, soaked_s=600, regressed=1), record(900)],
            Halt(
                Halting.PAUSE,
                0,
                "phase 1 is not proved any more: phase 1: 94 of 100 confirmed, 95 are needed",
            ),
        ),
        (  # one that the rule can bear does not
            [record(confirmed=95, soaked_s=600, regressed=1), record(900)],
            Wait("phase 2: 0 of 900 confirmed, 855 are needed"),
        ),
        (  # of the newest phase: it soaks again
            [record(confirmed=94, soaked_s=600, regressed=1)],
            Wait("phase 1: 94 of 100 confirmed, 95 are needed"),
        ),
        (  # nor do devices that came late and are on their way
            [
                record(offered=30, confirmed=19, regressed=1, opened_at=NOW - DAY),
                record(900),
            ],
            Wait("phase 2: 0 of 900 confirmed, 855 are needed"),
        ),
    ],
)
def test_the_verdict(opened: list[PhaseRecord], expected: Verdict) -> None:
    assert judge(PLAN, opened) == expected


def test_a_finished_rollout_opens_its_verdict_again() -> None:
    opened = [record(confirmed=95, soaked_s=600), record(900, confirmed=850, regressed=5)]

    assert isinstance(judge(PLAN, opened), Wait)
    halt = judge(PLAN, opened, finished=True)
    assert isinstance(halt, Halt)
    assert (halt.halting, halt.phase) == (Halting.PAUSE, 1)


def test_what_somebody_has_accepted_is_not_counted_again() -> None:
    plan = abort(PLAN, AbortRule(count=3))
    seen = replace(record(boot=3), forgiven={BOOT: 3})

    assert isinstance(judge(plan, [seen]), Wait)
    again = replace(seen, tally=Tally(100, 0, {BOOT: 5, FETCH: 1}))
    halt = judge(plan, [again])
    assert isinstance(halt, Halt)
    assert halt.reason == "phase 1: 3 failed, at most 2 may"
    # So for regressions: only a new one opens a verdict again.
    back = record(confirmed=90, soaked_s=600, regressed=10)
    opened = [replace(back, forgiven={REGRESSED: 10}), record(900)]
    assert isinstance(judge(PLAN, opened), Wait)
    opened[0] = replace(opened[0], tally=Tally(100, 89, {REGRESSED: 11}))
    assert isinstance(judge(PLAN, opened), Halt)


def test_only_a_rule_that_aborts_moves_what_is_paused() -> None:
    pause, stop = AbortRule(count=1), AbortRule(count=3, action=Halting.ABORT)
    plan = abort(PLAN, pause, stop)
    proved = record(confirmed=100, soaked_s=600)

    def paused(*opened: PhaseRecord) -> Verdict:
        return judge(plan, opened, paused=True)

    waits = Wait("it is paused")
    assert paused(proved) == waits  # it would advance
    assert paused(proved, record(900, confirmed=900)) == waits  # it would finish
    assert paused(record(boot=2)) == waits  # it would pause, and is
    back = record(confirmed=94, soaked_s=600, regressed=2)
    assert paused(back, record(900)) == waits
    halt = paused(record(boot=3))
    assert isinstance(halt, Halt)
    assert halt.rule is stop
    # What somebody has seen and accepted aborts nothing while it is paused, either.
    assert paused(replace(record(boot=3), forgiven={BOOT: 1})) == waits


def test_a_rule_of_the_plan_watches_every_phase_and_that_of_a_phase_its_own() -> None:
    own, common = AbortRule(count=2), AbortRule(count=5)
    plan = replace(
        PLAN, phases=(Phase(percent=10.0, abort=(own,)), Phase(percent=100.0)), abort=(common,)
    )
    quiet = record(confirmed=100)

    def halt(*opened: PhaseRecord) -> tuple[int, AbortRule | None] | None:
        found = judge(plan, opened)
        return (found.phase, found.rule) if isinstance(found, Halt) else None

    assert phase_rules(plan, plan.phases[0]) == (own, common)
    assert halt(record(boot=1)) is None
    assert halt(record(boot=2)) == (0, own)
    assert halt(quiet, record(900, boot=4)) is None
    assert halt(quiet, record(900, boot=5)) == (1, common)


def test_abort_goes_before_pause_and_both_before_success() -> None:
    pause, stop = AbortRule(count=1), AbortRule(count=1, action=Halting.ABORT)
    opened = [record(confirmed=99, soaked_s=600, boot=1)]

    assert isinstance(judge(PLAN, opened), Advance)
    for rules, expected in (((pause,), pause), ((pause, stop), stop), ((stop, pause), stop)):
        halt = judge(abort(PLAN, *rules), opened)
        assert isinstance(halt, Halt)
        assert halt.rule is expected
        assert halt.halting is expected.action
        assert halt.reason == "phase 1: 1 failed, at most 0 may"


def test_who_was_not_reached_counts_until_the_time_is_over() -> None:
    drawer = record(members=100, offered=90, confirmed=89, boot=1)

    assert reached(PLAN, seen_for(drawer, DAY - 1)) == 100
    assert reached(PLAN, seen_for(drawer, DAY)) == 90
    assert unmet(PLAN, 0, seen_for(drawer, DAY - 1)) is not None
    assert unmet(PLAN, 0, seen_for(drawer, DAY)) is None  # 89 of 90


def test_nobody_at_all_proves_nothing() -> None:
    silent = record(members=100, offered=0)

    assert unmet(PLAN, 0, seen_for(silent, DAY)) == "phase 1: 0 of 0 confirmed, 1 are needed"


@pytest.mark.parametrize(
    ("index", "members", "offered", "met"),
    [(0, 0, 0, False), (1, 0, 0, True), (1, 0, 1, False), (1, 1, 0, False)],
)
def test_only_the_first_phase_may_not_be_empty(
    index: int, members: int, offered: int, met: bool
) -> None:
    assert (unmet(PLAN, index, record(members, offered)) is None) is met


@pytest.mark.parametrize(
    ("rule", "members", "needed"),
    [
        (SuccessRule(percent=95.0), 100, 95),
        (SuccessRule(percent=95.0), 10, 10),  # 9.5, rounded up
        (SuccessRule(percent=50.0, min_sample=8), 10, 8),
        (SuccessRule(percent=50.0, min_sample=20), 10, 10),  # no more than there are
        (SuccessRule(percent=50.0, count=3), 100, 3),
        (SuccessRule(percent=0.0, min_sample=0), 100, 0),
    ],
)
def test_what_success_needs(rule: SuccessRule, members: int, needed: int) -> None:
    plan = replace(PLAN, phases=(Phase(percent=10.0, success=rule),))

    assert unmet(plan, 0, record(members, confirmed=needed)) is None
    if needed:
        assert unmet(plan, 0, record(members, confirmed=needed - 1)) is not None


@given(
    st.one_of(st.none(), st.integers(0, 10_000).map(lambda n: n / 100)),
    st.one_of(st.none(), st.integers(1, 30)),
    st.integers(1, 30),
    st.integers(0, 40),
    st.integers(0, 20),
    st.integers(0, 20),
    st.integers(0, 40),
)
def test_margin_is_what_may_fail(
    percent: float | None,
    count: int | None,
    min_sample: int,
    confirmed: int,
    boot: int,
    other: int,
    in_flight: int,
) -> None:
    if percent is None and count is None:
        count = 1
    rule = AbortRule((BOOT,), percent, min_sample, count)
    offered = confirmed + boot + other + in_flight

    def after(failing: int) -> Tally:
        return Tally(offered, confirmed, {BOOT: boot + failing, FETCH: other})

    left = margin(rule, after(0))

    quiet = [n for n in range(in_flight + 1) if fires(rule, after(n)) is None]
    assert left == max(quiet, default=0)
    assert quiet == list(range(len(quiet))), "more failures never un-fire a rule"
