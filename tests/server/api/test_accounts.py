"""Sessions, users, tokens."""

from slipstream.delta.limits import LOGIN_FAILURES_MAX, SESSION_S
from slipstream.server.gate import GateSettings
from slipstream.server.proxies import Proxies, parse_networks
from tests.server.conftest import NOW

HOME, CAFE = "192.0.2.7", "198.51.100.9"
GATE = GateSettings(Proxies(parse_networks(("127.0.0.1",))))  # from which the addresses are taken
ADA = {"name": "ada", "role": "operator", "password": "correct horse battery"}
LOGIN = {"user": "ada", "password": "correct horse battery"}


async def log_in(fleet, address=HOME, **body):
    response = await fleet.client.post(
        "/api/v1/session", json={**LOGIN, **body}, headers={"X-Forwarded-For": address}
    )
    # The test's client would send the cookie by itself, with every later call.
    fleet.client.session.cookie_jar.clear()
    return response, await response.json()


def cookie_of(response):
    return {"Cookie": response.headers["Set-Cookie"].partition(";")[0]}


def test_a_session_lasts_a_day_and_changes_nothing_without_its_csrf_token(with_each_fleet):
    times = [NOW]

    async def test(fleet):
        assert (await fleet.api("POST", "/users", ADA))[0] == 201
        response, me = await log_in(fleet)
        set_cookie = response.headers["Set-Cookie"]
        assert all(word in set_cookie for word in ("; HttpOnly", "; SameSite=Lax", "; Secure"))
        session = cookie_of(response)
        assert await fleet.api("GET", "/session", token=session) == (200, me)
        assert (me["actor"], me["role"]) == ("ada", "operator")
        device = {"id": "d1", "product": "gateway"}
        for csrf in ({}, {"X_CSRF_Token": "x"}):
            status, answer = await fleet.api("POST", "/devices", device, token=session, **csrf)
            assert (status, answer["field"]) == (403, "X-CSRF-Token")
        csrf = {"X_CSRF_Token": me["csrf"]}
        assert (await fleet.api("POST", "/devices", device, token=session, **csrf))[0] == 201
        times[0] += SESSION_S - 1
        assert (await fleet.api("GET", "/session", token=session))[0] == 200
        times[0] += 1
        assert (await fleet.api("GET", "/session", token=session))[0] == 401
        response, me = await log_in(fleet)
        csrf = {"X_CSRF_Token": me["csrf"]}
        assert (await fleet.api("DELETE", "/session", token=cookie_of(response), **csrf))[0] == 204
        assert (await fleet.api("GET", "/session", token=cookie_of(response)))[0] == 401

    with_each_fleet(test, now=lambda: times[0], secure_cookies=True)


def test_who_fails_too_often_waits(with_fleet):
    times = [NOW]

    async def test(fleet):
        await fleet.api("POST", "/users", ADA)
        await fleet.api("POST", "/users", {"name": "robot", "role": "viewer"})
        failed = [await log_in(fleet, user=user, password="") for user in ("robot", "nobody")]
        failed.append(await log_in(fleet, password="wrong"))
        answers = [(one.status, answer["error"]) for one, answer in failed]
        assert set(answers) == {(401, "unknown user or wrong password")}  # which, nobody learns
        for _ in range(LOGIN_FAILURES_MAX):
            response, _ = await log_in(fleet, password="wrong")
        assert response.status == 429
        assert 0 < int(response.headers["Retry-After"]) <= 300
        assert (await log_in(fleet))[0].status == 429
        # Who guesses there does not lock ada out elsewhere.
        assert (await log_in(fleet, CAFE))[0].status == 200
        times[0] += 300
        assert (await log_in(fleet))[0].status == 200

    with_fleet(test, now=lambda: times[0], gate=GATE)


def test_failed_logins_are_in_the_audit_log_without_secrets(with_each_fleet):
    async def test(fleet):
        await fleet.api("POST", "/users", ADA)
        typed = "Tr0ub4dor-and-3"  # a password, in the wrong field
        await log_in(fleet, user=typed, password="")
        for number in range(LOGIN_FAILURES_MAX + 2):
            await log_in(fleet, password=f"guess-{number}")
        await log_in(fleet, CAFE, password="guess-x")
        response, me = await log_in(fleet, "203.0.113.5")
        new = {"old": "guess-y", "password": "another long password"}
        session = {**cookie_of(response), "X-Forwarded-For": "203.0.113.5"}
        call = ("PUT", "/session/password", new)
        assert (await fleet.api(*call, token=session, X_CSRF_Token=me["csrf"]))[0] == 403
        _, log = await fleet.api("GET", "/audit")
        rows = [
            (one["actor"], one["object"], one["after"])
            for one in reversed(log["items"])
            if one["act"] == "session.refuse"
        ]
        assert rows == [
            ("", "unknown user", {"address": HOME}),
            ("", "user ada", {"address": HOME}),
            ("", "user ada", {"address": HOME, "failures": LOGIN_FAILURES_MAX}),
            ("", "user ada", {"address": CAFE}),
            ("", "user ada", {"address": "203.0.113.5"}),
        ]
        assert typed not in str(log)
        assert "guess-" not in str(log)
        assert (await fleet.api("GET", "/audit/verify"))[1]["broken"] is None

    with_each_fleet(test, gate=GATE)


def test_a_new_password_ends_the_other_sessions(with_fleet):
    async def test(fleet):
        await fleet.api("POST", "/users", ADA)
        one, me = await log_in(fleet)
        other, _ = await log_in(fleet)
        csrf = {"X_CSRF_Token": me["csrf"]}
        new = {"old": ADA["password"], "password": "another long password"}
        wrong = {**new, "old": "x"}
        call = ("PUT", "/session/password")
        assert (await fleet.api(*call, wrong, token=cookie_of(one), **csrf))[0] == 403
        short = {**new, "password": "x"}
        status, answer = await fleet.api(*call, short, token=cookie_of(one), **csrf)
        assert (status, answer["field"]) == (400, "$.password")
        assert (await fleet.api(*call, new, token=cookie_of(one), **csrf))[0] == 204
        assert (await fleet.api("GET", "/session", token=cookie_of(one)))[0] == 200
        assert (await fleet.api("GET", "/session", token=cookie_of(other)))[0] == 401
        assert (await log_in(fleet, password=new["password"]))[0].status == 200

    with_fleet(test)


def test_a_token_can_do_no_more_than_its_user(with_each_fleet):
    async def test(fleet):
        token = await fleet.user("ada", "operator")
        body = {"name": "more", "role": "admin"}
        assert (await fleet.api("POST", "/tokens", body, token=token))[0] == 403
        body = {"name": "theirs", "role": "viewer", "user": "bea"}
        assert (await fleet.api("POST", "/tokens", body, token=token))[0] == 403
        status, made = await fleet.api(
            "POST", "/tokens", {"name": "less", "role": "viewer", "days": 1}, token=token
        )
        assert (status, made["token"]["expires_at"]) == (201, NOW + 86_400)
        less = {"Authorization": f"Bearer {made['secret']}"}
        assert (await fleet.api("GET", "/devices", token=less))[0] == 200
        assert (await fleet.api("DELETE", "/devices/d1", token=less))[0] == 403
        # A lesser token makes no greater one.
        body = {"name": "more", "role": "operator"}
        assert (await fleet.api("POST", "/tokens", body, token=less))[0] == 403
        _, listed = await fleet.api("GET", "/tokens", token=less)
        assert [one["name"] for one in listed["items"]] == ["test", "less"]
        assert "secret" not in str(listed)
        # Falls with its user, ...
        await fleet.api("PATCH", "/users/ada", {"role": "viewer"})
        assert (await fleet.api("DELETE", "/devices/d1", token=token))[0] == 403
        # ... is revoked, and goes with its user.
        path = f"/tokens/{made['token']['id']}"
        bea = await fleet.user("bea", "operator")
        assert (await fleet.api("DELETE", path, token=bea))[0] == 403
        assert (await fleet.api("DELETE", path))[0] == 204
        assert (await fleet.api("GET", "/devices", token=less))[0] == 401
        assert (await fleet.api("DELETE", "/users/ada"))[0] == 204
        assert (await fleet.api("GET", "/devices", token=token))[0] == 401

    with_each_fleet(test)


def test_a_token_makes_none_that_outlives_it(with_fleet):
    async def test(fleet):
        own = await fleet.user("ada", "admin")
        await fleet.api("POST", "/users", {"name": "bea", "role": "admin"})

        async def make(token, **more):
            body = {"name": "next", "role": "admin", **more}
            status, made = await fleet.api("POST", "/tokens", body, token=token)
            assert status == 201, made
            return made

        day = await make(own, days=1)
        token = {"Authorization": f"Bearer {day['secret']}"}
        end = NOW + 86_400
        assert day["token"]["expires_at"] == end
        for more in ({}, {"days": 2}, {"days": 1}, {"user": "bea"}, {"user": "bea", "days": 9}):
            assert (await make(token, **more))["token"]["expires_at"] == end
        assert (await make(own))["token"]["expires_at"] is None

    with_fleet(test)


def test_a_token_revokes_itself_alone_and_a_session_all_of_its_users(with_each_fleet):
    async def test(fleet):
        await fleet.api("POST", "/users", {**ADA, "role": "admin"})
        numbers, tokens = [], []
        for role, user in (("admin", "ada"), ("viewer", "ada"), ("operator", "bea")):
            await fleet.api("POST", "/users", {"name": "bea", "role": "operator"})
            body = {"name": "test", "role": role, "user": user}
            _, made = await fleet.api("POST", "/tokens", body)
            numbers.append(made["token"]["id"])
            tokens.append({"Authorization": f"Bearer {made['secret']}"})
        paths = [f"/tokens/{number}" for number in numbers]
        admin, viewer, beas = tokens
        # Neither up nor down, neither of one's own user nor of another.
        for token, path in ((viewer, paths[0]), (admin, paths[1]), (admin, paths[2])):
            status, answer = await fleet.api("DELETE", path, token=token)
            assert (status, answer["code"]) == (403, "forbidden"), path
        assert (await fleet.api("DELETE", paths[1], token=viewer))[0] == 204
        assert (await fleet.api("GET", "/session", token=viewer))[0] == 401
        response, me = await log_in(fleet)
        session, csrf = cookie_of(response), {"X_CSRF_Token": me["csrf"]}
        for path in (paths[0], paths[2]):
            assert (await fleet.api("DELETE", path, token=session, **csrf))[0] == 204
        for token in (admin, beas):
            assert (await fleet.api("GET", "/session", token=token))[0] == 401

    with_each_fleet(test)


def test_users(with_fleet):
    async def test(fleet):
        status, made = await fleet.api("POST", "/users", ADA)
        assert (status, made["can_log_in"]) == (201, True)
        assert (await fleet.api("POST", "/users", ADA))[0] == 409
        assert (await fleet.api("POST", "/users", {**ADA, "name": "installation"}))[0] == 409
        assert (await fleet.api("POST", "/users", {**ADA, "name": "x", "password": "x"}))[0] == 400
        assert (await fleet.api("PATCH", "/users/nobody", {}))[0] == 404
        assert (await fleet.api("DELETE", "/users/nobody"))[0] == 404
        _, listed = await fleet.api("GET", "/users")
        assert [one["name"] for one in listed["items"]] == ["ada"]
        assert "argon2" not in str(listed)
        # The installation's own token is no user: it neither logs out nor has tokens.
        assert (await fleet.api("DELETE", "/session"))[0] == 409
        body = {"name": "x", "role": "admin"}
        assert (await fleet.api("POST", "/tokens", body))[0] == 400
        assert (await fleet.api("POST", "/tokens", {**body, "user": "nobody"}))[0] == 400

    with_fleet(test)
