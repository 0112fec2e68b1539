"""offer.py: what a device that polls is told."""

from dataclasses import replace

import pytest
from msgspec import structs

from slipstream.server.rollout.facts import Facts
from slipstream.server.rollout.offer import Install, Standing, Stay, decide
from slipstream.server.rollout.order import Opening
from slipstream.server.rollout.plan import Phase, Plan
from slipstream.server.rollout.record import OFFERING, Rollout, Status
from slipstream.server.rollout.route import Waypoint
from slipstream.server.rollout.track import State

MONDAY = 1_767_571_200  # 2026-01-05 00:00 UTC
EVERYONE = Opening(1, None, everyone=True)
PLAN = Plan("spring", "gateway", "2.0", 2, (Phase(percent=100.0),))
ROLLOUT = Rollout(7, PLAN, Status.RUNNING, (EVERYONE,), 1, 0)
DEVICE = Standing(Facts(id="a", product="gateway", release="1.0", counter=1))
NEWER = Rollout(
    8,
    Plan("summer", "gateway", "3.0", 3, (Phase(percent=100.0),)),
    Status.RUNNING,
    (EVERYONE,),
    1,
    0,
)


def device(**more: object) -> Standing:
    facts = {name: more.pop(name) for name in list(more) if name in Facts.__slots__}
    return replace(DEVICE, facts=structs.replace(DEVICE.facts, **facts), **more)


def rollout(base: Rollout = ROLLOUT, **more: object) -> Rollout:
    plan = {name: more.pop(name) for name in list(more) if name in Plan.__slots__}
    return replace(base, plan=replace(base.plan, **plan), **more)


@pytest.mark.parametrize(
    ("standing", "rollouts", "waypoints", "words"),
    [
        (DEVICE, [], [], "nothing newer than 1.0"),
        (device(release=None, counter=None), [], [], "no rollout has a release"),
        (device(trial=True), [ROLLOUT], [], "a trial is under way"),
        (device(counter=2), [ROLLOUT], [], "nothing newer than 1.0"),
        (device(counter=None, release="2.0"), [ROLLOUT], [], "nothing newer than 2.0"),
        (DEVICE, [rollout(filter="tag==lab")], [], "nothing newer"),
        (
            device(refused={"2.0": "fell back"}),
            [ROLLOUT],
            [],
            "quarantined on this device: fell back",
        ),
        (device(floor=3), [ROLLOUT], [], "below this device's floor 3"),
        (
            DEVICE,
            [ROLLOUT],
            [Waypoint("1.0", 1, dead_end=True)],
            "1.0 is a dead end",
        ),
        (DEVICE, [rollout(opened=())], [], "turn comes later"),
        (DEVICE, [rollout(windows=("Mon 02:00-04:00",))], [], "window: 2026-01-05 02:00 UTC"),
        (
            device(attempts={7: State.CANCELLED}),
            [ROLLOUT],
            [],
            "the offer of 2.0 was taken back",
        ),
        *(
            (DEVICE, [rollout(status=status)], [], f"is {status.value.replace('_', ' ')}")
            for status in Status
            if status not in OFFERING
        ),
    ],
)
def test_it_stays(
    standing: Standing, rollouts: list[Rollout], waypoints: list[Waypoint], words: str
) -> None:
    found = decide(standing, rollouts, waypoints, MONDAY)

    assert isinstance(found, Stay)
    assert words in found.reason


@pytest.mark.parametrize(
    ("standing", "rollouts", "release", "fresh"),
    [
        (DEVICE, [ROLLOUT], "2.0", True),
        (DEVICE, [rollout(status=Status.FINISHED)], "2.0", True),
        (device(floor=2), [ROLLOUT], "2.0", True),
        (device(counter=None, release=None), [ROLLOUT], "2.0", True),
        (DEVICE, [ROLLOUT, NEWER], "3.0", True),
        # One that holds it back does not hide an older one.
        (DEVICE, [ROLLOUT, rollout(NEWER, opened=())], "2.0", True),
        (DEVICE, [ROLLOUT, rollout(NEWER, status=Status.PAUSED)], "2.0", True),
        (device(refused={"3.0": "fell back"}), [ROLLOUT, NEWER], "2.0", True),
        (DEVICE, [rollout(windows=("Sun 23:00-01:00",))], "2.0", True),
        # Offered before: neither the window nor the phase is asked again.
        (
            device(attempts={7: State.FETCHING}),
            [rollout(windows=("Mon 02:00-04:00",))],
            "2.0",
            False,
        ),
        (device(attempts={7: State.FAILED}), [rollout(opened=())], "2.0", False),
    ],
)
def test_it_installs(
    standing: Standing, rollouts: list[Rollout], release: str, fresh: bool
) -> None:
    found = decide(standing, rollouts, [], MONDAY)

    assert isinstance(found, Install)
    assert (found.release, found.fresh) == (release, fresh)
    assert found.rollout is not None
    assert found.rollout.plan.release == release


def test_a_fresh_offer_names_every_phase_that_it_may_count_in() -> None:
    plan = replace(PLAN, phases=(Phase(selector="id==a"), Phase(percent=100.0)))
    both = replace(ROLLOUT, plan=plan, opened=(Opening(1, None), EVERYONE))

    found = decide(DEVICE, [both], [], MONDAY)

    assert isinstance(found, Install)
    assert (found.phase, found.phases) == (0, (0, 1))
    assert found.reason == "rollout spring, phase 1"
