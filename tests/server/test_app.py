"""The application as a whole: health, metrics, errors."""

import json
import sqlite3
from contextlib import closing


def test_what_api_v1_has_replaced_is_gone(with_fleet):
    async def test(fleet):
        for path in ("/v1/devices", "/v1/devices/d1", "/v1/devices/d1/reports", "/v1/releases"):
            assert (await fleet.client.get(path, headers=fleet.operator)).status == 404, path

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
        refused = await fleet.client.get("/metrics")
        assert (refused.status, refused.headers["WWW-Authenticate"].split()[0]) == (401, "Basic")
        wrong = {"Authorization": "Bearer x"}
        assert (await fleet.client.get("/metrics", headers=wrong)).status == 401
        basic = {"Authorization": "Basic eDphbiBvcGVyYXRvcidzIHRva2VuIG9mIGVub3VnaCBsZW5ndGg="}
        assert (await fleet.client.get("/metrics", headers=basic)).status == 200
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
