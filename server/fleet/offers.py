"""What a poll is answered with: decide, and have a new offer granted before it is said."""

from collections.abc import Mapping

from slipstream.server.catalog import Catalog, Release
from slipstream.server.fleet.board import Board, View
from slipstream.server.rollout.facts import Facts
from slipstream.server.rollout.offer import Decision, Install, Standing, Stay, decide
from slipstream.server.rollout.record import Rollout
from slipstream.server.store import grants, rollouts
from slipstream.server.store.database import Database


async def make_offer(
    database: Database,
    board: Board,
    catalog: Catalog,
    standing: Standing,
    now: int,
) -> Decision:
    """The answer to a device.

    A new offer is durable, counted against its phase and its budgets, before this returns it; one
    that was made before is looked at again.
    """
    device, view = standing.facts, board.view
    decision = choose(view, catalog, standing, now)
    if isinstance(decision, Stay):
        return decision
    if not catalog.has(device.product, decision.release):
        return Stay(f"{decision.release} is not in the repository")
    rollout = decision.rollout
    if rollout is None:
        # Another server may have made the line's first rollout a moment ago.
        async with database.reading() as connection:
            begun = await rollouts.has_line(connection, device.product, device.channel)
        return Stay("its line's first rollout begins") if begun else decision
    wanted = grants.Request(
        rollout=rollout.id,
        phases=decision.phases,
        device=device,
        release=decision.release,
        labels=_labels(rollout, device, view),
        max_downloads=rollout.plan.max_downloads,
        source=device.release,
    )
    try:
        if decision.fresh or not await _stands(database, wanted):
            async with database.reading() as connection:
                await grants.look_for_room(connection, wanted)
            await database.write(lambda connection: grants.grant(connection, wanted, now))
    except grants.NoRoom as error:
        if isinstance(error, grants.Crowded):
            board.crowded[rollout.id] = now, str(error)
        return Stay(f"{decision.release} has to wait: {error}")
    return decision


def choose(view: View, catalog: Catalog, standing: Standing, now: int) -> Decision:
    """What a device would be offered. Without any rollout in its line, ever: the newest release.

    (Other updaters have no word for what they run: they are offered what a rollout has for them.)
    """
    if (standing.facts.product, standing.facts.channel) in view.managed:
        return prefer(view, catalog, standing, now)
    return Stay("no rollout") if standing.foreign else newest(standing, catalog)


def prefer(view: View, catalog: Catalog, standing: Standing, now: int) -> Decision:
    """What the rollouts have for a device, of those whose release has anything for its kind."""
    line = (standing.facts.product, standing.facts.channel)
    fitting = [
        one
        for one in view.rollouts.get(line, ())
        if _has_part_for(standing, catalog.find(one.plan.product, one.plan.release))
    ]
    return decide(standing, fitting, view.waypoints.get(line, ()), now)


def _has_part_for(standing: Standing, release: Release | None) -> bool:
    if release is None:
        return True  # nobody knows what it has
    return bool(release.artifacts) if standing.foreign else not release.foreign


async def _stands(database: Database, wanted: grants.Request) -> bool:
    async with database.reading() as connection:
        return await grants.stands(connection, wanted)


def newest(standing: Standing, catalog: Catalog) -> Decision:
    """The newest release of the device's channel, for fleets without rollouts.

    A release that failed on this device is not replaced by an older one: it waits for a newer.
    """
    device, refused = standing.facts, standing.refused or {}
    release = catalog.newest(device.product, device.channel)
    if release is None:
        return Stay("no release in this channel")
    if standing.trial:
        return Stay("a trial is under way")
    # The counter is the truth where the device knows it: two releases may share a root, when
    # only the kernel changed.
    if device.counter is not None:
        runs = device.counter == release.counter
    elif device.release is not None:
        runs = device.release == release.release
    else:
        runs = device.booted_root in release.roots
    if runs:
        return Stay(f"already on {release.release}")
    if release.release in refused:
        return Stay(f"{release.release} failed on this device; waiting for a newer release")
    if release.counter < standing.floor:
        return Stay(f"{release.release} is below this device's floor {standing.floor}")
    if device.counter is not None and release.counter < device.counter:
        return Stay(f"runs counter {device.counter}, newer than {release.release}")
    return Install(release.release, release.counter, f"newest in channel {release.channel}")


def _labels(rollout: Rollout, device: Facts, view: View) -> Mapping[tuple[str, str], int]:
    """Every budget that the device counts against; of two for a label, the tighter."""
    limits = dict(view.budgets)
    for budget in rollout.plan.budgets:
        most = budget.max_unavailable
        limits[budget.label] = min(most, limits.get(budget.label, most))
    return places_of(device, limits)


def places_of(device: Facts, limits: Mapping[str, int]) -> Mapping[tuple[str, str], int]:
    """The places that a device takes while it is away: (label, its value), and how many there are.

    One without a value belongs to no group that could be short of devices.
    """
    return {
        (label, value): most for label, most in limits.items() if (value := device.label(label))
    }
