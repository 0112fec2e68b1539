"""Background tasks: nothing that a step raises ends one, and a stalled one is seen."""

import asyncio

from slipstream.delta.errors import Unavailable, UsageError
from slipstream.server.fleet.board import Board
from slipstream.server.fleet.engine import Engine
from slipstream.server.fleet.loop import Loop
from slipstream.server.rollout.plan import Phase, Plan
from slipstream.server.rollout.record import Act, Status
from slipstream.server.store import devices, rollouts
from slipstream.server.store.tables import rollouts as table


def test_a_step_that_raises_is_followed_by_the_next():
    async def test():
        raised = [UsageError("no such time zone"), ZeroDivisionError(), Unavailable("away"), None]
        done = asyncio.Event()

        async def step():
            error = raised.pop(0)
            if error is not None:
                raise error
            done.set()
            await asyncio.Event().wait()

        loop = Loop("board", step, 1e-4)
        async with loop.running():
            await asyncio.wait_for(done.wait(), 5)
        assert loop.failures == 3

    asyncio.run(test())


def test_one_that_fails_or_hangs_is_trouble():
    async def test():
        async def fails():
            raise UsageError("no such time zone")

        async def hangs():
            await asyncio.Event().wait()

        for step, words in ((fails, "no such time zone"), (hangs, "board has not got through")):
            loop = Loop("board", step, 1e-4, allowed_s=0.02)
            assert loop.trouble() is None  # it does not run
            async with loop.running():
                assert loop.trouble() is None
                await asyncio.wait_for(_trouble(loop, words), 5)
            assert loop.trouble() is None

    asyncio.run(test())


async def _trouble(loop, words):
    while words not in (loop.trouble() or ""):
        await asyncio.sleep(0.005)


def test_a_rollout_that_cannot_be_read_holds_no_other(with_database):
    async def test(database):
        async def make(connection):
            await devices.add(connection, "d1", "gateway", "stable", b"1" * 32, 1)
            made = [
                await rollouts.create(
                    connection, Plan(name, "gateway", "2.0", 2, (Phase(count=1),)), one, 1
                )
                for name, one in (("bad", Status.RUNNING), ("good", Status.SCHEDULED))
            ]
            row = table.update().where(table.c.id == made[0])
            await connection.execute(row.values(plan='{"zone": "Mars/Base"}'))
            return made

        bad, good = await database.write(make)
        board = Board(database)
        engine = Engine(database, board, lambda: 50, "one")
        await engine.tick(1.0)
        seen = board.view.by_id
        assert seen[good].status is Status.RUNNING
        assert (seen[bad].status, seen[bad].unreadable) == (Status.PAUSED, True)
        assert "'bad' cannot be read" in seen[bad].reason
        # Who sees it can stop it.
        assert await engine.change(seen[bad], Act.ABORT, "not readable", 60)

    with_database(test)


def test_one_rollout_that_raises_holds_no_other(with_database):
    looked = []

    class Odd(Engine):
        async def _judge(self, rollout, now, elapsed_s):
            looked.append(rollout.plan.name)
            if rollout.plan.name == "odd":
                raise ZeroDivisionError
            return await super()._judge(rollout, now, elapsed_s)

    async def test(database):
        async def make(connection):
            for name in ("late", "odd"):  # the newest is looked at first
                plan = Plan(name, "gateway", "2.0", 2, (Phase(count=1),))
                await rollouts.create(connection, plan, Status.SCHEDULED, 1)

        await database.write(make)
        engine = Odd(database, Board(database), lambda: 50, "one")
        for _ in range(2):
            await engine.tick(1.0)
        assert looked == ["odd", "late"]

    with_database(test)
