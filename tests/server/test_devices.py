"""Polls: who may, what they hear, and what is kept of them."""

import asyncio
import json

import pytest

from slipstream.delta.limits import POLL_BYTES_MAX
from slipstream.server.app import POLLS
from slipstream.server.store import devices, polls
from tests.server.conftest import NOW

ROOT_1, ROOT_2 = "1" * 64, "2" * 64


def test_a_device_hears_of_the_newest_release(with_fleet, folder):
    folder.release("1.0", 1)
    folder.release("2.0", 2)
    folder.release("3.0", 3, channel="beta")
    folder.release("9.0", 9, product="other")
    folder.write()

    async def test(fleet):
        token = await fleet.add("d1")
        response = await fleet.poll(token, "d1", release="1.0", counter=1)
        assert response.status == 200
        assert await response.json() == {
            "action": "install",
            "release": "2.0",
            "counter": 2,
            "interval_s": 300,
            "reason": "newest in channel stable",
        }
        beta = await fleet.poll(token, "d1", release="1.0", counter=1, channel="beta")
        assert (await beta.json())["release"] == "3.0"
        at_rest = await (await fleet.poll(token, "d1", release="2.0", counter=2)).json()
        assert (at_rest["action"], at_rest["release"]) == ("none", None)

    with_fleet(test)


def test_a_new_release_is_seen_without_a_restart(with_fleet, folder):
    async def test(fleet):
        token = await fleet.add("d1")
        assert (await (await fleet.poll(token, "d1")).json())["action"] == "none"
        folder.release("1.0", 1)
        folder.write()
        assert (await (await fleet.poll(token, "d1")).json())["release"] == "1.0"

    with_fleet(test)


def test_an_install_that_failed_may_be_tried_again(with_fleet, folder):
    # Else one download hurt by a proxy, or one full disk, would keep the release from the device.
    folder.release("2.0", 2)
    folder.write()

    async def test(fleet):
        token = await fleet.add("d1")
        await fleet.report(token, "d1", kind="failed", release="2.0", counter=2)
        answer = await (await fleet.poll(token, "d1", release="1.0", counter=1)).json()
        assert answer["release"] == "2.0"

    with_fleet(test)


def test_a_release_that_fell_back_is_offered_to_others_only(with_fleet, folder):
    folder.release("2.0", 2)
    folder.write()

    async def test(fleet):
        token, other = await fleet.add("d1"), await fleet.add("d2")
        await fleet.report(token, "d1", kind="fell_back", release="2.0", counter=2)
        answer = await (await fleet.poll(token, "d1", release="1.0", counter=1)).json()
        assert answer["action"] == "none"
        assert "2.0 failed on this device" in answer["reason"]
        answer = await (await fleet.poll(other, "d2", release="1.0", counter=1)).json()
        assert answer["release"] == "2.0"
        folder.release("2.1", 3)
        folder.write()
        answer = await (await fleet.poll(token, "d1", release="1.0", counter=1)).json()
        assert answer["release"] == "2.1"

    with_fleet(test)


def test_a_device_may_refuse_trial_and_floor(with_fleet, folder):
    folder.release("2.0", 2)
    folder.write()

    async def test(fleet):
        token = await fleet.add("d1")
        for more in (
            {"failed": [{"release": "2.0", "reason": "no room"}]},
            {"trial": True},
            {"floor": 3},
        ):
            answer = await (await fleet.poll(token, "d1", counter=1, **more)).json()
            assert answer["action"] == "none", more

    with_fleet(test)


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"device": 1}, "$.device"),
        ({"device": "a b"}, "$.device"),
        ({"device": "d1\n"}, "$.device"),
        ({"product": ""}, "$.product"),
        ({"product": None}, "$.product"),
        ({"product": "other"}, "registered as 'gateway'"),
        ({"counter": -1}, "$.counter"),
        ({"counter": 1 << 31}, "$.counter"),
        ({"counter": 1.5}, "$.counter"),
        ({"counter": "1"}, "$.counter"),
        ({"booted_root": "1" * 63}, "$.booted_root"),
        ({"booted_root": "G" * 64}, "$.booted_root"),
        ({"slots": {}}, "$.slots"),
        ({"slots": [{}]}, "$.slots[0]"),
        ({"slots": [{"name": "a"}] * 17}, "$.slots"),
        ({"slots": [{"name": "a", "state": "\x00"}]}, "$.slots[0].state"),
        ({"failed": [{"release": "1.0"}] * 65}, "$.failed"),
        ({"trial": 1}, "$.trial"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_what_is_wrong_gets_400_with_the_field(with_fleet, change, reason):
    async def test(fleet):
        token = await fleet.add("d1")
        response = await fleet.client.post(
            "/v1/poll", json={"device": "d1", "product": "gateway"} | change, headers=token
        )
        assert response.status == 400
        assert reason in (await response.json())["error"]

    with_fleet(test)


def test_bodies_that_are_no_json_object_get_400(with_fleet):
    bodies = [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"device": "d1"}',
        b'{"device": "d1", "product": "gateway", "hardware": "\\ud800"}',
        b'{"device": "d1", "product": "gateway"} x',
        b'{"slots":' * 7000,
        b"[" * 60000,
    ]

    async def test(fleet):
        token = await fleet.add("d1")
        for body in bodies:
            response = await fleet.client.post("/v1/poll", data=body, headers=token)
            assert response.status == 400, body[:40]
            assert (await response.json())["error"]

    with_fleet(test)


def test_strangers_get_401(with_fleet):
    async def test(fleet):
        token, other = await fleet.add("d1"), await fleet.add("d2")
        wrong = [
            {},
            {"Authorization": "Bearer"},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Bearer caf\udce9"},
            {"Authorization": "Basic " + token["Authorization"].split()[1]},
            fleet.operator,
            other,
        ]
        for headers in wrong:
            response = await fleet.poll(headers, "d1")
            assert response.status == 401, headers
            assert "unknown device" in (await response.json())["error"]
        assert (await fleet.api("DELETE", "/devices/d1"))[0] == 204
        assert (await fleet.poll(token, "d1")).status == 401

    with_fleet(test)


def test_too_large_is_refused_before_it_is_read(with_fleet):
    async def endless():
        while True:
            yield b" " * 4096

    async def test(fleet):
        token = await fleet.add("d1")
        body = b" " * (POLL_BYTES_MAX + 1)
        response = await fleet.client.post("/v1/poll", data=body, headers=token)
        assert response.status == 413
        assert str(POLL_BYTES_MAX) in (await response.json())["error"]
        # Without a length in front: a body that never ends is cut off all the same.
        response = await fleet.client.post("/v1/poll", data=endless(), headers=token)
        assert response.status == 413
        assert response.headers["Connection"] == "close"

    with_fleet(test)


def test_compressed_bodies_are_refused(with_fleet):
    async def test(fleet):
        token = await fleet.add("d1")
        headers = token | {"Content-Encoding": "gzip"}
        response = await fleet.client.post("/v1/poll", data=b"\x1f\x8b" * 9, headers=headers)
        assert response.status in {400, 415}

    with_fleet(test)


def test_a_poll_is_written_later_and_once(with_fleet):
    async def test(fleet):
        token = await fleet.add("d1")
        for counter in (1, 2, 3):
            await fleet.poll(
                token, "d1", counter=counter, slots=[{"name": "a", "state": "good"}], trial=True
            )
        (device,) = await fleet.read(devices.list_page, limit=1)
        assert device.seen_at is None
        _, listed = await fleet.api("GET", "/devices")
        (shown,) = listed["items"]
        assert (shown["counter"], shown["trial"]) == (3, True)
        assert shown["slots"] == [{"name": "a", "release": None, "state": "good"}]
        assert "token" not in json.dumps(shown)

    with_fleet(test)


def test_a_device_that_goes_back_to_what_it_said_before_is_known_so(with_fleet):
    # A poll that says nothing new writes the time alone: it must not leave older news behind it.
    async def test(fleet):
        token, polls = await fleet.add("d1"), fleet.client.server.app[POLLS]

        async def says(release):
            assert (await fleet.poll(token, "d1", release=release, counter=1)).status == 200

        async def stored():
            return (await fleet.read(devices.find, "d1")).release

        await says("1.0")
        await polls.flush()
        await says("2.0")
        await says("1.0")
        await polls.flush()
        assert await stored() == "1.0"
        await says("2.0")
        flushing = asyncio.create_task(polls.flush())
        await asyncio.sleep(0)
        polls.note(seen_of("1.0"), await fleet.read(devices.find, "d1"))
        await flushing
        await polls.flush()
        assert await stored() == "1.0"
        polls.note(seen_of("1.0", NOW + 7), await fleet.read(devices.find, "d1"))
        await polls.flush()
        assert (await fleet.read(devices.find, "d1")).seen_at == NOW + 7

    with_fleet(test)


def seen_of(release, at=NOW):
    return polls.Seen("d1", at, None, release, 1, None, trial=False, slots="[]")


def test_polls_are_written_at_shutdown(with_fleet, tmp_path):
    async def test(fleet):
        token = await fleet.add("d1")
        await fleet.poll(token, "d1", release="1.0")

    async def look(fleet):
        (device,) = await fleet.read(devices.list_page, limit=1)
        assert device.release == "1.0"

    with_fleet(test)
    with_fleet(look)


def test_two_hundred_at_once(with_fleet, folder):
    folder.release("2.0", 2)
    folder.write()

    async def test(fleet):
        tokens = {f"d{n}": await fleet.add(f"d{n}") for n in range(200)}
        answers = await asyncio.gather(
            *(fleet.poll(token, device, counter=1) for device, token in tokens.items())
        )
        assert {one.status for one in answers} == {200}
        assert {(await one.json())["release"] for one in answers} == {"2.0"}
        _, listed = await fleet.api("GET", "/devices?limit=500")
        assert {one["counter"] for one in listed["items"]} == {1}

    with_fleet(test)


def test_a_repository_that_cannot_be_read_is_503_not_nothing(with_fleet, folder):
    async def test(fleet):
        token = await fleet.add("d1")
        (folder.public / "metadata" / "timestamp.json").write_text("{}")
        response = await fleet.poll(token, "d1")
        assert response.status == 503
        assert int(response.headers["Retry-After"]) > 0
        assert "timestamp.json" in (await response.json())["error"]

    with_fleet(test)
