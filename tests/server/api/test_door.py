"""Every call: who may, what is repeated, what is kept of it."""

import pytest

from slipstream.server.access import WHO_MAY, Role
from slipstream.server.api.door import summarise
from slipstream.server.api.table import ROUTES
from tests.server.conftest import NOW

SPELLED = {
    "device": "d1",
    "rollout": "1",
    "token": "99",
    "webhook": "1",
    "user": "nobody",
    "product": "gateway",
    "channel": "stable",
    "release": "1.0",
    "label": "group",
}
DEVICE = {"id": "d1", "product": "gateway"}


def path_of(route):
    path = route.path
    for name in route.places:
        path = path.replace(f"{{{name}}}", SPELLED[name])
    return path


def test_every_call_asks_who_calls_and_lets_whom_the_table_says(with_fleet):
    async def test(fleet):
        roles = {role: await fleet.user(role.value, role.value) for role in Role}
        device = await fleet.add("a-device")
        for route in ROUTES:
            if route.deed is None:
                continue
            for token in ({"X": "x"}, device):
                status, answer = await fleet.api(route.method, path_of(route), token=token)
                assert (status, answer["code"]) == (401, "unauthenticated"), route
            needed = WHO_MAY[route.deed]
            # Nonsense is told from a missing permission: it is looked at afterwards.
            body = None if route.look else "nonsense"
            for role in list(Role)[max(0, needed.rank - 1) : needed.rank + 1]:
                status, answer = await fleet.api(
                    route.method, path_of(route), body, token=roles[role]
                )
                assert (status == 403) == (role is not needed), (route.name, role, answer)
                assert status < 500, (route.name, role, answer)

    with_fleet(test)


def test_a_password_is_no_token(with_fleet):
    async def test(fleet):
        await fleet.user("ada", "admin")
        for token in ("Bearer x", "Basic eDphbiBvcGVyYXRvcidzIHRva2VuIG9mIGVub3VnaCBsZW5ndGg="):
            assert (await fleet.api("GET", "/users", token={"Authorization": token}))[0] == 401

    with_fleet(test)


def test_paths_and_names_are_distinct():
    assert len({(one.method, one.path) for one in ROUTES}) == len(ROUTES)
    assert len({one.name for one in ROUTES}) == len(ROUTES)
    assert all((one.look is None) != (one.change is None) for one in ROUTES)
    assert all((one.method == "GET") == (one.look is not None) for one in ROUTES)


def test_errors_have_one_shape(with_fleet):
    async def test(fleet):
        for method, path, body, expected in (
            ("GET", "/nowhere", None, (404, "not_found", None)),
            ("PUT", "/devices", None, (405, "method_not_allowed", None)),
            ("GET", "/devices/d9", None, (404, "not_found", None)),
            ("GET", "/rollouts/x", None, (404, "not_found", None)),
            ("GET", "/devices?limit=0", None, (400, "invalid", "?limit")),
            ("GET", "/devices?limit=1&limit=2", None, (400, "invalid", "?limit")),
            ("GET", "/devices?colour=red", None, (400, "invalid", "?colour")),
            ("GET", "/devices?filter=tag", None, (400, "invalid", "?filter")),
            ("GET", "/audit?after=x", None, (400, "invalid", "?after")),
            ("POST", "/devices", "{", (400, "invalid", "$")),
            ("POST", "/devices", {"id": "a b", "product": "p"}, (400, "invalid", "$.id")),
            ("POST", "/devices", " " * 300_000, (413, "too_large", None)),
        ):
            status, answer = await fleet.api(method, path, body)
            assert (status, answer["code"], answer["field"]) == expected, (path, answer)
            assert answer["error"]

    with_fleet(test)


def test_a_repeated_call_is_carried_out_once(with_each_fleet):
    async def test(fleet):
        again = {"Idempotency_Key": "k1"}
        status, first = await fleet.api("POST", "/devices", DEVICE, **again)
        assert (status, len(first["token"])) == (201, 43)
        # What is secret is told once.
        assert await fleet.api("POST", "/devices", DEVICE, **again) == (
            201,
            {"id": "d1", "token": None},
        )
        other = {**DEVICE, "id": "d2"}
        status, answer = await fleet.api("POST", "/devices", other, **again)
        assert (status, answer["field"]) == (422, "Idempotency-Key")
        # A key is its caller's own, ...
        operator = await fleet.user("ada", "operator")
        status, _ = await fleet.api("POST", "/devices", other, token=operator, **again)
        assert status == 201
        # ... and what was refused may be tried again under the same one.
        more = {"Idempotency_Key": "k2"}
        assert (await fleet.api("POST", "/devices", DEVICE, **more))[0] == 409
        assert (await fleet.api("DELETE", "/devices/d1"))[0] == 204
        assert (await fleet.api("POST", "/devices", DEVICE, **more))[0] == 201
        assert (await fleet.api("DELETE", "/devices/d1", Idempotency_Key="k3"))[0] == 204
        assert (await fleet.api("DELETE", "/devices/d1", Idempotency_Key="k3"))[0] == 204
        for key in ("", "x" * 129, "é"):
            status, answer = await fleet.api("DELETE", "/devices/d2", Idempotency_Key=key)
            assert (status, answer["field"]) == (400, "Idempotency-Key"), key
        # One row for each that changed something, and none for the others.
        _, log = await fleet.api("GET", "/audit?limit=500")
        added = [one for one in log["items"] if one["act"] == "device.add"]
        assert [one["actor"] for one in reversed(added)] == ["installation", "ada", "installation"]

    with_each_fleet(test)


def test_a_kept_answer_is_forgotten_after_a_day(with_fleet):
    times = [NOW]

    async def test(fleet):
        again = {"Idempotency_Key": "k1"}
        await fleet.api("POST", "/devices", DEVICE, **again)
        times[0] += 86_400
        assert (await fleet.api("POST", "/devices", DEVICE, **again))[0] == 201
        times[0] += 1
        assert (await fleet.api("POST", "/devices", DEVICE, **again))[0] == 409

    with_fleet(test, now=lambda: times[0])


def test_the_audit_log_says_who_did_what_and_no_secret(with_each_fleet):
    async def test(fleet):
        operator = await fleet.user("ada", "operator")
        _, made = await fleet.api("POST", "/devices", DEVICE, token=operator)
        await fleet.api("PATCH", "/devices/d1", {"tags": ["lab"]}, token=operator)
        await fleet.api("POST", "/devices", DEVICE, token=operator)  # refused
        _, log = await fleet.api("GET", "/audit")
        newest = log["items"][0]
        assert (newest["actor"], newest["act"], newest["object"]) == (
            "ada",
            "device.describe",
            "device d1",
        )
        assert (newest["before"]["tags"], newest["after"]["tags"]) == ([], ["lab"])
        assert made["token"] not in str(log)
        _, whole = await fleet.api("GET", "/audit/verify")
        assert (whole["rows"], whole["digest"], whole["broken"]) == (4, newest["digest"], None)
        _, page = await fleet.api("GET", f"/audit?limit=1&after={newest['id']}")
        assert [one["act"] for one in page["items"]] == ["device.add"]
        assert page["next"] == "3"

    with_each_fleet(test)


@pytest.mark.parametrize(
    "statement, row",
    [
        ("UPDATE audit SET actor = 'eve' WHERE id = 2", 2),
        ("DELETE FROM audit WHERE id = 2", 2),
        ("DELETE FROM audit WHERE id = 3", 3),
        ("DELETE FROM audit", 1),
    ],
)
def test_a_log_that_was_tampered_with_is_found(with_fleet, statement, row):
    async def test(fleet):
        for name in ("d1", "d2", "d3"):
            await fleet.api("POST", "/devices", {"id": name, "product": "gateway"})
        await fleet.database.write(lambda connection: connection.exec_driver_sql(statement))
        _, found = await fleet.api("GET", "/audit/verify")
        assert found["broken"]["row"] == row

    with_fleet(test)


def test_a_long_summary_is_kept_as_its_digest():
    assert summarise(None) == ""
    assert summarise({"a": 1}) == '{"a":1}'
    assert '"bytes":' in summarise(["x" * 100] * 1000)
    assert len(summarise(["x" * 100] * 1000)) < 200
