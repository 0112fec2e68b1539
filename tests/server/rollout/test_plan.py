"""plan.py: a plan survives JSON, and what makes no sense is refused with words that say why."""

from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.delta.errors import UsageError
from slipstream.delta.limits import (
    COUNTER_MAX,
    NAME_CHARS_MAX,
    PHASES_MAX,
    ROLLOUT_RULES_MAX,
    SOAK_S_MAX,
    WINDOWS_MAX,
)
from slipstream.server.rollout.plan import (
    AbortRule,
    Budget,
    FailureClass,
    Halting,
    Phase,
    Plan,
    SuccessRule,
    Urgency,
)

PLAN = Plan("spring", "gateway", "2.0", 2, (Phase(percent=1.0), Phase(percent=100.0)))


def test_json_round_trip() -> None:
    plan = replace(
        PLAN,
        phases=(
            Phase(selector="tag==canary", soak_s=3600, success=SuccessRule(count=3)),
            Phase(count=100, abort=(AbortRule((FailureClass.BOOT,), count=1),)),
            Phase(percent=100.0),
        ),
        filter="attribute.site==berlin",
        stratify_by="hardware",
        abort=(AbortRule(percent=2.5, min_sample=40, action=Halting.ABORT),),
        urgency=Urgency.TIME_FORCED,
        forced_at=1_800_000_000,
        budgets=(Budget("attribute.site", 5),),
        windows=("Sat,Sun 02:00-04:00",),
        zone="Europe/Berlin",
        needs_approval=True,
    )

    raw = msgspec.json.encode(plan)

    assert msgspec.json.decode(raw, type=Plan) == plan


@given(
    st.lists(st.integers(1, 10_000), min_size=1, max_size=6, unique=True),
    st.integers(0, SOAK_S_MAX),
    st.sets(st.sampled_from(FailureClass)),
    st.one_of(st.none(), st.floats(0, 100)),
    st.integers(1, 1000),
)
def test_any_plan_round_trips(
    hundredths: list[int],
    soak_s: int,
    classes: set[FailureClass],
    percent: float | None,
    count: int,
) -> None:
    phases = tuple(Phase(percent=one / 100, soak_s=soak_s) for one in sorted(hundredths))
    plan = replace(PLAN, phases=phases, abort=(AbortRule(tuple(classes), percent, 1, count),))

    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan


def test_the_least_json() -> None:
    raw = b'{"name":"x","product":"p","release":"2","counter":2,"phases":[{"percent":5}]}'

    plan = msgspec.json.decode(raw, type=Plan)

    assert plan == Plan("x", "p", "2", 2, (Phase(percent=5.0),))
    assert plan.order_salt == "p 2"
    assert replace(plan, salt="again").order_salt == "again"


REFUSED: list[tuple[Callable[[], object], str]] = [
    (AbortRule, "needs a percentage, a count, or both"),
    (lambda: AbortRule(percent=100.1), "percentage of an abort rule"),
    (lambda: AbortRule(percent=-1.0), "percentage of an abort rule"),
    (lambda: AbortRule(percent=float("nan")), "percentage of an abort rule"),
    (lambda: AbortRule(count=0), "count of an abort rule"),
    (lambda: AbortRule(count=1, min_sample=0), "minimum sample of an abort rule"),
    (lambda: SuccessRule(percent=101.0), "percentage of a success rule"),
    (lambda: SuccessRule(min_sample=-1), "minimum sample of a success rule"),
    (lambda: SuccessRule(count=0), "count of a success rule"),
    (Phase, "0 of them"),
    (lambda: Phase(percent=1.0, count=1), "2 of them"),
    (lambda: Phase(percent=0.0), "percentage of a phase"),
    (lambda: Phase(percent=100.01), "percentage of a phase"),
    (lambda: Phase(count=0), "count of a phase"),
    (lambda: Phase(percent=1.0, soak_s=-1), "soak time"),
    (lambda: Phase(percent=1.0, soak_s=SOAK_S_MAX + 1), "soak time"),
    (
        lambda: Phase(percent=1.0, abort=(AbortRule(count=1),) * (ROLLOUT_RULES_MAX + 1)),
        "number of abort rules",
    ),
    (lambda: Phase(selector=" "), "selector is empty"),
    (lambda: Phase(selector="nope==1"), "no selector"),
    (lambda: Budget("nope", 1), "no selector"),
    (lambda: Budget("group", 0), "unavailable at once"),
    (lambda: replace(PLAN, name=""), "not a name"),
    (lambda: replace(PLAN, name="-x"), "not a name"),
    (lambda: replace(PLAN, name="x\ny"), "not a name"),
    (lambda: replace(PLAN, name="x" * (NAME_CHARS_MAX + 1)), "not a name"),
    (lambda: replace(PLAN, product=""), "length of the product's name"),
    (lambda: replace(PLAN, release=""), "length of the release's name"),
    (lambda: replace(PLAN, channel="c" * (NAME_CHARS_MAX + 1)), "length of the channel's name"),
    (lambda: replace(PLAN, salt="s" * (NAME_CHARS_MAX + 1)), "length of the salt"),
    (lambda: replace(PLAN, counter=0), "release counter"),
    (lambda: replace(PLAN, counter=COUNTER_MAX + 1), "release counter"),
    (lambda: replace(PLAN, start_at=-1), "start time"),
    (lambda: replace(PLAN, start_at=1 << 40), "start time"),
    (
        lambda: replace(PLAN, urgency=Urgency.TIME_FORCED, forced_at=1 << 40),
        "from which it is forced",
    ),
    (lambda: replace(PLAN, phases=()), "number of phases"),
    (
        lambda: replace(PLAN, phases=tuple(Phase(count=n) for n in range(1, PHASES_MAX + 2))),
        "number of phases",
    ),
    (lambda: replace(PLAN, abort=PLAN.abort * ROLLOUT_RULES_MAX), "number of abort rules"),
    (lambda: replace(PLAN, budgets=(Budget("group", 1),) * 17), "number of budgets"),
    (lambda: replace(PLAN, silent_after_s=59), "silent devices"),
    (lambda: replace(PLAN, max_downloads=0), "downloads at once"),
    (
        lambda: replace(PLAN, phases=(Phase(percent=10.0), Phase(percent=10.0))),
        "percent includes those before",
    ),
    (
        lambda: replace(PLAN, phases=(Phase(count=9), Phase(percent=5.0), Phase(count=8))),
        "count includes those before",
    ),
    (
        lambda: replace(PLAN, phases=(Phase(percent=100.0), Phase(selector="tag==late"))),
        "phase 1 already takes every device",
    ),
    (lambda: replace(PLAN, urgency=Urgency.TIME_FORCED), "go together"),
    (lambda: replace(PLAN, forced_at=1), "go together"),
    (lambda: replace(PLAN, stratify_by="nope"), "no selector"),
    (lambda: replace(PLAN, filter="id=="), "not a filter"),
    (lambda: replace(PLAN, windows=("25:00-26:00",)), "not a maintenance window"),
    (lambda: replace(PLAN, windows=("02:00-04:00",) * (WINDOWS_MAX + 1)), "number of windows"),
    (lambda: replace(PLAN, zone="Mars/Olympus"), "no such time zone"),
    (lambda: replace(PLAN, zone="../../etc/passwd"), "no such time zone"),
    (lambda: replace(PLAN, zone=""), "no such time zone"),
]


@pytest.mark.parametrize(("make", "match"), REFUSED)
def test_refused(make: Callable[[], object], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        make()


def test_refused_in_json_with_the_same_words() -> None:
    raw = b'{"name":"x","product":"p","release":"2","counter":2,"phases":[{"percent":5,"count":5}]}'

    with pytest.raises(UsageError, match="2 of them"):
        msgspec.json.decode(raw, type=Plan)


def test_phases_in_words() -> None:
    phases = (Phase(percent=0.5), Phase(count=7), Phase(selector="tag==x"))

    assert [str(one) for one in phases] == ["0.5 %", "7 devices", "tag==x"]


@pytest.mark.parametrize(
    ("urgency", "forced_at", "forced"),
    [
        (Urgency.SOFT, None, [False, False, False]),
        (Urgency.FORCED, None, [True, True, True]),
        (Urgency.TIME_FORCED, 100, [False, True, True]),
    ],
)
def test_forced(urgency: Urgency, forced_at: int | None, forced: list[bool]) -> None:
    plan = replace(PLAN, urgency=urgency, forced_at=forced_at)

    assert [plan.forced(now) for now in (99, 100, 101)] == forced
