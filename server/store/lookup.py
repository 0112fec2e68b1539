"""The one statement of a poll: who has this token, and what decides about its offers.

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
from collections.abc import Sequence
from typing import Any, Final, Protocol, cast

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Dialect

from slipstream.delta.limits import DATABASE_READERS
from slipstream.server.store import devices
from slipstream.server.store.devices import Known
from slipstream.server.store.errors import translated

_WAIT_S: Final = 10.0
_DIGEST, _NOW = (
    sa.bindparam("digest", type_=sa.LargeBinary),
    sa.bindparam("now", type_=sa.BigInteger),
)


class Lookup(Protocol):
    """Finds a device by its token's digest. Raises Unavailable."""

    async def know(self, digest: bytes, now: int) -> Known | None:
        """The device that has this token at `now`, seconds since 1970."""

    async def close(self) -> None:
        """Give back what it holds."""


class SqliteLookup:
    """A connection of its own, used on the event loop."""

    def __init__(self, url: URL) -> None:
        self._path = str(url.database)
        self._text, self._order = _compiled(sqlite.dialect(paramstyle="qmark"))
        self._connection: sqlite3.Connection | None = None

    async def know(self, digest: bytes, now: int) -> Known | None:
        values = {"digest": digest, "now": now}
        with translated():
            if self._connection is None:
                self._connection = _open_to_read(self._path)
            found = self._connection.execute(self._text, [values[name] for name in self._order])
            return devices.read_known(found.fetchall())

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class PostgresqlLookup:
    """A pool of its own: asyncpg's, without the query that resets a connection after each use."""

    def __init__(self, url: URL) -> None:
        self._url = url
        self._text, self._order = _compiled(postgresql.asyncpg.dialect())  # type: ignore[no-untyped-call]
        self._pool: Any = None
        self._connecting = asyncio.Lock()

    async def know(self, digest: bytes, now: int) -> Known | None:
        values = {"digest": digest, "now": now}
        with translated():
            async with self._connecting:  # a pool is of use to nobody until it is ready
                if self._pool is None:
                    self._pool = await self._connect()
            found = await self._pool.fetch(self._text, *(values[name] for name in self._order))
        return devices.read_known([tuple(row) for row in found])

    async def close(self) -> None:
        if self._pool is not None:
            self._pool.terminate()  # they only read: there is nothing to finish
            self._pool = None

    async def _connect(self) -> Any:
        import asyncpg  # noqa: PLC0415 - only where PostgreSQL is used

        async def leave(_connection: object) -> None: ...

        _, words = postgresql.asyncpg.dialect().create_connect_args(self._url)  # type: ignore[no-untyped-call]
        words = {key: value for key, value in words.items() if not key.startswith("prepared_")}
        return await asyncpg.create_pool(
            **words,
            min_size=1,
            max_size=DATABASE_READERS,
            reset=leave,
            command_timeout=_WAIT_S,
            server_settings={"jit": "off"},  # it would compile for longer than the query runs
        )


def _open_to_read(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=0, isolation_level=None)
    with contextlib.suppress(sqlite3.Error):
        connection.execute("PRAGMA query_only=1")
    return connection


def _compiled(dialect: Dialect) -> tuple[str, Sequence[str]]:
    """The statement as text, and the order of its values."""
    query = devices.known(devices.has_token(_DIGEST, _NOW))
    compiled = cast("Any", query.compile(dialect=dialect))
    return str(compiled), tuple(compiled.positiontup)
