"""The pages over HTTP: who may see them, what they say, what their forms do."""

import asyncio
import base64
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urlencode

import pytest

from slipstream.server.access import Identity, Role
from slipstream.server.app import ENGINE
from slipstream.server.pages import desk
from slipstream.server.pages.draft import DEFAULTS
from slipstream.server.pages.login import local
from slipstream.server.pages.visitor import Visitor
from slipstream.server.rollout.record import Status
from slipstream.server.store import events, quarantines, rollouts
from tests.server.conftest import OPERATOR_TOKEN

PAGES = ("/", "/devices", "/rollouts", "/rollouts/new", "/releases", "/approvals", "/audit")
EVIL = "<script>alert(1)</script>"
_EMPTY = frozenset({"meta", "link", "input", "br", "img", "use", "rect", "path", "circle"})


def basic(password):
    return {"Authorization": "Basic " + base64.b64encode(f"any:{password}".encode()).decode()}


LOGIN = basic(OPERATOR_TOKEN)


@dataclass
class Page(HTMLParser):
    """A page's elements and text. Refuses elements that are not closed in order."""

    source: str
    open: list = field(default_factory=list)
    tags: list = field(default_factory=list)
    text: str = ""

    def __post_init__(self):
        super().__init__()
        self.feed(self.source)
        self.close()
        assert self.open == []
        ids = [more["id"] for _, more in self.tags if "id" in more]
        assert len(ids) == len(set(ids)), ids
        for _, more in self.tags:
            for name in ("aria-labelledby", "aria-describedby", "for"):
                for one in more.get(name, "").split():
                    assert one in ids, f"{name}={one}"
            # A style or a handler in the markup is what the policy forbids.
            assert not [name for name in more if name == "style" or name.startswith("on")]

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in _EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag, **wanted):
        return [
            more
            for name, more in self.tags
            if name == tag and all(more.get(key) == value for key, value in wanted.items())
        ]


async def look(fleet, path, status=200, headers=LOGIN):
    response = await fleet.client.get(path, headers=headers)
    text = await response.text()
    assert response.status == status, text
    assert response.content_type == "text/html"
    return Page(text)


async def send(fleet, path, page=None, *, token=None, headers=None, **fields):
    """Submit a form of a page."""
    if page is not None:
        token = page.all("input", name="form_token")[0]["value"]
    body = urlencode({"form_token": token or "", **fields})
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    return await fleet.client.post(
        path, data=body, headers={**LOGIN, **kind, **(headers or {})}, allow_redirects=False
    )


def enter_as(monkeypatch, name, role, token):
    """Let every request be somebody's."""

    async def greet(*_):
        return Visitor(Identity(name, role), token)

    monkeypatch.setattr(desk, "greet", greet)


async def publish(folder):
    folder.release("1.0", 1)
    folder.full("1.0", "rootfs", "1" * 64, b"x" * 1500)
    folder.release("2.0", 2)
    folder.full("2.0", "rootfs", "2" * 64, b"x" * 2000)
    folder.delta("2.0", "rootfs", "1" * 64, "2" * 64, 300)
    folder.write()


async def start(fleet, **more):
    """A rollout of 2.0, through the form."""
    await publish(fleet.folder)
    page = await look(fleet, "/rollouts/new")
    fields = {
        **DEFAULTS,
        "name": "two",
        "release": "gateway/2.0",
        "phase1": "50 %",
        "phase2": "100 %",
    }
    fields |= {"phase3": "", "phase4": "", "soak1": "", "soak2": "", "soak3": "", **more}
    response = await send(fleet, "/rollouts/new", page, **fields)
    assert response.status == 303, await response.text()
    return response.headers["Location"]


def test_every_page_needs_the_operators_password(with_fleet):
    async def test(fleet):
        for path in (*PAGES, "/devices/x", "/rollouts/1", "/live"):
            for headers in ({}, basic("wrong")):
                response = await fleet.client.get(path, headers=headers)
                assert response.status == 401
                assert response.headers["WWW-Authenticate"].startswith("Basic realm=")
                assert "nav" not in [tag for tag, _ in Page(await response.text()).tags]

    with_fleet(test)


def test_an_empty_fleet(with_fleet):
    async def test(fleet):
        words = {
            "/": "There are no devices yet",
            "/devices": "There are no devices yet",
            "/rollouts": "There has been no rollout",
            "/rollouts/new": "Nothing is published yet",
            "/releases": "Nothing is published yet",
            "/approvals": "Nothing waits for approval",
            "/audit": "Nothing has been changed yet",
        }
        for path in PAGES:
            page = await look(fleet, path)
            assert words[path] in page.text
            assert len(page.all("h1")) == 1
            assert len(page.all("main")) == 1
            assert [more["href"] for more in page.all("a", **{"aria-current": "page"})] == [
                "/rollouts" if path == "/rollouts/new" else path
            ]

    with_fleet(test)


def test_what_a_device_says_is_text(with_fleet):
    async def test(fleet):
        await publish(fleet.folder)
        token = await fleet.add("door-7")
        await fleet.poll(
            token, "door-7", release="<b>1.0", counter=1, slots=[{"name": "a", "release": "<b>1.0"}]
        )
        details = {"where": {"disk": EVIL, "free": [1, None, True]}}
        await fleet.report(
            token, "door-7", kind="fell_back", release="2.0", reason=EVIL, details=details
        )
        for path in ("/", "/devices", "/devices/door-7"):
            page = await look(fleet, path)
            assert EVIL not in page.source
            assert "<b>1.0" not in page.source
        for words in (EVIL, "Fell back from 2.0", "disk <script>", "free 1, nothing, yes"):
            assert words in page.text, words
        page = await look(fleet, "/devices?" + urlencode({"filter": f'id=="{EVIL}"'}))
        assert page.all("input", id="filter")[0]["value"] == f'id=="{EVIL}"'
        assert "No device matches" in page.text

    with_fleet(test)


def test_nothing_of_the_policy_is_loosened(with_fleet):
    async def test(fleet):
        policy = (await fleet.client.get("/", headers=LOGIN)).headers["Content-Security-Policy"]
        rules = dict(one.strip().split(" ", 1) for one in policy.split(";"))
        assert rules["default-src"] == rules["base-uri"] == rules["frame-ancestors"] == "'none'"
        assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
        page = await look(fleet, "/")
        assert all(more["src"].startswith("/static/") for more in page.all("script"))

    with_fleet(test)


def test_static_files_are_named_and_revalidated(with_fleet):
    async def test(fleet):
        for name in ("style.css", "htmx.min.js", "live.js"):
            response = await fleet.client.get(f"/static/{name}")
            assert response.status == 200
            again = await fleet.client.get(
                f"/static/{name}", headers={"If-None-Match": response.headers["ETag"]}
            )
            assert again.status == 304
        for name in ("htmx.LICENSE", "..%2Fdesk.py", "x"):
            assert (await fleet.client.get(f"/static/{name}")).status == 404

    with_fleet(test)


def test_the_list_is_filtered_and_paged(with_fleet, monkeypatch):
    monkeypatch.setattr("slipstream.server.pages.fleet_devices.ROWS_MAX", 3)

    async def test(fleet):
        for number in range(8):
            await fleet.add(f"d{number}", channel="edge" if number % 2 else "stable")
        seen, path = [], "/devices?filter=channel%3D%3Dedge"
        while path:
            page = await look(fleet, path)
            seen.append(
                [link["href"][-2:] for link in page.all("a") if "/devices/d" in link["href"]]
            )
            path = next((link["href"] for link in page.all("a", rel="next")), None)
        assert seen == [["d1", "d3", "d5"], ["d7"]]
        page = await look(fleet, "/devices?filter=color%3D%3Dred")
        assert page.all("input", **{"aria-invalid": "true"})
        assert "no selector 'color'" in page.text

    with_fleet(test)


def test_a_rollout_from_the_form_to_its_end(with_fleet):
    async def test(fleet):
        tokens = {name: await fleet.add(name) for name in ("a", "b")}
        for name, token in tokens.items():
            await fleet.poll(token, name, release="1.0", counter=1, booted_root="1" * 64)
        path = await start(fleet)
        engine = fleet.client.app[ENGINE]
        await engine.tick(1.0)
        page = await look(fleet, path)
        assert "phase 1: 0 of 1 confirmed, 1 are needed" in page.text
        told = [
            name
            for name in tokens
            if (await (await fleet.poll(tokens[name], name, release="1.0", counter=1)).json())[
                "action"
            ]
            == "install"
        ]
        assert len(told) == 1
        figures = {"bytes_fetched": 300, "full_bytes": 2000}
        first, more = tokens[told[0]], {"release": "2.0", "details": figures}
        await fleet.report(first, told[0], kind="installed", key="k0", **more)
        await fleet.report(first, told[0], release="2.0", booted_root="2" * 64)
        await engine.tick(1.0)
        page = await look(fleet, path)
        assert "phase 2" in page.text
        assert "1.7 kB" in page.text  # saved: 2000 bytes in full, 300 by delta
        page = await look(fleet, "/")
        assert "Rollouts under way" in page.text
        assert (await look(fleet, "/rollouts")).all("a", href=path)
        page = await look(fleet, f"/devices/{told[0]}")
        assert "Confirmed" in page.text
        page = await look(fleet, "/releases")
        assert "delta, 15 %" in page.text

    with_fleet(test)


def test_buttons_do_what_they_say_once(with_fleet):
    async def test(fleet):
        await fleet.add("a")
        path = await start(fleet)
        await fleet.client.app[ENGINE].tick(1.0)
        for act, status, button in (
            ("pause", Status.PAUSED, "resume"),
            ("resume", Status.RUNNING, "pause"),
            ("abort", Status.ABORTED, None),
        ):
            page = await look(fleet, path)
            version = page.all("input", name="version")[0]["value"]
            remark = f"because {EVIL}"
            response = await send(fleet, f"{path}/{act}", page, version=version, remark=remark)
            assert (response.status, response.headers["Location"]) == (303, path)
            # The same form again: the rollout is another by now.
            assert (await send(fleet, f"{path}/{act}", page, version=version)).status == 412
            (found,) = await fleet.read(rollouts.load, ids=[1])
            assert found.status is status
            assert found.reason.endswith(remark)
            page = await look(fleet, path)
            assert EVIL not in page.source
            assert bool(button) == bool(page.all("button", id=f"act-{button}"))
        told = await fleet.read(events.list_of_rollout, 1, limit=99)
        assert f"paused: paused by installation: because {EVIL}" in [one.text for one in told]
        assert not (await look(fleet, path)).all("form")

    with_fleet(test)


def test_the_next_phase_and_no_phase_behind_the_last(with_fleet):
    async def test(fleet):
        await fleet.add("a")
        path = await start(fleet)
        await fleet.client.app[ENGINE].tick(1.0)
        for status in (303, 409):
            page = await look(fleet, path)
            version = page.all("input", name="version")[0]["value"]
            assert (await send(fleet, f"{path}/next", page, version=version)).status == status
        assert not page.all("button", id="act-next")

    with_fleet(test)


@pytest.mark.parametrize("act, status", [("approve", Status.SCHEDULED), ("deny", Status.DENIED)])
def test_an_approval_is_asked_for_and_given_by_another(with_fleet, monkeypatch, act, status):
    async def test(fleet):
        await fleet.add("a")
        path = await start(fleet, approval="on")
        page = await look(fleet, "/approvals")
        assert "Its author cannot decide on it" in page.text
        assert not page.all("button")
        token = (await look(fleet, path)).all("input", name="form_token")[0]["value"]
        assert (await send(fleet, f"{path}/{act}", token=token, version="1")).status == 403
        enter_as(monkeypatch, "ben", Role.APPROVER, token)
        page = await look(fleet, "/approvals")
        assert page.all("a", href=path)
        assert "1 waiting" in page.text
        response = await send(fleet, f"{path}/{act}", page, version="1", remark="looks right")
        assert response.status == 303
        (found,) = await fleet.read(rollouts.load, ids=[1])
        assert (
            found.status in {status, Status.RUNNING} if act == "approve" else found.status is status
        )
        page = await look(fleet, "/approvals")
        assert "by ben, written by installation looks right" in " ".join(page.text.split())
        assert "Nothing waits" in page.text

    with_fleet(test)


def test_the_form_says_that_every_rollout_waits(with_fleet, monkeypatch):
    async def test(fleet):
        page = await look(fleet, "/rollouts/new")
        assert page.all("p", id="approval-required")
        assert not page.all("input", name="approval")
        token = page.all("input", name="form_token")[0]["value"]
        enter_as(monkeypatch, "ben", Role.OPERATOR, token)
        path = await start(fleet)
        assert "Waits for approval" in (await look(fleet, path)).text

    with_fleet(test, require_approval=True)


def test_a_form_of_another_site_does_nothing(with_fleet):
    async def test(fleet):
        path = await start(fleet)
        page = await look(fleet, path)
        own = page.all("input", name="form_token")[0]["value"]
        for response in (
            await send(fleet, f"{path}/abort", token="", version="1"),
            await send(fleet, f"{path}/abort", token="f" * 64, version="1"),
            await send(
                fleet, f"{path}/abort", page, version="1", headers={"Sec-Fetch-Site": "cross-site"}
            ),
        ):
            assert response.status == 403
        json = {**LOGIN, "Content-Type": "application/json"}
        response = await fleet.client.post(f"{path}/abort", data=b"{}", headers=json)
        assert response.status == 415
        (found,) = await fleet.read(rollouts.load, ids=[1])
        assert found.status is not Status.ABORTED
        assert own not in re.sub(r"<input[^>]*>", "", page.source)  # nowhere but in forms

    with_fleet(test)


@pytest.mark.parametrize(
    "role, pages, buttons",
    [
        (Role.VIEWER, {"/rollouts/new": 403}, set()),
        (Role.OPERATOR, {"/rollouts/new": 200}, {"act-abort"}),
        (Role.APPROVER, {"/rollouts/new": 200}, {"act-approve", "act-deny", "act-abort"}),
    ],
)
def test_roles_see_and_do_what_they_may(with_fleet, monkeypatch, role, pages, buttons):
    async def test(fleet):
        await fleet.add("a")
        path = await start(fleet, approval="on")
        token = (await look(fleet, path)).all("input", name="form_token")[0]["value"]
        enter_as(monkeypatch, "somebody", role, token)
        for page, status in pages.items():
            await look(fleet, page, status)
        page = await look(fleet, path)
        assert {one["id"] for one in page.all("button")} == buttons
        for act in ("abort", "approve"):
            response = await send(fleet, f"{path}/{act}", token=token, version="999")
            # 412: they may, but the rollout is another. 403: they may not.
            assert response.status == (412 if f"act-{act}" in buttons else 403), act

    with_fleet(test)


def test_a_draft_is_previewed_and_its_problems_are_shown_at_their_fields(with_fleet):
    async def test(fleet):
        await publish(fleet.folder)
        for number in range(5):
            await fleet.add(f"d{number}")
        page = await look(fleet, "/rollouts/new?release=gateway/2.0")
        assert "5devices match" in page.text.replace("\n", "")
        fields = {**DEFAULTS, "name": "x", "release": "gateway/2.0", "filter": "id==d3"}
        response = await send(fleet, "/rollouts/preview", page, **fields)
        preview = Page(await response.text())
        assert "1devices match" in preview.text.replace("\n", "")
        assert await fleet.read(rollouts.load) == ()
        for name, text in (("filter", "color==red"), ("phase1", "0 %"), ("name", "")):
            response = await send(fleet, "/rollouts/new", page, **{**fields, name: text})
            assert response.status == 400
            wrong = Page(await response.text())
            assert [one["name"] for _, one in wrong.tags if one.get("aria-invalid")] == [name]
        await start(fleet)
        response = await send(fleet, "/rollouts/new", page, **{**fields, "name": "two"})
        assert response.status == 409
        assert "rollout 'two' exists" in Page(await response.text()).text

    with_fleet(test)


def test_a_quarantine_is_lifted(with_fleet, folder):
    folder.release("2.0", 2)
    folder.write()

    async def test(fleet):
        token = await fleet.add("door-7")
        await fleet.report(token, "door-7", kind="fell_back", release="2.0", reason="no network")
        page = await look(fleet, "/devices/door-7")
        assert "no network" in page.text
        response = await send(fleet, "/devices/door-7/lift", page, release="2.0")
        assert response.status == 303
        assert await fleet.read(quarantines.list_of_device, "door-7") == ()
        assert (await send(fleet, "/devices/door-7/lift", page, release="2.0")).status == 404

    with_fleet(test)


def test_what_is_not_there_is_said_in_a_page(with_fleet):
    async def test(fleet):
        for path in ("/devices/none", "/rollouts/99"):
            page = await look(fleet, path, 404)
            assert "There is no" in page.text
            assert page.all("p", role="alert")

    with_fleet(test)


def test_a_repository_that_cannot_be_read_or_expired_is_said(with_fleet, folder):
    async def test(fleet):
        await fleet.add("a")
        folder.expires = "2020-01-01T00:00:00Z"
        folder.write()
        for path in ("/", "/releases"):
            assert "expired at 2020-01-01T00:00:00Z" in (await look(fleet, path)).text
        (folder.public / "metadata" / "timestamp.json").unlink()
        for path in ("/", "/releases"):
            page = await look(fleet, path)
            assert "timestamp.json cannot be read" in page.text
            assert page.all("p", role="alert")
        await look(fleet, "/rollouts/new", 503)

    with_fleet(test)


def test_an_open_page_hears_of_changes_of_its_topic(with_fleet):
    async def test(fleet):
        path = await start(fleet)

        async def heard(topic, until):
            async with fleet.client.get(f"/live?topic={topic}", headers=LOGIN) as response:
                assert response.content_type == "text/event-stream"
                text = ""
                while until not in text:
                    text += (await response.content.readline()).decode()
                return text

        readers = [
            asyncio.create_task(heard("rollout/1", "aborted by installation")),
            asyncio.create_task(heard("fleet", "aborted by installation")),
        ]
        other = asyncio.create_task(heard("rollout/2", "aborted by installation"))
        await asyncio.sleep(1.5)  # until the feed has looked for the first time
        page = await look(fleet, path)
        version = page.all("input", name="version")[0]["value"]
        assert (await send(fleet, f"{path}/abort", page, version=version)).status == 303
        async with asyncio.timeout(10):
            told = await asyncio.gather(*readers)
        assert all("event: status\n" in text for text in told)
        assert not other.done()
        other.cancel()

    with_fleet(test)


def test_a_user_logs_in_and_out(with_fleet):
    async def test(fleet):
        user = {"name": "mara", "role": "operator", "password": "correct horse battery"}
        made = await fleet.client.post("/api/v1/users", json=user, headers=fleet.operator)
        assert made.status == 201, await made.text()
        # There are users now: a browser without a session is led to the login.
        response = await fleet.client.get("/rollouts?x=1", allow_redirects=False)
        assert response.headers["Location"] == "/login?to=%2Frollouts%3Fx%3D1"
        form = {"Content-Type": "application/x-www-form-urlencoded"}

        async def enter(password, to="/rollouts"):
            body = urlencode({"user": "mara", "password": password, "to": to})
            return await fleet.client.post("/login", data=body, headers=form, allow_redirects=False)

        wrong = await enter("wrong horse")
        assert wrong.status == 401
        assert "unknown user or wrong password" in Page(await wrong.text()).text
        right = await enter("correct horse battery")
        assert (right.status, right.headers["Location"]) == (303, "/rollouts")
        assert "HttpOnly; SameSite=Lax" in right.headers["Set-Cookie"]
        page = await look(fleet, "/rollouts", headers={})
        assert "mara, operator" in page.text
        assert not page.all("a", href="/audit")  # for approvers
        await look(fleet, "/audit", 403, headers={})
        token = page.all("input", name="form_token")[0]["value"]
        body = urlencode({"form_token": token})
        gone = await fleet.client.post("/logout", data=body, headers=form, allow_redirects=False)
        assert (gone.status, gone.headers["Location"]) == (303, "/login")
        response = await fleet.client.get("/rollouts", allow_redirects=False)
        assert response.status == 303

    with_fleet(test)


def test_programs_lead_no_browser_to_a_login_that_lets_nobody_in(with_fleet):
    async def test(fleet):
        await fleet.user("ci", "operator")
        response = await fleet.client.get("/rollouts", allow_redirects=False)
        assert response.status == 401
        assert response.headers["WWW-Authenticate"].startswith("Basic")
        await look(fleet, "/rollouts")
        assert "No user has a password" in (await look(fleet, "/login", headers={})).text
        user = {"name": "mara", "role": "operator", "password": "correct horse battery"}
        await fleet.client.post("/api/v1/users", json=user, headers=fleet.operator)
        assert "No user" not in (await look(fleet, "/login", headers={})).text
        body = urlencode({"user": "any", "password": OPERATOR_TOKEN})
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        wrong = await fleet.client.post("/login", data=body, headers=form)
        assert wrong.status == 401
        assert "slipstream user add NAME --role admin" in Page(await wrong.text()).text

    with_fleet(test)


def test_a_path_that_is_none_is_a_page_for_browsers_alone(with_fleet):
    async def test(fleet):
        html = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
        for path in ("/nosuch", "/rollouts/abc", "/devices/d1/<script>"):
            for who in ({}, LOGIN):
                page = await look(fleet, path, 404, headers=html | who)
                assert f"nothing is at {path.split('<')[0]}" in page.text
                assert bool(page.all("a", href="/devices")) == bool(who)
        for path in ("/api/v1/x", "/v1/x", "/DEFAULT/controller/v1/d1/x", "/blobs/x", "/metrics/x"):
            response = await fleet.client.get(path, headers=html)
            assert (response.status, response.content_type) == (404, "application/json")
        response = await fleet.client.get("/nosuch", headers={"Accept": "*/*"})
        assert await response.json() == {
            "error": "nothing is at /nosuch",
            "code": "not_found",
            "field": None,
        }
        response = await fleet.client.delete("/v1/poll")
        assert (await response.json())["error"] == "DELETE is not for /v1/poll; expected POST"

    with_fleet(test)


@pytest.mark.parametrize(
    "to", ["//evil.example", "https://evil.example", "/\\evil.example", "/login", "", "/a\nb"]
)
def test_a_login_leads_nowhere_else(to):
    assert local(to) == "/"
    assert local("/rollouts/7?x=1") == "/rollouts/7?x=1"


def test_the_audit_log_is_shown_and_verified(with_fleet):
    async def test(fleet):
        path = await start(fleet)
        page = await look(fleet, path)
        version = page.all("input", name="version")[0]["value"]
        await send(fleet, f"{path}/abort", page, version=version, remark=EVIL)
        page = await look(fleet, "/audit?verify=1")
        text = " ".join(page.text.split())
        assert "rollout: abort" in text
        assert "status aborted" in text
        assert "The log is whole: 2 rows" in text
        assert EVIL not in page.source
        assert "{" not in text  # nothing that a person cannot read

    with_fleet(test)
