"""Jobs that build deltas: one holder at a time, whoever dies."""

import asyncio

from slipstream.delta.limits import DELTA_TRIES_MAX
from slipstream.server.store import delta_jobs
from slipstream.server.store.delta_jobs import JobState

LEASE_S = 60


async def fill(connection):
    assert await delta_jobs.enqueue(connection, "gateway", "1.0", "3.0", 10, 1)
    assert await delta_jobs.enqueue(connection, "gateway", "2.0", "3.0", 99, 1)
    assert not await delta_jobs.enqueue(connection, "gateway", "2.0", "3.0", 1, 2)


async def take(database, holder, now):
    return await database.write(lambda c: delta_jobs.take(c, holder, now, LEASE_S))


async def listed(database):
    async with database.reading() as connection:
        found = await delta_jobs.list_all(connection, limit=9)
    return {one.source: one for one in found}


def test_the_job_that_saves_most_is_taken_once(with_database):
    async def test(database):
        await database.write(fill)
        one, two, three = await asyncio.gather(*(take(database, f"w{n}", 5) for n in range(3)))
        assert sorted(job.source for job in (one, two)) == ["1.0", "2.0"]
        assert (one.source, one.token, one.tries) == ("2.0", 1, 1)
        assert three is None
        assert await database.write(lambda c: delta_jobs.finish(c, one, 123, 6))
        done = (await listed(database))["2.0"]
        assert (done.state, done.payload_bytes, done.progress) == (JobState.DONE, 123, 100)
        assert await take(database, "w", 1000) is not None  # the other, whose lease ran out

    with_database(test)


def test_who_lost_the_lease_has_no_say(with_database):
    async def test(database):
        await database.write(fill)
        first = await take(database, "dead", 5)
        assert await database.write(lambda c: delta_jobs.beat(c, first, 50, 60, LEASE_S))
        await take(database, "x", 60)  # the other job
        assert await take(database, "y", 100) is None  # the heartbeat holds it
        second = await take(database, "alive", 121)
        assert (second.source, second.token) == (first.source, 2)
        for act in (
            lambda c: delta_jobs.beat(c, first, 60, 122, LEASE_S),
            lambda c: delta_jobs.finish(c, first, 5, 122),
            lambda c: delta_jobs.give_up(c, first, "late", 122, 1),
        ):
            assert not await database.write(act)
        assert (await listed(database))[first.source].holder == "alive"
        assert await database.write(lambda c: delta_jobs.finish(c, second, None, 123))
        assert (await listed(database))[first.source].state is JobState.USELESS

    with_database(test)


def test_what_fails_is_tried_again_later_and_at_last_given_up(with_database):
    async def test(database):
        await database.write(lambda c: delta_jobs.enqueue(c, "gateway", "1.0", "3.0", 1, 1))
        now = 5
        for tries in range(1, DELTA_TRIES_MAX + 1):
            job = await take(database, "w", now)
            assert job.tries == tries
            await database.write(
                lambda c, job=job, now=now: delta_jobs.give_up(c, job, "no", now, 100)
            )
            assert await take(database, "w", now + 99) is None
            now += 100
        assert await take(database, "w", now) is None
        found = (await listed(database))["1.0"]
        assert (found.state, found.reason) == (JobState.FAILED, "no")
        assert await database.write(lambda c: delta_jobs.retry(c, found.id, now))
        assert (await take(database, "w", now)).tries == 1

    with_database(test)


def test_a_build_that_kills_whoever_runs_it_is_given_up(with_database):
    async def test(database):
        await database.write(fill)
        now = 5
        for tries in range(1, DELTA_TRIES_MAX + 1):
            job = await take(database, f"dies {tries}", now)
            assert (job.source, job.tries) == ("2.0", tries)
            now += LEASE_S
        # The lease of the last one holds yet.
        assert (await take(database, "other", now - 1)).source == "1.0"
        assert await take(database, "another", now) is None
        found = (await listed(database))["2.0"]
        assert (found.state, found.holder) == (JobState.FAILED, None)
        assert "nobody came back" in found.reason
        # One who was only slow has no say any more.
        assert not await database.write(lambda c: delta_jobs.finish(c, job, 5, now))

    with_database(test)


def test_what_is_put_back_was_no_try(with_database):
    async def test(database):
        await database.write(lambda c: delta_jobs.enqueue(c, "gateway", "1.0", "3.0", 1, 1))
        for now in range(5, 5 + 2 * DELTA_TRIES_MAX):
            job = await take(database, "stops", now)
            assert (job.tries, job.token) == (1, now - 4)
            assert await database.write(
                lambda c, job=job, now=now: delta_jobs.put_back(c, job, now)
            )
            assert not await database.write(
                lambda c, job=job, now=now: delta_jobs.put_back(c, job, now)
            )

    with_database(test)
