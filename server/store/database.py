"""A database, open and at the newest version: SQLite in a file, or PostgreSQL.

    async with database.reading() as connection: ...        a consistent look
    result = await database.write(act)                       act(connection), durably

Contract: what `write` returned from is durable. All writes of a process go through one connection,
in the order they came; those that wait together are committed together, each behind a savepoint
of its own, so that one which fails takes no other with it. On PostgreSQL such a transaction first
locks the devices that it is about, in the order of their ids, as any other server does; one that
is told to give way all the same is tried again, each act alone. Every act begins with a statement that
writes: none reads first and finds out later that it may not. A database that fails raises
Unavailable, so that a device tries again.
"""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from slipstream.delta.errors import Unavailable, UsageError
from slipstream.delta.limits import (
    DATABASE_READERS,
    LOCK_TIMEOUT_S,
    LOCKED_OUT_MAX,
    STATEMENT_TIMEOUT_S,
    WRITE_BATCH_MAX,
    WRITE_TRIES_MAX,
)
from slipstream.server.store import dialect
from slipstream.server.store.errors import (
    FAILURES,
    gave_way,
    is_gone,
    is_locked_out,
    translated,
    unavailable,
)
from slipstream.server.store.lookup import Lookup, PostgresqlLookup, SqliteLookup
from slipstream.server.store.tables import devices

BUSY_TIMEOUT_S = 10
insert_into = dialect.insert_into  # for the modules that write
_SQLITE: Final = "sqlite+aiosqlite"
_POSTGRESQL: Final = "postgresql+asyncpg"
_MIGRATING: Final = 0x51195712EA  # key of the advisory lock: any number that nobody else uses
_T = TypeVar("_T")
Act = Callable[[AsyncConnection], Awaitable[_T]]


@dataclass(slots=True)
class _Job(Generic[_T]):
    act: Act[_T]
    about: Collection[str]  # ids of the devices whose rows it locks
    done: asyncio.Future[_T] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def succeed(self, result: _T) -> None:
        if not self.done.done():  # whoever asked may have gone away
            self.done.set_result(result)

    def fail(self, error: BaseException) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class Database:
    """One open database. Use `open`, and `close` at the end."""

    def __init__(self, readers: AsyncEngine, writer: AsyncEngine, lookup: Lookup) -> None:
        self.lookup = lookup
        self._readers = readers
        self._writer = writer
        self._jobs: asyncio.Queue[_Job[Any]] = asyncio.Queue()
        self._writing = asyncio.create_task(self._write_for_ever())

    @classmethod
    async def open(cls, database_url: str) -> "Database":
        """Open the database, make or upgrade its tables.

        Raises UsageError for a URL this version cannot use or a database from a later one,
        Unavailable when the database does not answer.
        """
        url = parse_url(database_url)
        with translated():
            await upgrade(url)
        return cls.connect(url)

    @classmethod
    def connect(cls, url: URL) -> "Database":
        """A database whose tables are this version's. Needs a running loop; asks nothing yet."""
        if url.drivername == _POSTGRESQL:
            engine = create_async_engine(
                url,
                pool_size=DATABASE_READERS,
                pool_pre_ping=True,
                connect_args={
                    "timeout": BUSY_TIMEOUT_S,
                    "command_timeout": STATEMENT_TIMEOUT_S,
                    "server_settings": {
                        "lock_timeout": f"{LOCK_TIMEOUT_S}s",
                        # A server that stopped in the middle of a batch holds nobody up for ever.
                        "idle_in_transaction_session_timeout": f"{STATEMENT_TIMEOUT_S}s",
                    },
                },
            )
            return cls(engine, engine, PostgresqlLookup(url))
        readers = _sqlite_engine(url, "BEGIN", DATABASE_READERS)
        return cls(readers, _sqlite_engine(url, "BEGIN IMMEDIATE", 1), SqliteLookup(url))

    async def close(self) -> None:
        """Write what waits, then close."""
        while not self._jobs.empty():
            await asyncio.sleep(0)
        self._writing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._writing
        await self.lookup.close()
        await self._readers.dispose()
        await self._writer.dispose()

    async def check(self) -> None:
        """Raise Unavailable unless the database answers."""
        async with self.reading() as connection:
            await connection.execute(sa.select(devices.c.id).limit(1))

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection for statements that change nothing. Unavailable."""
        with translated():
            async with self._readers.connect() as connection:
                yield connection

    async def write(self, act: Act[_T], *, about: Collection[str] = ()) -> _T:
        """What `act` returns once it is durable; what it raises, and then nothing has changed.

        `about`: ids of the devices whose rows it locks. An act may be run more than once.
        """
        job = _Job(act, about)
        self._jobs.put_nowait(job)
        return await job.done

    async def _write_for_ever(self) -> None:
        while True:
            jobs = [await self._jobs.get()]
            while not self._jobs.empty() and len(jobs) < WRITE_BATCH_MAX:
                jobs.append(self._jobs.get_nowait())
            try:
                await self._write_all(jobs)
            except asyncio.CancelledError:
                for job in jobs:
                    job.fail(Unavailable("the server is stopping"))
                raise

    async def _write_all(self, jobs: list[_Job[Any]]) -> None:
        """All together; if that fails, each alone.

        Where the database as a whole does not answer, none is tried alone: each would wait as long
        as all did together, and the devices with it.
        """
        failure = await self._write_together(jobs) if len(jobs) > 1 else None
        if len(jobs) > 1 and failure is None:
            return
        locked_out = 0
        for job in jobs:
            if failure is not None and (is_gone(failure) or locked_out == LOCKED_OUT_MAX):
                job.fail(unavailable(failure))
            elif (alone := await self._write_one(job)) is not None:
                failure, locked_out = alone, locked_out + is_locked_out(alone)

    async def _write_together(self, jobs: list[_Job[Any]]) -> Exception | None:
        """One transaction for all. Or why the database refused it, and nothing has changed."""
        settled: list[Callable[[], None]] = []
        try:
            async with self._writer.begin() as connection:
                await _lock_in_order(connection, {one for job in jobs for one in job.about})
                for job in jobs:
                    try:
                        async with connection.begin_nested():
                            result = await job.act(connection)
                        settled.append(partial(job.succeed, result))
                    except IntegrityError as error:
                        settled.append(partial(job.fail, error))
                    except FAILURES:
                        raise
                    except Exception as error:  # whatever an act raises is its caller's
                        settled.append(partial(job.fail, error))
        # A full disk may have undone the whole transaction, not just this savepoint.
        except FAILURES as error:
            return error
        for tell in settled:
            tell()
        return None

    async def _write_one(self, job: _Job[Any]) -> Exception | None:
        """One transaction for one. Why the database refused it, if it did."""
        for left in reversed(range(WRITE_TRIES_MAX)):
            try:
                async with self._writer.begin() as connection:
                    result = await job.act(connection)
            except IntegrityError as error:
                job.fail(error)
            except FAILURES as error:
                if left and gave_way(error):
                    continue
                job.fail(unavailable(error))
                return error
            except Exception as error:  # whatever an act raises is its caller's
                job.fail(error)
            else:
                job.succeed(result)
            break
        return None


async def _lock_in_order(connection: AsyncConnection, names: Collection[str]) -> None:
    """Lock devices as any other server does: two that wait for each other's would never end."""
    if len(names) < 2 or connection.dialect.name != "postgresql":
        return
    wanted = sa.cast(sorted(names), sa.ARRAY(sa.Text))
    query = sa.select(devices.c.id).where(devices.c.id == sa.any_(wanted)).order_by(devices.c.id)
    await connection.execute(query.with_for_update(key_share=True))


def parse_url(text: str) -> URL:
    """The URL of a database that this version can use; UsageError otherwise.

    Short forms are taken: sqlite:///FILE, postgresql://USER@HOST/NAME.
    """
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise UsageError("not a database URL", where="--database", got=repr(text)) from error
    short = {"sqlite": _SQLITE, "postgresql": _POSTGRESQL, "postgres": _POSTGRESQL}
    url = url.set(drivername=short.get(url.drivername, url.drivername))
    in_file = url.drivername == _SQLITE and url.database not in (None, "", ":memory:")
    if not in_file and not (url.drivername == _POSTGRESQL and url.database):
        raise UsageError(
            "not a database that this version can use",
            where="--database",
            expected="sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME",
            got=url.render_as_string(hide_password=True),
        )
    return url


async def upgrade(url: URL, revision: str = "head") -> None:
    """Bring the database to `revision`, in one transaction: killed half-way, nothing changed.

    Raises UsageError for a database that a later version made.
    """
    try:
        if url.drivername == _POSTGRESQL:
            engine = create_async_engine(url, poolclass=NullPool)
            try:
                async with engine.begin() as connection:
                    await connection.run_sync(_upgrade_postgresql, revision)
            finally:
                await engine.dispose()
        else:
            await asyncio.to_thread(_upgrade_sqlite, url, revision)
    except CommandError as error:
        raise UsageError(
            "the database was made by a later version of slipstream",
            where=url.database,
            hint="Run that version, or restore the backup from before its start",
        ) from error


def _upgrade_sqlite(url: URL, revision: str) -> None:
    _use_wal(str(url.database))
    engine = sa.create_engine(
        url.set(drivername="sqlite"), poolclass=NullPool, connect_args={"timeout": BUSY_TIMEOUT_S}
    )
    sa.event.listen(engine, "connect", _begin_by_hand)
    # Takes the write lock at once: of two servers that start together, one waits.
    sa.event.listen(engine, "begin", lambda one: one.exec_driver_sql("BEGIN IMMEDIATE"))
    try:
        with engine.connect() as connection:
            _migrate(connection, revision)
            connection.commit()
    finally:
        engine.dispose()


def _use_wal(path: str) -> None:
    """Make the file's journal a write-ahead log, which it then stays.

    The one statement that does not wait for a lock, so that of two servers that start together
    one would fail.
    """
    give_up = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            with contextlib.closing(sqlite3.connect(path)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.05)


def _upgrade_postgresql(connection: sa.Connection, revision: str) -> None:
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATING)))
    _migrate(connection, revision)


def _migrate(connection: sa.Connection, revision: str) -> None:
    config = Config()
    folder = Path(__file__).with_name("migrations")
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _sqlite_engine(url: URL, begin: str, pool_size: int) -> AsyncEngine:
    engine = create_async_engine(
        url, connect_args={"timeout": BUSY_TIMEOUT_S}, pool_size=pool_size, max_overflow=0
    )
    sa.event.listen(engine.sync_engine, "connect", _set_up)
    sa.event.listen(engine.sync_engine, "begin", lambda one: one.exec_driver_sql(begin))
    return engine


def _begin_by_hand(connection: Any, _record: object) -> None:
    # The driver's own BEGIN comes before INSERT and the like only, never before CREATE TABLE or
    # SAVEPOINT.
    connection.isolation_level = None


def _set_up(connection: Any, record: object) -> None:
    _begin_by_hand(connection, record)
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous=FULL")  # WAL's usual NORMAL loses the last commits
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()
