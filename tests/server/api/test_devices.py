"""Devices through the operators' door."""

import pytest

from slipstream.server.app import BOARD, ENGINE
from slipstream.server.store import audit, quarantines
from tests.server.conftest import NOW

ROSTER = """id,product,channel,group,tags,attribute.site
d1,gateway,stable,lab,canary fast,berlin
d2,gateway,stable,,,berlin
d3,gateway,beta,,canary,paris
d4,door,stable,,,
"""


async def roster(fleet):
    status, made = await fleet.api("POST", "/device-imports", ROSTER)
    assert status == 201, made
    return {one["id"]: {"Authorization": f"Bearer {one['token']}"} for one in made["devices"]}


async def listed(fleet, query):
    status, page = await fleet.api("GET", f"/devices?{query}")
    assert status == 200, page
    return [one["id"] for one in page["items"]], page["next"]


def test_a_device_is_registered_once_and_removed(with_each_fleet):
    async def test(fleet):
        token = await fleet.add("d1")
        status, refused = await fleet.api("POST", "/devices", {"id": "d1", "product": "gateway"})
        assert (status, refused["field"]) == (409, "$.id")
        # The first token still is the device's.
        assert (await fleet.poll(token, "d1")).status == 200
        assert (await fleet.api("DELETE", "/devices/d1"))[0] == 204
        assert (await fleet.api("DELETE", "/devices/d1"))[0] == 404
        assert (await fleet.poll(token, "d1")).status == 401
        # What was refused is no change.
        rows = await fleet.read(audit.list_before, None, limit=9)
        assert [(one.entry.actor, one.entry.act, one.entry.object) for one in reversed(rows)] == [
            ("installation", "device.add", "device d1"),
            ("installation", "device.remove", "device d1"),
        ]

    with_each_fleet(test)


@pytest.mark.parametrize(
    "body", [{}, {"id": "d1"}, {"id": "../x", "product": "p"}, {"id": "d1", "product": "p", "x": 1}]
)
def test_a_device_that_makes_no_sense_gets_400(with_fleet, body):
    async def test(fleet):
        status, answer = await fleet.api("POST", "/devices", body)
        assert status == 400
        assert answer["error"]

    with_fleet(test)


def test_numbers_in_queries(with_fleet):
    async def test(fleet):
        for text, status in (("x", 400), ("-1", 400), ("0", 400), ("1", 200), ("9" * 99, 400)):
            assert (await fleet.api("GET", f"/devices?limit={text}"))[0] == status, text

    with_fleet(test)


def test_devices_are_found_by_filter_in_pages(with_each_fleet):
    async def test(fleet):
        await roster(fleet)
        assert await listed(fleet, "limit=3") == (["d1", "d2", "d3"], "d3")
        assert await listed(fleet, "limit=3&after=d3") == (["d4"], None)
        assert await listed(fleet, "filter=attribute.site==berlin") == (["d1", "d2"], None)
        assert await listed(fleet, "filter=tag==canary&limit=1") == (["d1"], "d1")
        assert await listed(fleet, "filter=tag==canary&limit=1&after=d1") == (["d3"], "d3")
        assert await listed(fleet, "filter=tag==canary&limit=1&after=d3") == ([], None)
        _, seen = await fleet.api("GET", "/device-preview?filter=attribute.site!=paris")
        assert (seen["count"], seen["total"], len(seen["sample"])) == (3, 4, 3)
        query = "filter=tag==canary&product=gateway&channel=stable&sample=1"
        _, seen = await fleet.api("GET", f"/device-preview?{query}")
        assert (seen["count"], seen["total"], seen["sample"][0]["id"]) == (1, 2, "d1")

    with_each_fleet(test)


def test_a_search_goes_on_behind_what_one_call_may_look_at(with_fleet, monkeypatch):
    monkeypatch.setattr("slipstream.server.api.device_search.SCAN_ROWS_MAX", 2)
    monkeypatch.setattr("slipstream.server.matching._CHUNK", 2)

    async def test(fleet):
        await roster(fleet)
        found, after, calls = [], "", 0
        while after is not None:
            page, after = await listed(fleet, f"filter=id==d4&after={after}")
            found, calls = found + page, calls + 1
        assert found == ["d4"]
        assert calls == 3
        _, seen = await fleet.api("GET", "/device-preview?filter=id==d4")
        assert (seen["count"], seen["total"]) == (1, 4)

    with_fleet(test)


def test_an_import_is_all_or_nothing(with_each_fleet):
    async def test(fleet):
        tokens = await roster(fleet)
        assert (await fleet.poll(tokens["d2"], "d2")).status == 200
        more = "id,product\nd9,gateway\nd3,gateway\n"
        status, answer = await fleet.api("POST", "/device-imports", more)
        assert (status, answer["field"]) == (409, "line 3, id")
        assert (await fleet.api("GET", "/devices/d9"))[0] == 404

    with_each_fleet(test)


def test_what_is_known_of_a_device(with_each_fleet, folder):
    folder.release("1.0", 1)
    folder.write()

    async def test(fleet):
        token = (await roster(fleet))["d1"]
        slots = [{"name": "a", "release": "0.9", "state": "active"}]
        await fleet.poll(token, "d1", release="0.9", counter=0, slots=slots)
        await fleet.report(token, "d1", kind="fell_back", reason="panic", details={"boots": 3})
        _, detail = await fleet.api("GET", "/devices/d1")
        device = detail["device"]
        assert (device["release"], device["seen_at"], device["tags"]) == (
            "0.9",
            NOW,
            ["canary", "fast"],
        )
        assert (device["slots"], device["group"]) == (slots, "lab")
        assert detail["reports"][0]["details"] == {"boots": 3}
        assert detail["quarantines"][0]["release"] == "1.0"
        _, page = await fleet.api("GET", "/quarantines?limit=1")
        assert (page["items"][0]["reason"], page["next"]) == ("panic", "d1 1.0")
        assert (await fleet.api("GET", f"/quarantines?after={page['next']}"))[1]["items"] == []
        assert (await fleet.api("DELETE", "/devices/d1/quarantines/1.0"))[0] == 204
        assert (await fleet.api("DELETE", "/devices/d1/quarantines/1.0"))[0] == 404
        known = await fleet.read(quarantines.list_of_device, "d1")
        assert known == ()
        _, page = await fleet.api("GET", "/devices/d1/events")
        assert [one["kind"] for one in page["items"]] == ["lifted"]
        change = {"group": "", "attributes": {"site": "rome"}, "channel": "beta"}
        _, after = await fleet.api("PATCH", "/devices/d1", change)
        assert (after["group"], after["tags"], after["channel"]) == (None, device["tags"], "beta")

    with_each_fleet(test)


@pytest.mark.parametrize(
    "call",
    [
        ("PATCH", "/devices/d9", {}),
        ("DELETE", "/devices/d9"),
        ("POST", "/devices/d9/token", {}),
        ("DELETE", "/devices/d9/token"),
        ("DELETE", "/devices/d9/holds"),
        ("GET", "/devices/d9"),
    ],
)
def test_a_device_that_is_not_there(with_fleet, call):
    async def test(fleet):
        assert (await fleet.api(*call))[0] == 404

    with_fleet(test)


def test_tokens_are_rotated_and_revoked(with_each_fleet):
    times = [NOW]

    async def test(fleet):
        old = (await roster(fleet))["d1"]
        _, made = await fleet.api("POST", "/devices/d1/token", {"overlap_s": 60})
        new = {"Authorization": f"Bearer {made['token']}"}
        assert (await fleet.poll(old, "d1")).status == 200
        times[0] += 60
        assert (await fleet.poll(old, "d1")).status == 401
        assert (await fleet.poll(new, "d1")).status == 200
        assert (await fleet.api("DELETE", "/devices/d1/token"))[0] == 204
        assert (await fleet.poll(new, "d1")).status == 401
        _, made = await fleet.api("POST", "/devices/d1/token", {"overlap_s": 0})
        assert (await fleet.poll(new, "d1")).status == 401
        last = {"Authorization": f"Bearer {made['token']}"}
        assert (await fleet.poll(last, "d1")).status == 200
        assert (await fleet.api("DELETE", "/devices/d1"))[0] == 204
        assert (await fleet.poll(last, "d1")).status == 401

    with_each_fleet(test, now=lambda: times[0])


def test_an_offer_is_taken_back_from_one_device(with_each_fleet, folder):
    folder.release("2.0", 2)
    folder.full("2.0", "rootfs", "2" * 64, b"x")
    folder.write()
    plan = {
        "name": "one",
        "product": "gateway",
        "release": "2.0",
        "counter": 2,
        "phases": [{"percent": 100}],
    }

    async def test(fleet):
        tokens = {name: await fleet.add(name) for name in ("d1", "d2")}
        path = "/devices/d1/offers/2.0"
        assert (await fleet.api("DELETE", path))[0] == 409
        assert (await fleet.api("POST", "/rollouts", plan))[0] == 201
        await fleet.client.app[ENGINE].tick(1.0)
        await fleet.client.app[BOARD].refresh()

        async def actions():
            answers = [await fleet.poll(token, name) for name, token in tokens.items()]
            return [(await one.json())["action"] for one in answers]

        assert await actions() == ["install", "install"]
        viewer = await fleet.user("vera", "viewer")
        assert (await fleet.api("DELETE", path, token=viewer))[0] == 403
        assert (await fleet.api("DELETE", path))[0] == 204
        assert await actions() == ["none", "install"]
        status, answer = await fleet.api("DELETE", path)
        assert (status, answer["code"]) == (409, "conflict")
        assert (await fleet.api("DELETE", "/devices/d9/offers/2.0"))[0] == 404
        _, log = await fleet.api("GET", "/audit")
        assert "device.recall" in {row["act"] for row in log["items"]}

    with_each_fleet(test)
