"""Rows of reports."""

from dataclasses import replace

import pytest

from slipstream.delta.limits import REPORTS_PER_DEVICE_MAX
from slipstream.server.store import reports
from tests.server.store.test_database import REPORT, add


def test_a_report_is_kept_once_for_each_device(with_database):
    async def test(connection):
        await add(connection, "d1", "d2")
        assert await reports.add(connection, REPORT)
        again = replace(REPORT, kind="failed", received_at=9)
        assert not await reports.add(connection, again)
        assert await reports.add(connection, replace(REPORT, device="d2"))
        assert await reports.list_of(connection, "d1", limit=9) == (REPORT,)

    with_database(lambda database: database.write(test))


def test_a_report_of_nobody_is_told(with_database):
    async def test(database):
        with pytest.raises(KeyError):
            await database.write(lambda connection: reports.add(connection, REPORT))

    with_database(test)


def test_a_device_cannot_fill_the_disk(with_database, monkeypatch):
    monkeypatch.setattr(reports, "REPORTS_PER_DEVICE_MAX", 5)
    assert REPORTS_PER_DEVICE_MAX > 5

    async def test(connection):
        await add(connection, "d1", "d2")
        await reports.add(connection, replace(REPORT, device="d2"))
        for number in range(8):
            await reports.add(connection, replace(REPORT, key=f"k{number}"))
        kept = await reports.list_of(connection, "d1", limit=99)
        assert [one.key for one in kept] == ["k7", "k6", "k5", "k4", "k3"]
        assert len(await reports.list_of(connection, "d2", limit=99)) == 1

    with_database(lambda database: database.write(test))
