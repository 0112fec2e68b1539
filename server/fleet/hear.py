"""What devices say moves their offers: reports, and polls that show what a lost report said.

Each call is one transaction that begins by locking the device, so that two servers that hear of
one device hear one after the other.
"""

from collections.abc import Mapping

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.delta.limits import TRAFFIC_BYTES_MAX
from slipstream.server.catalog import Catalog
from slipstream.server.fleet.board import View
from slipstream.server.rollout.facts import Facts
from slipstream.server.rollout.plan import FailureClass, Plan, Proof
from slipstream.server.rollout.track import Event, State, step
from slipstream.server.store import attempts, polls, quarantines, reports, rollouts
from slipstream.server.store.database import Database
from slipstream.server.store.reports import Report

_EVENTS = {
    "installed": Event.INSTALLED,
    "confirmed": Event.CONFIRMED,
    "fell_back": Event.FELL_BACK,
    "failed": Event.FAILED,
    "progress": Event.FETCHING,
}
Heard = tuple[Event, FailureClass | None, str]


async def hear_report(database: Database, catalog: Catalog | None, report: Report) -> bool:
    """Keep a report and move the device's offers of that release; False: it was heard before.

    Raises KeyError if the device has been removed meanwhile.
    """

    async def act(connection: AsyncConnection) -> bool:
        if not await attempts.lock(connection, report.device):
            raise KeyError(report.device)
        if not await reports.add(connection, report):
            return False
        if report.release is None:
            return True
        found = await attempts.of_device(connection, report.device, release=report.release)
        plans = await rollouts.plans(connection, [one.rollout for one in found])
        for one in found:
            plan = plans.get(one.rollout)
            heard = None if plan is None else _read(report, plan, catalog)
            if heard is not None:
                event, said, reason = heard
                state = await attempts.move(
                    connection, one, event, report.received_at, said=said, reason=reason
                )
                if state is State.CONFIRMED is not one.state and plan is not None:
                    # Until its next poll says so.
                    await polls.note_release(
                        connection, report.device, one.release, plan.counter, report.booted_root
                    )
            if report.kind == "installed" and (traffic := _traffic(report)) is not None:
                await attempts.note_traffic(connection, one.id, traffic)
        # A name that nobody offered is no release: a device could fill the table with them.
        if report.kind == "fell_back" and (found or _is_published(catalog, report.release)):
            reason = report.reason or "it fell back"
            await quarantines.add(
                connection, report.device, report.release, reason, report.received_at
            )
        return True

    return await database.write(act)


async def hear_poll(
    database: Database,
    view: View,
    catalog: Catalog,
    device: Facts,
    states: Mapping[int, State],
    failed: Mapping[str, str],
    now: int,
    *,
    trial: bool,
) -> bool:
    """Move the offers that a poll says more about than any report did; True if there were any.

    `failed`: the releases that the device will not try again, and why.
    """
    seen: dict[int, Heard] = {}
    gone: list[int] = []
    proved = [
        view.by_id[one].plan.counter
        for one, state in states.items()
        if state is State.CONFIRMED and one in view.by_id
    ]
    for rollout, state in states.items():
        known = view.by_id.get(rollout)
        if known is None:
            if state in (State.OFFERED, State.FETCHING):
                gone.append(rollout)
            continue
        if known.unreadable:
            continue
        newest = known.plan.counter == max(proved, default=0)
        heard = _shown(known.plan, catalog, device, state, failed, trial=trial, newest=newest)
        if heard is not None and step(state, heard[0]) is not state:
            seen[rollout] = heard
    if not seen and not gone:
        return False

    async def act(connection: AsyncConnection) -> bool:
        if not await attempts.lock(connection, device.id):
            return False
        # Whoever polls is told that there is nothing (more) to install: that takes an offer back.
        for rollout in await rollouts.aborted(connection, gone):
            seen[rollout] = Event.CANCELLED, None, "the rollout was aborted"
        for one in await attempts.of_device(connection, device.id):
            if one.rollout in seen:
                event, said, reason = seen[one.rollout]
                await attempts.move(connection, one, event, now, said=said, reason=reason)
        return True

    return await database.write(act)


def _is_published(catalog: Catalog | None, release: str) -> bool:
    return catalog is not None and any(one.release == release for one in catalog.releases)


def _read(report: Report, plan: Plan, catalog: Catalog | None) -> Heard | None:
    """What a report says about an offer of its release; None: nothing that counts."""
    event = _EVENTS[report.kind]
    if event is Event.CONFIRMED:
        return _confirmed(plan, catalog, report.booted_root, report.reason)
    details = msgspec.json.decode(report.details, type=dict[str, object])
    if event is Event.FETCHING and "waits_for" in details:
        return None  # a window, a hold: it has not begun
    if plan.download_only and details.get("downloaded") is True and plan.proof is Proof.REPORT:
        return Event.CONFIRMED, None, report.reason  # all that was asked for is done
    said = next((one for one in FailureClass if one == details.get("class")), None)
    return event, said if event in (Event.FAILED, Event.FELL_BACK) else None, report.reason


def _traffic(report: Report) -> attempts.Traffic | None:
    """What an installation fetched, where the report says so and it can be."""
    details = msgspec.json.decode(report.details, type=dict[str, object])
    fetched, full = details.get("bytes_fetched"), details.get("full_bytes")
    if type(fetched) is not int or type(full) is not int:
        return None
    possible = 0 <= fetched <= TRAFFIC_BYTES_MAX and 0 <= full <= TRAFFIC_BYTES_MAX
    return attempts.Traffic(fetched, full) if possible else None


def _shown(
    plan: Plan,
    catalog: Catalog,
    device: Facts,
    state: State,
    failed: Mapping[str, str],
    *,
    trial: bool,
    newest: bool,
) -> Heard | None:
    """What a poll says about an offer. `newest`: of those that the device has confirmed, the last.

    A device that runs something older has fallen back from that one; from the releases before it
    went on.
    """
    if plan.release in failed:
        return Event.FELL_BACK, FailureClass.BOOT, failed[plan.release] or "the device says so"
    if device.release == plan.release and not trial:
        return _confirmed(plan, catalog, device.booted_root, "the device polls with it")
    counter = device.counter
    if counter is None and device.release is not None:
        known = catalog.find(plan.product, device.release)
        counter = None if known is None else known.counter
    lower = counter is not None and counter < plan.counter
    if state is State.CONFIRMED and lower and newest:
        return Event.FELL_BACK, FailureClass.BOOT, f"it runs {device.release} again"
    return None


def _confirmed(
    plan: Plan, catalog: Catalog | None, booted: str | None, reason: str
) -> Heard | None:
    """A device says that it runs the release and is healthy: does its root hash prove it?

    None where that cannot be told: it names no root, or the repository does not have the release.
    """
    if plan.proof is Proof.REPORT:
        return Event.CONFIRMED, None, reason
    release = None if catalog is None else catalog.find(plan.product, plan.release)
    if release is None or not booted:
        return None
    if booted in release.roots:
        return Event.CONFIRMED, None, reason
    wrong = f"it booted root {booted}, which is none of {plan.release}'s"
    return Event.FAILED, FailureClass.ROOT, wrong
