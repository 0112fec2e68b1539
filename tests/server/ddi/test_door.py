"""hawkBit's protocol over HTTP, from the first contact to the last word."""

import hashlib
import re
from dataclasses import replace

import pytest
import sqlalchemy as sa

from slipstream.server.app import POLLS
from slipstream.server.ddi.settings import DdiSettings
from slipstream.server.gate import GateSettings
from slipstream.server.proxies import Proxies, parse_networks
from slipstream.server.rollout.plan import FailureClass, Proof, Urgency
from slipstream.server.rollout.record import Act
from slipstream.server.rollout.track import State
from slipstream.server.store import devices, events, grants, reports, rollouts
from slipstream.server.tokens import hash_token
from tests.server.conftest import NOW
from tests.server.ddi.fleet import PLAN, SWU, Device, change, recall, start

ASKS = replace(PLAN, needs_consent=True)


@pytest.fixture
def with_device(with_fleet):
    """Runs a coroutine function with a Fleet and one Device."""

    def run(test, **settings):
        async def main(fleet):
            await test(fleet, await Device.add(fleet))

        with_fleet(main, **settings)

    return run


def test_an_update_that_succeeds(with_device):
    async def test(fleet, device):
        origin = str(fleet.client.make_url("/"))
        assert await device.ask("GET") == {
            "config": {"polling": {"sleep": "00:05:00"}},
            "_links": {"configData": {"href": f"{origin}DEFAULT/controller/v1/dev1/configData"}},
        }
        await start(fleet)
        links = await device.poll()
        assert list(links) == ["deploymentBase"]
        assert await device.poll() == links
        found = await device.ask("GET", links["deploymentBase"])
        assert found["id"] == "1"
        assert found["deployment"]["update"] == "attempt"
        (chunk,) = found["deployment"]["chunks"]
        assert (chunk["part"], chunk["version"]) == ("os", "2.0")
        (artifact,) = chunk["artifacts"]
        assert (artifact["filename"], artifact["size"]) == ("gateway-2.0.swu", len(SWU))
        assert artifact["hashes"]["sha1"] == hashlib.sha1(SWU).hexdigest()
        await device.feedback(links["deploymentBase"], "proceeding", "none", "started")
        assert (await device.offer()).state is State.FETCHING
        await device.feedback(links["deploymentBase"], "closed", "success", "done")
        offer = await device.offer()
        assert (offer.state, offer.reason) == (State.CONFIRMED, "done")
        assert list(await device.poll()) == ["installedBase"]
        found = (await device.known()).device
        assert (found.release, found.counter) == ("2.0", 2)
        installed = (await device.poll())["installedBase"]
        found = await device.ask("GET", f"{installed}?actionHistory=9")
        assert found["actionHistory"] == {"status": "CONFIRMED", "messages": ["done", "started"]}
        kept = await fleet.read(reports.list_of, "dev1", limit=9)
        assert [one.kind for one in kept] == ["confirmed", "progress"]

    with_device(test)


def test_success_proves_nothing_where_the_plan_wants_a_root_hash(with_device):
    async def test(fleet, device):
        await start(fleet, replace(PLAN, proof=Proof.ROOT))
        fleet.folder.full("2.0", "rootfs", "2" * 64, b"x")
        fleet.folder.write()
        links = await device.poll()
        await device.ask("PUT", "configData", json={"data": {"board": "qemu"}})
        await device.feedback(links["deploymentBase"], "closed", "success")
        assert (await device.offer()).state is State.INSTALLED
        assert "deploymentBase" not in await device.poll()  # it would install it again
        assert (await device.known()).wants_attributes
        data = {"slipstream.release": "2.0", "slipstream.booted_root": "2" * 64}
        await device.ask("PUT", "configData", json={"data": data})
        assert (await device.offer()).state is State.CONFIRMED
        # It boots the one before, and says so.
        fleet.folder.release("1.0", 1)
        fleet.folder.write()
        await device.ask("PUT", "configData", json={"data": {"slipstream.release": "1.0"}})
        assert (await device.offer()).state is State.REGRESSED
        assert await device.poll() == {}

    with_device(test)


@pytest.mark.parametrize("proof", list(Proof))
def test_a_device_that_has_not_rebooted_yet_names_what_it_leaves(with_device, proof):
    """It is asked what it runs as soon as it has installed: the old system answers, then the new."""

    async def test(fleet, device):
        await start(fleet, replace(PLAN, proof=proof))
        fleet.folder.release("1.0", 1)
        fleet.folder.full("2.0", "rootfs", "2" * 64, b"x")
        fleet.folder.write()
        old = {"slipstream.release": "1.0", "slipstream.booted_root": "1" * 64}
        new = {"slipstream.release": "2.0", "slipstream.booted_root": "2" * 64}
        await device.ask("PUT", "configData", json={"data": old})
        links = await device.poll()
        await device.feedback(links["deploymentBase"], "closed", "success")
        state = (await device.offer()).state
        for _ in range(2):
            assert "configData" in (await device.ask("GET"))["_links"]
            await device.ask("PUT", "configData", json={"data": old})
            assert (await device.offer()).state is state
        await device.ask("PUT", "configData", json={"data": new})
        assert (await device.offer()).state is State.CONFIRMED
        assert "configData" not in (await device.ask("GET"))["_links"]
        await device.ask("PUT", "configData", json={"data": old})  # now it has left it
        assert (await device.offer()).state is State.REGRESSED

    with_device(test)


def test_a_second_try_says_the_same_and_is_heard(with_device):
    """These clients send no key: the words of a try after a lifted quarantine are those of the first."""

    async def test(fleet, device):
        await start(fleet)
        for _ in range(2):
            path = (await device.poll())["deploymentBase"]
            await device.feedback(path, "proceeding", "none", "All Chunks Installed.")
            await device.feedback(path, "closed", "failure", "Update Failed.")
            assert (await device.offer()).state is State.FELL_BACK
            assert await fleet.database.write(
                lambda c: grants.lift_quarantine(c, "dev1", "2.0", NOW)
            )
        assert (await device.offer()).state is State.OFFERED

    with_device(test)


def test_failures(with_device):
    async def test(fleet, device):
        await start(fleet)
        path = (await device.poll())["deploymentBase"]
        await device.feedback(path, "closed", "failure", "No suitable .swu image found")
        offer = await device.offer()
        assert (offer.state, offer.failure) == (State.FAILED, FailureClass.DEVICE)
        assert await device.poll() == {}  # these clients would try for ever
        other = await Device.add(fleet, "dev2")
        path = (await other.poll())["deploymentBase"]
        await other.feedback(path, "proceeding", "none", "All Chunks Installed.")
        await other.feedback(path, "closed", "failure", "Update Failed.")
        offer = await other.offer()
        assert (offer.state, offer.failure) == (State.FELL_BACK, FailureClass.BOOT)
        assert (await other.known()).quarantined == {"2.0": "Update Failed."}
        assert await other.poll() == {}

    with_device(test)


def test_the_last_word_is_the_last(with_device):
    async def test(fleet, device):
        await start(fleet)
        path = (await device.poll())["deploymentBase"]
        await device.feedback(path, "closed", "success", "done")
        await device.feedback(path, "closed", "success", "done")  # its answer was lost
        assert len(await fleet.read(reports.list_of, "dev1", limit=9)) == 1
        await device.feedback(path, "closed", "failure", status=410)
        await device.ask("GET", path, status=404)
        stranger = await Device.add(fleet, "dev2")
        foreign = path.replace("dev1", "dev2")
        await stranger.ask("GET", foreign, status=404)
        await stranger.feedback(foreign, "closed", "success", status=404)
        await stranger.ask("GET", "deploymentBase/x", status=404)

    with_device(test)


@pytest.mark.parametrize("how", ["abort", "pause", "recall"])
def test_a_cancel_and_its_acknowledgement(with_device, how):
    async def test(fleet, device):
        await start(fleet)
        deployment = (await device.poll())["deploymentBase"]
        await device.ask("GET", "cancelAction/1", status=404)
        await device.feedback("cancelAction/1", "closed", "success", status=405)
        if how == "recall":
            assert await recall(fleet, 1)
        else:
            await change(fleet, Act(how))
        cancel = (await device.poll())["cancelAction"]
        await device.ask("GET", deployment, status=404)
        assert await device.ask("GET", cancel) == {"id": "1", "cancelAction": {"stopId": "1"}}
        await device.feedback(cancel, "canceled")  # no acceptance
        assert (await device.offer()).state is State.OFFERED
        await device.feedback(cancel, "closed", "success", "cancellation acknowledged.")
        assert (await device.offer()).state is State.CANCELLED
        assert await device.poll() == {}
        if how == "pause":
            await change(fleet, Act.RESUME)
            assert list(await device.poll()) == ["deploymentBase"]
            offer = await device.offer()
            assert (offer.id, offer.state, offer.closed_at) == (1, State.OFFERED, None)
        (found,) = await fleet.read(rollouts.load, ids=[1])
        async with fleet.database.reading() as connection:
            opened = await rollouts.open_phases(connection, [found.id])
        assert opened[1][0].offered == 1  # however often it is said to one device

    with_device(test)


def test_a_device_that_does_not_stop_is_let_go_on(with_device):
    async def test(fleet, device):
        await start(fleet)
        await device.poll()
        await change(fleet, Act.ABORT)
        cancel = (await device.poll())["cancelAction"]
        await device.feedback(cancel, "rejected")
        path = (await device.poll())["deploymentBase"]
        await device.feedback(path, "closed", "success")
        assert (await device.offer()).state is State.CONFIRMED

    with_device(test)


def test_a_cancel_that_fails_and_one_that_comes_too_late(with_device):
    async def test(fleet, device):
        await start(fleet)
        path = (await device.poll())["deploymentBase"]
        other = await Device.add(fleet, "dev2")
        theirs = (await other.poll())["deploymentBase"]
        await other.feedback(theirs, "proceeding", "none", "All Chunks Installed.")
        await change(fleet, Act.ABORT)
        await device.feedback((await device.poll())["cancelAction"], "closed", "failure")
        assert (await device.offer()).state is State.FAILED
        assert await other.poll() == {"deploymentBase": theirs}  # it can still be reported on
        await other.feedback(theirs.replace("deploymentBase", "cancelAction"), "closed", status=405)
        await other.feedback(theirs, "closed", "success")
        assert (await other.offer()).state is State.CONFIRMED
        await device.feedback(path, "closed", "success", status=410)

    with_device(test)


def test_a_newer_release_takes_the_place_of_an_older(with_device):
    async def test(fleet, device):
        await start(fleet)
        await device.poll()
        await start(fleet, replace(PLAN, name="three", release="3.0", counter=3))
        cancel = (await device.poll())["cancelAction"]
        assert len((await device.known()).attempts) == 1  # not offered before that is settled
        await device.feedback(cancel, "closed", "success")
        path = (await device.poll())["deploymentBase"]
        found = await device.ask("GET", path)
        assert found["deployment"]["chunks"][0]["version"] == "3.0"

    with_device(test)


def test_the_person_at_the_device_is_asked(with_device):
    async def test(fleet, device):
        await start(fleet, ASKS)
        path = (await device.poll())["confirmationBase"]
        assert "confirmation" in await device.ask("GET", path)
        await device.ask("GET", "deploymentBase/1", status=404)
        await device.feedback("deploymentBase/1", "closed", "success", status=404)
        state = await device.ask("GET", "confirmationBase")
        assert state["autoConfirm"] == {"active": False}
        assert set(state["_links"]) == {"activateAutoConfirm", "confirmationBase"}
        answer = "confirmationBase/1/feedback"
        await device.ask("POST", answer, json={"confirmation": "perhaps"}, status=400)
        await device.ask("POST", answer, json={"confirmation": "denied", "details": ["not now"]})
        assert list(await device.poll()) == ["confirmationBase"]
        await device.ask("POST", answer, json={"confirmation": "confirmed"})
        assert list(await device.poll()) == ["deploymentBase"]
        await device.ask("POST", answer, json={"confirmation": "confirmed"}, status=404)
        await device.feedback("deploymentBase/1", "closed", "success")
        await device.ask("POST", answer, json={"confirmation": "confirmed"}, status=410)
        told = await fleet.read(events.list_of_device, "dev1", limit=9)
        assert "the person at the device declined 2.0: not now" in [one.text for one in told]

    with_device(test)


def test_consent_beforehand(with_device):
    async def test(fleet, device):
        await start(fleet, ASKS)
        body = {"initiator": "anna", "remark": "always"}
        await device.ask("POST", "confirmationBase/activateAutoConfirm", json=body)
        assert list(await device.poll()) == ["deploymentBase"]
        state = await device.ask("GET", "confirmationBase")
        assert state["autoConfirm"] == {"active": True, **body, "activatedAt": NOW * 1000}
        await device.ask("POST", "confirmationBase/deactivateAutoConfirm")
        assert list(await device.poll()) == ["confirmationBase"]

    with_device(test)


def test_our_own_installer_is_not_offered_what_it_cannot_take(with_device):
    async def test(fleet, device):
        await start(fleet)
        token = device.headers["Authorization"].removeprefix("TargetToken ")
        own = {"Authorization": f"Bearer {token}"}
        answer = await (await fleet.poll(own, "dev1")).json()
        assert (answer["action"], answer["reason"]) == ("none", "no rollout has a release")
        fleet.folder.release("3.0", 3)
        fleet.folder.full("3.0", "rootfs", "3" * 64, b"x")
        await start(fleet, replace(ASKS, name="images", release="3.0", counter=3), publish=False)
        fleet.folder.write()
        path = (await device.poll())["deploymentBase"]  # 3.0 has no artifact
        (chunk,) = (await device.ask("GET", path))["deployment"]["chunks"]
        assert chunk["version"] == "2.0"
        answer = await (await fleet.poll(own, "dev1")).json()
        assert "needs the consent" in answer["reason"]

    with_device(test)


def test_attributes(with_device):
    async def test(fleet, device):
        sent = {"id": "", "time": "x", "status": {"execution": "closed"}, "data": {"board": "qemu"}}
        await device.ask("PUT", "configData", json=sent)
        assert "_links" not in await device.ask("GET")
        found = (await device.known()).device.facts()
        assert found.attributes == {"board": "qemu"}
        await device.ask("PUT", "configData", json={"data": {"a": "1"}, "mode": "replace"})
        assert (await device.known()).device.facts().attributes == {"a": "1"}
        for data in ({"": "x"}, {"slipstream.release": "a b"}, {"slipstream.release": ""}):
            await device.ask("PUT", "configData", json={"data": data}, status=400)
        await device.ask("PUT", "configData", data=b"{" * 70_000, status=413)
        await device.ask("PUT", "configData", data=b"no", status=400)

    with_device(test)


def test_a_release_that_was_installed_by_hand(with_device):
    async def test(fleet, device):
        await start(fleet)
        await device.ask("PUT", "installedBase", json={"name": "gateway", "version": "2.0"})
        found = (await device.known()).device
        assert (found.release, found.counter) == ("2.0", 2)
        assert await device.poll() == {}

    with_device(test)


@pytest.mark.parametrize(
    ("changes", "download", "update", "window"),
    [
        ({}, "attempt", "attempt", None),
        ({"urgency": Urgency.FORCED}, "forced", "forced", None),
        ({"urgency": Urgency.TIME_FORCED, "forced_at": NOW}, "forced", "forced", None),
        ({"urgency": Urgency.TIME_FORCED, "forced_at": NOW + 1}, "attempt", "attempt", None),
        ({"download_only": True}, "forced", "skip", None),
        ({"windows": ("Fri 00:00-23:59",)}, "attempt", "attempt", "available"),
    ],
)
def test_terms(with_device, changes, download, update, window):
    async def test(fleet, device):
        await start(fleet, replace(PLAN, **changes))
        found = (await device.ask("GET", (await device.poll())["deploymentBase"]))["deployment"]
        assert (found["download"], found["update"]) == (download, update)
        assert found.get("maintenanceWindow") == window

    with_device(test)


def test_a_maintenance_window_that_shuts(with_device):
    clock = [NOW]  # a Friday, 08:00 UTC

    async def test(fleet, device):
        await start(fleet, replace(PLAN, windows=("Fri 07:00-09:00",)))
        path = (await device.poll())["deploymentBase"]
        other = await Device.add(fleet, "dev2")
        theirs = (await other.poll())["deploymentBase"]
        await other.feedback(theirs, "proceeding", "none", "All Chunks Installed.")
        clock[0] += 3600
        assert await device.poll() == {}  # SWUpdate calls an update that it skips a success
        found = (await device.ask("GET", path))["deployment"]
        assert (found["update"], found["maintenanceWindow"]) == ("skip", "unavailable")
        assert list(await other.poll()) == ["deploymentBase"]
        clock[0] += 7 * 86_400 - 3600
        assert list(await device.poll()) == ["deploymentBase"]

    with_device(test, now=lambda: clock[0])


def test_the_link_changes_with_the_terms(with_device):
    clock = [NOW]

    async def test(fleet, device):
        await start(fleet, replace(PLAN, urgency=Urgency.TIME_FORCED, forced_at=NOW + 60))
        before = (await device.poll())["deploymentBase"]
        clock[0] += 60
        after = (await device.poll())["deploymentBase"]
        assert before != after
        assert before.partition("?")[0] == after.partition("?")[0]

    with_device(test, now=lambda: clock[0])


def test_artifacts(with_device):
    async def test(fleet, device):
        await start(fleet)
        folder = "softwaremodules/2/artifacts"
        await device.ask("GET", folder, status=404)  # not offered yet
        await device.poll()
        (listed,) = await device.ask("GET", folder)
        path = "/" + listed["_links"]["download-http"]["href"].split("/", 3)[3]
        assert await device.ask("GET", path) == SWU
        digest = hashlib.md5(SWU).hexdigest()
        sums = "/" + listed["_links"]["md5sum"]["href"].split("/", 3)[3]
        assert await device.ask("GET", sums) == f"{digest}  gateway-2.0.swu".encode()
        head = await device.ask("HEAD", path)
        assert head.headers["Content-Length"] == str(len(SWU))
        assert head.headers["ETag"] == f'"{hashlib.sha1(SWU).hexdigest()}"'
        assert head.headers["Accept-Ranges"] == "bytes"
        assert head.headers["Content-Disposition"] == 'attachment; filename="gateway-2.0.swu"'
        get = fleet.client.get
        async with get(path, headers={**device.headers, "Range": "bytes=5-9"}) as part:
            assert (part.status, await part.read()) == (206, SWU[5:10])
        async with get(path, headers={**device.headers, "Range": "bytes=0-1,10-12"}) as parts:
            body = await parts.read()
            assert parts.content_type == "multipart/byteranges"
            assert body.count(b"Content-Range: bytes ") == 2
        async with get(path, headers={**device.headers, "Range": "bytes=999999-"}) as none:
            assert none.status == 416
        async with get(path, headers={**device.headers, "If-Match": '"x"'}) as other:
            assert other.status == 412
        await device.ask("GET", path + "x", status=404)
        await device.ask("GET", path.replace("/2/", "/1/"), status=404)
        await (await Device.add(fleet, "dev2")).ask("GET", path.replace("dev1", "dev2"), status=404)
        await device.ask("GET", path, headers={"Authorization": ""}, status=401)

    with_device(test)


def test_a_body_that_waits_for_100_continue_and_is_dirty(with_device):
    async def test(fleet, device):
        await start(fleet)
        path = (await device.poll())["deploymentBase"].partition("?")[0]
        raw = (
            b'{ "id": 1, "status": { "result": { "finished": "failure" }, "execution": "closed",'
            b' "details" : [ "\x1b[31mERROR\t"what" at C:\\x" ] } }'
        )
        await device.ask("POST", f"{path}/feedback", data=raw, expect100=True)
        assert (await device.offer()).reason == '\x1b[31mERROR\t"what" at C:\\x'
        await device.ask("POST", f"{path}/feedback", data=b"[]", status=400)

    with_device(test)


def test_not_modified_only_for_who_asks(with_device):
    async def test(fleet, device):
        where = "/DEFAULT/controller/v1/dev1"
        async with fleet.client.get(where, headers=device.headers) as first:
            tag = first.headers["ETag"]
        await device.ask("GET", headers={"If-None-Match": tag}, status=304)
        await start(fleet)
        await device.ask("GET", headers={"If-None-Match": tag})

    with_device(test)


def test_devices_that_register_themselves(with_fleet):
    ddi = DdiSettings(
        product="gateway",
        channel="beta",
        gateway_digest=hash_token("gate"),
    )

    async def test(fleet):
        new = Device(fleet, "new", {"Authorization": "GatewayToken gate"})
        assert set((await new.ask("GET"))["_links"]) == {"configData"}
        found = (await new.known()).device
        assert (found.product, found.channel) == ("gateway", "beta")
        headers = {
            "X-Controller-Id": "cert",
            "X-Forwarded-Proto": "https",
            "X-Forwarded-Host": "updates.example.com",
        }
        known = await Device(fleet, "cert", headers).ask("GET")
        base = "https://updates.example.com/DEFAULT/controller/v1/cert/configData"
        assert known["_links"]["configData"]["href"] == base
        await Device(fleet, "other", headers).ask("GET", status=401)
        await Device(fleet, "n" * 129, new.headers).ask("GET", status=400)
        await new.ask("GET", "/OTHER/controller/v1/new", status=401)
        assert await fleet.read(devices.find, "other") is None

    with_fleet(test, ddi=ddi, gate=GateSettings(Proxies(parse_networks(("127.0.0.1",)))))


def test_nobody_registers_where_no_product_is_set(with_fleet):
    async def test(fleet):
        new = Device(fleet, "new", {"Authorization": "GatewayToken gate"})
        await new.ask("GET", status=403)
        await new.ask("GET", headers={"Authorization": "TargetToken gate"}, status=401)

    with_fleet(test, ddi=DdiSettings(gateway_digest=hash_token("gate")))


def test_a_poll_says_when_and_writes_nothing_else(with_device):
    async def test(fleet, device):
        await device.poll()
        statements = count_statements(fleet)
        await device.poll()
        await device.poll()
        assert statements == []  # but for the look at the device: tests/server/test_poll_cost.py
        assert await fleet.client.server.app[POLLS].flush() is None
        assert (await fleet.read(devices.find, "dev1")).seen_at == NOW

    with_device(test)


def count_statements(fleet):
    """The first word of every statement that is executed from now on."""
    seen = []
    for engine in (fleet.database._readers, fleet.database._writer):
        sa.event.listen(
            engine.sync_engine,
            "before_cursor_execute",
            lambda _c, _cursor, statement, *_: seen.append(re.match(r"\w+", statement)[0]),
        )
    return seen
