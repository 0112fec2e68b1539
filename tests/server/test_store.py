"""The database: what the migrations build, what is kept, and what happens when it fails."""

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from slipstream.delta.errors import Unavailable, UsageError
from slipstream.delta.limits import REPORTS_PER_DEVICE_MAX
from slipstream.server.store import Report, Seen, Store, parse_url, upgrade
from slipstream.server.tables import metadata

REPORT = Report("d1", "k1", "confirmed", "1.0", 1, None, "", "{}", 5, 6)
SEEN = Seen("d1", 7, "x86-64", "1.0", 1, "a" * 64, False, "[]")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "fleet.sqlite"


def run(path, test):
    async def main():
        store = await Store.open(f"sqlite+aiosqlite:///{path}")
        try:
            await test(store)
        finally:
            await store.close()

    asyncio.run(main())


async def _add(store, *ids):
    for one in ids:
        assert await store.add_device(one, "gateway", "stable", one.encode().ljust(32), 1)


def test_the_migrations_build_what_the_tables_say(path):
    upgrade(parse_url(f"sqlite+aiosqlite:///{path}"))
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        inspector = sa.inspect(connection)
        for table in metadata.sorted_tables:
            found = inspector.get_foreign_keys(table.name)
            assert len(found) == len(table.foreign_keys)
    engine.dispose()


def test_every_version_is_reached_from_an_empty_database_and_keeps_the_rows(path):
    url = parse_url(f"sqlite+aiosqlite:///{path}")
    upgrade(url, "0001")
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(
            "INSERT INTO devices (id, product, channel, token_digest, created_at)"
            " VALUES ('d1', 'gateway', 'stable', x'00', 1)"
        )

    async def test(store):
        ((device, report),) = await store.list_devices(limit=9)
        assert (device.id, report) == ("d1", None)

    run(path, test)
    run(path, test)  # the second start finds nothing to do


def test_a_migration_that_breaks_off_leaves_nothing(path):
    # A table that stands in the way makes the second CREATE TABLE fail.
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE reports (x)")
    with pytest.raises(Unavailable, match="reports"):
        run(path, None)
    with closing(sqlite3.connect(path)) as database:
        names = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    assert "devices" not in names


def test_a_database_of_a_later_version_is_refused(path):
    upgrade(parse_url(f"sqlite+aiosqlite:///{path}"))
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(UsageError, match="later version"):
        run(path, None)


@pytest.mark.parametrize(
    "url",
    ["", "x", "sqlite:///x", "sqlite+aiosqlite://", "sqlite+aiosqlite:///:memory:", "mysql://h/x"],
)
def test_urls_that_this_version_cannot_use(url):
    with pytest.raises(UsageError):
        parse_url(url)


def test_a_password_is_not_shown():
    with pytest.raises(UsageError) as caught:
        parse_url("postgresql+asyncpg://user:secret@host/x")
    assert "secret" not in str(caught.value)


def test_reports_are_synced_to_disk_at_each_commit(path):
    async def test(store):
        async with store._engine.connect() as connection:
            for pragma, value in (("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1)):
                found = await connection.exec_driver_sql(f"PRAGMA {pragma}")
                assert found.scalar() == value

    run(path, test)


def test_a_device_is_added_once(path):
    async def test(store):
        await _add(store, "d1")
        assert not await store.add_device("d1", "other", "beta", b"x" * 32, 2)
        found = await store.find_device(b"d1".ljust(32))
        assert (found.id, found.product, found.channel) == ("d1", "gateway", "stable")
        assert await store.find_device(b"x" * 32) is None

    run(path, test)


def test_a_removed_device_takes_its_reports_along(path):
    async def test(store):
        await _add(store, "d1")
        await store.add_report(REPORT)
        assert await store.remove_device("d1")
        assert not await store.remove_device("d1")
        await _add(store, "d1")
        assert await store.list_reports("d1", limit=9) == ()
        await store.remove_device("d1")
        with pytest.raises(KeyError):
            await store.add_report(REPORT)
        await store.write_polls([SEEN])  # late, and harmless
        assert await store.list_devices(limit=9) == ()

    run(path, test)


def test_a_report_is_kept_once_for_each_device(path):
    async def test(store):
        await _add(store, "d1", "d2")
        assert await store.add_report(REPORT)
        assert not await store.add_report(replace(REPORT, kind="failed", received_at=9))
        assert await store.add_report(replace(REPORT, device="d2"))
        assert await store.list_reports("d1", limit=9) == (REPORT,)

    run(path, test)


def test_a_device_cannot_fill_the_disk(path, monkeypatch):
    monkeypatch.setattr("slipstream.server.store.REPORTS_PER_DEVICE_MAX", 5)
    assert REPORTS_PER_DEVICE_MAX > 5

    async def test(store):
        await _add(store, "d1", "d2")
        await store.add_report(replace(REPORT, device="d2"))
        for number in range(8):
            await store.add_report(replace(REPORT, key=f"k{number}"))
        kept = await store.list_reports("d1", limit=99)
        assert [one.key for one in kept] == ["k7", "k6", "k5", "k4", "k3"]
        assert len(await store.list_reports("d2", limit=99)) == 1

    run(path, test)


def test_failed_releases(path):
    async def test(store):
        await _add(store, "d1", "d2", "d3")
        for number, (device, kind, release) in enumerate(
            [
                ("d1", "fell_back", "1.0"),
                ("d1", "fell_back", "2.0"),
                ("d1", "fell_back", "2.0"),
                ("d1", "fell_back", None),
                ("d1", "confirmed", "3.0"),
                ("d1", "failed", "3.5"),
                ("d2", "fell_back", "4.0"),
            ]
        ):
            await store.add_report(
                replace(REPORT, device=device, key=f"k{number}", kind=kind, release=release)
            )
        device, failed = await store.find_standing(b"d1".ljust(32))
        assert (device.id, failed) == ("d1", {"1.0", "2.0"})
        assert (await store.find_standing(b"d3".ljust(32)))[1] == frozenset()
        assert await store.find_standing(b"x" * 32) is None

    run(path, test)


def test_devices_come_in_pages_with_their_newest_report(path):
    async def test(store):
        await _add(store, "d3", "d1", "d2")
        await store.add_report(REPORT)
        await store.add_report(replace(REPORT, key="k2", kind="fell_back"))
        await store.add_report(replace(REPORT, device="d3"))
        first = await store.list_devices(limit=2)
        assert [(one.id, report and report.kind) for one, report in first] == [
            ("d1", "fell_back"),
            ("d2", None),
        ]
        second = await store.list_devices(after="d2", limit=2)
        assert [(one.id, report and report.kind) for one, report in second] == [("d3", "confirmed")]

    run(path, test)


def test_polls_are_written_together(path):
    async def test(store):
        await _add(store, "d1", "d2", "d3")
        await store.write_polls([])
        await store.write_polls([SEEN, replace(SEEN, device="d2", release="2.0", counter=None)])
        found = {one.id: one for one, _ in await store.list_devices(limit=9)}
        assert (found["d1"].seen_at, found["d1"].release, found["d1"].trial) == (7, "1.0", False)
        assert (found["d2"].release, found["d2"].counter) == ("2.0", None)
        assert found["d3"].seen_at is None
        assert await store.count_devices() == {"1.0": 1, "2.0": 1, None: 1}

    run(path, test)


def test_many_writers_at_once(path):
    async def test(store):
        await _add(store, "d1")
        added = await asyncio.gather(
            *(store.add_report(replace(REPORT, key=f"k{n % 25}")) for n in range(50))
        )
        assert added.count(True) == 25

    run(path, test)


def test_a_database_that_fails_is_unavailable(path):
    async def test(store):
        await _add(store, "d1")
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("ALTER TABLE reports RENAME TO away")
        with pytest.raises(Unavailable, match="no such table"):
            await store.add_report(REPORT)
        with pytest.raises(Unavailable):
            await store.find_standing(b"d1".ljust(32))
        await store.check()

    run(path, test)
