"""What a poll with nothing to install costs the database: one statement, counted there."""

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from slipstream.server.blobs import Files
from slipstream.server.catalog import CatalogReader
from slipstream.server.ddi.actions import Actions
from slipstream.server.ddi.door import DdiDoor
from slipstream.server.ddi.downloads import Downloads
from slipstream.server.ddi.settings import DdiSettings
from slipstream.server.ddi.visit import Reception
from slipstream.server.devices import PollHandler, PollLog
from slipstream.server.fleet.board import Board
from slipstream.server.fleet.engine import Engine
from slipstream.server.metrics import Metrics
from slipstream.server.proxies import Proxies
from slipstream.server.store import devices
from slipstream.server.store.database import Database
from slipstream.server.tokens import hash_token
from tests.server import postgres
from tests.server.conftest import NOW

POLLS = 20
TOKEN = "a device's token"
BODY = {"device": "d1", "product": "gateway", "release": "1.0", "counter": 1}
DDI = "/DEFAULT/controller/v1/d1"


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


async def ask_native(client: TestClient) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with client.post("/v1/poll", json=BODY, headers=headers) as answer:
        assert (await answer.json())["action"] == "none"


async def ask_ddi(client: TestClient) -> None:
    async with client.get(DDI, headers={"Authorization": f"TargetToken {TOKEN}"}) as answer:
        assert "deploymentBase" not in (await answer.json())["_links"]


@pytest.mark.parametrize("ask", [ask_native, ask_ddi])
def test_a_poll_with_nothing_to_install_is_one_statement(database_url, folder, statements, ask):
    async def main() -> None:
        database = await Database.open(database_url)
        await database.write(
            lambda connection: devices.add(
                connection, "d1", "gateway", "stable", hash_token(TOKEN), NOW
            )
        )
        board, polls = Board(database), PollLog(database)
        catalog, metrics = CatalogReader(folder.public), Metrics()
        # Without the tasks that read and write beside the polls.
        poll = PollHandler(database, board, polls, catalog, metrics, lambda: NOW, 300)
        engine = Engine(database, board, lambda: NOW, "test")
        reception = Reception(database, DdiSettings(), Proxies(), lambda: NOW)
        actions = Actions(database, board, catalog, reception)
        downloads = Downloads(catalog, Files(folder.public, metrics), reception)
        ddi = DdiDoor(
            database, board, engine, polls, catalog, metrics, reception, actions, downloads, 300
        )
        app = web.Application()
        app.add_routes([web.post("/v1/poll", poll.handle), *ddi.routes()])
        async with TestClient(TestServer(app)) as client:
            await ask(client)  # whose connection is opened, and its statement prepared
            ran = statements(database)
            for _ in range(POLLS):
                await ask(client)
            found = ran()
        await database.close()
        assert len(found) == POLLS, found[:4]

    asyncio.run(main())
