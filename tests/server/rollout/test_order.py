"""order.py: a phase takes exactly as many devices as it says, evenly, and keeps them."""

from collections import Counter
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.server.rollout.facts import Facts
from slipstream.server.rollout.order import Opening, open_phase, phase_of, phases_of, position
from slipstream.server.rollout.plan import Phase, Plan

PLAN = Plan("spring", "gateway", "2.0", 2, (Phase(percent=100.0),))
SITES = ("berlin", "lyon", "oslo")


def fleet(count: int, first: int = 0) -> list[Facts]:
    """Devices; a site for each, sixty, thirty and ten in a hundred."""
    shares = (0,) * 6 + (1,) * 3 + (2,)
    return [
        Facts(
            id=f"d{n}",
            product="gateway",
            counter=1,
            attributes={"site": SITES[shares[n % 10]]},
            tags=frozenset({"canary"} if n % 50 == 0 else ()),
        )
        for n in range(first, first + count)
    ]


def run(plan: Plan, devices: list[Facts]) -> list[Opening]:
    """All phases, one after the other; everyone of a phase installs before the next one opens."""
    opened: list[Opening] = []
    offered: set[str] = set()
    for _ in plan.phases:
        # They run the release then: whoever opens the next phase does not see them.
        waiting = [one for one in devices if one.id not in offered]
        opened.append(open_phase(plan, opened, waiting, offered))
        offered |= {one.id for one in devices if phase_of(plan, opened, one) is not None}
    return opened


def sizes(plan: Plan, devices: list[Facts], opened: list[Opening]) -> list[int]:
    found = Counter(phase_of(plan, opened, one) for one in devices)
    return [found[index] for index in range(len(opened))]


@given(st.integers(0, 400), st.lists(st.integers(1, 10_000), min_size=1, max_size=4, unique=True))
def test_every_percentage_takes_its_share(count: int, hundredths: list[int]) -> None:
    hundredths.sort()
    plan = replace(PLAN, phases=tuple(Phase(percent=one / 100) for one in hundredths))
    devices = fleet(count)

    opened = run(plan, devices)

    shares = [-(-one * count // 10_000) for one in hundredths]  # rounded up
    steps = [late - early for early, late in zip([0, *shares], shares, strict=False)]
    assert sizes(plan, devices, opened) == steps
    assert [one.members for one in opened] == steps
    assert [one.limit for one in opened] == [
        None if one == 10_000 else step for one, step in zip(hundredths, steps, strict=True)
    ]


@given(
    st.integers(1, 300),
    st.lists(st.integers(1, 400), min_size=1, max_size=4, unique=True),
    st.sampled_from([None, "attribute.site"]),
)
def test_every_count_takes_so_many(count: int, wanted: list[int], by: str | None) -> None:
    wanted.sort()
    plan = replace(PLAN, phases=tuple(Phase(count=one) for one in wanted), stratify_by=by)
    devices = fleet(count)

    opened = run(plan, devices)

    totals = [min(one, count) for one in wanted]
    steps = [late - early for early, late in zip([0, *totals], totals, strict=False)]
    assert sizes(plan, devices, opened) == steps == [one.limit for one in opened]


def test_those_who_have_it_count_as_part_of_the_whole() -> None:
    plan = replace(
        PLAN,
        phases=(Phase(selector="tag==canary"), Phase(percent=10.0), Phase(count=150)),
        filter="release==1.0",  # which those who took it do not match any more
    )
    devices = fleet(1000)

    opened = run(plan, devices)

    assert sizes(plan, devices, opened) == [20, 80, 50]  # of 1000: 20, then 100, then 150


def test_a_phase_that_was_not_finished_counts_as_taken() -> None:
    plan = replace(PLAN, phases=(Phase(percent=10.0), Phase(percent=20.0)))
    devices = fleet(100)
    first = open_phase(plan, [], devices)

    second = open_phase(plan, [first], devices)  # nobody has taken anything

    assert (first.members, second.members) == (10, 10)


@pytest.mark.parametrize("percent", [1.0, 5.0, 12.5, 50.0])
def test_strata_are_held_evenly(percent: float) -> None:
    plan = replace(
        PLAN, phases=(Phase(percent=percent), Phase(percent=80.0)), stratify_by="attribute.site"
    )
    devices = fleet(1000)
    everywhere = Counter(one.label("attribute.site") for one in devices)

    opened = run(plan, devices)

    for end in (1, 2):
        chosen = [one for one in devices if phase_of(plan, opened[:end], one) is not None]
        found = Counter(one.label("attribute.site") for one in chosen)
        for site, all_of_it in everywhere.items():
            assert abs(found[site] - all_of_it * len(chosen) / 1000) <= 1.5


def test_without_strata_chance_decides() -> None:
    """So that the test above is one of stratify_by."""
    plan = replace(PLAN, phases=(Phase(percent=5.0),))
    devices = fleet(1000)
    opened = run(plan, devices)

    chosen = Counter(
        one.label("attribute.site") for one in devices if phase_of(plan, opened, one) is not None
    )

    assert [chosen[site] for site in SITES] != [30, 15, 5]


@given(st.integers(1, 200), st.integers(0, 200), st.sampled_from([None, "attribute.site"]))
def test_nobody_leaves_when_others_join(count: int, joining: int, by: str | None) -> None:
    phases = (Phase(percent=10.0), Phase(percent=50.0), Phase(percent=100.0))
    plan = replace(PLAN, phases=phases, stratify_by=by)
    devices, late = fleet(count), fleet(joining, first=count)
    first = [open_phase(plan, [], devices)]
    before = {one.id: phase_of(plan, first, one) for one in devices}

    opened = [*first, open_phase(plan, first, [*devices, *late])]
    opened.append(open_phase(plan, opened, [*devices, *late]))

    for one in devices:
        if before[one.id] is not None:
            assert phase_of(plan, opened, one) == before[one.id]
    assert all(phase_of(plan, opened, one) is not None for one in (*devices, *late))


def test_who_joins_late_may_belong_and_the_limit_does_not_grow() -> None:
    plan = replace(PLAN, phases=(Phase(percent=50.0), Phase(percent=100.0)))
    devices, late = fleet(100), fleet(100, first=100)
    opened = [open_phase(plan, [], devices)]

    inside = [one for one in late if phase_of(plan, opened, one) == 0]

    assert opened[0].limit == 50
    assert inside, "with half of all positions below the cut, some of a hundred are"
    # A place that is free may be theirs. One that is not leaves them to the phases after it.
    opened.append(open_phase(plan, opened, [*devices, *late]))
    assert {tuple(phases_of(plan, opened, one)) for one in inside} == {(0, 1)}


def test_a_stratum_that_nobody_had_waits_for_the_last_phase() -> None:
    plan = replace(
        PLAN, phases=(Phase(percent=99.0), Phase(percent=100.0)), stratify_by="attribute.site"
    )
    devices = fleet(100)
    new = Facts(id="new", product="gateway", attributes={"site": "rome"})
    opened = [open_phase(plan, [], devices)]

    assert phase_of(plan, opened, new) is None
    opened.append(open_phase(plan, opened, [*devices, new]))
    assert phase_of(plan, opened, new) == 1


def test_a_selector_does_not_keep_others_out() -> None:
    plan = replace(PLAN, phases=(Phase(selector="tag==canary"), Phase(percent=100.0)))
    devices = fleet(200)
    opened = run(plan, devices)

    assert opened == [Opening(4, 4), Opening(196, None, everyone=True)]
    assert [phase_of(plan, opened, one) for one in devices[:2]] == [0, 1]
    assert [tuple(phases_of(plan, opened, one)) for one in devices[:2]] == [(0, 1), (1,)]


def test_the_salt_shuffles() -> None:
    devices = [f"d{n}" for n in range(100)]
    orders = [sorted(devices, key=lambda one: position(salt, one)) for salt in ("a", "b", "a")]

    assert orders[0] == orders[2] != orders[1]


def test_an_opening_survives_json() -> None:
    opening = run(replace(PLAN, phases=(Phase(percent=50.0),)), fleet(100))[0]

    assert max(opening.cuts.values()) > 1 << 32
    assert msgspec.json.decode(msgspec.json.encode(opening), type=Opening) == opening
