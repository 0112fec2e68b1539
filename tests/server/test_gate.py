"""Limits on how often, and what every answer carries."""

import re

import pytest
from aiohttp import web

from slipstream.server.ddi.settings import DdiSettings
from slipstream.server.gate import GateSettings
from slipstream.server.proxies import Proxies, parse_networks
from slipstream.server.tokens import hash_token

LOCAL = Proxies(parse_networks(("127.0.0.1",)))
BLOB = "b" * 64
NEVER = ("Access-Control-Allow-Origin", "X-Powered-By")


class Clock:
    """A clock that a test moves."""

    def __init__(self):
        self.now_s = 50.0

    def __call__(self):
        return self.now_s


def spelled(path):
    """A route's pattern as a path that leads to it."""
    path = path.replace("{release}", "2.0").replace("{path}", f"{BLOB}.payload")
    path = re.sub(r"\{(action|module|rollout|token|webhook|id)\}", "7", path)
    return re.sub(r"\{\w+\}", "x1", path)


def test_every_answer_of_every_route_is_dressed(with_fleet, folder):
    """Whoever answers, and whatever: with and without credentials, with a body and with nonsense."""
    (folder.public / "blobs" / f"{BLOB}.payload").write_bytes(b"x" * 100)

    async def test(fleet):
        client = fleet.client
        device = await fleet.add("kept")
        asked, statuses = 0, set()
        for route in [*list(client.server.app.router.routes()), None]:
            method = "GET" if route is None else route.method
            path = "/no/such/route" if route is None else spelled(route.resource.canonical)
            for headers in ({}, fleet.operator, device, {"Authorization": "TargetToken x"}):
                if path in ("/live", "/v1/wake") and headers:
                    continue  # streams, for whom they are: dressed like the others, without end
                async with client.request(
                    method,
                    path,
                    headers={**headers, "X-Forwarded-Proto": "https"},
                    data=None if method in ("GET", "HEAD") else "{",
                    allow_redirects=False,
                ) as answer:
                    check(answer, f"{method} {path}")
                    statuses.add(answer.status)
                    asked += 1
        assert asked > 300
        assert {200, 400, 401, 404, 409} <= statuses

    with_fleet(test, gate=GateSettings(LOCAL, address_rate=0, device_rate=0, failure_rate=0))


def check(answer, what):
    headers = answer.headers
    assert answer.status != 500, what
    assert headers["X-Content-Type-Options"] == "nosniff", what
    assert headers["Referrer-Policy"] in ("no-referrer", "same-origin"), what
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"], what
    assert "default-src 'none'" in headers["Content-Security-Policy"], what
    assert "unsafe" not in headers["Content-Security-Policy"], what
    assert headers["Strict-Transport-Security"].startswith("max-age="), what
    assert headers["Server"] == "slipstream", what
    assert not any(name in headers for name in NEVER), what
    path = answer.url.path
    if not path.startswith(("/blobs/", "/static/", "/api/v1/openapi.json")):
        assert headers["Cache-Control"] == "no-store", what


def test_plain_http_is_not_called_safe(with_fleet):
    async def test(fleet):
        said = {"X-Forwarded-Proto": "https"}  # nobody is believed
        async with fleet.client.get("/healthz", headers=said) as answer:
            assert "Strict-Transport-Security" not in answer.headers

    with_fleet(test)


def test_an_address_has_its_rate_and_files_do_not_count(with_fleet, folder):
    (folder.public / "blobs" / f"{BLOB}.payload").write_bytes(b"x" * 100)
    clock = Clock()

    async def test(fleet):
        async def ask(path, **headers):
            async with fleet.client.get(path, headers=headers) as answer:
                return answer.status, answer.headers.get("Retry-After")

        one, other = {"X-Forwarded-For": "192.0.2.1"}, {"X-Forwarded-For": "192.0.2.2"}
        for number in range(60):
            part = {"Range": f"bytes={number}-{number}"}
            assert (await ask(f"/blobs/{BLOB}.payload", **one, **part))[0] == 206
        assert [(await ask("/healthz", **one))[0] for _ in range(10)] == [200] * 10
        assert await ask("/healthz", **one) == (429, "1")
        assert await ask("/no/such", **one) == (429, "1")
        assert (await ask("/healthz", **other))[0] == 200
        assert [(await ask("/healthz"))[0] for _ in range(20)] == [200] * 20  # this machine
        assert (await ask(f"/blobs/{BLOB}.payload", **one))[0] == 200
        clock.now_s += 1
        assert (await ask("/healthz", **one))[0] == 200

    with_fleet(test, gate=GateSettings(LOCAL, address_rate=1, monotonic=clock))


def test_a_device_has_its_rate_on_both_doors(with_fleet):
    clock = Clock()

    async def test(fleet):
        first, second = await fleet.add("d1"), await fleet.add("d2")
        for _ in range(20):
            assert (await fleet.poll(first, "d1")).status == 200
        refused = await fleet.poll(first, "d1")
        assert (refused.status, refused.headers["Retry-After"]) == (429, "1")
        assert await refused.json() == {
            "error": "too many requests: this device",
            "code": "too_many",
            "field": None,
        }
        assert (await fleet.report(first, "d1")).status == 429
        assert (await fleet.poll(second, "d2")).status == 200
        # Nobody uses up what is another's with a guess.
        path = "/DEFAULT/controller/v1/d2"
        for _ in range(30):
            wrong = {"Authorization": "TargetToken wrong"}
            answer = await fleet.client.get(path, headers=wrong)
            assert answer.status in (401, 429)
        right = {"Authorization": second["Authorization"].replace("Bearer", "TargetToken")}
        for _ in range(20):
            assert (await fleet.client.get(path, headers=right)).status == 200
        assert (await fleet.client.get(path, headers=right)).status == 429
        clock.now_s += 1
        assert (await fleet.poll(first, "d1")).status == 200
        # One gateway speaks for many.
        gate = {"Authorization": "GatewayToken gate"}
        for number in range(40):
            where = f"/DEFAULT/controller/v1/many{number}"
            assert (await fleet.client.get(where, headers=gate)).status == 200

    ddi = DdiSettings(product="gateway", gateway_digest=hash_token("gate"))
    with_fleet(test, ddi=ddi, gate=GateSettings(device_rate=1, monotonic=clock))


def test_wrong_credentials_are_slowed_and_right_ones_are_not(with_fleet):
    clock = Clock()

    async def test(fleet):
        token = await fleet.add("d1")
        wrong = {"Authorization": "Bearer wrong"}
        paths = ("/v1/poll", "/v1/pre-reboot", "/DEFAULT/controller/v1/d1", "/api/v1/devices")
        seen = []
        for number in range(40):
            path = paths[number % len(paths)]
            method = "POST" if path.startswith("/v1") else "GET"
            lock = {"fleet-lock-protocol": "true"}
            async with fleet.client.request(method, path, headers={**wrong, **lock}) as answer:
                seen.append(answer.status)
                assert ("Retry-After" in answer.headers) == (answer.status == 429)
        assert seen == [401] * 20 + [429] * 20
        # A device with a good token, behind the same address, is served.
        assert (await fleet.poll(token, "d1")).status == 200
        clock.now_s += 1
        assert (await fleet.poll(wrong, "d1")).status == 401

    with_fleet(test, gate=GateSettings(failure_rate=1, monotonic=clock))


@pytest.mark.parametrize(("peer", "status"), [("192.0.2.1", 403), ("10.0.0.7", 200)])
def test_plain_http_from_others_than_the_proxies(with_fleet, monkeypatch, peer, status):
    async def test(fleet):
        assert (await fleet.client.get("/healthz")).status == 200  # this machine may
        monkeypatch.setattr(web.BaseRequest, "remote", peer)
        assert (await fleet.client.get("/healthz")).status == status

    proxies = Proxies(parse_networks(("10.0.0.0/24",)))
    with_fleet(test, gate=GateSettings(proxies, only_proxies=True))
