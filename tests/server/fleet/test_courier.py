"""Webhooks: signed, sent again, by one server at a time, and not lost."""

import asyncio
import base64
import hashlib
import hmac
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from slipstream.delta.limits import (
    DELIVERIES_KEPT_S,
    WEBHOOK_BATCH_MAX,
    WEBHOOK_DELAY_S,
    WEBHOOK_DELAY_S_MAX,
    WEBHOOK_LEASE_S,
    WEBHOOK_TRIES_MAX,
)
from slipstream.server.fleet.courier import Courier, due_again
from slipstream.server.store import events, webhooks

SECRET = b"s" * 32


@asynccontextmanager
async def receiver(*statuses):
    """An address that answers with these, and then with 200; what it was sent."""
    got, left = [], list(statuses)

    async def handle(request):
        got.append((dict(request.headers), await request.read()))
        return web.Response(status=left.pop(0) if left else 200, headers={"Location": "/x"})

    app = web.Application()
    app.add_routes([web.post("/hook", handle)])
    async with TestServer(app) as server:
        yield str(server.make_url("/hook")), got


async def happen(connection, kind, text):
    await events.add(connection, 50, kind, text, rollout=7)


def test_an_event_is_queued_with_it_and_delivered_until_it_arrives(with_database):
    async def test(database):
        times = [100]
        courier = Courier(database, lambda: times[0], "one")
        async with receiver(500, 302) as (url, got), aiohttp.ClientSession() as session:
            await database.write(lambda c: webhooks.add(c, url, ["phase", "rollout"], SECRET, 1))
            await database.write(lambda c: happen(c, "phase", "opened"))
            await database.write(lambda c: happen(c, "regressed", "not wanted here"))
            await database.write(lambda c: happen(c, "offered", "never sent"))
            assert await courier.deliver(session) == 0  # 500
            assert await courier.deliver(session) == 0  # not due
            assert len(got) == 1
            times[0] += WEBHOOK_DELAY_S
            assert await courier.deliver(session) == 0  # a redirection is not followed
            times[0] += 2 * WEBHOOK_DELAY_S
            assert await courier.deliver(session) == 1
            assert len(got) == 3
            headers, body = got[2]
            name, when = headers["webhook-id"], headers["webhook-timestamp"]
            assert when == str(times[0])
            assert name == got[0][0]["webhook-id"]
            made = hmac.new(SECRET, f"{name}.{when}.".encode() + body, hashlib.sha256).digest()
            assert headers["webhook-signature"] == f"v1,{base64.b64encode(made).decode()}"
            assert b'"text":"opened"' in body
            async with database.reading() as connection:
                (kept,) = await webhooks.list_of_webhook(connection, 1, before=None, limit=9)
            assert (kept.tries, kept.delivered_at, kept.due_at) == (3, times[0], None)
            times[0] += DELIVERIES_KEPT_S + 1
            await courier.deliver(session)
            async with database.reading() as connection:
                assert await webhooks.list_of_webhook(connection, 1, before=None, limit=9) == ()

    with_database(test)


def test_what_is_undone_is_not_told(with_database):
    async def broken(connection):
        await happen(connection, "rollout", "paused")
        raise KeyError

    async def test(database):
        await database.write(lambda c: webhooks.add(c, "http://x", ["rollout"], SECRET, 1))
        results = await asyncio.gather(database.write(broken), return_exceptions=True)
        assert isinstance(results[0], KeyError)
        async with database.reading() as connection:
            assert await webhooks.due(connection, 999, limit=9) == ()

    with_database(test)


def test_one_server_delivers_and_another_follows_it(with_database):
    async def test(database):
        times = [100]
        one, two = (Courier(database, lambda: times[0], name) for name in ("one", "two"))
        async with receiver() as (url, got), aiohttp.ClientSession() as session:
            await database.write(lambda c: webhooks.add(c, url, ["rollout"], SECRET, 1))
            await database.write(lambda c: happen(c, "rollout", "first"))
            assert await one.deliver(session) == 1
            await database.write(lambda c: happen(c, "rollout", "second"))
            assert await two.deliver(session) == 0  # the duty is one's
            times[0] += WEBHOOK_LEASE_S
            assert await two.deliver(session) == 1  # one has died
            assert [b"first" in body for _, body in got] == [True, False]

    with_database(test)


def test_one_that_is_dead_does_not_hold_the_others(with_database):
    async def test(database):
        courier = Courier(database, lambda: 100, "one")
        async with receiver() as (url, got), aiohttp.ClientSession() as session:
            for place in ("http://127.0.0.1:9/", url):
                await database.write(lambda c, p=place: webhooks.add(c, p, ["rollout"], SECRET, 1))
            for text in ("first", "second"):
                await database.write(lambda c, t=text: happen(c, "rollout", t))
            assert await courier.deliver(session) == 2
            assert len(got) == 2
            async with database.reading() as connection:
                dead = await webhooks.list_of_webhook(connection, 1, before=None, limit=9)
            assert [one.tries for one in dead] == [0, 1]  # no second try in vain at once
            assert "Connect" in dead[1].error

    with_database(test)


def test_a_crowd_for_one_that_is_dead_does_not_starve_the_others(with_database):
    async def test(database):
        times = [100]
        courier = Courier(database, lambda: times[0], "one")
        async with receiver() as (url, got), aiohttp.ClientSession() as session:

            async def crowd(connection):
                dead = await webhooks.add(connection, "http://127.0.0.1:9/", ["failed"], SECRET, 1)
                await webhooks.add(connection, url, ["rollout"], SECRET, 1)
                for number in range(WEBHOOK_BATCH_MAX + 1):
                    await webhooks.enqueue(connection, "failed", f"{number}", 1)
                return dead

            dead = await database.write(crowd)
            await database.write(lambda c: happen(c, "rollout", "told"))
            assert await courier.deliver(session) == 1
            assert len(got) == 1
            # The dead one rests as a whole, ever longer; a test is tried at once.
            for times[0] in range(100, 100 + WEBHOOK_DELAY_S):
                await courier.deliver(session)
            tries = await _tries(database, dead)
            assert tries == 1
            times[0] = 100 + WEBHOOK_DELAY_S
            await courier.deliver(session)
            await courier.deliver(session)
            assert await _tries(database, dead) == tries + 1
            await database.write(lambda c: webhooks.enqueue(c, webhooks.TEST, "", 1, only=dead))
            await courier.deliver(session)
            assert await _tries(database, dead) == tries + 2

    with_database(test)


async def _tries(database, webhook):
    async with database.reading() as connection:
        sent = await webhooks.list_of_webhook(connection, webhook, before=None, limit=999)
    return sum(one.tries for one in sent)


def test_it_waits_ever_longer_and_gives_up():
    now = 0
    waits = [due_again(tries, now) - now for tries in range(1, WEBHOOK_TRIES_MAX)]
    assert waits[0] == WEBHOOK_DELAY_S
    assert waits == sorted(waits)
    assert waits[-1] == WEBHOOK_DELAY_S_MAX
    assert 28 * 3600 < sum(waits) < 30 * 3600
    assert due_again(WEBHOOK_TRIES_MAX, now) is None
