"""The one statement of a poll, past the pools."""

import asyncio

from slipstream.server.store import controllers, devices
from slipstream.server.tokens import hash_token

DIGEST = hash_token("a device's token")


def test_many_that_come_first_at_once_all_find_what_is_there(with_database):
    async def test(database):
        async def add(connection):
            await devices.add(connection, "d1", "gateway", "stable", DIGEST, 1)

        await database.write(add)
        before = database.statements
        found = await asyncio.gather(*(database.lookup.know(DIGEST, 2) for _ in range(20)))
        assert {one.device.id for one in found} == {"d1"}
        assert database.statements == before + 20
        async with database.reading() as connection:
            there = await controllers.know(connection, "d1", 2)
        assert await database.lookup.know_controller("d1", 2) == there
        assert there.digests == (DIGEST,)
        assert await database.lookup.know_controller("d2", 2) is None
        assert await database.lookup.know(hash_token("another"), 2) is None

    with_database(test)
