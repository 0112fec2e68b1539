"""Releases, waypoints and budgets through the operators' door."""

ROOT_1, ROOT_2 = "1" * 64, "2" * 64


def test_releases(with_fleet, folder):
    folder.release("1.0", 1)
    folder.full("1.0", "rootfs", ROOT_1, b"x" * 100)
    folder.release("2.0", 2)
    folder.delta("2.0", "rootfs", ROOT_1, ROOT_2, 30)
    folder.write()

    async def test(fleet):
        _, listed = await fleet.api("GET", "/releases")
        assert [one["release"] for one in listed["items"]] == ["2.0", "1.0"]
        assert listed["items"][0]["deltas"][0]["source_release"] == "1.0"
        assert listed["items"][1]["images"][0]["payload_bytes"] == 100

    with_fleet(test)


def test_channels(with_fleet, folder):
    folder.release("1.0", 1)
    folder.release("1.1", 2, channel="beta")
    folder.write()

    async def test(fleet):
        await fleet.add("d1")
        await fleet.add("d2", channel="lab")
        _, releases = await fleet.api("GET", "/releases")
        assert [one["release"] for one in releases["items"]] == ["1.1", "1.0"]
        _, page = await fleet.api("GET", "/channels")
        assert [(one["channel"], one["newest"], one["devices"]) for one in page["items"]] == [
            ("beta", "1.1", 0),
            ("lab", None, 1),
            ("stable", "1.0", 1),
        ]

    with_fleet(test)


def test_waypoints(with_each_fleet, folder):
    folder.release("1.0", 1)
    folder.write()

    async def test(fleet):
        path = "/waypoints/gateway/stable/1.0"
        barrier = {"barrier": True, "reason": "new partitions"}
        status, made = await fleet.api("PUT", path, barrier)
        assert (status, made["waypoint"]["counter"]) == (200, 1)
        _, page = await fleet.api("GET", "/waypoints")
        assert page["items"][0]["waypoint"]["reason"] == "new partitions"
        assert (await fleet.api("PUT", "/waypoints/gateway/beta/1.0", barrier))[0] == 404
        assert (await fleet.api("DELETE", path))[0] == 204
        assert (await fleet.api("DELETE", path))[0] == 404

    with_each_fleet(test)


def test_budgets(with_each_fleet):
    async def test(fleet):
        for label, status in (("attribute.site", 200), ("group", 200), ("sight", 400)):
            body = {"max_unavailable": 2}
            assert (await fleet.api("PUT", f"/budgets/{label}", body))[0] == status, label
        assert (await fleet.api("PUT", "/budgets/group", {"max_unavailable": 0}))[0] == 400
        _, page = await fleet.api("GET", "/budgets")
        assert [(one["label"], one["max_unavailable"]) for one in page["items"]] == [
            ("attribute.site", 2),
            ("group", 2),
        ]
        assert (await fleet.api("DELETE", "/budgets/group"))[0] == 204
        _, log = await fleet.api("GET", "/audit")
        assert log["items"][0]["before"]["max_unavailable"] == 2
        assert (await fleet.api("DELETE", "/budgets/group"))[0] == 404

    with_each_fleet(test)
