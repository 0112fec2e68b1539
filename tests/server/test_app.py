"""The application as a whole: the operator's endpoints, health, metrics, errors."""

import json
import sqlite3
from contextlib import closing

import pytest

from slipstream.server.store import audit

ROOT_1, ROOT_2 = "1" * 64, "2" * 64


def test_devices_are_registered_listed_and_removed(with_fleet):
    async def test(fleet):
        client, operator = fleet.client, fleet.operator
        body = {"id": "d1", "product": "gateway"}
        made = await client.post("/v1/devices", json=body, headers=operator)
        assert made.status == 201
        token = (await made.json())["token"]
        taken = await client.post("/v1/devices", json=body, headers=operator)
        assert taken.status == 409
        assert "'d1' exists" in (await taken.json())["error"]
        # The first token still is the device's.
        assert (await fleet.poll({"Authorization": f"Bearer {token}"}, "d1")).status == 200
        await fleet.add("d2")
        listed = await (await client.get("/v1/devices?limit=1", headers=operator)).json()
        assert [one["id"] for one in listed["devices"]] == ["d1"]
        assert listed["next"] == "d1"
        rest = await (await client.get("/v1/devices?after=d1", headers=operator)).json()
        assert [one["id"] for one in rest["devices"]] == ["d2"]
        assert rest["next"] is None
        assert (await client.delete("/v1/devices/d1", headers=operator)).status == 204
        assert (await client.delete("/v1/devices/d1", headers=operator)).status == 404
        # What was refused is no change.
        rows = await fleet.read(audit.list_before, None, limit=9)
        assert [(one.entry.actor, one.entry.act, one.entry.object) for one in reversed(rows)] == [
            ("installation", "device.add", "device d1"),
            ("installation", "device.add", "device d2"),
            ("installation", "device.remove", "device d1"),
        ]

    with_fleet(test)


@pytest.mark.parametrize(
    "body", [{}, {"id": "d1"}, {"id": "../x", "product": "p"}, {"id": "d1", "product": "p", "x": 1}]
)
def test_a_device_that_makes_no_sense_gets_400(with_fleet, body):
    async def test(fleet):
        response = await fleet.client.post("/v1/devices", json=body, headers=fleet.operator)
        assert response.status == 400
        assert (await response.json())["error"]

    with_fleet(test)


def test_the_operators_endpoints_take_the_operators_bearer_token_alone(with_fleet):
    async def test(fleet):
        device = await fleet.add("d1")
        basic = {"Authorization": "Basic eDphbiBvcGVyYXRvcidzIHRva2VuIG9mIGVub3VnaCBsZW5ndGg="}
        for method, path in (
            ("POST", "/v1/devices"),
            ("GET", "/v1/devices"),
            ("DELETE", "/v1/devices/d1"),
            ("GET", "/v1/devices/d1/reports"),
            ("GET", "/v1/releases"),
        ):
            for headers in ({}, device, basic, {"Authorization": "Bearer x"}):
                response = await fleet.client.request(method, path, headers=headers)
                assert response.status == 401, (method, path, headers)
                assert response.headers["WWW-Authenticate"].startswith("Bearer")
        # The same Basic password is good for what only reads.
        assert (await fleet.client.get("/", headers=basic)).status == 200

    with_fleet(test)


def test_releases(with_fleet, folder):
    folder.release("1.0", 1)
    folder.full("1.0", "rootfs", ROOT_1, b"x" * 100)
    folder.release("2.0", 2)
    folder.delta("2.0", "rootfs", ROOT_1, ROOT_2, 30)
    folder.write()

    async def test(fleet):
        response = await fleet.client.get("/v1/releases", headers=fleet.operator)
        listed = (await response.json())["releases"]
        assert [one["release"] for one in listed] == ["2.0", "1.0"]
        assert listed[0]["deltas"][0]["source_release"] == "1.0"
        assert listed[1]["images"][0]["payload_bytes"] == 100

    with_fleet(test)


def test_numbers_in_queries(with_fleet):
    async def test(fleet):
        for text, status in (("x", 400), ("-1", 400), ("0", 200), ("9" * 99, 400), ("", 400)):
            response = await fleet.client.get(f"/v1/devices?limit={text}", headers=fleet.operator)
            assert response.status == status, text

    with_fleet(test)


def test_health_names_what_fails(with_fleet, folder, tmp_path):
    async def test(fleet):
        well = await fleet.client.get("/healthz")
        assert well.status == 200
        assert await well.json() == {
            "status": "ok",
            "database": "ok",
            "repository": "ok",
            "tasks": "ok",
        }
        (folder.public / "metadata" / "timestamp.json").unlink()
        ill = await fleet.client.get("/healthz")
        assert ill.status == 503
        assert "timestamp.json" in (await ill.json())["repository"]
        folder.write()
        with closing(sqlite3.connect(tmp_path / "fleet.sqlite")) as database, database:
            database.execute("DROP TABLE devices")
        ill = await fleet.client.get("/healthz")
        assert ill.status == 503
        assert "no such table" in (await ill.json())["database"]

    with_fleet(test)


def test_metrics(with_fleet, folder):
    folder.release("1.0", 1)
    folder.write()

    async def test(fleet):
        assert (await fleet.client.get("/metrics")).status == 401
        token = await fleet.add("d1")
        other, third = await fleet.add("d2"), await fleet.add("d3")
        await fleet.poll(token, "d1", release="1.0", counter=1)
        await fleet.poll(other, "d2", release="made up")
        await fleet.report(third, "d3")
        await fleet.report(third, "d3")
        served = await fleet.client.get("/metadata/timestamp.json")
        size = len(await served.read())
        await fleet.client.get("/no/such/path")
        await fleet.client.request("MKCOL", "/healthz")
        response = await fleet.client.get("/metrics", headers=fleet.operator)
        assert response.headers["Content-Type"].startswith("text/plain")
        lines = set((await response.text()).splitlines())
        for line in (
            'slipstream_devices{release="1.0"} 1.0',
            'slipstream_devices{release="other"} 1.0',
            'slipstream_devices{release="unknown"} 1.0',
            'slipstream_polls_total{action="none"} 1.0',
            'slipstream_polls_total{action="install"} 1.0',
            'slipstream_reports_total{kind="confirmed"} 1.0',
            "slipstream_duplicate_reports_total 1.0",
            f'slipstream_served_bytes_total{{folder="metadata"}} {float(size)}',
            'slipstream_requests_total{method="POST",route="/v1/poll",status="200"} 2.0',
            'slipstream_requests_total{method="GET",route="none",status="404"} 1.0',
            'slipstream_requests_total{method="other",route="none",status="405"} 1.0',
            "slipstream_timestamp_expiry_seconds 1.893456e+09",
        ):
            assert line in lines, line
        (asked,) = (one for one in lines if one.startswith("slipstream_database_statements_total"))
        assert float(asked.split()[1]) > 5

    with_fleet(test)


def test_metrics_can_be_opened(with_fleet):
    async def test(fleet):
        response = await fleet.client.get("/metrics")
        assert response.status == 200
        assert 'slipstream_task_failures{task="engine"} 0.0' in await response.text()

    with_fleet(test, open_metrics=True)


def test_errors_are_json(with_fleet):
    async def test(fleet):
        for method, path, status in (
            ("GET", "/nowhere", 404),
            ("GET", "/v1/poll", 405),
            ("PUT", "/v1/report", 405),
            ("POST", "/", 405),
        ):
            response = await fleet.client.request(method, path)
            assert response.status == status
            assert response.content_type == "application/json"
            assert (await response.json())["error"]
            assert ("Allow" in response.headers) == (status == 405)

    with_fleet(test)


def test_what_nobody_foresaw_is_500_and_says_nothing(with_fleet):
    async def broken():
        raise LookupError("a secret")

    async def test(fleet):
        fleet.database.check = broken
        response = await fleet.client.get("/healthz")
        assert response.status == 500
        assert json.loads(await response.text())["error"] == "internal error"

    with_fleet(test)
