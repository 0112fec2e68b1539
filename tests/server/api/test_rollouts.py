"""A rollout through the operators' door."""

import asyncio

from slipstream.server.app import BOARD, ENGINE
from tests.server.conftest import NOW

ROOT_1, ROOT_2 = "1" * 64, "2" * 64
PLAN = {
    "name": "two",
    "product": "gateway",
    "release": "2.0",
    "counter": 2,
    "phases": [{"count": 1, "abort": [{"count": 1}]}, {"percent": 100}],
}


def publish(folder):
    for version, counter, root in (("1.0", 1, ROOT_1), ("2.0", 2, ROOT_2)):
        folder.release(version, counter)
        folder.full(version, "rootfs", root, version.encode())
    folder.write()


async def tick(fleet):
    await fleet.client.app[ENGINE].tick(1.0)
    # The server's own tick may have come first, and not be done with its board.
    await fleet.client.app[BOARD].refresh()


async def poll_all(fleet, tokens, **more):
    """Who is offered 2.0."""
    offered = []
    for name, token in tokens.items():
        answer = await (await fleet.poll(token, name, release="1.0", counter=1, **more)).json()
        if answer["action"] == "install":
            offered.append(name)
    return offered


def test_a_rollout_from_approval_to_its_end(with_each_fleet, folder):
    publish(folder)

    async def test(fleet):
        ada, bea = await fleet.user("ada", "approver"), await fleet.user("bea", "approver")
        tokens = {name: await fleet.add(name) for name in ("d1", "d2", "d3")}
        plan = {**PLAN, "needs_approval": True}
        status, made = await fleet.api("POST", "/rollouts", plan, token=ada)
        assert (status, made["status"], made["author"]) == (201, "waiting_for_approval", "ada")
        assert (await fleet.api("POST", "/rollouts", plan, token=ada))[0] == 409
        path = f"/rollouts/{made['id']}"
        assert await poll_all(fleet, tokens) == []
        assert (await fleet.api("POST", f"{path}/start"))[0] == 409
        status, answer = await fleet.api("POST", f"{path}/approve", token=ada)
        assert (status, answer["code"]) == (403, "forbidden")
        remark = {"remark": "tested in the lab"}
        status, made = await fleet.api("POST", f"{path}/approve", remark, token=bea)
        assert (status, made["decided_by"], made["remark"]) == (200, "bea", remark["remark"])
        await tick(fleet)
        first = await poll_all(fleet, tokens)
        assert len(first) == 1
        _, made = await fleet.api("GET", path)
        assert (made["status"], made["phase"]) == ("running", 1)
        opened = made["phases"][0]
        assert (opened["members"], opened["offered"], opened["in_flight"]) == (1, 1, 1)
        assert opened["rules"][0]["margin"] == 0
        assert "0 of 1 confirmed" in opened["missing"]
        _, page = await fleet.api("GET", f"{path}/devices?state=offered")
        assert [one["device"] for one in page["items"]] == first
        _, page = await fleet.api("GET", "/rollouts?status=running")
        assert [(one["name"], one["phases"], one["offered"]) for one in page["items"]] == [
            ("two", 2, 1)
        ]
        proof = {"release": "2.0", "booted_root": ROOT_2}
        await fleet.report(tokens.pop(first[0]), first[0], **proof)
        await tick(fleet)
        assert len(await poll_all(fleet, tokens)) == 2  # the others
        _, page = await fleet.api("GET", f"{path}/events")
        assert [one["kind"] for one in page["items"]].count("phase") == 2
        for name, token in tokens.items():
            await fleet.report(token, name, key="k2", **proof)
        await tick(fleet)
        _, made = await fleet.api("GET", path)
        assert (made["status"], made["phases"][1]["confirmed"]) == ("finished", 2)

    with_each_fleet(test)


def test_operators_move_a_rollout(with_fleet, folder):
    publish(folder)

    async def test(fleet):
        tokens = {name: await fleet.add(name) for name in ("d1", "d2", "d3")}
        plan = {**PLAN, "start_at": NOW + 3600}
        _, made = await fleet.api("POST", "/rollouts", plan)
        path = f"/rollouts/{made['id']}"
        await tick(fleet)
        assert await poll_all(fleet, tokens) == []
        _, made = await fleet.api("POST", f"{path}/start", {"remark": "now"})
        assert (made["status"], made["phase"]) == ("running", 1)
        assert made["reason"] == "started by installation: now"
        _, made = await fleet.api("POST", f"{path}/pause")
        assert await poll_all(fleet, tokens) == []
        assert (await fleet.api("POST", f"{path}/next"))[0] == 409
        assert (await fleet.api("POST", f"{path}/pause"))[0] == 409
        _, made = await fleet.api("POST", f"{path}/resume")
        assert len(await poll_all(fleet, tokens)) == 1
        _, made = await fleet.api("POST", f"{path}/next")
        assert (made["status"], made["phase"]) == ("running", 2)
        assert len(await poll_all(fleet, tokens)) == 3
        status, answer = await fleet.api("POST", f"{path}/next")
        assert (status, answer["error"]) == (409, "all phases are open")
        _, made = await fleet.api("POST", f"{path}/abort")
        assert made["status"] == "aborted"
        assert await poll_all(fleet, tokens) == []
        _, log = await fleet.api("GET", "/audit")
        acts = [one["act"] for one in log["items"] if one["act"].startswith("rollout.")]
        assert acts[::-1] == [
            f"rollout.{word}" for word in ("create", "start", "pause", "resume", "next", "abort")
        ]

    with_fleet(test)


def test_who_looked_at_an_older_version_changes_nothing(with_each_fleet, folder):
    publish(folder)

    async def test(fleet):
        await fleet.add("d1")
        response = await fleet.client.post(
            "/api/v1/rollouts", json={**PLAN, "start_at": NOW + 99}, headers=fleet.operator
        )
        tag = response.headers["ETag"]
        path = f"/rollouts/{(await response.json())['id']}"
        assert (await fleet.api("POST", f"{path}/start", If_Match=tag))[0] == 200
        status, answer = await fleet.api("POST", f"{path}/pause", If_Match=tag)
        assert (status, answer["code"]) == (412, "changed_meanwhile")
        for text in ("x", '"x"', 'W/"1"'):
            status, answer = await fleet.api("POST", f"{path}/pause", If_Match=text)
            assert (status, answer["field"]) == (400, "If-Match"), text
        # Of two at the same moment one changes it; the other finds it changed, or paused.
        both = await asyncio.gather(
            *(fleet.api("POST", f"{path}/pause") for _ in range(2)),
        )
        assert sorted(status for status, _ in both) == [200, 409]
        # Sent again with its key, it is not refused for what it did itself.
        again = {"Idempotency_Key": "k1"}
        first = await fleet.api("POST", f"{path}/resume", **again)
        assert first[0] == 200
        assert await fleet.api("POST", f"{path}/resume", **again) == first

    with_each_fleet(test)


def test_two_rollouts_of_one_release_are_asked_for(with_fleet, folder):
    publish(folder)

    async def test(fleet):
        await fleet.add("d1")
        late = {**PLAN, "start_at": NOW - 5, "phases": [{"count": 1}]}
        _, made = await fleet.api("POST", "/rollouts", late)
        assert made["notes"] == [
            "the last phase is 1 device: it offers other devices nothing",
            "its start lies in the past: it begins at once",
        ]
        other = {**PLAN, "name": "other"}
        status, answer = await fleet.api("POST", "/rollouts", other)
        assert (status, answer["field"]) == (409, "$.beside")
        assert "by two (1)" in answer["error"]
        status, made = await fleet.api("POST", "/rollouts", {**other, "beside": True})
        assert status == 201
        assert [one for one in made["notes"] if one.startswith("two offers 2.0")] == made["notes"]
        for number in (1, 2):
            await fleet.api("POST", f"/rollouts/{number}/abort")
        # What is over stands in nobody's way.
        assert (await fleet.api("POST", "/rollouts", {**PLAN, "name": "third"}))[0] == 201

    with_fleet(test)


def test_what_was_offered_is_shown_after_the_end(with_fleet, folder):
    publish(folder)

    async def test(fleet):
        tokens = {name: await fleet.add(name) for name in ("d1", "d2")}
        await fleet.api("POST", "/rollouts", PLAN)
        await tick(fleet)
        assert len(await poll_all(fleet, tokens)) == 1
        await fleet.api("POST", "/rollouts/1/abort")
        assert await poll_all(fleet, tokens) == []
        _, page = await fleet.api("GET", "/rollouts")
        assert page["items"][0]["offered"] == 1

    with_fleet(test)


def test_a_rollout_says_that_its_devices_wait_for_room(with_fleet, folder):
    publish(folder)

    async def test(fleet):
        tokens = {name: await fleet.add(name) for name in ("d1", "d2", "d3")}
        for name in ("d1", "d2"):
            await fleet.api("PATCH", f"/devices/{name}", {"group": "lab"})
        budgets = [{"label": "group", "max_unavailable": 1}]
        plan = {**PLAN, "phases": [{"percent": 100}], "budgets": budgets}
        await fleet.api("POST", "/rollouts", plan)
        await tick(fleet)
        assert (await fleet.api("GET", "/rollouts/1"))[1]["waits_for"] is None
        # One of the group, and the one that has none.
        assert len(await poll_all(fleet, tokens)) == 2
        _, shown = await fleet.api("GET", "/rollouts/1")
        assert shown["waits_for"] == "1 devices with group lab are on their way"

    with_fleet(test)


def test_a_rollout_of_what_is_not_there(with_fleet, folder):
    publish(folder)

    async def test(fleet):
        for change, field in (
            ({"release": "9.0"}, "$.release"),
            ({"product": "door"}, "$.release"),
            ({"counter": 7}, "$.counter"),
            ({"channel": "beta"}, "$.channel"),
            ({"phases": [{"percent": 7, "count": 7}]}, "$.phases[0]"),
        ):
            status, answer = await fleet.api("POST", "/rollouts", {**PLAN, **change})
            assert (status, answer["field"]) == (400, field)
        for method, path in (
            ("GET", "/rollouts/7"),
            ("POST", "/rollouts/7/pause"),
            ("POST", "/rollouts/7/start"),
            ("POST", "/rollouts/7/approve"),
        ):
            assert (await fleet.api(method, path))[0] == 404

    with_fleet(test)


def test_a_server_may_want_an_approval_of_every_rollout(with_fleet, folder):
    publish(folder)

    async def test(fleet):
        tokens = {"d1": await fleet.add("d1")}
        ada, bea = await fleet.user("ada", "approver"), await fleet.user("bea", "approver")
        plan = {**PLAN, "needs_approval": False}
        status, made = await fleet.api("POST", "/rollouts", plan, token=ada)
        assert (status, made["status"]) == (201, "waiting_for_approval")
        assert made["plan"]["needs_approval"]
        path = f"/rollouts/{made['id']}"
        await tick(fleet)
        assert await poll_all(fleet, tokens) == []
        # Neither the author with another token of theirs, nor the installation's.
        body = {"name": "second", "role": "approver", "user": "ada"}
        _, made = await fleet.api("POST", "/tokens", body)
        other = {"Authorization": f"Bearer {made['secret']}"}
        for token in (ada, other, fleet.operator):
            assert (await fleet.api("POST", f"{path}/approve", token=token))[0] == 403
            assert (await fleet.api("POST", f"{path}/deny", token=token))[0] == 403
            assert (await fleet.api("POST", f"{path}/start", token=token))[0] == 409
        assert (await fleet.api("POST", f"{path}/approve", token=bea))[0] == 200
        await tick(fleet)
        assert await poll_all(fleet, tokens) == ["d1"]
        # The installation's token may stop, not write: whose it is nobody knows.
        assert (await fleet.api("POST", "/rollouts", {**PLAN, "name": "x"}))[0] == 403
        assert (await fleet.api("POST", f"{path}/pause"))[0] == 200
        _, log = await fleet.api("GET", "/audit")
        written = next(one for one in log["items"] if one["act"] == "rollout.create")
        assert (written["actor"], written["after"]["needs_approval"]) == ("ada", True)

    with_fleet(test, require_approval=True)


def test_a_denied_rollout_offers_nothing(with_fleet, folder):
    publish(folder)

    async def test(fleet):
        tokens = {"d1": await fleet.add("d1")}
        bea = await fleet.user("bea", "approver")
        _, made = await fleet.api("POST", "/rollouts", {**PLAN, "needs_approval": True})
        path = f"/rollouts/{made['id']}"
        _, made = await fleet.api("POST", f"{path}/deny", {"remark": "not now"}, token=bea)
        assert (made["status"], made["reason"]) == ("denied", "denied by bea: not now")
        assert (await fleet.api("POST", f"{path}/approve", token=bea))[0] == 409
        assert await poll_all(fleet, tokens) == []

    with_fleet(test)
