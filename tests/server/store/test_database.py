"""The database: what the migrations build, what is durable, and what happens when it fails."""

import asyncio
import sqlite3
import subprocess
import sys
from contextlib import AsyncExitStack, ExitStack, closing
from dataclasses import replace
from functools import partial

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from slipstream.delta.errors import Unavailable, UsageError
from slipstream.server.store import attempts, devices, grants, reports
from slipstream.server.store.database import Database, parse_url, upgrade
from slipstream.server.store.reports import Report
from slipstream.server.store.tables import metadata
from tests.server import postgres

REPORT = Report("d1", "k1", "confirmed", "1.0", 1, None, "", "{}", 5, 6)
DEVICE = (
    "INSERT INTO devices (id, product, channel, token_digest, created_at)"
    " VALUES ('d1', 'gateway', 'stable', '00', 1)"
)
FELL_BACK = (
    "INSERT INTO reports (device, key, kind, release, reason, details, at, received_at)"
    " VALUES ('d1', 'k1', 'fell_back', '2.0', 'no network', '{}', 5, 6)"
)

_OPEN = """
import asyncio, sys
from slipstream.server.store.database import Database
async def main():
    database = await Database.open(sys.argv[1])
    await database.check()
    await database.close()
asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "fleet.sqlite"


def url_of(path):
    return f"sqlite+aiosqlite:///{path}"


def open_once(url, test=None):
    async def main():
        database = await Database.open(url)
        try:
            if test is not None:
                await test(database)
        finally:
            await database.close()

    asyncio.run(main())


async def add(connection, *ids):
    for one in ids:
        digest = one.encode().ljust(32)
        assert await devices.add(connection, one, "gateway", "stable", digest, 1)


def test_the_migrations_build_what_the_tables_say(with_database):
    def compare(connection):
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        inspector = sa.inspect(connection)
        for table in metadata.sorted_tables:
            found = inspector.get_foreign_keys(table.name)
            assert len(found) == len(table.foreign_keys)
            key = inspector.get_pk_constraint(table.name)["constrained_columns"]
            assert key == [column.name for column in table.primary_key]

    async def test(database):
        async with database.reading() as connection:
            await connection.run_sync(compare)

    with_database(test)


def test_every_version_is_reached_with_data_in_it(database_url):
    async def first():
        await upgrade(parse_url(database_url), "0001")
        engine = sa.ext.asyncio.create_async_engine(database_url)
        async with engine.begin() as connection:
            for statement in (DEVICE, FELL_BACK):
                await connection.exec_driver_sql(statement)
        await engine.dispose()

    async def test(database):
        async with database.reading() as connection:
            known = await devices.know(connection, devices.by_id("d1"))
        assert known.device.attributes == "{}"
        # What was refused because of a report is refused still.
        assert known.quarantined == {"2.0": "no network"}

    asyncio.run(first())
    open_once(database_url, test)
    open_once(database_url, test)  # the second start finds nothing to do


def test_servers_that_start_together_migrate_once(database_url):
    words = [sys.executable, "-c", _OPEN, database_url]
    with ExitStack() as stack:
        starting = [stack.enter_context(subprocess.Popen(words)) for _ in range(2)]
        assert [one.wait(60) for one in starting] == [0, 0]


def test_a_migration_that_breaks_off_leaves_nothing(path):
    # A table that stands in the way makes the second CREATE TABLE fail.
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE reports (x)")
    with pytest.raises(Unavailable, match="reports"):
        open_once(url_of(path))
    with closing(sqlite3.connect(path)) as database:
        names = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    assert "devices" not in names


def test_a_database_of_a_later_version_is_refused(path):
    open_once(url_of(path))
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(UsageError, match="later version"):
        open_once(url_of(path))


@pytest.mark.parametrize(
    "url", ["", "x", "sqlite+aiosqlite://", "sqlite:///:memory:", "mysql://h/x", "postgresql://h"]
)
def test_urls_that_this_version_cannot_use(url):
    with pytest.raises(UsageError):
        parse_url(url)


def test_short_urls():
    assert parse_url("sqlite:///x").drivername == "sqlite+aiosqlite"
    assert parse_url("postgresql://u@h/x").drivername == "postgresql+asyncpg"


def test_a_password_is_not_shown():
    with pytest.raises(UsageError) as caught:
        parse_url("mysql://user:secret@host/x")
    assert "secret" not in str(caught.value)


def test_a_database_that_does_not_answer_is_unavailable(tmp_path):
    with pytest.raises(Unavailable, match="does not answer"):
        open_once(f"postgresql://nobody@/x?host={tmp_path}")


def test_what_is_written_is_synced_to_disk_at_each_commit(path):
    async def test(database):
        async def look(connection):
            for pragma, value in (("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1)):
                found = await connection.exec_driver_sql(f"PRAGMA {pragma}")
                assert found.scalar() == value

        await database.write(look)

    open_once(url_of(path), test)


def test_writes_that_wait_together_are_committed_together(with_database):
    async def test(database):
        commits = []
        sa.event.listen(database._writer.sync_engine, "commit", commits.append)
        await database.write(lambda connection: add(connection, "d1"))
        commits.clear()
        results = await asyncio.gather(
            *(
                database.write(
                    lambda connection, n=n: reports.add(
                        connection, replace(REPORT, key=f"k{n % 25}")
                    )
                )
                for n in range(50)
            )
        )
        assert results.count(True) == 25
        assert len(commits) == 1
        async with database.reading() as connection:
            assert len(await reports.list_of(connection, "d1", limit=99)) == 25

    with_database(test)


def test_one_that_fails_takes_no_other_with_it(with_database):
    async def broken(connection):
        await add(connection, "half")
        raise grants.NoRoom("full")

    async def test(database):
        results = await asyncio.gather(
            database.write(lambda connection: add(connection, "d1")),
            database.write(broken),
            database.write(lambda connection: add(connection, "d2")),
            # A broken constraint: the device is not there.
            database.write(lambda connection: reports.add(connection, replace(REPORT, device="x"))),
            database.write(lambda connection: add(connection, "d3")),
            return_exceptions=True,
        )
        assert [type(one) for one in results[:4]] == [
            type(None),
            grants.NoRoom,
            type(None),
            KeyError,
        ]
        async with database.reading() as connection:
            found = await devices.list_page(connection, limit=9)
        assert [one.id for one in found] == ["d1", "d2", "d3"]

    with_database(test)


def test_a_statement_that_the_database_refuses_leaves_the_others_whole(with_database):
    """As a full disk does, which may undo the whole transaction: all are tried again, alone."""

    async def refused(connection):
        await connection.exec_driver_sql("INSERT INTO nowhere VALUES (1)")

    async def test(database):
        results = await asyncio.gather(
            database.write(lambda connection: add(connection, "d1")),
            database.write(refused),
            database.write(lambda connection: add(connection, "d2")),
            return_exceptions=True,
        )
        assert isinstance(results[1], Unavailable)
        async with database.reading() as connection:
            found = await devices.list_page(connection, limit=9)
        assert [one.id for one in found] == ["d1", "d2"]

    with_database(test)


def test_who_has_gone_away_does_not_stop_the_rest(with_database):
    async def test(database):
        gone = asyncio.create_task(database.write(lambda connection: add(connection, "d1")))
        await asyncio.sleep(0)
        gone.cancel()
        await database.write(lambda connection: add(connection, "d2"))
        async with database.reading() as connection:
            assert await devices.find(connection, "d2") is not None

    with_database(test)


def test_a_database_that_fails_is_unavailable(path):
    async def test(database):
        await database.write(lambda connection: add(connection, "d1"))
        with closing(sqlite3.connect(path)) as other, other:
            other.execute("ALTER TABLE reports RENAME TO away")
        with pytest.raises(Unavailable, match="no such table"):
            await database.write(lambda connection: reports.add(connection, REPORT))
        await database.check()

    open_once(url_of(path), test)


def test_servers_that_write_of_the_same_devices_do_not_wait_for_each_other(postgresql):
    """In opposite order, all in one transaction: a deadlock, did the servers not take turns."""
    names = [f"d{number:02}" for number in range(40)]
    url = postgres.url(postgresql, "contended")
    postgres.execute(postgresql, "CREATE DATABASE contended")

    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = 'contended'"

    async def lock(name, connection):
        assert await attempts.lock(connection, name)

    async def write_all(database, order):
        await asyncio.gather(*(database.write(partial(lock, name)) for name in order))

    async def main():
        async with AsyncExitStack() as stack:
            servers = [await Database.open(url) for _ in range(2)]
            for server in servers:
                stack.push_async_callback(server.close)
            for name in names:
                await servers[0].write(partial(lambda one, c: add(c, one), name))
            for _ in range(10):
                await asyncio.gather(
                    write_all(servers[0], names), write_all(servers[1], names[::-1])
                )
            await asyncio.sleep(1.1)  # PostgreSQL writes its counters once a second
            async with servers[0].reading() as connection:
                found = await connection.execute(sa.text(deadlocks))
                assert found.scalar_one() == 0

    asyncio.run(main())


def test_a_row_that_somebody_holds_costs_no_other(new_postgresql):
    """A person with a shell, say: the rest of the batch is written, and it says which is not."""
    url = new_postgresql()

    async def lock(name, connection):
        return await attempts.lock(connection, name)

    async def main():
        database = await Database.open(url)
        await database.write(lambda connection: add(connection, "d1", "d2", "d3"))
        other = sa.ext.asyncio.create_async_engine(url)
        async with other.begin() as connection:
            await attempts.lock(connection, "d2")
            results = await asyncio.gather(
                *(database.write(partial(lock, name)) for name in ("d1", "d2", "d3")),
                return_exceptions=True,
            )
        assert (results[0], results[2]) == (True, True)
        assert isinstance(results[1], Unavailable)
        assert "lock timeout" in str(results[1])
        assert await database.write(lambda connection: attempts.lock(connection, "d2"))
        await other.dispose()
        await database.close()

    asyncio.run(main())
