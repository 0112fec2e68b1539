"""What a poll with nothing to install costs the database: one statement, counted there."""

import asyncio
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from slipstream.server.catalog import CatalogReader
from slipstream.server.devices import PollHandler, PollLog
from slipstream.server.fleet.board import Board
from slipstream.server.metrics import Metrics
from slipstream.server.store import devices
from slipstream.server.store.database import Database
from slipstream.server.tokens import hash_token
from tests.server import postgres
from tests.server.conftest import NOW

POLLS = 20
HEADERS = {"Authorization": "Bearer a device's token"}
BODY = json.dumps({"device": "d1", "product": "gateway", "release": "1.0", "counter": 1})


@pytest.fixture
def statements(
    database_url: str, request: pytest.FixtureRequest
) -> Callable[[Database], Callable[[], list[str]]]:
    """Given a database: a function that says which statements it has run since then."""

    def on_sqlite(database: Database) -> Callable[[], list[str]]:
        found: list[str] = []

        def note(connection: sqlite3.Connection, *_: object) -> None:
            connection.set_trace_callback(found.append)

        note(database.lookup._connection)
        for engine in (database._readers.sync_engine, database._writer.sync_engine):
            sa.event.listen(engine, "before_cursor_execute", lambda *words: found.append(words[2]))
        return lambda: found

    def on_postgresql(_: Database) -> Callable[[], list[str]]:
        log: Path = request.getfixturevalue("postgresql") / "log"
        before = log.stat().st_size

        def read() -> list[str]:
            text = log.read_bytes()[before:].decode()
            return [line for line in text.splitlines() if "execute" in line or "statement" in line]

        return read

    if database_url.startswith("sqlite"):
        return on_sqlite
    name = database_url.partition("@/")[2].partition("?")[0]
    running: Path = request.getfixturevalue("postgresql")
    postgres.execute(running, f"ALTER DATABASE {name} SET log_statement = 'all'")
    return on_postgresql


def test_a_poll_with_nothing_to_install_is_one_statement(database_url, folder, statements):
    async def main() -> None:
        database = await Database.open(database_url)
        await database.write(
            lambda connection: devices.add(
                connection, "d1", "gateway", "stable", hash_token("a device's token"), NOW
            )
        )
        board, polls = Board(database), PollLog(database)
        catalog, metrics = CatalogReader(folder.public), Metrics()
        # Without the tasks that read and write beside the polls.
        poll = PollHandler(database, board, polls, catalog, metrics, lambda: NOW, 300)
        app = web.Application()
        app.router.add_post("/v1/poll", poll.handle)
        async with TestClient(TestServer(app)) as client:

            async def ask() -> None:
                answer = await client.post("/v1/poll", data=BODY, headers=HEADERS)
                assert (await answer.json())["action"] == "none"

            await ask()  # whose connection is opened, and its statement prepared
            ran = statements(database)
            for _ in range(POLLS):
                await ask()
            found = ran()
        await database.close()
        assert len(found) == POLLS, found[:4]

    asyncio.run(main())
