"""The feed: each event is told once, late ones too, and only to whom it concerns."""

import asyncio

import pytest
import sqlalchemy as sa
from aiohttp import web

from slipstream.delta import limits
from slipstream.server.pages import feed as feeds
from slipstream.server.pages.feed import Feed
from slipstream.server.store import tables


async def happen(database, number, kind="rollout", **more):
    values = {"id": number, "at": 1, "kind": kind, "text": f"news {number}\nof a rollout", **more}
    await database.write(
        lambda connection: connection.execute(sa.insert(tables.events).values(values))
    )


def test_each_event_is_told_once_even_if_it_comes_late(with_database):
    async def test(database):
        feed = Feed(database)
        await happen(database, 1)
        with feed.reading("fleet") as reader:
            await feed._look()
            assert reader.take() == b"event: counts\ndata:\n\n"  # look at what there is
            await happen(database, 9, rollout=3)
            await feed._look()
            assert reader.take() == b"event: status\ndata: news 9 of a rollout\n\n"
            await feed._look()
            assert reader.take() == b": still here\n\n"
            await happen(database, 5)  # it took its id first and was committed last
            await feed._look()
            assert b"news 5" in reader.take()
            await happen(database, 10, kind="confirmed", device="d1", rollout=3)
            await feed._look()
            assert reader.take() == b"event: counts\ndata:\n\n"

    with_database(test)


def test_a_page_hears_of_its_topic_alone(with_database):
    async def test(database):
        feed = Feed(database)
        with feed.reading("rollout/3") as one, feed.reading("device/d1") as other:
            await feed._look()
            one.take(), other.take()
            await happen(database, 1, rollout=4)
            await happen(database, 2, device="d1", rollout=3)
            await happen(database, 3, device="d2")
            await feed._look()
            assert b"news 2" in one.take()
            assert b"news 2" in other.take()
            assert not one.woken.is_set()

    with_database(test)


def test_pages_are_bounded(monkeypatch):
    monkeypatch.setattr(feeds, "LIVE_READERS_MAX", 1)
    assert limits.LIVE_READERS_MAX > 1

    async def main():
        feed = Feed(None)
        with (
            feed.reading("fleet"),
            pytest.raises(web.HTTPServiceUnavailable),
            feed.reading("fleet"),
        ):
            pass
        with feed.reading("fleet"):
            pass

    asyncio.run(main())
