"""The fleet's database: devices and reports, and the only file that speaks SQL.

Contract: what a method returned from is durable (SQLite in WAL mode with synchronous=FULL).
A database that fails raises Unavailable, so that a device tries again. One process writes at
a time; other processes wait up to BUSY_TIMEOUT_S for the lock.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from slipstream.delta.errors import Unavailable, UsageError
from slipstream.delta.limits import REPORTS_PER_DEVICE_MAX
from slipstream.server.tables import devices, reports

BUSY_TIMEOUT_S = 10
_DRIVER = "sqlite+aiosqlite"
# The report after which a release is not offered again. Not "failed": a full disk or bytes that a
# proxy hurt are no fault of the release, and the device tries again by itself, ever more slowly.
_REFUSING = "fell_back"


@dataclass(frozen=True, slots=True)
class Device:
    """A device as registered, and what its last poll said."""

    id: str
    product: str
    channel: str
    created_at: int
    seen_at: int | None
    hardware: str | None
    release: str | None
    counter: int | None
    booted_root: str | None
    trial: bool | None
    slots: str | None  # JSON


@dataclass(frozen=True, slots=True)
class Seen:
    """What one poll said; written in batches."""

    device: str
    seen_at: int
    hardware: str | None
    release: str | None
    counter: int | None
    booted_root: str | None
    trial: bool
    slots: str  # JSON


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


_DEVICE_COLUMNS = [devices.c[name] for name in Device.__dataclass_fields__]
_REPORT_COLUMNS = [reports.c[name] for name in Report.__dataclass_fields__]


class Store:
    """The database, open and at the newest version."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        # SQLite has one writer: waiting here is fair, waiting for its file lock is not.
        self._writing = asyncio.Lock()

    @classmethod
    async def open(cls, database_url: str) -> "Store":
        """Open the database, make or upgrade its tables.

        Raises UsageError for a URL this version cannot use or a database from a later one,
        Unavailable when the database does not answer.
        """
        url = parse_url(database_url)
        with _translated():
            await asyncio.to_thread(upgrade, url)
        engine = create_async_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})
        sa.event.listen(engine.sync_engine, "connect", _set_pragmas)
        return cls(engine)

    async def close(self) -> None:
        await self._engine.dispose()

    async def check(self) -> None:
        """Raise Unavailable unless the database answers."""
        async with self._reading() as connection:
            await connection.execute(sa.select(devices.c.id).limit(1))

    # --- devices

    async def add_device(
        self, device: str, product: str, channel: str, token_digest: bytes, at: int
    ) -> bool:
        """Register a device; False, and nothing changed, if the id is taken."""
        statement = insert(devices).values(
            id=device, product=product, channel=channel, token_digest=token_digest, created_at=at
        )
        async with self._changing() as connection:
            result = await connection.execute(statement.on_conflict_do_nothing())
            return result.rowcount == 1

    async def remove_device(self, device: str) -> bool:
        """Forget a device, its token and its reports; False if there is none."""
        async with self._changing() as connection:
            result = await connection.execute(sa.delete(devices).where(devices.c.id == device))
            return result.rowcount == 1

    async def find_device(self, token_digest: bytes) -> Device | None:
        """The device that has this token."""
        query = sa.select(*_DEVICE_COLUMNS).where(devices.c.token_digest == token_digest)
        async with self._reading() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else Device(*row)

    async def find_standing(self, token_digest: bytes) -> tuple[Device, frozenset[str]] | None:
        """The device that has this token, and the releases it fell back from.

        One statement, since it is what every poll costs.
        """
        failed = (
            (reports.c.device == devices.c.id)
            & (reports.c.kind == _REFUSING)
            & reports.c.release.is_not(None)
        )
        query = (
            sa.select(*_DEVICE_COLUMNS, reports.c.release.label("failed"))
            .select_from(devices.outerjoin(reports, failed))
            .where(devices.c.token_digest == token_digest)
            .distinct()
        )
        async with self._reading() as connection:
            rows = (await connection.execute(query)).all()
        if not rows:
            return None
        return Device(*rows[0][:-1]), frozenset(row[-1] for row in rows if row[-1] is not None)

    async def list_devices(
        self, *, after: str = "", limit: int
    ) -> tuple[tuple[Device, Report | None], ...]:
        """Up to `limit` devices behind the id `after`, by id, each with its newest report."""
        query = (
            sa.select(*_DEVICE_COLUMNS)
            .where(devices.c.id > after)
            .order_by(devices.c.id)
            .limit(limit)
        )
        newest = sa.select(sa.func.max(reports.c.id)).group_by(reports.c.device)
        async with self._reading() as connection:
            found = [Device(*row) for row in await connection.execute(query)]
            if not found:
                return ()
            span = reports.c.device.between(found[0].id, found[-1].id)
            rows = await connection.execute(
                sa.select(*_REPORT_COLUMNS).where(reports.c.id.in_(newest.where(span)))
            )
            last = {row.device: Report(*row) for row in rows}
        return tuple((device, last.get(device.id)) for device in found)

    async def count_devices(self) -> Mapping[str | None, int]:
        """How many devices run each release; None stands for those that never said."""
        query = sa.select(devices.c.release, sa.func.count()).group_by(devices.c.release)
        async with self._reading() as connection:
            return {row[0]: row[1] for row in await connection.execute(query)}

    async def write_polls(self, polls: Iterable[Seen]) -> None:
        """Write what polls said, in one transaction; removed devices are passed over."""
        rows = [
            {("of_device" if key == "device" else key): value for key, value in asdict(one).items()}
            for one in polls
        ]
        if not rows:
            return
        names = [name for name in Seen.__dataclass_fields__ if name != "device"]
        statement = (
            sa.update(devices)
            .where(devices.c.id == sa.bindparam("of_device"))
            .values({name: sa.bindparam(name) for name in names})
        )
        async with self._changing() as connection:
            await connection.execute(statement, rows)

    # --- reports

    async def add_report(self, report: Report) -> bool:
        """Keep a report, durably; False if the device has already sent this key.

        Raises KeyError if the device has been removed meanwhile.
        """
        statement = insert(reports).values(asdict(report))
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
            async with self._changing() as connection:
                result = await connection.execute(
                    statement.on_conflict_do_nothing(index_elements=["device", "key"])
                )
                await connection.execute(surplus)
                return result.rowcount == 1
        except IntegrityError as error:
            raise KeyError(report.device) from error

    async def list_reports(self, device: str, *, limit: int) -> tuple[Report, ...]:
        """The newest `limit` reports of a device, newest first."""
        query = (
            sa.select(*_REPORT_COLUMNS)
            .where(reports.c.device == device)
            .order_by(reports.c.id.desc())
            .limit(limit)
        )
        async with self._reading() as connection:
            return tuple(Report(*row) for row in await connection.execute(query))

    # --- connections

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[AsyncConnection]:
        with _translated():
            async with self._engine.connect() as connection:
                yield connection

    @asynccontextmanager
    async def _changing(self) -> AsyncIterator[AsyncConnection]:
        with _translated():
            async with self._writing, self._engine.begin() as connection:
                yield connection


@contextmanager
def _translated() -> Iterator[None]:
    """A database's errors become Unavailable, but for a broken constraint."""
    try:
        yield
    except IntegrityError:
        raise
    except (SQLAlchemyError, sqlite3.Error) as error:
        cause = getattr(error, "orig", None) or error
        raise Unavailable(f"the database does not answer: {cause}") from error


def parse_url(text: str) -> URL:
    """The URL of a database that this version can use; UsageError otherwise."""
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise UsageError("not a database URL", where="--database", got=repr(text)) from error
    if url.drivername != _DRIVER or not url.database or url.database == ":memory:":
        raise UsageError(
            "this version keeps the fleet in an SQLite file only",
            where="--database",
            expected=f"{_DRIVER}:///PATH",
            got=url.render_as_string(hide_password=True),
        )
    return url


def upgrade(url: URL, revision: str = "head") -> None:
    """Bring the database to `revision`, in one transaction: killed half-way, nothing changed.

    Blocks. Raises UsageError for a database that a later version made.
    """
    engine = sa.create_engine(
        url.set(drivername="sqlite"), poolclass=NullPool, connect_args={"timeout": BUSY_TIMEOUT_S}
    )
    sa.event.listen(engine, "connect", _begin_by_hand)
    sa.event.listen(engine, "begin", _begin_immediately)
    config = Config()
    config.set_main_option(
        "script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%")
    )
    try:
        with engine.connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
            connection.commit()
    except CommandError as error:
        raise UsageError(
            "the database was made by a later version of slipstream",
            where=url.database,
            hint="Run that version, or restore the backup from before its start",
        ) from error
    finally:
        engine.dispose()


def _begin_by_hand(connection: Any, _record: object) -> None:
    # The driver's own BEGIN comes only before INSERT and the like, never before CREATE TABLE.
    connection.isolation_level = None


def _begin_immediately(connection: sa.Connection) -> None:
    # Takes the write lock at once: of two servers that start together, one waits.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _set_pragmas(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # WAL's usual NORMAL loses the last commits
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()
