"""Reports: what devices said of an installation, each kept once."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.delta.limits import REPORTS_PER_DEVICE_MAX
from slipstream.server.store.dialect import insert_into
from slipstream.server.store.tables import reports


@dataclass(frozen=True, slots=True)
class Report:
    """What a device reported; `key` is its own, unique for that device."""

    device: str
    key: str
    kind: str
    release: str | None
    counter: int | None
    booted_root: str | None
    reason: str
    details: str  # JSON
    at: int
    received_at: int


_COLUMNS = tuple(reports.c[name] for name in Report.__dataclass_fields__)


async def add(connection: AsyncConnection, report: Report) -> bool:
    """Keep a report; False if the device has already sent this key.

    Raises KeyError if the device has been removed meanwhile.
    """
    statement = insert_into(connection, reports).values(asdict(report))
    keep = (
        sa.select(reports.c.id)
        .where(reports.c.device == report.device)
        .order_by(reports.c.id.desc())
        .limit(1)
        .offset(REPORTS_PER_DEVICE_MAX)
        .scalar_subquery()
    )
    surplus = sa.delete(reports).where(reports.c.device == report.device, reports.c.id <= keep)
    try:
        result = await connection.execute(
            statement.on_conflict_do_nothing(index_elements=["device", "key"])
        )
    except IntegrityError as error:
        raise KeyError(report.device) from error
    if result.rowcount == 1:
        await connection.execute(surplus)
    return result.rowcount == 1


async def list_of(connection: AsyncConnection, device: str, *, limit: int) -> tuple[Report, ...]:
    """The newest `limit` reports of a device, newest first."""
    query = (
        sa.select(*_COLUMNS)
        .where(reports.c.device == device)
        .order_by(reports.c.id.desc())
        .limit(limit)
    )
    return tuple(Report(*row) for row in await connection.execute(query))


async def newest_of(connection: AsyncConnection, ids: Collection[str]) -> Mapping[str, Report]:
    """The newest report of each of these devices that has sent one."""
    newest = (
        sa.select(sa.func.max(reports.c.id))
        .where(reports.c.device.in_(ids))
        .group_by(reports.c.device)
    )
    rows = await connection.execute(sa.select(*_COLUMNS).where(reports.c.id.in_(newest)))
    return {row.device: Report(*row) for row in rows}
