"""A PostgreSQL that goes away without a word: nothing that asks it waits without end."""

import asyncio
import re
from contextlib import asynccontextmanager
from itertools import count

import pytest

from slipstream.delta.errors import Unavailable
from slipstream.server.store import database as store
from slipstream.server.store import devices, lookup
from slipstream.server.store.database import Database
from tests.server import postgres
from tests.server.store.test_database import add

SOON_S = 5.0  # on a machine that is busy; the times below are far shorter
_NUMBERS = count(1)


class Line:
    """Between a server and its PostgreSQL; `cut` keeps every byte back, and closes nothing."""

    def __init__(self):
        self.open = asyncio.Event()
        self.open.set()
        self.tasks = []
        self.writers = []

    @asynccontextmanager
    async def running(self, url, folder):
        socket = re.search(r"host=([^&]+)", url)[1]

        async def handle(reader, writer):
            far_reader, far_writer = await asyncio.open_unix_connection(f"{socket}/.s.PGSQL.5432")
            self.writers += [writer, far_writer]
            for one, other in ((reader, far_writer), (far_reader, writer)):
                self.tasks.append(asyncio.create_task(self._pass(one, other)))

        server = await asyncio.start_unix_server(handle, f"{folder}/.s.PGSQL.5432")
        try:
            yield url.replace(socket, str(folder))
        finally:
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)
            for writer in self.writers:
                writer.transport.abort()
            server.close()
            await asyncio.sleep(0)

    async def _pass(self, reader, writer):
        while data := await reader.read(65536):
            await self.open.wait()
            writer.write(data)
        writer.close()


@pytest.fixture
def quick(monkeypatch):
    for module in (store, lookup):
        for name in ("ANSWER", "CONNECT", "BATCH", "CLOSE"):
            monkeypatch.setattr(module, f"DATABASE_{name}_S", 0.3, raising=False)


def test_what_asks_a_database_that_vanished_hears_so(postgresql, tmp_path, quick):
    name = f"vanishing{next(_NUMBERS)}"
    postgres.execute(postgresql, f"CREATE DATABASE {name}")

    async def main():
        line = Line()
        async with line.running(postgres.url(postgresql, name), tmp_path) as url:
            database = await Database.open(url)
            await database.write(lambda connection: add(connection, "d1"))
            digest = b"d1".ljust(32)
            assert await database.lookup.know(digest, 1) is not None
            line.open.clear()
            asked = [
                database.write(lambda connection: add(connection, "d2")),
                database.write(lambda connection: add(connection, "d3")),
                database.lookup.know(digest, 1),
                database.check(),
            ]
            async with asyncio.timeout(SOON_S):
                heard = await asyncio.gather(*asked, return_exceptions=True)
            assert [type(one) for one in heard] == [Unavailable] * len(asked)
            line.open.set()
            async with asyncio.timeout(SOON_S):
                await _until_it_is_back(database)
                assert await database.lookup.know(digest, 1) is not None
            line.open.clear()
            late = asyncio.create_task(database.write(lambda connection: add(connection, "d5")))
            await asyncio.sleep(0)
            async with asyncio.timeout(SOON_S):
                await database.close()
            with pytest.raises(Unavailable):
                await late
            line.open.set()

    asyncio.run(main())


async def _until_it_is_back(database):
    while True:
        try:
            await database.check()
            await database.write(lambda connection: devices.remove(connection, "d4"))
            return
        except Unavailable:
            await asyncio.sleep(0.02)


def test_no_more_writes_wait_than_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "WRITES_WAITING_MAX", 2)

    async def main():
        database = await Database.open(f"sqlite:///{tmp_path / 'fleet.sqlite'}")
        try:
            heard = await asyncio.gather(
                *(database.write(lambda c, n=n: add(c, f"d{n}")) for n in range(3)),
                return_exceptions=True,
            )
            assert [type(one) for one in heard] == [type(None), type(None), Unavailable]
        finally:
            await database.close()

    asyncio.run(main())


def test_what_nobody_waits_for_any_more_is_not_begun(tmp_path):
    async def main():
        database = await Database.open(f"sqlite:///{tmp_path / 'fleet.sqlite'}")
        gone = asyncio.create_task(database.write(lambda connection: add(connection, "d1")))
        await asyncio.sleep(0)
        gone.cancel()
        await database.write(lambda connection: add(connection, "d2"))
        async with database.reading() as connection:
            assert [one.id for one in await devices.list_page(connection, limit=9)] == ["d2"]
        await database.close()

    asyncio.run(main())
