"""What a plan would do: the devices that it matches, and a simulation of it on them.

The simulation is the engine's own (server/rollout/simulate.py) on the fleet as it is, with failures
that somebody supposes. It is processor time: one at a time, on SIMULATED_SHOWN_MAX devices at most.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

from slipstream.delta.limits import SIMULATED_SHOWN_MAX
from slipstream.server.matching import Population, population
from slipstream.server.pages.bars import Curves, curves
from slipstream.server.pages.words import count_words, span_words
from slipstream.server.rollout.behaviour import Behaviour, Failing
from slipstream.server.rollout.facts import Facts
from slipstream.server.rollout.order import open_phase
from slipstream.server.rollout.outcome import Outcome
from slipstream.server.rollout.picture import description_of
from slipstream.server.rollout.plan import FailureClass, Plan
from slipstream.server.rollout.record import Status
from slipstream.server.rollout.simulate import simulate
from slipstream.server.store.database import Database

_SEED = 1  # the same form shows the same picture


@dataclass(frozen=True, slots=True)
class Foresight:
    """What stands beside the form."""

    plan: Plan
    whole: int  # devices in the release's channel
    devices: int  # of them those that match
    first: int  # of them those that the first phase takes
    sample: tuple[Facts, ...]
    verdict: str  # of the simulation
    facts: tuple[tuple[str, str], ...]
    curves: Curves
    described: str
    of: int  # devices that were simulated: fewer than match, if there are very many


@dataclass(frozen=True, slots=True)
class Foreseer:
    """Looks ahead, one plan at a time."""

    database: Database
    poll_interval_s: int
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def foresee(self, plan: Plan, supposed: Mapping[FailureClass, float]) -> Foresight:
        """`supposed`: shares (0 to 1) of the devices that fail, by class. UsageError, Unavailable."""
        found = await population(self.database, plan.condition, plan.product, plan.channel)
        failing = tuple(Failing(kind, share) for kind, share in supposed.items() if share > 0)
        behaviour = Behaviour(failing, poll_interval_s=self.poll_interval_s)
        async with self._turn:
            return await asyncio.to_thread(_foresee, plan, found, behaviour)


def _foresee(plan: Plan, found: Population, behaviour: Behaviour) -> Foresight:
    fleet = found.devices
    if len(fleet) > SIMULATED_SHOWN_MAX:
        fleet = tuple(Random(_SEED).sample(fleet, SIMULATED_SHOWN_MAX))
    outcome = simulate(plan, fleet, behaviour, Random(_SEED))
    return Foresight(
        plan,
        found.whole,
        len(found.devices),
        first_phase(plan, found.devices),
        found.sample,
        verdict_of(outcome),
        facts_of(outcome),
        curves(outcome),
        description_of(outcome),
        len(fleet),
    )


def first_phase(plan: Plan, population: tuple[Facts, ...]) -> int:
    """How many devices the first phase would take now: those that run the release do not count."""
    ready = [
        one
        for one in population
        if not (one.release == plan.release or (one.counter or 0) >= plan.counter)
    ]
    return open_phase(plan, (), ready).members


def verdict_of(outcome: Outcome) -> str:
    """How it would end, in a sentence."""
    if outcome.stop is not None:
        word = "paused" if outcome.status is Status.PAUSED else "aborted"
        return f"It would be {word} after {span_words(outcome.stop.at_s)}: {outcome.stop.reason}."
    if outcome.finished_s is not None:
        return f"It would finish after {span_words(outcome.finished_s)}."
    return f"It would not finish: {outcome.reason}."


def facts_of(outcome: Outcome) -> tuple[tuple[str, str], ...]:
    """Its figures."""
    return (
        ("Exposed until then", count_words(outcome.exposed, "device")),
        ("Failed in the end", count_words(outcome.failed, "device")),
        ("Downloads at once", f"{outcome.downloads_max:,} at most"),
        ("Out of service at once", f"{outcome.unavailable_max:,} at most"),
    )
