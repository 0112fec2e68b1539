"""Devices that speak hawkBit's DDI: what a request has to know of one, and what is kept of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.server.store import attempts as offers
from slipstream.server.store.attempts import Attempt
from slipstream.server.store.devices import COLUMNS, Device, is_holding
from slipstream.server.store.dialect import insert_into
from slipstream.server.store.tables import attempts, controllers, devices, quarantines, rollouts


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
    statuses: Mapping[int, str]  # by rollout: of those that the attempts are of
    holding: bool = False  # a place in a budget, for some rollout

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
    is_holding(),
    rollouts.c.status,
)
_NO_WORD = sa.cast(sa.null(), sa.Text)


async def know(connection: AsyncConnection, device: str, now: int) -> Controller | None:
    """The device of that id, and all that decides about it, in one statement."""
    return read_known((await connection.execute(known(sa.literal(device)))).all(), now)


def known(device: sa.ColumnElement[str]) -> sa.CompoundSelect[Any]:
    """The query of `know`; a request's own goes through lookup.py.

    A row for each offer (one at least), then one for each release that it refuses: never their
    product.
    """
    joined = devices.outerjoin(controllers, controllers.c.device == devices.c.id)
    joined = joined.outerjoin(attempts, attempts.c.device == devices.c.id)
    joined = joined.outerjoin(rollouts, rollouts.c.id == attempts.c.rollout)
    own = sa.select(_NO_WORD, _NO_WORD, *COLUMNS, *_OWN, *offers.COLUMNS).select_from(joined)
    nothing = [sa.null()] * (len(COLUMNS) + len(_OWN) + len(offers.COLUMNS))
    refused = sa.select(quarantines.c.release, quarantines.c.reason, *nothing)
    return sa.union_all(
        own.where(devices.c.id == device), refused.where(quarantines.c.device == device)
    )


def read_known(found: Sequence[Sequence[Any]], now: int) -> Controller | None:
    """The rows of `known`, in any order."""
    refused = {row[0]: row[1] for row in found if row[0] is not None}
    rows = [row[2:] for row in found if row[0] is None]
    if not rows:
        return None
    begin = len(COLUMNS)
    end = begin + len(_OWN)
    token, old, old_until, since, wants, by, remark, at, holding, _ = rows[0][begin:end]
    offered = [(offers.of_row(row[end:]), row[end - 1]) for row in rows if row[end] is not None]
    made = {one.id: one for one, _ in offered}
    return Controller(
        device=Device(*rows[0][:begin]),
        digests=(token, old) if old is not None and old_until > now else (token,),
        met=since is not None,
        wants_attributes=True if wants is None else wants,
        auto_confirm=None if by is None else AutoConfirm(by, remark, at),
        quarantined=refused,
        attempts=tuple(made[number] for number in sorted(made, reverse=True)),
        statuses={one.rollout: status for one, status in offered},
        holding=bool(holding),
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
