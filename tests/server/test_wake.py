"""GET /v1/wake: who is woken, by what, and at what cost."""

import asyncio
import json

import pytest
import sqlalchemy as sa

from slipstream.server import wake
from slipstream.server.app import BOARD, ENGINE, WAKER
from slipstream.server.store import devices
from tests.server.conftest import NOW

PLAN = {
    "name": "two",
    "product": "gateway",
    "release": "2.0",
    "counter": 2,
    "phases": [{"count": 1}, {"percent": 100}],
}


@pytest.fixture(autouse=True)
def releases(folder):
    for number in (1, 2):
        folder.release(f"{number}.0", number)
        folder.full(f"{number}.0", "rootfs", f"{number}" * 64, b"x" * number)
    folder.write()


async def listen(fleet, token):
    """An open stream, that has said that it listens."""
    answer = await fleet.client.get("/v1/wake", headers=token)
    assert (answer.status, answer.content_type) == (200, "text/event-stream")
    assert await told(answer) == ": listening"
    return answer


async def told(answer):
    """What the stream says next; "" at its end."""
    async with asyncio.timeout(20):
        try:
            return (await answer.content.readuntil(b"\n\n")).decode().strip()
        except asyncio.IncompleteReadError:
            return ""


async def look(fleet):
    """What the server does every second, now."""
    app = fleet.client.app
    await app[ENGINE].tick(1.0)
    await app[BOARD].refresh()
    await app[WAKER].look()


def woken(fleet):
    """The devices that will hear it: read before their streams have run."""
    listeners = fleet.client.app[WAKER]._listeners
    return sorted(name for name, one in listeners.items() if one.woken.is_set())


def span(text):
    name, _, data = text.partition("\n")
    assert name == "event: wake"
    return json.loads(data.removeprefix("data: "))["within_s"]


def test_a_phase_wakes_whom_it_reaches(with_fleet):
    async def test(fleet):
        tokens = {name: await fleet.add(name) for name in ("d1", "d2", "d3")}
        other = await fleet.add("o1", product="lamp")
        for name, token in tokens.items():
            await fleet.poll(token, name, release="1.0", counter=1)
        streams = {name: await listen(fleet, token) for name, token in tokens.items()}
        stranger = await listen(fleet, other)
        assert (await fleet.api("POST", "/rollouts", PLAN))[0] == 201
        await look(fleet)
        waiting = {name: asyncio.create_task(told(one)) for name, one in streams.items()}
        await asyncio.wait(waiting.values(), return_when=asyncio.FIRST_COMPLETED)
        (first,) = (name for name, one in waiting.items() if one.done())
        assert span(waiting[first].result()) == wake.WAKE_SPREAD_S_MIN
        answer = await fleet.poll(tokens[first], first, release="1.0", counter=1)
        assert (await answer.json())["action"] == "install"
        assert (await fleet.api("POST", "/rollouts/1/next"))[0] == 200
        await look(fleet)
        for name in set(tokens) - {first}:
            assert span(await waiting[name]) == wake.WAKE_SPREAD_S_MIN
        assert woken(fleet) in ([], [first])  # the first is offered it still
        # Nobody is told of an end.
        await asyncio.sleep(0)
        await fleet.api("POST", "/rollouts/1/pause")
        for one in fleet.client.app[WAKER]._listeners.values():
            one.woken.clear()
        await look(fleet)
        assert woken(fleet) == []
        stranger.close()
        for one in streams.values():
            one.close()

    with_fleet(test)


def test_what_wakes_a_device_that_was_offered_a_release(with_fleet):
    clock = [NOW]

    async def test(fleet):
        token = await fleet.add("d1")
        plan = {**PLAN, "urgency": "time_forced", "forced_at": NOW + 100}
        assert (await fleet.api("POST", "/rollouts", plan))[0] == 201
        await look(fleet)
        await fleet.poll(token, "d1", release="1.0", counter=1)
        stream = await listen(fleet, token)
        await look(fleet)
        assert woken(fleet) == []
        clock[0] = NOW + 100  # now it is forced
        await look(fleet)
        assert span(await told(stream)) == wake.WAKE_SPREAD_S_MIN
        stream.close()

    with_fleet(test, now=lambda: clock[0])


def test_who_comes_too_late_for_a_change_is_woken_at_once(with_fleet):
    async def test(fleet):
        token = await fleet.add("d1")
        await fleet.poll(token, "d1", release="1.0", counter=1)
        assert (await fleet.api("POST", "/rollouts", PLAN))[0] == 201
        await look(fleet)
        stream = await listen(fleet, token)
        assert span(await told(stream)) == wake.WAKE_SPREAD_S_MIN
        stream.close()

    with_fleet(test)


def test_a_release_wakes_a_fleet_without_rollouts(with_fleet, folder):
    async def test(fleet):
        token = await fleet.add("d1")
        await fleet.poll(token, "d1", release="2.0", counter=2)
        stream = await listen(fleet, token)
        await look(fleet)
        folder.release("3.0", 3)
        folder.write()
        await look(fleet)
        assert span(await told(stream)) == wake.WAKE_SPREAD_S_MIN
        stream.close()

    with_fleet(test)


def test_a_look_costs_the_database_nothing_and_many_are_spread(with_fleet, monkeypatch):
    async def test(fleet):
        waker, board = fleet.client.app[WAKER], fleet.client.app[BOARD]
        await fleet.add("d1")
        async with fleet.database.reading() as connection:
            known = await devices.know(connection, devices.by_id("d1"))
        for number in range(1000):
            waker._listeners[str(number)] = wake.Listener(known)
        await waker.look()
        await fleet.api("POST", "/rollouts", {**PLAN, "phases": [{"percent": 100}]})
        await fleet.client.app[ENGINE].tick(1.0)
        await board.refresh()
        statements = []
        for engine in (fleet.database._readers.sync_engine, fleet.database._writer.sync_engine):
            sa.event.listen(engine, "before_cursor_execute", lambda *a: statements.append(a[2]))
        before = list(statements)
        await waker.look()
        assert statements == before == []
        assert len(woken(fleet)) == 1000
        spans = {one.within_s for one in waker._listeners.values()}
        assert spans == {1000 // wake.WAKE_PER_S}
        waker._listeners.clear()

    monkeypatch.setattr(wake, "BOARD_REFRESH_S", 3600)  # only when the test says so
    with_fleet(test)


def test_streams_are_bounded_and_end(with_fleet, monkeypatch):
    monkeypatch.setattr(wake, "WAKE_READERS_MAX", 2)
    monkeypatch.setattr(wake, "WAKE_KEEPALIVE_S", 0.05)

    async def test(fleet):
        client = fleet.client
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            assert (await client.get("/v1/wake", headers=headers)).status == 401
        tokens = [await fleet.add(f"d{number}") for number in range(3)]
        first, second = [await listen(fleet, token) for token in tokens[:2]]
        assert first.headers["Cache-Control"] == "no-store"
        assert first.headers["X-Content-Type-Options"] == "nosniff"
        assert await told(second) == ": still here"
        refused = await client.get("/v1/wake", headers=tokens[2])
        assert (refused.status, refused.headers["Retry-After"]) == (503, "600")
        # One stream a device: it came back, and the old one is let go.
        again = await listen(fleet, tokens[0])
        while (said := await told(first)) != "":
            assert said == ": still here"
        assert len(client.app[WAKER]._listeners) == 2
        client.app[WAKER].close()
        for one in (again, second):
            while (said := await told(one)) != "":
                assert said == ": still here"
        assert client.app[WAKER]._listeners == {}

    with_fleet(test)
