"""What a fleet of simulated devices was told, and what must therefore be true.

The model hears the same answers as the devices and knows nothing of the database. Where it
cannot be sure (an answer was lost on the way), it believes what makes its claims weaker.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from slipstream.server.catalog import Catalog, ImageOffer, Release
from slipstream.server.rollout.plan import Plan

COUNTERS = {"1.0": 1, "2.0": 2, "3.0": 3}
ROOTS = {name: str(counter) * 64 for name, counter in COUNTERS.items()}
WRONG_ROOT = "e" * 64
CATALOG = Catalog(
    tuple(
        Release("gateway", name, counter, "stable", (ImageOffer("rootfs", ROOTS[name], 1),))
        for name, counter in sorted(COUNTERS.items(), reverse=True)
    ),
    "2030-01-01T00:00:00Z",
    0,
)


@dataclass
class Gadget:
    """A device, as it is: what it runs, what it was told, what it has not got across yet."""

    id: str
    site: str = "a"
    tags: frozenset[str] = frozenset()
    runs: str = "1.0"
    written: str | None = None  # the release in its row, as far as a flush has come
    trial: bool = False
    failed: set[str] = field(default_factory=set)
    tasks: list[tuple[int, str]] = field(default_factory=list)  # (rollout, release) to install
    outbox: list[Mapping[str, Any]] = field(default_factory=list)  # reports not sent yet
    sent: list[Mapping[str, Any]] = field(default_factory=list)
    written_at: int = 0  # when it was seen, as far as a flush has come


# The filters of the machine, in its own words.
FILTERS: Mapping[str, Callable[[Gadget], bool]] = {
    "": lambda _: True,
    "attribute.site!=c": lambda one: one.site != "c",
    "attribute.site=in=(a,b),tag==x": lambda one: one.site in "ab" or "x" in one.tags,
    "tag==x": lambda one: "x" in one.tags,
}


@dataclass
class Campaign:
    """A rollout, as far as answers and operators' acts tell."""

    id: int
    plan: Plan
    halted: bool = False  # somebody paused or aborted it, and was told that it is done
    aborted: bool = False
    told: dict[str, int] = field(default_factory=dict)  # device: the phase it was told in
    # For each phase: devices in it and all before it.
    allowed: list[int | None] = field(default_factory=list)
    rows: list[tuple[Any, ...]] = field(default_factory=list)  # what was drawn when it opened
    limits: list[int | None] = field(default_factory=list)  # as they were last seen
    confirmed: set[str] = field(default_factory=set)  # by devices that have said so
    removed: set[str] = field(default_factory=set)  # told; one of the name may have joined since
    removals: int = 0  # of devices that were told


@dataclass
class Model:
    """Everything that was said."""

    budget: int  # devices of one site on their way at once
    gadgets: dict[str, Gadget] = field(default_factory=dict)
    campaigns: dict[int, Campaign] = field(default_factory=dict)
    doubtful: set[str] = field(default_factory=set)  # an answer to them was lost
    refused: set[tuple[str, str]] = field(default_factory=set)  # (device, release)
    away: dict[tuple[int, str], str] = field(default_factory=dict)  # (rollout, device): site
    since: dict[tuple[int, str], int] = field(default_factory=dict)  # offered anew; 0: said again
    given_up: set[tuple[int, str]] = field(default_factory=set)  # of `away`: silent for long enough

    def told(
        self, gadget: Gadget, rollout: int, release: str, phase: int, *, fresh: bool, now: int
    ) -> None:
        """A device was answered with a release: may that be?"""
        one = self.campaigns[rollout]
        assert release == one.plan.release
        assert (gadget.id, release) not in self.refused, f"{gadget.id}: {release} is quarantined"
        assert FILTERS[one.plan.filter](gadget), f"{gadget.id} is outside {one.plan.filter}"
        assert not one.halted, f"{gadget.id}: {one.plan.name} is halted"
        if fresh:
            assert phase < len(one.allowed), f"phase {phase} is not open"
            if one.plan.windows:
                assert 7 <= datetime.fromtimestamp(now, UTC).hour < 13, "the window is shut"
        one.told.setdefault(gadget.id, phase)
        if one.plan.budgets:
            self.away[rollout, gadget.id] = gadget.site
            self.since[rollout, gadget.id] = now if fresh else 0
            self.given_up.discard((rollout, gadget.id))
        if (rollout, release) not in gadget.tasks:
            gadget.tasks.append((rollout, release))

    def opened(self, rollout: int, row: tuple[Any, ...], limit: int | None) -> None:
        """A phase is seen open for the first time: how many may it have, and was its turn?"""
        one, index = self.campaigns[rollout], len(self.campaigns[rollout].allowed)
        phase, plan = one.plan.phases[index], one.plan
        if index:
            self._proved(one, index - 1)
        # Those that were offered it, wherever they are now, and those that still may be.
        whole = one.removals + sum(
            gadget.id in one.told
            or gadget.id in self.doubtful
            or (
                FILTERS[plan.filter](gadget)
                and COUNTERS.get(gadget.written or "", 0) < plan.counter
            )
            for gadget in self.gadgets.values()
        )
        before = one.allowed[-1] if index else 0
        assert before is not None
        if phase.percent == 100:
            one.allowed.append(None)
        elif phase.selector is not None:
            chosen, fits = FILTERS[phase.selector], FILTERS[plan.filter]
            found = sum(chosen(one) and fits(one) for one in self.gadgets.values())
            one.allowed.append(before + found)
        elif phase.count is not None:
            one.allowed.append(max(before, phase.count))
        else:
            assert phase.percent is not None
            one.allowed.append(max(before, math.ceil(phase.percent * whole / 100)))
        one.rows.append(row)
        one.limits.append(limit)

    def _proved(self, one: Campaign, index: int) -> None:
        """A phase opened behind this one: enough of its devices have said that they run it."""
        asked = [name for name, phase in one.told.items() if phase == index]
        there = [name for name in asked if name in self.gadgets and name not in one.removed]
        proved = sum(name in one.confirmed for name in {*there, *one.removed})
        needed = max(1, math.ceil(one.plan.phases[index].success.percent * len(there) / 100))
        if there:
            assert proved >= needed, f"{one.plan.name}: {proved} of {needed}, and it moved on"

    def settled(self, rollout: int, device: str) -> None:
        """The device is not on its way any more, or may not be."""
        self.away.pop((rollout, device), None)

    def told_nothing(self, device: str) -> None:
        """A device is there, and there is nothing to do: what was given up, or said again after it
        had failed, holds no place any more."""
        for rollout, name in tuple(self.away):
            if name == device and (
                (rollout, name) in self.given_up or not self.since[rollout, name]
            ):
                self.settled(rollout, name)

    def check(self) -> None:
        """The bounds, over everything that was ever said."""
        for one in self.campaigns.values():
            for index, most in enumerate(one.allowed):
                reached = sum(phase <= index for phase in one.told.values())
                assert most is None or reached <= most, (
                    f"{one.plan.name}, phases to {index}: {reached} devices, {most} may"
                )
        for site in "abc":
            on_their_way = {device for (_, device), where in self.away.items() if where == site}
            assert len(on_their_way) <= self.budget, f"{sorted(on_their_way)} of {site} are away"
