"""The audit log: read, and verified."""

from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.server.api.call import Answer, Call, PageQuery, World, number_after, page_of
from slipstream.server.chain import Broken, Sealed, Verifier
from slipstream.server.store import audit

_CHUNK = 1000


class AuditRow(msgspec.Struct, frozen=True):
    """Who did what to what. Digests in hex."""

    id: int
    at: int
    actor: str
    act: str
    object: str
    before: Any
    after: Any
    previous: str
    digest: str


class Verification(msgspec.Struct, frozen=True):
    """Whether the chain holds. Note `digest` elsewhere: a log that is rewritten has another."""

    rows: int
    digest: str
    broken: Broken | None


async def list_audit(world: World, call: Call) -> Answer:
    """What was changed by whom, newest first."""
    query: PageQuery = call.query
    async with world.database.reading() as connection:
        found = await audit.list_before(connection, number_after(query.after), limit=query.limit)
    shown = tuple(_show(one) for one in found)
    return Answer(value=page_of(shown, query.limit, lambda one: one.id))


async def verify_audit(world: World, _call: Call) -> Answer:
    """Follow the chain from its beginning, and name the first row at which it does not hold."""
    async with world.database.reading() as connection:
        return Answer(value=await verify(connection))


async def verify(connection: AsyncConnection) -> Verification:
    """The same, for the page."""
    verifier, after = Verifier(), 0
    rows, digest = await audit.head(connection)
    while found := await audit.list_after(connection, after, rows, limit=_CHUNK):
        verifier.feed(found)
        after = found[-1].entry.id
    return Verification(rows, digest.hex(), verifier.finish(rows, digest))


def _show(row: Sealed) -> AuditRow:
    one = row.entry
    return AuditRow(
        id=one.id,
        at=one.at,
        actor=one.actor,
        act=one.act,
        object=one.object,
        before=msgspec.json.decode(one.before) if one.before else None,
        after=msgspec.json.decode(one.after) if one.after else None,
        previous=row.previous.hex(),
        digest=row.digest.hex(),
    )
