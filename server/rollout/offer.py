"""What a polling device is offered by the rollouts. Pure: values in, a decision out.

The decision is a proposal: an offer that is new has to be granted by the store, in the
transaction that counts it, before it is said (store/grants.py).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from slipstream.delta.maintenance import Schedule
from slipstream.server.rollout.facts import Facts
from slipstream.server.rollout.order import phases_of
from slipstream.server.rollout.record import OFFERING, Rollout
from slipstream.server.rollout.route import Waypoint, blocked
from slipstream.server.rollout.rsql import matches
from slipstream.server.rollout.track import IN_FLIGHT, State


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a device stands when it polls, beside what the fleet knows of it."""

    facts: Facts
    floor: int = 0  # lowest counter it accepts
    trial: bool = False  # it tries out a release that is not confirmed
    refused: Mapping[str, str] | None = None  # releases it shall not be offered, and why
    attempts: Mapping[int, State] | None = None  # by rollout: offers that it has had
    foreign: bool = False  # another updater: it takes artifacts, and may ask the person before it


@dataclass(frozen=True, slots=True)
class Install:
    """Install `release`. `fresh`: not offered to this device yet, so it has to be granted.

    `phases`: the open phases that the device belongs to. The offer counts in the first with room.
    """

    release: str
    counter: int
    reason: str
    rollout: Rollout | None = None
    phase: int = 0
    fresh: bool = False
    phases: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Stay:
    """Nothing to install now."""

    reason: str


Decision = Install | Stay


def decide(
    standing: Standing,
    rollouts: Sequence[Rollout],
    waypoints: Collection[Waypoint],
    now: int,
) -> Decision:
    """What the device gets: the newest release that an open phase of a rollout has for it.

    `rollouts` are those of its product and channel. A rollout that holds it back does not hide
    an older one that does not.
    """
    device, refused = standing.facts, standing.refused or {}
    if standing.trial:
        return Stay("a trial is under way")
    reasons: list[str] = []
    mine = {one for one, state in (standing.attempts or {}).items() if state in IN_FLIGHT}
    # Of one release, the one that has sent it on its way: it shall not begin again for another.
    for rollout in sorted(
        rollouts, key=lambda one: (-one.plan.counter, one.id not in mine, -one.id)
    ):
        plan = rollout.plan
        if device.counter is not None and plan.counter <= device.counter:
            break  # older ones are no news either
        if device.counter is None and device.release == plan.release:
            break
        if not matches(plan.condition, device):
            continue
        state = (standing.attempts or {}).get(rollout.id)
        why = _held(rollout, standing, refused, waypoints)
        if why is None and state is None and (why := _closed(rollout, now)) is None:
            phases = tuple(phases_of(plan, rollout.opened, device))
            if phases:
                words = f"rollout {plan.name}, phase {phases[0] + 1}"
                return Install(
                    plan.release, plan.counter, words, rollout, phases[0], fresh=True, phases=phases
                )
            why = f"{plan.release} is rolled out in phases; this device's turn comes later"
        elif why is None and state is not State.CANCELLED:
            words = f"rollout {plan.name}, offered before"
            return Install(plan.release, plan.counter, words, rollout)
        reasons.append(why or f"the offer of {plan.release} was taken back")
    return Stay(reasons[0] if reasons else _current(device))


def _held(
    rollout: Rollout,
    standing: Standing,
    refused: Mapping[str, str],
    waypoints: Collection[Waypoint],
) -> str | None:
    plan = rollout.plan
    if rollout.status not in OFFERING:
        return f"rollout {plan.name} is {rollout.status.value.replace('_', ' ')}"
    if plan.release in refused:
        return f"{plan.release} is quarantined on this device: {refused[plan.release]}"
    if plan.needs_consent and not standing.foreign:
        return f"{plan.release} needs the consent of the person at the device; it cannot ask"
    if plan.counter < standing.floor:
        return f"{plan.release} is below this device's floor {standing.floor}"
    return blocked(standing.facts.counter, plan.counter, waypoints)


def _closed(rollout: Rollout, now: int) -> str | None:
    """Why a new offer does not begin now, or None: a maintenance window that is shut."""
    begins = _opens(rollout.plan.schedule, now)
    return begins and f"{rollout.plan.release} waits for the maintenance window: {begins}"


def closed(schedule: Schedule, now: int) -> bool:
    """Whether offers of a plan with such windows do not begin now."""
    return _opens(schedule, now) is not None


@lru_cache(maxsize=256)  # a fleet polls many times a second; a look takes 11 us a window
def _opens(schedule: Schedule, now: int) -> str | None:
    moment = datetime.fromtimestamp(now, UTC)
    if not schedule.windows or schedule.open_at(moment) is not None:
        return None
    opening = schedule.next_after(moment)
    return f"{opening.begin:%Y-%m-%d %H:%M} UTC" if opening is not None else "never"


def _current(device: Facts) -> str:
    return f"nothing newer than {device.release}" if device.release else "no rollout has a release"
