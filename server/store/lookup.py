"""The one statement of a poll: who asks, and what decides about the device's offers.

It is most of what a fleet asks of its database, so it goes past the pools and layers that
everything else uses: one prepared statement, no transaction around it (one statement is consistent
by itself), and rows as the driver gives them. benches/fleet.py measures it.

SQLite answers on the event loop. In a write-ahead log a reader waits for nobody, and the rows of
one device are in memory or one page away: a thread's hand-over costs more than the answer.
PostgreSQL answers over connections of its own.
"""

import asyncio
import contextlib
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Dialect

from slipstream.delta.limits import DATABASE_ANSWER_S, DATABASE_CONNECT_S, DATABASE_READERS
from slipstream.server.store import controllers, devices
from slipstream.server.store.controllers import Controller
from slipstream.server.store.devices import Known
from slipstream.server.store.errors import translated

_Rows = Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class _Statement:
    """A query as one database takes it, and the order of its values."""

    text: str
    order: Sequence[str]


class Lookup(ABC):
    """Finds the device that asks. Raises Unavailable."""

    def __init__(self, dialect: Dialect) -> None:
        self.statements = 0  # run so far
        digest = sa.bindparam("digest", type_=sa.LargeBinary)
        now = sa.bindparam("now", type_=sa.BigInteger)
        device = sa.bindparam("device", type_=sa.String)
        self._by_token = _compiled(devices.known(devices.has_token(digest, now)), dialect)
        self._by_id = _compiled(controllers.known(device), dialect)

    async def know(self, digest: bytes, now: int) -> Known | None:
        """The device that has this token at `now`, seconds since 1970."""
        return devices.read_known(await self._ask(self._by_token, digest=digest, now=now))

    async def know_controller(self, device: str, now: int) -> Controller | None:
        """The device of that id, as DDI meets it; its tokens are those that are good at `now`."""
        return controllers.read_known(await self._ask(self._by_id, device=device), now)

    @abstractmethod
    async def close(self) -> None:
        """Give back what it holds."""

    async def _ask(self, statement: _Statement, **named: object) -> _Rows:
        self.statements += 1
        return await self._run(statement.text, [named[name] for name in statement.order])

    @abstractmethod
    async def _run(self, text: str, values: list[object]) -> _Rows: ...


class SqliteLookup(Lookup):
    """A connection of its own, used on the event loop."""

    def __init__(self, url: URL) -> None:
        super().__init__(sqlite.dialect(paramstyle="qmark"))
        self._path = str(url.database)
        self._connection: sqlite3.Connection | None = None

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _run(self, text: str, values: list[object]) -> _Rows:
        with translated():
            if self._connection is None:
                self._connection = _open_to_read(self._path)
            return self._connection.execute(text, values).fetchall()


class PostgresqlLookup(Lookup):
    """A pool of its own: asyncpg's, without the query that resets a connection after each use."""

    def __init__(self, url: URL) -> None:
        super().__init__(postgresql.asyncpg.dialect())  # type: ignore[no-untyped-call]
        self._url = url
        self._pool: Any = None
        self._connecting = asyncio.Lock()

    async def close(self) -> None:
        if self._pool is not None:
            self._pool.terminate()  # they only read: there is nothing to finish
            self._pool = None

    async def _run(self, text: str, values: list[object]) -> _Rows:
        with translated():
            pool = self._pool or await self._connect()
            async with pool.acquire(timeout=DATABASE_ANSWER_S) as connection:
                return [tuple(row) for row in await connection.fetch(text, *values)]

    async def _connect(self) -> Any:
        """The pool, ready; whoever comes while it is made waits for it."""
        import asyncpg  # noqa: PLC0415 - only where PostgreSQL is used

        async def leave(_connection: object) -> None: ...

        _, words = postgresql.asyncpg.dialect().create_connect_args(self._url)  # type: ignore[no-untyped-call]
        words = {key: value for key, value in words.items() if not key.startswith("prepared_")}
        async with self._connecting:
            if self._pool is None:
                # Kept once it is open: one that could not be opened would never be.
                self._pool = await asyncpg.create_pool(
                    **words,
                    min_size=1,
                    max_size=DATABASE_READERS,
                    reset=leave,
                    timeout=DATABASE_CONNECT_S,
                    command_timeout=DATABASE_ANSWER_S,
                    server_settings={"jit": "off"},  # it would compile for longer than it runs
                )
            return self._pool


def _open_to_read(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=0, isolation_level=None)
    with contextlib.suppress(sqlite3.Error):
        connection.execute("PRAGMA query_only=1")
    return connection


def _compiled(query: sa.CompoundSelect[Any], dialect: Dialect) -> _Statement:
    compiled = cast("Any", query.compile(dialect=dialect))
    return _Statement(str(compiled), tuple(compiled.positiontup))
