"""What devices say over DDI, in the real databases: kept once, and never more offers than allowed."""

import asyncio
from dataclasses import replace

import pytest

from slipstream.delta.errors import FormatError
from slipstream.server.ddi.feedback import Execution, Feedback, Finished
from slipstream.server.ddi.hear import (
    Outcome,
    hear_attributes,
    hear_consent,
    hear_feedback,
    hear_reply,
)
from slipstream.server.rollout.facts import Facts
from slipstream.server.rollout.order import Draw, Opening
from slipstream.server.rollout.plan import Phase, Plan, Proof
from slipstream.server.rollout.record import Status
from slipstream.server.rollout.track import State
from slipstream.server.store import (
    attempts,
    controllers,
    devices,
    grants,
    holds,
    quarantines,
    reports,
    rollouts,
)
from slipstream.server.store.controllers import AutoConfirm

PLAN = Plan("p", "gateway", "2.0", 2, (Phase(count=1),), proof=Proof.REPORT)
DONE = Feedback(Execution.CLOSED, Finished.SUCCESS, ("done",))
STOPPED = Feedback(Execution.CLOSED, Finished.SUCCESS, ("stopped",))
WANTED = grants.Request(1, (0,), Facts("d1", "gateway"), "2.0", {("group", "g"): 1})


async def set_up(database):
    """Two devices, of which one speaks DDI, and a phase of one."""

    async def act(connection):
        for name in ("d1", "d2"):
            await devices.add(connection, name, "gateway", "stable", name.encode().ljust(32), 1)
        await controllers.meet(connection, "d1", 1)
        await rollouts.create(connection, PLAN, Status.SCHEDULED, 1)

    await database.write(act)
    async with database.reading() as connection:
        (rollout,) = await rollouts.load(connection)
    await database.write(lambda c: rollouts.open_next(c, rollout, Draw(Opening(1, 1), ()), "", 1))


async def grant(database, wanted=WANTED, now=1):
    return await database.write(lambda connection: grants.grant(connection, wanted, now))


async def look(database, device="d1"):
    async with database.reading() as connection:
        return await controllers.know(connection, device, 1)


async def feedback(database, number, said=DONE, raw=b"x", device="d1"):
    return await hear_feedback(database, device, number, PLAN, said, raw, 5)


async def reply(database, number, said=STOPPED, *, raw=b"y", asked=True):
    return await hear_reply(database, "d1", number, PLAN, said, raw, 5, asked=asked)


def test_what_is_known_of_a_device(with_database):
    async def test(database):
        await set_up(database)
        number = await grant(database)
        await database.write(lambda c: quarantines.add(c, "d1", "1.0", "broke", 1))
        await database.write(lambda c: quarantines.add(c, "d1", "0.9", "burnt", 1))
        await database.write(lambda c: devices.rotate_token(c, "d1", b"n" * 32, 9))
        agreed = AutoConfirm("anna", "always", 7)
        await database.write(lambda c: controllers.set_auto_confirm(c, "d1", agreed))
        found = await look(database)
        assert found.quarantined == {"1.0": "broke", "0.9": "burnt"}
        assert [one.id for one in found.attempts] == [number]
        assert found.attempt(number).state is State.OFFERED
        assert found.digests == (b"n" * 32, b"d1".ljust(32))
        assert (found.met, found.wants_attributes, found.auto_confirm) == (True, True, agreed)
        async with database.reading() as connection:
            late = await controllers.know(connection, "d1", 9)
        assert late.digests == (b"n" * 32,)
        other = await look(database, "d2")
        assert (other.met, other.wants_attributes, other.attempts) == (False, True, ())
        assert await look(database, "d3") is None

    with_database(test)


def test_the_same_words_are_heard_once(with_database):
    async def test(database):
        await set_up(database)
        number = await grant(database)
        heard = await asyncio.gather(*(feedback(database, number) for _ in range(4)))
        assert sorted(one.name for one in heard) == ["AGAIN", "AGAIN", "AGAIN", "HEARD"]
        assert await feedback(database, number, raw=b"other") is Outcome.CLOSED
        assert await feedback(database, number, device="d2") is Outcome.UNKNOWN
        assert await feedback(database, number + 1) is Outcome.UNKNOWN
        assert await feedback(database, number, device="d3") is Outcome.UNKNOWN
        async with database.reading() as connection:
            assert len(await reports.list_of(connection, "d1", limit=9)) == 1
            assert await holds.count(connection) == {}
        found = await look(database)
        assert found.attempts[0].state is State.CONFIRMED
        assert (found.device.release, found.device.counter) == ("2.0", 2)

    with_database(test)


def test_what_lapsed_is_offered_again_within_the_same_bounds(with_database):
    async def test(database):
        await set_up(database)
        number = await grant(database)
        assert await reply(database, number, asked=False) is Outcome.NOT_STOPPING
        assert await reply(database, number) is Outcome.HEARD
        assert (await look(database)).attempts[0].lapsed
        # Its place in the budget is another's now, and its place in the phase is still its own.
        await database.write(lambda c: holds.take(c, "group", "g", "d2", 1, 1))
        with pytest.raises(grants.NoRoom, match="on their way"):
            await grant(database)
        await database.write(lambda c: holds.release(c, "d2"))
        with pytest.raises(grants.NoRoom, match="as many devices as it may"):
            await grant(database, replace(WANTED, device=Facts("d2", "gateway")))
        assert await grant(database, now=2) == number
        found = (await look(database)).attempts[0]
        assert (found.state, found.closed_at) == (State.OFFERED, None)
        async with database.reading() as connection:
            opened = await rollouts.open_phases(connection, [1])
            assert opened[1][0].offered == 1
            assert await holds.count(connection) == {("group", "g"): 1}
        # The same words to the new offer are not those to the old one.
        assert await reply(database, number) is Outcome.HEARD
        assert (await look(database)).attempts[0].lapsed

    with_database(test)


def test_what_an_operator_took_back_stays_so(with_database):
    async def recall(database, number):
        return await database.write(lambda c: attempts.recall(c, number, "anna", 3))

    async def test(database):
        await set_up(database)
        number = await grant(database)
        assert await recall(database, number)
        assert (await look(database)).attempts[0].state is State.OFFERED  # it is asked first
        assert await reply(database, number) is Outcome.HEARD
        with pytest.raises(grants.NoRoom, match="taken back"):
            await grant(database)
        found = (await look(database)).attempts[0]
        assert (found.state, found.lapsed) == (State.CANCELLED, False)
        assert not await recall(database, number)
        assert not await recall(database, number + 1)

    with_database(test)


def test_a_device_of_our_own_is_not_asked(with_database):
    async def test(database):
        await set_up(database)
        number = await grant(database, replace(WANTED, device=Facts("d2", "gateway")))
        assert await database.write(lambda c: attempts.recall(c, number, "anna", 3))
        assert (await look(database, "d2")).attempts[0].state is State.CANCELLED

    with_database(test)


def test_a_silent_device_that_stops_was_not_silent(with_database):
    async def test(database):
        await set_up(database)
        number = await grant(database)

        async def time_out(connection):
            await attempts.lock(connection, "d1")
            found = await attempts.find(connection, number)
            await attempts.move(connection, found, attempts.Event.TIMED_OUT, 4)

        await database.write(time_out)
        assert (await look(database)).attempts[0].state is State.SILENT
        assert await reply(database, number) is Outcome.HEARD
        assert (await look(database)).attempts[0].lapsed

    with_database(test)


def test_an_operator_ends_the_wait_for_the_last_word(with_database):
    async def test(database):
        await set_up(database)
        number = await grant(database)
        done = Feedback(Execution.PROCEEDING, Finished.NONE, ("All Chunks Installed.",))
        assert await feedback(database, number, done) is Outcome.HEARD
        assert await database.write(lambda c: attempts.recall(c, number, "anna", 3))
        assert await reply(database, number) is Outcome.HEARD
        found = (await look(database)).attempts[0]
        assert (found.state, found.closed_at) == (State.INSTALLED, 5)
        assert not await database.write(lambda c: attempts.recall(c, number, "anna", 3))

    with_database(test)


def test_consent_and_attributes(with_database):
    async def test(database):
        await set_up(database)
        number = await grant(database)
        assert await hear_consent(database, "d1", number, (), 6, agreed=False) is Outcome.HEARD
        assert (await look(database)).attempts[0].consent_at is None
        assert await hear_consent(database, "d1", number, (), 6, agreed=True) is Outcome.HEARD
        assert (await look(database)).attempts[0].consent_at == 6
        changed = await hear_attributes(database, "d1", "merge", {"board": "qemu"})
        assert changed.facts().attributes == {"board": "qemu"}
        assert not (await look(database)).wants_attributes
        with pytest.raises(FormatError):
            await hear_attributes(database, "d1", "merge", {"": "x"})
        with pytest.raises(KeyError):
            await hear_attributes(database, "d9", "merge", {})

    with_database(test)
