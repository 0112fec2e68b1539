"""Who belongs to which phase: computed from the device's id, never stored for each device.

Every device has a position in an order that the rollout's salt shuffles. A phase that opens looks
at the devices that match and draws cuts through that order, one for each stratum; a device below
its stratum's cut belongs to the phase. What a device that joins later may do is bounded by the
phase's limit, which store/grants.py guards in the transaction that offers: an offer counts in the
first of the device's phases that has room, so that a full phase does not keep it out of later ones.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from slipstream.server.rollout.facts import Facts
from slipstream.server.rollout.plan import Phase, Plan
from slipstream.server.rollout.rsql import matches

POSITIONS = 1 << 64


@dataclass(frozen=True, slots=True)
class Opening:
    """What a phase was found to be when it opened."""

    members: int  # devices that it adds to the phases before it
    limit: int | None  # devices that may be offered the release in it; None: all that match
    cuts: Mapping[str, int] = field(default_factory=dict)  # by stratum, positions below belong
    everyone: bool = False  # no cut: strata that nobody had yet belong as well


def position(salt: str, device: str) -> int:
    """The place of a device in the rollout's order: 64 bits that nobody can choose."""
    digest = hashlib.sha256(f"{salt}\0{device}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


@dataclass(frozen=True, slots=True)
class Draw:
    """A phase's line, and what the phases before it may have beside it."""

    opening: Opening
    rooms: tuple[int, ...]  # devices of each phase before: offered, or there and waiting


def open_phase(
    plan: Plan,
    opened: Sequence[Opening],
    population: Iterable[Facts],
    offered: Collection[str] = frozenset(),
) -> Opening:
    """The phase that draw() finds."""
    return draw(plan, opened, population, offered).opening


def draw(
    plan: Plan,
    opened: Sequence[Opening],
    population: Iterable[Facts],
    offered: Collection[str] = frozenset(),
    counts: Sequence[int] = (),
) -> Draw:
    """Draw the line of the phase behind those in `opened`.

    `population` is every device that the filter matches and that does not run the release yet,
    `offered` the ids of all that the rollout has offered it to, wherever they are now. `counts` are
    the offers of each open phase, those to devices that were removed since among them: all are part
    of the whole that percentages and counts are of, and of what is taken already.
    """
    phase = plan.phases[len(opened)]
    before: list[Facts] = []
    waiting: Counter[int] = Counter()
    for one in population:
        if one.id in offered:
            continue
        index = phase_of(plan, opened, one)
        if index is None:
            before.append(one)
        else:
            waiting[index] += 1
    rooms = tuple(count + waiting[index] for index, count in enumerate(counts))
    if phase.selector is not None:
        members = sum(1 for one in before if matches(phase.selects, one))
        return Draw(Opening(members, members), rooms)
    if phase.percent == 100:
        return Draw(Opening(len(before), None, everyone=True), rooms)
    taken = max(len(offered), sum(counts)) + waiting.total()
    whole = taken + len(before)
    wanted = phase.count if phase.count is not None else _share(phase, whole)
    chosen = _ranked(plan, before)[: max(0, wanted - taken)]
    cuts: dict[str, int] = {}
    for stratum, place in chosen:
        cuts[stratum] = max(cuts.get(stratum, 0), place + 1)
    return Draw(Opening(len(chosen), len(chosen), cuts), rooms)


def phase_of(plan: Plan, opened: Sequence[Opening], device: Facts) -> int | None:
    """The first open phase that a matching device belongs to; None: not its turn yet."""
    return next(phases_of(plan, opened, device), None)


def phases_of(plan: Plan, opened: Sequence[Opening], device: Facts) -> Iterator[int]:
    """All open phases that a matching device belongs to, the first one first."""
    place, stratum = -1, ""
    for index, opening in enumerate(opened):
        phase = plan.phases[index]
        if phase.selector is not None:
            if matches(phase.selects, device):
                yield index
        elif opening.everyone:
            yield index
        else:
            if place < 0:
                place, stratum = position(plan.order_salt, device.id), _stratum(plan, device)
            if place < opening.cuts.get(stratum, 0):
                yield index


def _stratum(plan: Plan, device: Facts) -> str:
    return "" if plan.stratify_by is None else device.label(plan.stratify_by)


def _share(phase: Phase, population: int) -> int:
    assert phase.percent is not None
    # In whole hundredths: binary fractions would round 0.07 of 100 up to 8.
    return -(-round(phase.percent * 100) * population // 10_000)


def _ranked(plan: Plan, population: Sequence[Facts]) -> list[tuple[str, int]]:
    """All devices as (stratum, position), such that every beginning holds every stratum evenly."""
    strata: dict[str, list[int]] = defaultdict(list)
    for device in population:
        strata[_stratum(plan, device)].append(position(plan.order_salt, device.id))
    ranked: list[tuple[float, int, str]] = []
    for stratum, places in strata.items():
        places.sort()
        ranked.extend(
            ((rank + 0.5) / len(places), place, stratum) for rank, place in enumerate(places)
        )
    ranked.sort()
    return [(stratum, place) for _, place, stratum in ranked]
