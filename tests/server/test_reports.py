"""Reports: validated, kept once, shown to the operator."""

import asyncio
import sqlite3
from contextlib import closing

import pytest

from slipstream.delta.limits import REPORT_BYTES_MAX
from slipstream.server.store import reports


def test_a_report_is_accepted_once(with_fleet):
    async def test(fleet):
        token, other = await fleet.add("d1"), await fleet.add("d2")
        more = {
            "counter": 1,
            "details": {"bytes": 5, "deep": [{"a": None}]},
            "at": 12,
            "reason": "ok",
        }
        first = await fleet.report(token, "d1", **more)
        assert (first.status, await first.json()) == (200, {"accepted": True, "duplicate": False})
        again = await fleet.report(token, "d1", **more)
        assert (again.status, await again.json()) == (200, {"accepted": True, "duplicate": True})
        same_key = await fleet.report(other, "d2")
        assert not (await same_key.json())["duplicate"]
        _, shown = await fleet.api("GET", "/devices/d1")
        (kept,) = shown["reports"]
        assert kept["details"] == more["details"]
        assert (kept["at"], kept["reason"], kept["kind"]) == (12, "ok", "confirmed")

    with_fleet(test)


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"key": ""}, "$.key"),
        ({"key": "a b"}, "$.key"),
        ({"key": "k" * 129}, "$.key"),
        ({"key": None}, "$.key"),
        ({"kind": "other"}, "$.kind"),
        ({"counter": -1}, "$.counter"),
        ({"booted_root": "x"}, "$.booted_root"),
        ({"reason": "\x00"}, "$.reason"),
        ({"reason": "x" * 4097}, "$.reason"),
        ({"details": []}, "$.details"),
        ({"at": -1}, "$.at"),
        ({"at": -0.5}, "$.at"),
        ({"at": 1e300}, "$.at"),
        ({"at": "now"}, "$.at"),
        ({"extra": 1}, "extra"),
    ],
)
def test_what_is_wrong_gets_400_with_the_field(with_fleet, change, reason):
    async def test(fleet):
        token = await fleet.add("d1")
        response = await fleet.report(token, "d1", **change)
        assert response.status == 400
        assert reason in (await response.json())["error"]
        assert await fleet.read(reports.list_of, "d1", limit=9) == ()

    with_fleet(test)


def test_strangers_and_other_devices_get_401(with_fleet):
    async def test(fleet):
        await fleet.add("d1")
        other = await fleet.add("d2")
        for token in ({}, other, fleet.operator):
            assert (await fleet.report(token, "d1")).status == 401
        assert await fleet.read(reports.list_of, "d1", limit=9) == ()

    with_fleet(test)


def test_too_large_and_too_deep(with_fleet):
    async def test(fleet):
        token = await fleet.add("d1")
        large = await fleet.report(token, "d1", reason="x" * REPORT_BYTES_MAX)
        assert large.status == 413
        deep = b'{"key":"k","device":"d1","kind":"failed","details":{"a":%s}}' % (
            b"[" * 50_000 + b"]" * 50_000
        )
        response = await fleet.client.post("/v1/report", data=deep, headers=token)
        assert response.status == 400
        assert (await fleet.report(token, "d1")).status == 200

    with_fleet(test)


def test_all_at_once(with_fleet):
    async def test(fleet):
        token = await fleet.add("d1")
        answers = await asyncio.gather(
            *(fleet.report(token, "d1", key=f"k{n % 20}") for n in range(60))
        )
        assert {one.status for one in answers} == {200}
        assert [(await one.json())["duplicate"] for one in answers].count(False) == 20

    with_fleet(test)


def test_a_report_that_cannot_be_kept_is_not_acknowledged(with_fleet, tmp_path):
    async def test(fleet):
        token = await fleet.add("d1")
        with closing(sqlite3.connect(tmp_path / "fleet.sqlite")) as database, database:
            database.execute("ALTER TABLE reports RENAME TO away")
        response = await fleet.report(token, "d1")
        assert response.status == 503
        assert "Retry-After" in response.headers
        with closing(sqlite3.connect(tmp_path / "fleet.sqlite")) as database, database:
            database.execute("ALTER TABLE away RENAME TO reports")
        assert (await (await fleet.report(token, "d1")).json())["duplicate"] is False

    with_fleet(test)
