"""Servers killed with -9 in the middle of everything, alone and two on one database.

The model is what devices and the operator heard. Afterwards the database has to agree with it.
"""

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack, closing, suppress
from http.client import HTTPConnection
from threading import Barrier, Thread

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from slipstream.server.store.database import parse_url
from tests.server.faults.processes import UNANSWERED, WAIT_S, Gadget, Server, serving

ROOTS = {1: "1" * 64, 2: "2" * 64}
BLOB = random.Random(5).randbytes(1 << 20) * 24  # more than the sockets of both ends hold
PLAN = {
    "name": "killed",
    "product": "gateway",
    "release": "2.0",
    "counter": 2,
    "phases": [{"count": 2}, {"count": 5}, {"percent": 100}],
}
LIMITS = (2, 3, None)  # devices that each phase may be offered to: a count is of all until then
DEVICES = 9


@pytest.fixture(autouse=True)
def blob(folder) -> str:
    """The name of a payload of 24 MiB."""
    for counter, root in ROOTS.items():
        folder.release(f"{counter}.0", counter)
        name = folder.full(f"{counter}.0", "rootfs", root, BLOB)
    folder.write()
    return f"/blobs/{name}.payload"


def rows(url: str, statement: str) -> list[tuple[object, ...]]:
    """What stands in the database, whichever it is."""

    async def ask() -> list[tuple[object, ...]]:
        engine = create_async_engine(parse_url(url))
        async with engine.connect() as connection:
            found = [tuple(row) for row in await connection.execute(sa.text(statement))]
        await engine.dispose()
        return found

    return asyncio.run(ask())


def crowd(gadgets: list[Gadget], servers: list[Server], told: set[str], victim: int | None) -> None:
    """Every device takes a step, all at the same moment; one server dies under them."""
    start = Barrier(len(gadgets) + 1)

    def live(number: int, gadget: Gadget) -> None:
        start.wait()
        with suppress(*UNANSWERED):  # it tries again in the next round
            gadget.step(servers[number % len(servers)], ROOTS, told)

    threads = [Thread(target=live, args=one) for one in enumerate(gadgets)]
    for thread in threads:
        thread.start()
    start.wait()
    if victim is not None:
        servers[victim].kill()
    for thread in threads:
        thread.join()


def update_all(url: str, folder, count: int, kills: int) -> None:
    """A rollout from its start to its end, while servers are killed and started again."""
    with ExitStack() as stack:

        def start(number: int) -> Server:
            return stack.enter_context(serving(folder.public, url, f"server{number}"))

        servers = [start(0)]
        gadgets = [Gadget(f"d{n}", servers[0].register(f"d{n}")) for n in range(DEVICES)]
        status, _, _ = servers[0].call("POST", "/api/v1/rollouts", PLAN)
        assert status == 201
        # A line without any rollout gets the newest release: the others begin behind it.
        servers += [start(number) for number in range(1, count)]
        told: set[str] = set()
        give_up = time.monotonic() + WAIT_S
        for number in itertools.count():
            victim = number % count if number < kills else None
            random.Random(number).shuffle(gadgets)
            crowd(gadgets, servers, told, victim)
            if victim is not None:
                servers[victim] = start(victim)
            bounded(url, told)
            if all(one.runs == 2 and not one.unsent for one in gadgets):
                break
            assert time.monotonic() < give_up, sorted(told)
            time.sleep(0.2)  # a poll interval, in which the engine looks
    consistent(url, gadgets, told)


def bounded(url: str, told: set[str]) -> None:
    """Whoever heard of the release was counted, and no phase has counted more than it may."""
    for phase, offered in rows(url, "SELECT phase, offered FROM phases"):
        limit = LIMITS[int(str(phase))]
        assert limit is None or int(str(offered)) <= limit
    assert told <= {str(name) for (name,) in rows(url, "SELECT device FROM attempts")}


def consistent(url: str, gadgets: list[Gadget], told: set[str]) -> None:
    """Nothing that was acknowledged is lost, and nothing happened twice."""
    everyone = {one.name for one in gadgets}
    assert told == everyone, "the rollout did not come to everybody"
    kept = Counter(str(key) for (key,) in rows(url, "SELECT key FROM reports"))
    wanted = {f"{name}-{kind}-2" for name in everyone for kind in ("installed", "confirmed")}
    assert kept == Counter(wanted)
    opened = Counter(
        str(text).split(" (")[0]
        for (text,) in rows(url, "SELECT text FROM events WHERE kind = 'phase'")
    )
    assert opened == {f"phase {n}": 1 for n in (1, 2, 3)}
    states = rows(url, "SELECT state, count(*) FROM attempts GROUP BY state")
    assert states == [("confirmed", DEVICES)]
    assert sum(int(str(n)) for (n,) in rows(url, "SELECT offered FROM phases")) == DEVICES


def test_a_server_is_killed_again_and_again_under_a_rollout(folder, tmp_path):
    update_all(f"sqlite:///{tmp_path / 'fleet.sqlite'}", folder, 1, kills=4)


def test_two_servers_on_one_database_are_killed_in_turns(folder, new_postgresql):
    """The duty to move rollouts on goes to the other with each kill."""
    url = new_postgresql()
    update_all(url, folder, 2, kills=4)
    ((token,),) = rows(url, "SELECT token FROM leases WHERE name = 'engine'")
    assert int(str(token)) > 1, "the duty never changed hands"


def test_a_download_goes_on_behind_a_kill(folder, tmp_path, blob):
    url = f"sqlite:///{tmp_path / 'fleet.sqlite'}"
    with serving(folder.public, url) as server:
        got, headers = begin(server, blob, {"Range": "bytes=1000-"})
    assert 0 < len(got) < len(BLOB) - 1000
    with serving(folder.public, url) as server:
        more = {"Range": f"bytes={1000 + len(got)}-", "If-Range": headers["ETag"]}
        with closing(HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
            connection.request("GET", blob, headers=more)
            response = connection.getresponse()
            assert response.status == 206
            assert got + response.read() == BLOB[1000:]


def begin(server: Server, path: str, headers: Mapping[str, str]) -> tuple[bytes, Mapping[str, str]]:
    """All that comes of a download whose server dies when its first bytes are there."""
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
        connection.request("GET", path, headers=dict(headers))
        response = connection.getresponse()
        pieces = [response.read(4096)]
        server.kill()
        with suppress(*UNANSWERED):
            while piece := response.read1(1 << 16):
                pieces.append(piece)
        return b"".join(pieces), dict(response.getheaders())
