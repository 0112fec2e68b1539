"""behaviour.py: the fates of a fleet, and fleets that are made or recorded."""

from collections import Counter
from collections.abc import Callable
from random import Random

import msgspec
import pytest

from slipstream.delta.errors import UsageError
from slipstream.server.rollout.behaviour import (
    Behaviour,
    Failing,
    Spread,
    draw_fates,
    parse_fleet,
    synthetic_fleet,
)
from slipstream.server.rollout.facts import Facts
from slipstream.server.rollout.plan import FailureClass, Phase, Plan

PLAN = Plan("spring", "gateway", "2.0", 2, (Phase(percent=100.0),))
BOOT, FETCH = FailureClass.BOOT, FailureClass.FETCH


def test_fates_are_shared_out_as_asked() -> None:
    spreads = [Spread("hardware", {"rev-a": 3, "rev-b": 1}), Spread("tag", {"canary": 1, "": 9})]
    fleet = synthetic_fleet(PLAN, 4000, spreads, Random(1))
    behaviour = Behaviour(
        (Failing(BOOT, 0.6, "hardware==rev-b"), Failing(FETCH, 0.05)),
        offline=0.25,
        offline_s=1000,
        fetch_s=500,
    )

    fates = draw_fates(behaviour, fleet, Random(1))

    hardware = Counter(one.hardware for one in fleet)
    assert 2800 < hardware["rev-a"] < 3200
    assert hardware["rev-a"] + hardware["rev-b"] == 4000
    assert 300 < sum(one.tags == {"canary"} for one in fleet) < 500
    failed = Counter((one.hardware, fate.failure) for one, fate in zip(fleet, fates, strict=True))
    assert failed["rev-a", BOOT] == 0
    assert abs(failed["rev-b", BOOT] / hardware["rev-b"] - 0.6) < 0.05
    assert abs(failed["rev-a", FETCH] / hardware["rev-a"] - 0.05) < 0.02
    away = [one.online_s for one in fates if one.online_s]
    assert 900 < len(away) < 1100
    assert 850 < sum(away) / len(away) < 1150
    assert sorted(one.fetch_s for one in fates)[2000] in range(450, 550)
    assert {one.poll_offset_s for one in fates} == set(range(300))


def test_a_device_keeps_its_fate_when_the_fleet_behaves_otherwise() -> None:
    fleet = synthetic_fleet(PLAN, 200, [], Random(1))
    few, many = (
        draw_fates(Behaviour((Failing(BOOT, share),)), fleet, Random(1)) for share in (0.1, 0.3)
    )

    assert [one.fetch_s for one in few] == [one.fetch_s for one in many]
    failing = [{n for n, one in enumerate(fates) if one.failure} for fates in (few, many)]
    assert failing[0] < failing[1]


REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: Failing(BOOT, 1.1), "not a share"),
    (lambda: Failing(BOOT, 0.1, "id=="), "not a filter"),
    (lambda: Behaviour((Failing(BOOT, 0.6), Failing(FETCH, 0.6))), "more devices fail"),
    (lambda: Behaviour(poll_interval_s=0), "poll interval"),
    (lambda: Behaviour(fetch_s=1 << 40), "time to fetch"),
    (lambda: Behaviour(offline=-0.1), "offline"),
    (lambda: Spread("nope", {"a": 1}), "no selector"),
    (lambda: Spread("product", {"a": 1}), "not spread"),
    (lambda: Spread("hardware"), "have no sum"),
    (lambda: Spread("hardware", {"a": 0}), "have no sum"),
    (lambda: Spread("hardware", {"a": -1, "b": 2}), "have no sum"),
    (lambda: synthetic_fleet(PLAN, 0, [], Random(1)), "number of devices"),
]


@pytest.mark.parametrize(("make", "match"), REFUSED)
def test_refused(make: Callable[[], object], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        make()


def test_a_fleet_that_was_recorded() -> None:
    fleet = [
        Facts("a", "gateway", counter=1, tags=frozenset({"lab"}), attributes={"site": "oslo"}),
        Facts("b", "gateway", release="1.0", seen_at=5),
    ]
    lines = [msgspec.json.encode(one) + b"\n" for one in fleet]

    assert list(parse_fleet([lines[0], b"\n", lines[1]])) == fleet


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        ([b"{}"], "line 1 is not a device.*id"),
        ([b'{"id":"a","product":"p"}', b"nonsense"], "line 2 is not a device"),
        ([b'{"id":"a","product":"p"}'] * 2, "line 2 has a device a second time"),
    ],
)
def test_a_recording_that_is_none(lines: list[bytes], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        list(parse_fleet(lines))
