"""FleetLock: a device asks before it reboots."""

import base64

from slipstream.server.store import holds

HEADER = {"fleet-lock-protocol": "true"}


async def lock(fleet, path, token, group="default", **headers):
    body = {"client_params": {"id": "from-machine-id", "group": group}, "later": 1}
    response = await fleet.client.post(
        f"/v1/{path}", json=body, headers={**HEADER, **token, **headers}
    )
    return response.status, await response.json()


def test_a_group_has_one_place_unless_a_budget_says_more(with_each_fleet):
    async def test(fleet):
        one, two = await fleet.add("d1"), await fleet.add("d2")
        assert await lock(fleet, "pre-reboot", one) == (200, {})
        assert await lock(fleet, "pre-reboot", one) == (200, {})  # asked again, it still may
        status, answer = await lock(fleet, "pre-reboot", two)
        assert (status, answer["kind"]) == (409, "no_place")
        assert "1 devices with group default are away" in answer["value"]
        # It has a group by now: another's place is not for it, but for those of that group.
        assert (await lock(fleet, "pre-reboot", two, group="other"))[0] == 409
        other = await fleet.add("d3")
        assert (await lock(fleet, "pre-reboot", other, group="other"))[0] == 200
        assert (await lock(fleet, "steady-state", other, group="other"))[0] == 200
        assert (await lock(fleet, "steady-state", one))[0] == 200
        assert (await lock(fleet, "steady-state", one))[0] == 200
        assert (await lock(fleet, "pre-reboot", two))[0] == 200
        await fleet.api("PUT", "/budgets/group", {"max_unavailable": 2})
        assert (await lock(fleet, "pre-reboot", one))[0] == 200
        _, page = await fleet.api("GET", "/budgets")
        assert page["items"][0]["held"] == [{"value": "default", "devices": 2}]
        assert (await fleet.api("GET", "/devices/d2"))[1]["device"]["group"] == "default"
        # One that never comes back is unlocked by an operator.
        assert (await fleet.api("DELETE", "/devices/d1/holds"))[0] == 204
        assert len(await fleet.read(holds.list_of_device, "d1")) == 0

    with_each_fleet(test)


def test_it_takes_from_the_budgets_of_rollouts(with_each_fleet):
    async def test(fleet):
        tokens = {name: await fleet.add(name) for name in ("d1", "d2", "d3")}
        for name in tokens:
            await fleet.api("PATCH", f"/devices/{name}", {"attributes": {"site": "x"}})
        await fleet.api("PUT", "/budgets/attribute.site", {"max_unavailable": 1})
        # The place that a rollout has taken for d1 is its own: steady-state does not free it.
        take = lambda c: holds.take(c, "attribute.site", "x", "d1", 1, 1, rollout=7)  # noqa: E731
        assert await fleet.database.write(take)
        for name, status in (("d1", 200), ("d2", 409)):
            assert (await lock(fleet, "pre-reboot", tokens[name]))[0] == status
        await lock(fleet, "steady-state", tokens["d1"])
        status, answer = await lock(fleet, "pre-reboot", tokens["d2"])
        assert (status, "site x" in answer["value"]) == (409, True)
        await fleet.database.write(lambda c: holds.release(c, "d1", rollout=7))
        assert (await lock(fleet, "pre-reboot", tokens["d2"]))[0] == 200
        # And the other way round: what FleetLock took becomes a rollout's, which outlasts it.
        take = lambda c: holds.take(c, "attribute.site", "x", "d2", 1, 1, rollout=7)  # noqa: E731
        assert await fleet.database.write(take)
        await lock(fleet, "steady-state", tokens["d2"])
        assert (await lock(fleet, "pre-reboot", tokens["d3"], group="three"))[0] == 409

    with_each_fleet(test)


def test_the_operators_group_goes_before_the_devices(with_fleet):
    async def test(fleet):
        one = await fleet.add("d1")
        await fleet.api("PATCH", "/devices/d1", {"group": "lab"})
        await lock(fleet, "pre-reboot", one, group="default")
        assert [one.value for one in await fleet.read(holds.list_of_device, "d1")] == ["lab"]

    with_fleet(test)


def test_who_asks_shows_its_token_and_the_protocols_header(with_fleet):
    async def test(fleet):
        one = await fleet.add("d1")
        secret = one["Authorization"].removeprefix("Bearer ")
        basic = base64.b64encode(f"d1:{secret}".encode()).decode()
        assert (await lock(fleet, "pre-reboot", {"Authorization": f"Basic {basic}"}))[0] == 200
        for token in ({}, {"Authorization": "Bearer x"}, fleet.operator):
            assert (await lock(fleet, "pre-reboot", token))[0] == 401
        status, answer = await lock(fleet, "pre-reboot", one, **{"fleet-lock-protocol": "no"})
        assert (status, answer["kind"]) == (400, "no_protocol")
        status, answer = await lock(fleet, "pre-reboot", one, group="a b")
        assert (status, answer["kind"]) == (400, "invalid")

    with_fleet(test)
