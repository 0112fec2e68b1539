"""A poll from what it says to what it is answered, whatever protocol it came by."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.server.catalog import Catalog
from slipstream.server.fleet.board import Board
from slipstream.server.fleet.hear import hear_poll
from slipstream.server.fleet.offers import make_offer
from slipstream.server.rollout.offer import Decision, Standing, Stay
from slipstream.server.rollout.track import IN_FLIGHT, State
from slipstream.server.store import attempts, devices, holds, polls
from slipstream.server.store.database import Database
from slipstream.server.store.devices import Known
from slipstream.server.store.polls import Seen


@dataclass(frozen=True, slots=True)
class Said:
    """What a poll says."""

    seen: Seen
    channel: str | None = None  # None: the one it was registered for
    floor: int = 0  # lowest counter that the device accepts
    failed: Mapping[str, str] = field(default_factory=dict)  # releases it will not try again: why


async def answer_poll(
    database: Database, board: Board, catalog: Catalog, known: Known, said: Said, now: int
) -> Decision:
    """Hear what a poll says of offers, then decide. `known`: the device before this poll."""
    standing = _standing(known, said)
    if await hear_poll(
        database,
        board.view,
        catalog,
        standing.facts,
        known.attempts,
        said.failed,
        now,
        trial=said.seen.trial,
    ):
        async with database.reading() as connection:
            again = await devices.know(connection, devices.by_id(known.device.id))
        standing = _standing(again or known, said)
    decision = await make_offer(database, board, catalog, standing, now)
    if known.holding and isinstance(decision, Stay) and not said.seen.trial:
        await free_places(database, known.device.id, known.attempts.values())
    return decision


async def free_places(database: Database, device: str, offers: Iterable[State]) -> None:
    """A device that is there and has nothing to do is not away: its places are for others.

    `offers`: where its offers stand. One that is on its way keeps them, and nothing is written.
    """
    if not IN_FLIGHT.isdisjoint(offers):
        return

    async def act(connection: AsyncConnection) -> None:
        if await attempts.lock(connection, device):
            await holds.release_all(connection, device)

    await database.write(act)


def _standing(known: Known, said: Said) -> Standing:
    device = polls.after_poll(known.device, said.seen)
    if said.channel is not None:
        device = replace(device, channel=said.channel)
    return Standing(
        facts=device.facts(),
        floor=said.floor,
        trial=said.seen.trial,
        refused={**said.failed, **known.quarantined},
        attempts=known.attempts,
    )
