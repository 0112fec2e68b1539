"""Devices that a filter matches, in the whole fleet."""

import pytest

from slipstream.delta.limits import SAMPLE_MAX
from slipstream.server import matching
from slipstream.server.rollout.rsql import EVERYTHING, parse_filter
from slipstream.server.store import devices

EVEN = parse_filter("tag==even")
PIECES = 7  # devices that are matched together


@pytest.fixture
def with_devices(with_database, monkeypatch):
    """A database with d00 to d29; every other one is a door, every other one even."""
    monkeypatch.setattr(matching, "_CHUNK", PIECES)

    def run(test):
        async def main(database):
            fleet = [
                devices.Newcomer(
                    f"d{number:02}",
                    "door" if number % 3 == 0 else "gateway",
                    "beta" if number == 4 else "stable",
                    f"{number}".encode().ljust(32),
                    None,
                    ("even",) if number % 2 == 0 else (),
                    {},
                )
                for number in range(30)
            ]
            await database.write(lambda c: devices.add_all(c, fleet, 1))
            await test(database)

        with_database(main)

    return run


@pytest.mark.parametrize("condition, step", [(EVERYTHING, 1), (EVEN, 2)])
@pytest.mark.parametrize("limit", [1, 4, PIECES, 100])
def test_pages_of_matches_have_each_once(with_devices, condition, step, limit):
    async def test(database):
        found, after = [], ""
        while after is not None:
            page = await matching.list_matching(database, condition, after, limit)
            found += [one.id for one in page.devices]
            assert len(page.devices) == limit or page.next is None
            after = page.next
        assert found == [f"d{number:02}" for number in range(0, 30, step)]

    with_devices(test)


def test_a_search_stops_where_it_has_looked_enough(with_devices):
    async def test(database):
        page = await matching.list_matching(
            database, parse_filter("id==d29"), "", 1, look_at_max=PIECES
        )
        assert page == matching.Found((), "d06")

    with_devices(test)


def test_a_preview_counts_what_a_population_lists(with_devices):
    async def test(database):
        for product, channel, count, whole in (
            (None, None, 15, 30),
            ("door", None, 5, 10),
            (None, "stable", 14, 29),
            ("gateway", "stable", 9, 19),
        ):
            seen = await matching.preview(database, EVEN, product, channel, SAMPLE_MAX)
            assert (seen.count, seen.whole) == (count, whole)
        found = await matching.population(database, EVEN, "gateway", "stable")
        assert (len(found.devices), found.whole) == (seen.count, seen.whole)
        assert found.sample == seen.sample
        # Not the ones with the lowest ids, which may be those of one factory.
        names = [one.id for one in seen.sample]
        assert len(set(names)) == SAMPLE_MAX
        assert names != sorted(one.id for one in found.devices)[:SAMPLE_MAX]
        async with database.reading() as connection:
            rows = await devices.find_all(connection, [*names, "nobody"])
        assert [one.id for one in rows] == names

    with_devices(test)
