"""What devices and the operator heard of a rollout, and what the database has to say of it."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import Barrier, Thread
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from slipstream.server.store.database import parse_url
from tests.server.faults.processes import UNANSWERED, Gadget, Server

ROOTS = {1: "1" * 64, 2: "2" * 64}
DEVICES = 9
PLAN: Mapping[str, Any] = {
    "name": "killed",
    "product": "gateway",
    "release": "2.0",
    "counter": 2,
    "phases": [{"count": 2}, {"count": 5}, {"percent": 100}],
}
LIMITS = (2, 3, None)  # devices that each phase may be offered to: a count is of all until then


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


def bounded(url: str, told: set[str]) -> None:
    """Whoever heard of the release was counted, and no phase has counted more than it may."""
    counted = 0
    for phase, offered in rows(url, "SELECT phase, offered FROM phases"):
        limit = LIMITS[int(str(phase))]
        assert limit is None or int(str(offered)) <= limit
        counted += int(str(offered))
    granted = [str(name) for (name,) in rows(url, "SELECT device FROM attempts")]
    assert counted == len(granted), "an offer and its count are not of one transaction"
    assert told <= set(granted), "a device was told what nobody counted"


def undisturbed(url: str, gadgets: Sequence[Gadget], told: set[str]) -> None:
    """What has to be true at every moment, whatever died before it."""
    bounded(url, told)
    kept = Counter(str(key) for (key,) in rows(url, "SELECT key FROM reports"))
    assert kept.keys() >= {key for one in gadgets for key in one.acknowledged}, "a report was lost"
    assert set(kept.values()) <= {1}, "a report was kept twice"
    # One statement: a server may live, and open the next between two.
    said = "SELECT count(*) FROM events WHERE kind = 'phase'"
    ((phases, events),) = rows(url, f"SELECT (SELECT count(*) FROM phases), ({said})")
    assert phases == events, "a phase was opened in one transaction and said in another"
    assert set(opened(url).values()) <= {1}, "a phase was opened twice"


def opened(url: str) -> Counter[str]:
    """How often each phase was opened."""
    found = rows(url, "SELECT text FROM events WHERE kind = 'phase'")
    return Counter(str(text).split(" (")[0] for (text,) in found)


def status(url: str) -> str:
    """Of the one rollout that there is."""
    ((found,),) = rows(url, "SELECT status FROM rollouts")
    return str(found)


def consistent(url: str, gadgets: list[Gadget], told: set[str]) -> None:
    """Nothing that was acknowledged is lost, and nothing happened twice."""
    everyone = {one.name for one in gadgets}
    assert told == everyone, "the rollout did not come to everybody"
    kept = Counter(str(key) for (key,) in rows(url, "SELECT key FROM reports"))
    wanted = {f"{name}-{kind}-2" for name in everyone for kind in ("installed", "confirmed")}
    assert kept == Counter(wanted)
    assert opened(url) == {f"phase {n}": 1 for n in (1, 2, 3)}
    states = rows(url, "SELECT state, count(*) FROM attempts GROUP BY state")
    assert states == [("confirmed", DEVICES)]
    assert sum(int(str(n)) for (n,) in rows(url, "SELECT offered FROM phases")) == DEVICES
