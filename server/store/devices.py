"""Devices: who they are, and what operators say of them. What they say themselves: polls.py."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.delta.limits import FACTS_AT_ONCE
from slipstream.server.rollout.facts import Facts
from slipstream.server.rollout.record import OVER
from slipstream.server.rollout.track import IN_FLIGHT, State
from slipstream.server.store.dialect import ROWS_AT_ONCE, insert_into
from slipstream.server.store.tables import attempts, devices, holds, quarantines, rollouts
from slipstream.server.store.tallies import keep_outcomes


@dataclass(frozen=True, slots=True)
class Device:
    """A device as registered, and what its last poll said."""

    id: str
    product: str
    channel: str
    created_at: int
    seen_at: int | None = None
    hardware: str | None = None
    release: str | None = None
    counter: int | None = None
    booted_root: str | None = None
    trial: bool | None = None
    slots: str | None = None  # JSON
    group_name: str | None = None
    tags: str = "[]"  # JSON
    attributes: str = "{}"  # JSON

    def facts(self) -> Facts:
        """The same, for filters and phases."""
        tags, attributes = described(self.tags, self.attributes)
        return Facts(
            id=self.id,
            product=self.product,
            channel=self.channel,
            hardware=self.hardware,
            release=self.release,
            counter=self.counter,
            booted_root=self.booted_root,
            group=self.group_name,
            tags=tags,
            attributes=attributes,
            seen_at=self.seen_at,
            created_at=self.created_at,
        )


@dataclass(frozen=True, slots=True)
class Newcomer:
    """A device that is registered together with others."""

    id: str
    product: str
    channel: str
    token_digest: bytes
    group: str | None = None
    tags: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Known:
    """A device as a poll meets it, with what decides about its offers."""

    device: Device
    quarantined: Mapping[str, str]  # release: reason
    attempts: Mapping[int, State]  # by rollout: the offers that still matter
    holding: bool = False  # a place in a budget, for some rollout


# In the statement's own text: a poll's has two parameters (lookup.py).
_OVER: list[sa.ColumnElement[str]] = [sa.literal_column(f"'{one.value}'") for one in sorted(OVER)]
_ON_ITS_WAY: list[sa.ColumnElement[str]] = [
    sa.literal_column(f"'{one.value}'") for one in sorted(IN_FLIGHT)
]


@lru_cache(maxsize=1024)  # a fleet has few different ones, and asks for them at every poll
def described(tags: str, attributes: str) -> tuple[frozenset[str], Mapping[str, str]]:
    """Tags and attributes from the JSON of their columns."""
    return frozenset(_TAGS.decode(tags)), _ATTRIBUTES.decode(attributes)


COLUMNS = tuple(devices.c[name] for name in Device.__dataclass_fields__)
_COLUMN_OF = {"group": "group_name"}  # a word of SQL
_FACTS = tuple(devices.c[_COLUMN_OF.get(name, name)] for name in Facts.__struct_fields__)
_DESCRIBED = slice(  # tags and attributes, which are JSON
    Facts.__struct_fields__.index("tags"), Facts.__struct_fields__.index("attributes") + 1
)
_TAGS, _ATTRIBUTES = msgspec.json.Decoder(list[str]), msgspec.json.Decoder(dict[str, str])


async def add(
    connection: AsyncConnection,
    device: str,
    product: str,
    channel: str,
    token_digest: bytes,
    at: int,
) -> bool:
    """Register a device; False, and nothing changed, if the id is taken."""
    statement = insert_into(connection, devices).values(
        id=device, product=product, channel=channel, token_digest=token_digest, created_at=at
    )
    result = await connection.execute(statement.on_conflict_do_nothing())
    return result.rowcount == 1


async def add_all(
    connection: AsyncConnection, newcomers: Sequence[Newcomer], at: int
) -> tuple[str, ...]:
    """Register devices: the ids that were taken, which the caller then rolls back for."""
    for start in range(0, len(newcomers), ROWS_AT_ONCE):
        some = newcomers[start : start + ROWS_AT_ONCE]
        values = [
            {
                "id": one.id,
                "product": one.product,
                "channel": one.channel,
                "token_digest": one.token_digest,
                "created_at": at,
                "group_name": one.group,
                "tags": _dump_tags(one.tags),
                "attributes": _dump_attributes(one.attributes),
            }
            for one in some
        ]
        statement = insert_into(connection, devices).values(values).on_conflict_do_nothing()
        result = await connection.execute(statement.returning(devices.c.id))
        made = set(result.scalars())
        if len(made) < len(some):
            return tuple(one.id for one in some if one.id not in made)
    return ()


async def remove(connection: AsyncConnection, device: str) -> bool:
    """Forget a device, its token, its reports and its offers; False if there is none.

    What became of its offers stays in the counts of their phases.
    """
    await keep_outcomes(connection, device)
    result = await connection.execute(sa.delete(devices).where(devices.c.id == device))
    return result.rowcount == 1


async def describe(
    connection: AsyncConnection,
    device: str,
    *,
    channel: str | None = None,
    group: str | None = None,
    tags: Iterable[str] | None = None,
    attributes: Mapping[str, str] | None = None,
) -> bool:
    """Change what operators say of a device; None leaves it, "" takes the group away."""
    values: dict[str, object] = {}
    if channel is not None:
        values["channel"] = channel
    if group is not None:
        values["group_name"] = group or None
    if tags is not None:
        values["tags"] = _dump_tags(tags)
    if attributes is not None:
        values["attributes"] = _dump_attributes(attributes)
    # Nothing to change is a write as well: it tells whether the device is there.
    statement = sa.update(devices).where(devices.c.id == device)
    result = await connection.execute(statement.values(values or {"id": device}))
    return result.rowcount == 1


async def rotate_token(
    connection: AsyncConnection, device: str, token_digest: bytes, old_until: int
) -> bool:
    """Give a device another token; the one before is taken until `old_until`."""
    statement = (
        sa.update(devices)
        .where(devices.c.id == device)
        .values(old_digest=devices.c.token_digest, old_until=old_until, token_digest=token_digest)
    )
    return (await connection.execute(statement)).rowcount == 1


async def revoke_token(connection: AsyncConnection, device: str, nobodys: bytes) -> bool:
    """Take a device's tokens away: it is `nobodys` digest that it has until it is given another."""
    statement = (
        sa.update(devices)
        .where(devices.c.id == device)
        .values(token_digest=nobodys, old_digest=None, old_until=None)
    )
    return (await connection.execute(statement)).rowcount == 1


async def find(connection: AsyncConnection, device: str) -> Device | None:
    """The device of that id."""
    query = sa.select(*COLUMNS).where(devices.c.id == device)
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else Device(*row)


async def find_all(connection: AsyncConnection, ids: Sequence[str]) -> tuple[Device, ...]:
    """The devices of these ids that are there, in their order."""
    query = sa.select(*COLUMNS).where(devices.c.id.in_(ids))
    found = {row.id: Device(*row) for row in await connection.execute(query)}
    return tuple(found[one] for one in ids if one in found)


async def find_by_token(connection: AsyncConnection, digest: bytes, now: int) -> Device | None:
    """The device that has this token."""
    query = sa.select(*COLUMNS).where(by_token(digest, now))
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else Device(*row)


async def know(connection: AsyncConnection, condition: sa.ColumnElement[bool]) -> Known | None:
    """The device that fits, and what decides about its offers, in one statement."""
    return read_known((await connection.execute(known(condition))).all())


def known(condition: sa.ColumnElement[bool]) -> sa.CompoundSelect[Any]:
    """The query of `know`; a poll's own goes through lookup.py.

    A row for the device, one for each release that it refuses, one for each offer that a rollout
    still decides on: their sum, never their product.
    """
    nobody = [sa.null()] * len(COLUMNS)
    words, number = sa.cast(sa.null(), sa.Text), sa.cast(sa.null(), sa.BigInteger)
    refused = devices.join(quarantines, quarantines.c.device == devices.c.id)
    offered = devices.join(attempts, attempts.c.device == devices.c.id)
    offered = offered.join(rollouts, rollouts.c.id == attempts.c.rollout)
    # Of a rollout that is over a poll still takes back what is on its way.
    matters = sa.or_(rollouts.c.status.not_in(_OVER), attempts.c.state.in_(_ON_ITS_WAY))
    return sa.union_all(
        sa.select(*COLUMNS, words, words, number, words, is_holding()).where(condition),
        sa.select(
            *nobody, quarantines.c.release, quarantines.c.reason, sa.null(), sa.null(), sa.null()
        )
        .select_from(refused)
        .where(condition),
        sa.select(*nobody, sa.null(), sa.null(), attempts.c.rollout, attempts.c.state, sa.null())
        .select_from(offered)
        .where(condition, matters),
    )


def read_known(rows: Sequence[Sequence[Any]]) -> Known | None:
    """The rows of `known`, in any order."""
    width = len(COLUMNS)
    device: Device | None = None
    refused: dict[str, str] = {}
    offered: dict[int, State] = {}
    holding = False
    for row in rows:
        if row[0] is not None:
            device = Device(*row[:width])
            holding = bool(row[-1])
        elif row[width] is not None:
            refused[row[width]] = row[width + 1]
        else:
            offered[row[width + 2]] = State(row[width + 3])
    return None if device is None else Known(device, refused, offered, holding)


def is_holding() -> sa.ColumnElement[bool]:
    """Whether the device of the row holds a place in a budget for some rollout."""
    mine = sa.and_(holds.c.device == devices.c.id, holds.c.rollout.is_not(None))
    return sa.exists().where(mine)


def by_token(digest: bytes, now: int) -> sa.ColumnElement[bool]:
    """For `know`: the device that has this token."""
    return has_token(sa.literal(digest), sa.literal(now))


def by_id(device: str) -> sa.ColumnElement[bool]:
    """For `know`: the device of that id."""
    return devices.c.id == device


async def list_page(
    connection: AsyncConnection, *, after: str = "", limit: int
) -> tuple[Device, ...]:
    """Up to `limit` devices behind the id `after`, by id."""
    query = sa.select(*COLUMNS).where(devices.c.id > after).order_by(devices.c.id).limit(limit)
    return tuple(Device(*row) for row in await connection.execute(query))


async def facts_of_channel(
    connection: AsyncConnection, product: str | None, channel: str | None
) -> AsyncIterator[tuple[Facts, ...]]:
    """Every device of a product's channel, page by page: the population that a filter is applied to.

    None: of all products, or channels. The polls beside it wait for a page at most.
    """
    query = sa.select(*_FACTS)
    if product is not None:
        query = query.where(devices.c.product == product)
    if channel is not None:
        query = query.where(devices.c.channel == channel)
    async with connection.stream(query) as found:
        async for rows in found.partitions(FACTS_AT_ONCE):
            yield tuple(_facts(*row) for row in rows)


def _facts(*row: Any) -> Facts:
    tags, attributes = described(*row[_DESCRIBED])
    return Facts(*(*row[: _DESCRIBED.start], tags, attributes, *row[_DESCRIBED.stop :]))


async def count_by_release(connection: AsyncConnection) -> Mapping[str | None, int]:
    """How many devices run each release; None stands for those that never said."""
    query = sa.select(devices.c.release, sa.func.count()).group_by(devices.c.release)
    return {row[0]: row[1] for row in await connection.execute(query)}


async def count_by_line(
    connection: AsyncConnection,
) -> Mapping[tuple[str, str], int]:
    """How many devices follow each product's channel."""
    query = sa.select(devices.c.product, devices.c.channel, sa.func.count()).group_by(
        devices.c.product, devices.c.channel
    )
    return {(row[0], row[1]): row[2] for row in await connection.execute(query)}


async def count_seen(connection: AsyncConnection, since: int) -> tuple[int, int, int]:
    """All devices; of them those heard of at `since` or later; and those never heard of."""
    whole = (await connection.execute(sa.select(sa.func.count(devices.c.id)))).scalar_one()
    recent = sa.select(sa.func.count()).where(devices.c.seen_at >= since)
    never = sa.select(sa.func.count()).where(devices.c.seen_at.is_(None))
    heard, unheard = [(await connection.execute(one)).scalar_one() for one in (recent, never)]
    return int(whole), int(heard), int(unheard)


def _dump_tags(tags: Iterable[str]) -> str:
    return msgspec.json.encode(sorted(set(tags))).decode()


def _dump_attributes(attributes: Mapping[str, str]) -> str:
    return msgspec.json.encode(dict(sorted(attributes.items()))).decode()


def has_token(
    digest: sa.ColumnElement[bytes], now: sa.ColumnElement[int]
) -> sa.ColumnElement[bool]:
    """Its token's digest, or the one before the last rotation while that is taken."""
    old = sa.and_(devices.c.old_digest == digest, devices.c.old_until > now)
    return sa.or_(devices.c.token_digest == digest, old)
