"""The census: counted once an hour, bounded, forgotten in time."""

from dataclasses import replace

import sqlalchemy as sa

from slipstream.delta.limits import CENSUS_KEPT_S, CENSUS_RELEASES_MAX, EVENTS_KEPT_S
from slipstream.server.fleet.board import Board
from slipstream.server.fleet.engine import Engine
from slipstream.server.store import census, devices, events, holds, polls, tables
from slipstream.server.store.polls import Seen

NOW = 1_800_000_000 + 1234
SEEN = Seen("", NOW, None, "1.0", 1, None, False, "[]")


async def add(database, releases):
    async def act(connection):
        for name, release in releases.items():
            await devices.add(connection, name, "gateway", "stable", name.encode().ljust(32), NOW)
            if release is not None:
                await polls.write(connection, [replace(SEEN, device=name, release=release)])

    await database.write(act)


async def past(database, since=0):
    async with database.reading() as connection:
        return await census.history(connection, since)


def test_an_hour_is_counted_once_by_whoever_has_the_duty(with_database):
    async def test(database):
        await add(database, {"a": "1.0", "b": "1.0", "c": None})
        now = NOW
        engines = [Engine(database, Board(database), lambda: now, name) for name in ("one", "two")]
        for engine in engines:
            await engine.tick(1.0)
        hour = census.hour_of(NOW)
        counted = {hour: {("gateway", "1.0"): 2, ("gateway", ""): 1}}
        assert await past(database) == counted
        await add(database, {"d": "2.0"})
        await database.write(lambda c: polls.write(c, [replace(SEEN, device="a", release="2.0")]))
        # Of this hour already; a server that was started again does not add to it.
        for engine in (engines[0], Engine(database, Board(database), lambda: now, "one")):
            await engine.tick(1.0)
            assert await past(database) == counted
        now += 3600
        for engine in engines:
            await engine.tick(1.0)
        assert (await past(database))[hour + 3600][("gateway", "2.0")] == 2
        assert list(await past(database, hour + 1)) == [hour + 3600]

    with_database(test)


def test_names_are_bounded_and_old_hours_go(with_database):
    async def test(database):
        many = {f"d{number}": f"{number}.0" for number in range(CENSUS_RELEASES_MAX + 5)}
        await add(database, {**many, "e": "0.0"})
        await database.write(lambda connection: census.take(connection, NOW))
        (counted,) = (await past(database)).values()
        assert len(counted) == CENSUS_RELEASES_MAX + 1
        assert counted["gateway", "0.0"] == 2
        assert counted["gateway", census.OTHER] == 5
        later = NOW + CENSUS_KEPT_S + 3600
        await database.write(lambda connection: census.take(connection, later))
        assert list(await past(database)) == [census.hour_of(later)]

    with_database(test)


def test_old_events_of_devices_and_empty_queues_are_forgotten_once_an_hour(with_database):
    async def test(database):
        await add(database, {"a": None})
        times = [NOW]
        engine = Engine(database, Board(database), lambda: times[0], "one")
        await engine.tick(1.0)

        async def happen(connection):
            await events.add(connection, NOW - EVENTS_KEPT_S, "offered", "old", device="a")
            await events.add(connection, NOW, "offered", "new", device="a")
            await events.add(connection, NOW - EVENTS_KEPT_S, "rollout", "its own", rollout=1)
            for value in ("held", "free", "free too"):
                await holds.take(connection, "group", value, "a", 1, NOW)
            await connection.execute(sa.delete(tables.holds).where(tables.holds.c.value != "held"))

        await database.write(happen)
        await engine.tick(1.0)  # the same hour
        assert len(await _kept(database)) == 6
        times[0] += census.HOUR_S
        await engine.tick(1.0)
        assert await _kept(database) == ["held", "its own", "new"]

    with_database(test)


async def _kept(database):
    async with database.reading() as connection:
        texts = await connection.execute(sa.select(tables.events.c.text))
        queues = await connection.execute(sa.select(tables.hold_queues.c.value))
        return sorted([*texts.scalars(), *queues.scalars()])
