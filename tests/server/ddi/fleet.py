"""A device that speaks DDI to a running application, and every answer held to what clients read."""

import json
import re
from dataclasses import dataclass
from typing import Any

from slipstream.server.app import BOARD, DATABASE, ENGINE
from slipstream.server.rollout.plan import Phase, Plan, Proof
from slipstream.server.rollout.record import Act, Status
from slipstream.server.store import attempts, controllers, rollouts

SWU = bytes(range(256)) * 400
HREF = re.compile(r"https?://[^/\s]+/DEFAULT/controller/v1/[A-Za-z0-9._:@+-]+(/\S*)?")
PLAN = Plan("two", "gateway", "2.0", 2, (Phase(percent=100),), proof=Proof.REPORT)


def lint(body: bytes) -> Any:
    """The value of an answer, if Zephyr, RAUC and SWUpdate can read it."""
    value = json.loads(body)
    assert b": " not in body, "Zephyr keeps the answer in a small buffer"
    assert b"null" not in body, "what is not there is left out"
    _lint(value)
    return value


def _lint(value: Any, key: str = "") -> None:
    match value:
        case dict():
            for name, inner in value.items():
                _lint(inner, name)
        case list():
            for inner in value:
                _lint(inner)
        case _:
            _lint_leaf(key, value)
    if key == "artifacts":
        assert len(value) == 1, "rauc-hawkbit-updater and Zephyr take one"
        for one in value:
            assert {"download", "md5sum", "download-http", "md5sum-http"} == set(one["_links"])
            assert set(one["hashes"]) == {"sha1", "md5", "sha256"}
    if key == "chunks":
        assert all({"part", "version", "name", "artifacts"} <= set(one) for one in value)
    if key in ("deployment", "confirmation"):
        assert value["update"] in ("skip", "attempt", "forced")
        assert value["download"] in ("skip", "attempt", "forced")


def _lint_leaf(key: str, value: Any) -> None:
    if key == "size":
        assert type(value) is int, "SWUpdate asserts it"
    elif key in ("id", "stopId"):
        assert isinstance(value, str), "RAUC's client takes nothing else"
        assert value.isdigit(), "SWUpdate reads a number in it"
    elif key == "sleep":
        assert re.fullmatch(r"[01]\d:[0-5]\d:[0-5]\d|2[0-3]:[0-5]\d:[0-5]\d", value)
    elif key == "href":
        assert HREF.fullmatch(value)
        path = value.split("/", 3)[3]
        assert len(path) <= 199, "Zephyr"
        if "deploymentBase" in path:
            assert len(path[path.index("deploymentBase") :]) < 50, "Zephyr"
        if "cancelAction" in path:
            assert "?" not in path, "SWUpdate appends /feedback"
    elif key not in ("active", "activatedAt"):
        assert isinstance(value, str)


@dataclass
class Device:
    """One device of a Fleet (tests/server/conftest.py)."""

    fleet: Any
    name: str
    headers: dict[str, str]

    @classmethod
    async def add(cls, fleet, name="dev1"):
        token = (await fleet.add(name))["Authorization"].removeprefix("Bearer ")
        return cls(fleet, name, {"Authorization": f"TargetToken {token}"})

    async def ask(self, method, path="", *, status=200, headers=None, **more):
        base = "" if path.startswith("/") else f"/DEFAULT/controller/v1/{self.name}"
        where = path if path.startswith("/") else f"{base}/{path}".rstrip("/")
        sent = {**self.headers, **(headers or {})}
        async with self.fleet.client.request(method, where, headers=sent, **more) as response:
            body = await response.read()
            assert response.status == status, (response.status, body)
            if status == 200 and response.content_type == "application/json":
                return lint(body)
            return response if method == "HEAD" or status != 200 else body

    async def poll(self):
        """What the device is asked to do: {link: path}, without configData."""
        links = (await self.ask("GET")).get("_links", {})
        return {
            name: "/" + link["href"].split("/", 3)[3]
            for name, link in links.items()
            if name != "configData"
        }

    async def feedback(self, path, execution, finished="none", *lines, status=200):
        result = {"finished": finished}
        body = {"id": "1", "status": {"execution": execution, "result": result, "details": lines}}
        where = f"{path.partition('?')[0]}/feedback"
        return await self.ask("POST", where, status=status, json=body)

    async def known(self):
        return await self.fleet.read(controllers.know, self.name, 0)

    async def offer(self):
        return (await self.known()).attempts[0]


async def start(fleet, plan=PLAN, *, publish=True):
    """A rollout that offers; its id."""
    if publish:
        fleet.folder.release(plan.release, plan.counter)
        fleet.folder.artifact(plan.release, "os", f"gateway-{plan.release}.swu", SWU)
        fleet.folder.write()
    app = fleet.client.server.app
    made = await app[DATABASE].write(
        lambda connection: rollouts.create(connection, plan, Status.SCHEDULED, 1)
    )
    await app[ENGINE].tick(1.0)
    await app[BOARD].refresh()  # the server's own engine may have opened the phase just now
    return made


async def change(fleet, act: Act, rollout: int = 1):
    """What an operator does to a rollout."""
    app = fleet.client.server.app
    (found,) = await fleet.read(rollouts.load, ids=[rollout])
    assert await app[ENGINE].change(found, act, "because", 1)
    await app[BOARD].refresh()


async def recall(fleet, attempt: int):
    """What an operator does to one offer."""
    write = fleet.client.server.app[DATABASE].write
    return await write(lambda connection: attempts.recall(connection, attempt, "anna", 1))
