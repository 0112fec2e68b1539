"""Bars and stacked areas: they add up, and stay inside."""

from itertools import pairwise
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from slipstream.server.pages.bars import LAYERS_MAX, bar, curves, stack, tally_bar
from slipstream.server.rollout.behaviour import Behaviour, Failing
from slipstream.server.rollout.facts import Facts
from slipstream.server.rollout.judge import Tally
from slipstream.server.rollout.plan import FailureClass, Phase, Plan
from slipstream.server.rollout.simulate import simulate

NUMBERS = st.integers(0, 10**7)


@given(st.lists(NUMBERS, max_size=5), NUMBERS)
def test_a_bar_stays_inside(parts, more):
    segments = bar([("good", part) for part in parts], sum(parts) + more)
    assert len(segments) == sum(part > 0 for part in parts)
    assert all(one.x >= 0 and one.width > 0 for one in segments)
    assert sum(one.width for one in segments) <= 100.05
    assert all(
        abs(after.x - before.x - before.width) < 0.02 for before, after in pairwise(segments)
    )


def test_one_device_of_many_can_be_seen():
    (good, bad) = tally_bar(Tally(100_000, 99_999, {FailureClass.BOOT: 1}), 100_000)
    assert (good.kind, bad.kind) == ("good", "bad")
    assert bad.width > 0


def test_offers_beyond_the_members_widen_the_whole():
    (one,) = tally_bar(Tally(4, 4), 2)
    assert one.width == 100


def test_layers_are_releases_newest_first():
    history = {100: {"1.0": 8}, 200: {"1.0": 6, "1.10": 2}}
    chart = stack(history, {"1.0": 3, "1.10": 4, "1.9": 1, "": 2}, 300)
    assert [one.name for one in chart.layers] == ["1.10", "1.9", "1.0", "not said"]
    assert [one.devices for one in chart.layers] == [4, 1, 3, 2]
    assert (chart.top, chart.since, chart.until) == (10, 100, 300)
    # The newest release begins at nothing, and ends at four of ten.
    assert chart.layers[0].path.startswith("M0.00 100.00 L50.00 80.00 L100.00 60.00 L")


def test_many_releases_become_others():
    current = {f"{number}.0": 100 - number for number in range(20)}
    chart = stack({}, current, 5000)
    assert len(chart.layers) == LAYERS_MAX + 1
    assert chart.layers[-1].name == "others"
    assert sum(one.devices for one in chart.layers) == sum(current.values())


def test_an_empty_fleet_has_no_layers():
    assert stack({}, {}, 0).layers == ()


def test_curves_end_a_while_after_the_stop():
    fleet = [Facts(f"d{number}", "gateway", release="1.0", counter=1) for number in range(200)]
    plan = Plan("p", "gateway", "2.0", 2, (Phase(percent=10), Phase(percent=100)))
    failing = (Failing(FailureClass.BOOT, 0.9), Failing(FailureClass.SILENT, 0.1))
    outcome = simulate(plan, fleet, Behaviour(failing), Random(1))
    drawn = curves(outcome)
    assert drawn.halt == 50
    assert drawn.top == 20
    assert drawn.until_s < plan.silent_after_s
    assert drawn.offered.endswith("L100.00 0.00")
    assert [one.kind for one in drawn.bands] == ["even"]
