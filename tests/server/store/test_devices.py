"""Rows of devices."""

from dataclasses import replace

import sqlalchemy as sa

from slipstream.delta.limits import QUARANTINES_PER_DEVICE_MAX
from slipstream.server.rollout.plan import Phase, Plan
from slipstream.server.rollout.record import OVER, Status
from slipstream.server.rollout.track import State
from slipstream.server.store import (
    controllers,
    devices,
    polls,
    quarantines,
    reports,
    rollouts,
    tables,
)
from slipstream.server.store.polls import Seen
from tests.server.store.test_database import REPORT, add

SEEN = Seen("d1", 7, "x86-64", "1.0", 1, "a" * 64, False, "[]")


def write(test):
    async def main(database):
        await database.write(test)

    return main


def test_a_device_is_added_once(with_database):
    async def test(connection):
        await add(connection, "d1")
        assert not await devices.add(connection, "d1", "other", "beta", b"x" * 32, 2)
        found = await devices.find_by_token(connection, b"d1".ljust(32), 1)
        assert (found.id, found.product, found.channel) == ("d1", "gateway", "stable")
        assert await devices.find_by_token(connection, b"x" * 32, 1) is None

    with_database(write(test))


def test_a_removed_device_takes_all_of_its_own_along(with_database):
    async def test(connection):
        await add(connection, "d1")
        await reports.add(connection, REPORT)
        await quarantines.add(connection, "d1", "2.0", "bad", 1)
        assert await devices.remove(connection, "d1")
        assert not await devices.remove(connection, "d1")
        await add(connection, "d1")
        assert await reports.list_of(connection, "d1", limit=9) == ()
        assert (await devices.know(connection, devices.by_id("d1"))).quarantined == {}
        await devices.remove(connection, "d1")
        await polls.write(connection, [SEEN])  # late, and harmless
        assert await devices.list_page(connection, limit=9) == ()

    with_database(write(test))


def test_a_rotated_token_is_taken_for_a_while(with_database):
    async def test(connection):
        await add(connection, "d1")
        new, old = b"n" * 32, b"d1".ljust(32)
        assert await devices.rotate_token(connection, "d1", new, old_until=100)
        for digest, now, found in ((new, 1, True), (old, 99, True), (old, 100, False)):
            device = await devices.find_by_token(connection, digest, now)
            assert (device is not None) == found
            known = await devices.know(connection, devices.by_token(digest, now))
            assert (known is not None) == found
        assert not await devices.rotate_token(connection, "d2", new, old_until=100)

    with_database(write(test))


def test_what_operators_say_of_a_device(with_database):
    async def test(connection):
        await add(connection, "d1")
        assert await devices.describe(connection, "d1", group="lab", tags=["b", "a", "b"])
        assert await devices.describe(connection, "d1", attributes={"site": "x"}, channel="beta")
        assert await devices.describe(connection, "d1")  # nothing, and it is there
        assert not await devices.describe(connection, "d2")
        facts = (await devices.find(connection, "d1")).facts()
        assert (facts.group, facts.tags, facts.channel) == ("lab", {"a", "b"}, "beta")
        assert facts.attributes == {"site": "x"}
        await devices.describe(connection, "d1", group="")
        assert (await devices.find(connection, "d1")).group_name is None

    with_database(write(test))


def test_devices_come_in_pages_with_their_newest_report(with_database):
    async def test(connection):
        await add(connection, "d3", "d1", "d2")
        await reports.add(connection, REPORT)
        await reports.add(connection, replace(REPORT, key="k2", kind="fell_back"))
        await reports.add(connection, replace(REPORT, device="d3"))
        found = await devices.list_page(connection, limit=2)
        assert [one.id for one in found] == ["d1", "d2"]
        newest = await reports.newest_of(connection, ["d1", "d2"])
        assert {key: one.kind for key, one in newest.items()} == {"d1": "fell_back"}
        rest = await devices.list_page(connection, after="d2", limit=2)
        assert [one.id for one in rest] == ["d3"]

    with_database(write(test))


def test_polls_are_written_together(with_database):
    async def test(connection):
        await add(connection, "d1", "d2", "d3")
        await polls.write(connection, [])
        other = replace(SEEN, device="d2", release="2.0", counter=None)
        await polls.write(connection, [SEEN, other])
        found = {one.id: one for one in await devices.list_page(connection, limit=9)}
        assert (found["d1"].seen_at, found["d1"].release, found["d1"].trial) == (7, "1.0", False)
        assert found["d1"] == polls.after_poll(found["d1"], SEEN)
        assert (found["d2"].release, found["d2"].counter) == ("2.0", None)
        assert found["d3"].seen_at is None
        counts = await devices.count_by_release(connection)
        assert counts == {"1.0": 1, "2.0": 1, None: 1}

    with_database(write(test))


def test_what_a_poll_is_decided_by_is_one_statement(with_database):
    async def test(connection):
        await add(connection, "d1")
        for release in ("2.0", "3.0"):
            await quarantines.add(connection, "d1", release, f"{release} is bad", 1)
        await quarantines.add(connection, "d1", "2.0", "another word", 2)
        known = await devices.know(connection, devices.by_id("d1"))
        assert known.quarantined == {"2.0": "2.0 is bad", "3.0": "3.0 is bad"}
        assert known.attempts == {}
        assert State.OFFERED not in known.attempts.values()

    with_database(write(test))


def test_a_device_refuses_so_many_releases_and_the_oldest_makes_room(with_database):
    async def test(connection):
        await add(connection, "d1", "d2")
        await quarantines.add(connection, "d2", "r0", "bad", 1)
        for number in range(QUARANTINES_PER_DEVICE_MAX + 2):
            await quarantines.add(connection, "d1", f"r{number}", "bad", 100 + number)
        await quarantines.add(connection, "d1", "late clock", "bad", 1)
        kept = {one.release for one in await quarantines.list_of_device(connection, "d1")}
        assert len(kept) == QUARANTINES_PER_DEVICE_MAX
        assert "late clock" in kept  # the new one itself is never what makes room
        assert {"r0", "r1", "r2", "r3"} & kept == {"r3"}
        assert len(await quarantines.list_of_device(connection, "d2")) == 1

    with_database(write(test))


def test_a_poll_reads_the_sum_of_what_there_is_and_nothing_of_rollouts_that_are_over(with_database):
    async def test(connection):
        await add(connection, "d1")
        for number in range(3):
            await quarantines.add(connection, "d1", f"r{number}", "bad", number)
        state = {}
        for number, status in enumerate((*Status, Status.ABORTED)):
            plan = Plan(f"p{number}", "gateway", "2.0", 2, (Phase(percent=100),))
            made = await rollouts.create(connection, plan, status, 1)
            state[made] = State.CONFIRMED if number < len(Status) else State.FETCHING
            row = {"rollout": made, "device": "d1", "phase": 0, "release": "2.0", "reason": ""}
            times = {"offered_at": 1, "changed_at": 1, "state": state[made].value}
            await connection.execute(sa.insert(tables.attempts).values(**row, **times))
        rows = (await connection.execute(devices.known(devices.by_id("d1")))).all()
        assert len(rows) == 1 + 3 + len(Status) - len(OVER) + 1
        known = devices.read_known(list(reversed(rows)))
        assert known.device.id == "d1"
        assert known.quarantined == {f"r{number}": "bad" for number in range(3)}
        assert list(known.attempts.values()).count(State.FETCHING) == 1
        assert known.attempts.items() <= state.items()
        controller = await controllers.know(connection, "d1", 1)
        assert controller.quarantined == known.quarantined
        assert len(controller.attempts) == len(Status) + 1

    with_database(write(test))


def test_a_poll_that_is_written_late_overwrites_no_newer_one(with_database):
    async def test(connection):
        await add(connection, "d1")
        await polls.write(connection, [replace(SEEN, seen_at=400, release="2.0")])
        await polls.write(connection, [replace(SEEN, seen_at=100, release="1.0")])
        await polls.touch(connection, {"d1": 399})
        found = await devices.find(connection, "d1")
        assert (found.seen_at, found.release) == (400, "2.0")
        await polls.touch(connection, {"d1": 401})
        assert (await devices.find(connection, "d1")).seen_at == 401

    with_database(write(test))
