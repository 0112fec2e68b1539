"""A database, open and at the newest version: SQLite in a file, or PostgreSQL.

    async with database.reading() as connection: ...        a consistent look
    result = await database.write(act)                       act(connection), durably

Contract: what `write` returned from is durable. All writes of a process go through one connection,
in the order they came; those that wait together are committed together, each behind a savepoint
of its own, so that one which fails takes no other with it. Every act begins with a statement that
writes: none reads first and finds out later that it may not. A database that fails raises
Unavailable, so that a device tries again.
"""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
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
    DATABASE_ANSWER_S,
    DATABASE_BATCH_S,
    DATABASE_CLOSE_S,
    DATABASE_CONNECT_S,
    DATABASE_READERS,
    LOCK_MISSES_MAX,
    LOCK_TIMEOUT_S,
    WRITE_BATCH_MAX,
    WRITES_WAITING_MAX,
)
from slipstream.server.store.errors import (
    FAILURES,
    is_contended,
    is_gone,
    translated,
    unavailable,
)
from slipstream.server.store.lookup import Lookup, PostgresqlLookup, SqliteLookup
from slipstream.server.store.tables import devices

BUSY_TIMEOUT_S = 10
_URLS: Final = "sqlite:///FILE or postgresql://USER@HOST/NAME"
_SQLITE: Final = "sqlite+aiosqlite"
_POSTGRESQL: Final = "postgresql+asyncpg"
# Keys of advisory locks: any numbers that nobody else uses.
_MIGRATING: Final = 0x51195712EA
_WRITING: Final = 0x51195712EB
_T = TypeVar("_T")
Act = Callable[[AsyncConnection], Awaitable[_T]]


@dataclass(slots=True)
class _Job(Generic[_T]):
    act: Act[_T]
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

    def __init__(
        self,
        readers: AsyncEngine,
        writer: AsyncEngine,
        lookup: Lookup,
        *,
        batch_s: float | None = None,
    ) -> None:
        """`batch_s`: how long a transaction may take, where the database can vanish."""
        self.lookup = lookup
        self._readers = readers
        self._writer = writer
        self._batch_s = batch_s
        self._statements = 0
        for engine in {readers, writer}:
            sa.event.listen(engine.sync_engine, "before_cursor_execute", self._count)
        self._jobs: asyncio.Queue[_Job[Any]] = asyncio.Queue(WRITES_WAITING_MAX)
        self._given_up: set[asyncio.Task[Any]] = set()
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
                hide_parameters=True,
                pool_timeout=DATABASE_ANSWER_S,
                connect_args={
                    "timeout": DATABASE_CONNECT_S,
                    "command_timeout": DATABASE_ANSWER_S,
                    "server_settings": {
                        "lock_timeout": f"{LOCK_TIMEOUT_S}s",
                        # A server that stopped in the middle of its turn holds nobody up for ever.
                        "idle_in_transaction_session_timeout": f"{DATABASE_ANSWER_S}s",
                    },
                },
            )
            return cls(engine, engine, PostgresqlLookup(url), batch_s=DATABASE_BATCH_S)
        readers = _sqlite_engine(url, "BEGIN", DATABASE_READERS)
        return cls(readers, _sqlite_engine(url, "BEGIN IMMEDIATE", 1), SqliteLookup(url))

    async def close(self) -> None:
        """Write what waits, then close: within twice DATABASE_CLOSE_S, whatever the database does."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._jobs.join(), DATABASE_CLOSE_S)
        self._writing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._writing
        self._refuse_waiting("the server is stopping")
        await self.lookup.close()
        for engine in (self._readers, self._writer):
            with contextlib.suppress(TimeoutError):
                await self._within(DATABASE_CLOSE_S / 2, engine.dispose())

    @property
    def statements(self) -> int:
        """How many statements were run so far, for whatever reason."""
        return self._statements + self.lookup.statements

    def _count(self, *_event: object) -> None:
        self._statements += 1

    async def check(self) -> None:
        """Raise Unavailable unless the database answers."""
        with translated():
            await self._within(self._batch_s and DATABASE_ANSWER_S, self._ask())

    async def _ask(self) -> None:
        async with self.reading() as connection:
            await connection.execute(sa.select(devices.c.id).limit(1))

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection for statements that change nothing. Unavailable."""
        with translated():
            async with self._readers.connect() as connection:
                yield connection

    async def write(self, act: Act[_T]) -> _T:
        """What `act` returns once it is durable; what it raises, and then nothing has changed.

        Raises Unavailable, too, for a database that has not answered in time: then it may have.
        """
        job = _Job(act)
        try:
            self._jobs.put_nowait(job)
        except asyncio.QueueFull:
            raise Unavailable(f"{WRITES_WAITING_MAX} writes wait for the database") from None
        return await job.done

    async def _write_for_ever(self) -> None:
        while True:
            jobs = [await self._jobs.get()]
            while not self._jobs.empty() and len(jobs) < WRITE_BATCH_MAX:
                jobs.append(self._jobs.get_nowait())
            try:
                # Whoever has gone away in the queue has been told nothing: it is not begun.
                await self._write_all([job for job in jobs if not job.done.done()])
            except TimeoutError:
                reason = "the database does not answer"
                for job in jobs:
                    job.fail(Unavailable(reason))
                self._refuse_waiting(reason)  # they would wait as long, one batch after the other
            except asyncio.CancelledError:
                for job in jobs:
                    job.fail(Unavailable("the server is stopping"))
                raise
            finally:
                for _ in jobs:
                    self._jobs.task_done()

    def _refuse_waiting(self, reason: str) -> None:
        while not self._jobs.empty():
            self._jobs.get_nowait().fail(Unavailable(reason))
            self._jobs.task_done()

    async def _within(self, seconds: float | None, work: Coroutine[Any, Any, _T]) -> _T:
        """What `work` returns; TimeoutError after so long, whatever it still waits for.

        It is not waited for any more then: to end a transaction takes an answer as well.
        """
        if seconds is None:
            return await work
        task = asyncio.create_task(work)
        try:
            await asyncio.wait({task}, timeout=seconds)
        finally:
            if not task.done():
                task.cancel()
                self._given_up.add(task)
                task.add_done_callback(self._forget)
        if not task.done():
            raise TimeoutError
        return task.result()

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._given_up.discard(task)
        if not task.cancelled():
            task.exception()  # nobody asks any more

    async def _write_all(self, jobs: list[_Job[Any]]) -> None:
        """All together; again if another had the turn; then each alone.

        Where the database as a whole does not answer, none is tried alone: each would wait as long
        as all did together, and the devices with it. TimeoutError: it has vanished.
        """
        failure: Exception | None = None
        if len(jobs) > 1:
            failure = await self._within(self._batch_s, self._write_together(jobs))
            if failure is not None and is_contended(failure):
                failure = await self._within(self._batch_s, self._write_together(jobs))
            if failure is None:
                return
        misses = 0
        for job in jobs:
            if failure is not None and (is_gone(failure) or misses == LOCK_MISSES_MAX):
                job.fail(unavailable(failure))
                continue
            alone = await self._within(self._batch_s, self._write_one(job))
            if alone is not None:
                failure, misses = alone, misses + is_contended(alone)

    async def _write_together(self, jobs: list[_Job[Any]]) -> Exception | None:
        """One transaction for all. Or why the database refused it, and nothing has changed."""
        settled: list[Callable[[], None]] = []
        try:
            async with self._turn() as connection:
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
        except TimeoutError:
            raise
        # A full disk may have undone the whole transaction, not just this savepoint; a driver may
        # raise what it never said it would.
        except Exception as error:
            return error
        for tell in settled:
            tell()
        return None

    async def _write_one(self, job: _Job[Any]) -> Exception | None:
        """One transaction for one. Why the database refused it, if it did."""
        try:
            async with self._turn() as connection:
                result = await job.act(connection)
        except IntegrityError as error:
            job.fail(error)
        except FAILURES as error:
            job.fail(unavailable(error))
            if isinstance(error, TimeoutError):
                raise
            return error
        except Exception as error:  # whatever an act raises is its caller's
            job.fail(error)
        else:
            job.succeed(result)
        return None

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that writes; of all servers on a database, one at a time has one.

        SQLite has no other way. On PostgreSQL two batches that lock the same rows in another order
        would wait for each other: acts cannot be sorted by the rows that they will touch, but
        batches can take turns. What waits meanwhile is committed together in the next.
        """
        async with self._writer.begin() as connection:
            if connection.dialect.name == "postgresql":
                await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_WRITING)))
            yield connection


def parse_url(text: str) -> URL:
    """The URL of a database that this version can use; UsageError otherwise.

    Short forms are taken: sqlite:///FILE, postgresql://USER@HOST/NAME.
    """
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise UsageError(
            "not a database URL", where="--database", expected=_URLS, got=repr(text)
        ) from error
    short = {"sqlite": _SQLITE, "postgresql": _POSTGRESQL, "postgres": _POSTGRESQL}
    url = url.set(drivername=short.get(url.drivername, url.drivername))
    in_file = url.drivername == _SQLITE and url.database not in (None, "", ":memory:")
    if not in_file and not (url.drivername == _POSTGRESQL and url.database):
        raise UsageError(
            "not a database that this version can use",
            where="--database",
            expected=_URLS,
            got=url.render_as_string(hide_password=True),
        )
    return url


async def upgrade(url: URL, revision: str = "head") -> None:
    """Bring the database to `revision`, in one transaction: killed half-way, nothing changed.

    Raises UsageError for a database that a later version made.
    """
    try:
        if url.drivername == _POSTGRESQL:
            engine = create_async_engine(url, poolclass=NullPool, hide_parameters=True)
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
        url,
        connect_args={"timeout": BUSY_TIMEOUT_S},
        pool_size=pool_size,
        max_overflow=0,
        hide_parameters=True,  # errors and logs do not say what a statement was about to keep
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
