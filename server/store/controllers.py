"""Devices that speak hawkBit's DDI: what a request has to know of one, and what is kept of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.server.store import attempts as offers
from slipstream.server.store.attempts import Attempt
from slipstream.server.store.devices import COLUMNS, Device
from slipstream.server.store.dialect import insert_into
from slipstream.server.store.tables import attempts, controllers, devices, quarantines


@dataclass(frozen=True, slots=True)
class AutoConfirm:
    """Who agreed beforehand to whatever will be installed; `at` in seconds since 1970."""

    by: str
    remark: str
    at: int


@dataclass(frozen=True, slots=True)
class Controller:
    """A device as a request over DDI meets it."""

    device: Device
    digests: tuple[bytes, ...]  # of the tokens that are good now
    met: bool  # it has spoken DDI before
    wants_attributes: bool
    auto_confirm: AutoConfirm | None
    quarantined: Mapping[str, str]  # release: reason
    attempts: tuple[Attempt, ...]  # newest first

    def attempt(self, number: int) -> Attempt | None:
        """Its offer of that id."""
        return next((one for one in self.attempts if one.id == number), None)


_OWN = (
    devices.c.token_digest,
    devices.c.old_digest,
    devices.c.old_until,
    controllers.c.since,
    controllers.c.wants_attributes,
    controllers.c.auto_confirm_by,
    controllers.c.auto_confirm_remark,
    controllers.c.auto_confirm_at,
    quarantines.c.release,
    quarantines.c.reason,
)


async def know(connection: AsyncConnection, device: str, now: int) -> Controller | None:
    """The device of that id, and all that decides about it, in one statement."""
    return read_known((await connection.execute(known(sa.literal(device)))).all(), now)


def known(device: sa.ColumnElement[str]) -> sa.Select[Any]:
    """The query of `know`; a request's own goes through lookup.py."""
    joined = devices.outerjoin(controllers, controllers.c.device == devices.c.id)
    joined = joined.outerjoin(quarantines, quarantines.c.device == devices.c.id)
    joined = joined.outerjoin(attempts, attempts.c.device == devices.c.id)
    query = sa.select(*COLUMNS, *_OWN, *offers.COLUMNS).select_from(joined)
    return query.where(devices.c.id == device)


def read_known(rows: Sequence[Sequence[Any]], now: int) -> Controller | None:
    """The rows of `known`: one for each pair of a quarantine and an offer."""
    if not rows:
        return None
    begin = len(COLUMNS)
    end = begin + len(_OWN)
    token, old, old_until, since, wants, by, remark, at, _, _ = rows[0][begin:end]
    refused = {row[end - 2]: row[end - 1] for row in rows if row[end - 2] is not None}
    made = {row[end]: offers.of_row(row[end:]) for row in rows if row[end] is not None}
    return Controller(
        device=Device(*rows[0][:begin]),
        digests=(token, old) if old is not None and old_until > now else (token,),
        met=since is not None,
        wants_attributes=True if wants is None else wants,
        auto_confirm=None if by is None else AutoConfirm(by, remark, at),
        quarantined=refused,
        attempts=tuple(made[number] for number in sorted(made, reverse=True)),
    )


async def meet(connection: AsyncConnection, device: str, now: int) -> None:
    """The device speaks DDI; its attributes are asked for once."""
    statement = insert_into(connection, controllers).values(
        device=device, since=now, wants_attributes=True
    )
    await connection.execute(statement.on_conflict_do_nothing())


async def want_attributes(connection: AsyncConnection, device: str, *, wanted: bool) -> None:
    """Ask the device for its attributes at its next poll, or stop asking."""
    await connection.execute(
        sa.update(controllers).where(controllers.c.device == device).values(wants_attributes=wanted)
    )


async def set_auto_confirm(
    connection: AsyncConnection, device: str, agreed: AutoConfirm | None
) -> None:
    """Agree beforehand, or ask before each installation again."""
    await connection.execute(
        sa.update(controllers)
        .where(controllers.c.device == device)
        .values(
            auto_confirm_by=None if agreed is None else agreed.by,
            auto_confirm_remark=None if agreed is None else agreed.remark,
            auto_confirm_at=None if agreed is None else agreed.at,
        )
    )
