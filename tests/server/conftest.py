"""A small repository folder and a running application for the server's tests."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer
from argon2 import PasswordHasher

from slipstream.server.app import Settings, make_app
from slipstream.server.store.database import Database
from tests.server import postgres

OPERATOR_TOKEN = "an operator's token of enough length"
NOW = 1_800_000_000
QUICK = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)  # a test hashes many
_NUMBERS = count(1)  # of databases


@dataclass
class Folder:
    """A public folder whose metadata is plain JSON of TUF's shape: the server verifies nothing."""

    public: Path
    version: int = 0
    targets: dict[str, Any] = field(default_factory=dict)
    deltas: dict[str, Any] = field(default_factory=dict)
    expires: str = "2030-01-01T00:00:00Z"

    def release(self, version: str, counter: int, *, channel: str = "stable", **more: str) -> None:
        custom = {"product": "gateway", "release": version, "counter": counter, "channel": channel}
        self.targets[f"releases/{version}/manifest.json"] = _target(custom | more)

    def full(self, version: str, image: str, root: str, payload: bytes) -> str:
        index = hashlib.sha256(payload).hexdigest()
        (self.public / "blobs" / f"{index}.payload").write_bytes(payload)
        target = _target({"image": image, "root": root}, index)
        self.targets[f"releases/{version}/{image}.full"] = target
        return index

    def artifact(self, version: str, name: str, file_name: str, data: bytes) -> dict[str, Any]:
        sha256 = hashlib.sha256(data).hexdigest()
        (self.public / "blobs" / f"{sha256}.artifact").write_bytes(data)
        custom = {
            "artifact": name,
            "file_name": file_name,
            "artifact_bytes": len(data),
            "sha256": sha256,
            "sha1": hashlib.sha1(data).hexdigest(),
            "md5": hashlib.md5(data).hexdigest(),
        }
        self.targets[f"releases/{version}/{name}.artifact"] = _target(custom)
        return custom

    def delta(self, version: str, image: str, source: str, target: str, size: int) -> None:
        custom = {"image": image, "source_root": source, "target_root": target}
        entry = _target({**custom, "payload_bytes": size, "memory_bytes": 1})
        self.deltas[f"deltas/{version}/{image}/{source[:16]}.delta"] = entry

    def write(self) -> None:
        self.version += 1
        number = self.version
        snapshot = {"targets.json": {"version": number}, "deltas.json": {"version": number}}
        for name, signed in (
            (f"{number}.targets.json", {"_type": "targets", "targets": self.targets}),
            (f"{number}.deltas.json", {"_type": "targets", "targets": self.deltas}),
            (f"{number}.snapshot.json", {"meta": snapshot, "expires": self.expires}),
            (
                "timestamp.json",
                {"meta": {"snapshot.json": {"version": number}}, "expires": self.expires},
            ),
        ):
            temporary = self.public / "metadata" / f".{name}.tmp"
            temporary.write_text(json.dumps({"signatures": [], "signed": signed}))
            temporary.rename(self.public / "metadata" / name)


def _target(custom: dict[str, Any], sha256: str = "0" * 64) -> dict[str, Any]:
    return {"length": 10, "hashes": {"sha256": sha256}, "custom": custom}


@dataclass
class Fleet:
    """A running application, and how operator and devices talk to it."""

    client: TestClient[Any, Any]
    folder: Folder
    database: Database
    operator: dict[str, str] = field(
        default_factory=lambda: {"Authorization": f"Bearer {OPERATOR_TOKEN}"}
    )

    async def add(self, device: str, product: str = "gateway", **more: str) -> dict[str, str]:
        """Register a device; the header it authenticates with."""
        response = await self.client.post(
            "/api/v1/devices",
            json={"id": device, "product": product, **more},
            headers=self.operator,
        )
        assert response.status == 201, await response.text()
        return {"Authorization": f"Bearer {(await response.json())['token']}"}

    async def api(
        self, method: str, path: str, body: Any = None, *, token: Any = None, **headers: str
    ) -> tuple[int, Any]:
        """A call of /api/v1: status and JSON. Header names are spelled with underscores."""
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        who = self.operator if token is None else token
        data = body if isinstance(body, str | None) else json.dumps(body)
        response = await self.client.request(
            method, f"/api/v1{path}", data=data, headers={**who, **more}
        )
        text = await response.text()
        return response.status, json.loads(text) if text else None

    async def user(self, name: str, role: str) -> dict[str, str]:
        """Add a user with a token of that role; the header it authenticates with."""
        await self.api("POST", "/users", {"name": name, "role": role})
        body = {"name": "test", "role": role, "user": name}
        status, made = await self.api("POST", "/tokens", body)
        assert status == 201, made
        return {"Authorization": f"Bearer {made['secret']}"}

    async def read(self, ask: Callable[..., Awaitable[Any]], *arguments: Any, **more: Any) -> Any:
        """What a function of server/store/ finds."""
        async with self.database.reading() as connection:
            return await ask(connection, *arguments, **more)

    async def poll(self, token: dict[str, str], device: str, **more: Any) -> ClientResponse:
        body = {"device": device, "product": "gateway", **more}
        return await self.client.post("/v1/poll", json=body, headers=token)

    async def report(self, token: dict[str, str], device: str, **more: Any) -> ClientResponse:
        body = {"key": "k1", "device": device, "kind": "confirmed", "release": "1.0", **more}
        return await self.client.post("/v1/report", json=body, headers=token)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Path]:
    """The folder of a running PostgreSQL."""
    with postgres.temporary() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'fleet.sqlite'}"
    make: Callable[[], str] = request.getfixturevalue("new_postgresql")
    return make()


@pytest.fixture
def new_postgresql(postgresql: Path) -> Callable[[], str]:
    """Makes an empty database in PostgreSQL and gives its URL."""

    def make() -> str:
        name = f"t{next(_NUMBERS)}"
        postgres.execute(postgresql, f"CREATE DATABASE {name}")
        return postgres.url(postgresql, name)

    return make


@pytest.fixture
def with_database(database_url: str) -> Callable[..., None]:
    """Runs a coroutine function with an open database of each kind."""

    def run(test: Callable[[Database], Awaitable[None]]) -> None:
        async def main() -> None:
            database = await Database.open(database_url)
            try:
                await test(database)
            finally:
                await database.close()

        asyncio.run(main())

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """An empty public folder with valid, empty metadata."""
    public = tmp_path / "repo" / "public"
    for name in ("metadata", "targets", "blobs"):
        (public / name).mkdir(parents=True)
    made = Folder(public)
    made.write()
    return made


@pytest.fixture
def with_fleet(folder: Folder, tmp_path: Path) -> Callable[..., None]:
    """Runs a coroutine function with a Fleet; keyword arguments are the application's settings."""
    return _runner(folder, f"sqlite+aiosqlite:///{tmp_path / 'fleet.sqlite'}")


@pytest.fixture
def with_each_fleet(folder: Folder, database_url: str) -> Callable[..., None]:
    """The same on a database of each kind: where the SQL differs."""
    return _runner(folder, database_url)


def _runner(folder: Folder, url: str) -> Callable[..., None]:
    @asynccontextmanager
    async def start(**settings: Any) -> AsyncIterator[Fleet]:
        database = await Database.open(url)
        known = {"now": lambda: NOW, "password_hasher": QUICK, **settings}
        app = make_app(Settings(folder.public, url, OPERATOR_TOKEN, **known), database)
        async with TestClient(TestServer(app)) as client:
            yield Fleet(client, folder, database)

    def run(test: Callable[[Fleet], Awaitable[None]], **settings: Any) -> None:
        async def main() -> None:
            async with start(**settings) as fleet:
                await test(fleet)

        asyncio.run(main())

    return run
